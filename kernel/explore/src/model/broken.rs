//! Protocols with a mistake in them, each of which the checker must find: a model that finds nothing proves nothing.

/// A mistake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broken {
    /// Entries are taken and nobody is flushed.
    NoFlush,
    /// The request goes out and the copy begins before the CPUs have answered.
    CopyBeforeAnswers,
    /// An unmapped page's frame is freed before the CPUs have answered.
    FreeBeforeAnswers,
    /// Nobody looks whether a page is pinned.
    NoReferenceCheck,
    /// A CPU is marked before its request can be read.
    MarkBeforeRequest,
    /// A CPU loads the root before it is marked.
    RootBeforeMark,
    /// A CPU is unmarked before it loads another root.
    UnmarkBeforeRoot,
    /// The marks are read before the entries are changed.
    MarksBeforeEntries,
    /// Who waits does not answer.
    DeafWaits,
    /// A second migration takes entries that are another's.
    TakesMigrating,
    /// Unmap does not wait for whoever holds the areas shared.
    UnmapWithoutAreas,
    /// A frame is freed while its old entry still stands.
    FreeBeforeEntry,
    /// A device frame is freed as it is.
    NoClear,
    /// An answer does not wait for the stores on their way.
    AnswerBeforeStores,
}

impl Broken {
    /// Every mistake, with the name by which it is chosen.
    pub const ALL: [(&'static str, Self); 14] = [
        ("no-flush", Self::NoFlush),
        ("copy-before-answers", Self::CopyBeforeAnswers),
        ("free-before-answers", Self::FreeBeforeAnswers),
        ("no-reference-check", Self::NoReferenceCheck),
        ("mark-before-request", Self::MarkBeforeRequest),
        ("root-before-mark", Self::RootBeforeMark),
        ("unmark-before-root", Self::UnmarkBeforeRoot),
        ("marks-before-entries", Self::MarksBeforeEntries),
        ("deaf-waits", Self::DeafWaits),
        ("takes-migrating", Self::TakesMigrating),
        ("unmap-without-areas", Self::UnmapWithoutAreas),
        ("free-before-entry", Self::FreeBeforeEntry),
        ("no-clear", Self::NoClear),
        ("answer-before-stores", Self::AnswerBeforeStores),
    ];

    /// The name by which it is chosen.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, broken)| *broken == self).map_or("", |(name, _)| name)
    }

    /// The mistake of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, broken)| *broken)
    }
}
