//! The list of mutants, `kernel/mutants/*.mutant`: text that reads like a patch.
//!
//! ```text
//! # A comment.
//! mutant  migration-without-flush        its name, unique in all files
//! file    kernel/mm/src/migrate/collect.rs
//! breaks  R12                            the rule of docs/rules.md, or what else is broken
//! why     One sentence.
//! - original line                        found exactly once in the file, however it is broken into lines
//! + mutated line                         none: the original is left out
//! ```
//!
//! A `suite` says which tests must see it where that does not follow from the file. `equivalent` says in one sentence why
//! no test can. A mutated text with the word `CHOSEN` is taken as it stands, and `CHOSEN` is true where this mutant runs;
//! any other becomes one branch, and the original the other.
//!
//! Invariants:
//! 1. Names are unique.
//! 2. Each mutant has a file, a rule, a reason and an original.
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::artifacts::workspace;

/// Where the files are, in the workspace.
pub const DIRECTORY: &str = "kernel/mutants";

/// How the names of the files end.
const EXTENSION: &str = "mutant";

/// Which tests must see a mutant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Suite {
    /// Those of the memory manager on the simulated machine.
    Simulator,
    /// Those of the device, of its driver, and of what else the host runs.
    Device,
    /// Those in the kernel whose name contains this.
    Kernel(String),
}

impl Suite {
    /// What the names of the tests in the kernel contain, where it is those.
    pub fn kernel_filter(&self) -> Option<&str> {
        match self {
            Self::Kernel(filter) => Some(filter),
            Self::Simulator | Self::Device => None,
        }
    }
}

/// One place where the source is changed for the worse.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mutant {
    /// What it is called on the command line.
    pub name: String,
    /// The source file, in the workspace.
    pub file: String,
    /// The rule that it breaks.
    pub breaks: String,
    /// What goes wrong, in a sentence.
    pub why: String,
    /// Who must see it.
    pub suite: Suite,
    /// Why nobody can, where that is so.
    pub equivalent: Option<String>,
    /// The text that stands in the source.
    pub original: String,
    /// What takes its place.
    pub mutated: String,
    /// Where it is written down.
    pub source: PathBuf,
}

/// What is wrong with the list.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// A directory or file of it cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line that means nothing.
    #[error("{}:{line}: a line begins with mutant, file, breaks, why, suite, equivalent, `#`, `-` or `+`", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A suite that is none.
    #[error("{}: the suite of {mutant} is {found:?}; it is simulator, device or `kernel FILTER`", path.display())]
    Suite {
        /// The file.
        path: PathBuf,
        /// The mutant.
        mutant: String,
        /// What it says.
        found: String,
    },
    /// Something that each mutant needs.
    #[error("{}: the mutant {mutant} has no line that begins with `{key}`", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The mutant.
        mutant: String,
        /// What it lacks.
        key: &'static str,
    },
    /// A name that stands there twice.
    #[error("two mutants are called {0}; give one of them another name")]
    Twice(String),
}

/// Every mutant of the workspace, file by file.
///
/// # Errors
/// [`CatalogueError`] where the list is not as it must be.
pub fn read() -> Result<Vec<Mutant>, CatalogueError> {
    read_from(&workspace().join(DIRECTORY))
}

/// The same, of another directory.
///
/// # Errors
/// As [`read`].
pub fn read_from(directory: &Path) -> Result<Vec<Mutant>, CatalogueError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| CatalogueError::Unreadable { path, source }
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable(directory))? {
        let path = entry.map_err(unreadable(directory))?.path();
        paths.extend(path.extension().is_some_and(|extension| extension == EXTENSION).then_some(path));
    }
    paths.sort();
    let (mut mutants, mut names) = (Vec::new(), BTreeSet::new());
    for path in paths {
        let text = std::fs::read_to_string(&path).map_err(unreadable(&path))?;
        for mutant in parse(&path, &text)? {
            if !names.insert(mutant.name.clone()) {
                return Err(CatalogueError::Twice(mutant.name));
            }
            mutants.push(mutant);
        }
    }
    Ok(mutants)
}

/// A mutant as far as it has been read.
#[derive(Default)]
struct Draft {
    name: String,
    file: Option<String>,
    breaks: Option<String>,
    why: Option<String>,
    suite: Option<String>,
    equivalent: Option<String>,
    original: Vec<String>,
    mutated: Vec<String>,
}

/// The mutants that `text`, the contents of the file `path`, lists.
///
/// # Errors
/// As [`read`].
pub fn parse(path: &Path, text: &str) -> Result<Vec<Mutant>, CatalogueError> {
    let mut drafts: Vec<Draft> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let (key, rest) = line.split_once(' ').unwrap_or((line, ""));
        let value = rest.trim_start().to_owned();
        let draft = drafts.last_mut();
        match (key, draft) {
            ("", _) if value.is_empty() => {}
            (comment, _) if comment.starts_with('#') => {}
            ("mutant", _) => drafts.push(Draft { name: value, ..Draft::default() }),
            ("file", Some(draft)) => draft.file = Some(value),
            ("breaks", Some(draft)) => draft.breaks = Some(value),
            ("why", Some(draft)) => draft.why = Some(value),
            ("suite", Some(draft)) => draft.suite = Some(value),
            ("equivalent", Some(draft)) => draft.equivalent = Some(value),
            ("-", Some(draft)) => draft.original.push(rest.to_owned()),
            ("+", Some(draft)) => draft.mutated.push(rest.to_owned()),
            _ => return Err(CatalogueError::Line { path: path.to_owned(), line: number + 1 }),
        }
    }
    drafts.into_iter().map(|draft| draft.finish(path)).collect()
}

impl Draft {
    fn finish(self, path: &Path) -> Result<Mutant, CatalogueError> {
        let Self { name, file, breaks, why, suite, equivalent, original, mutated } = self;
        let missing = |key| CatalogueError::Missing { path: path.to_owned(), mutant: name.clone(), key };
        let file = file.ok_or_else(|| missing("file"))?;
        let breaks = breaks.ok_or_else(|| missing("breaks"))?;
        let why = why.ok_or_else(|| missing("why"))?;
        if original.iter().all(|line| line.trim().is_empty()) {
            return Err(missing("-"));
        }
        let suite = match suite {
            None if file.starts_with("kernel/mm") => Suite::Simulator,
            None if file.starts_with("device") => Suite::Device,
            None => return Err(missing("suite")),
            Some(suite) => match suite.split_once(' ').unwrap_or((&suite, "")) {
                ("simulator", "") => Suite::Simulator,
                ("device", "") => Suite::Device,
                ("kernel", filter) if !filter.is_empty() => Suite::Kernel(filter.to_owned()),
                _ => return Err(CatalogueError::Suite { path: path.to_owned(), mutant: name, found: suite }),
            },
        };
        let (original, mutated) = (original.join("\n"), mutated.join("\n"));
        Ok(Mutant { name, file, breaks, why, suite, equivalent, original, mutated, source: path.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "# Flushes.\n\nmutant  no-flush\nfile    kernel/mm/src/a.rs\nbreaks  R12\nwhy     It is stale.\n\
                       -     owed.pay();\n- }\n+     ();\n+ }\n";

    fn one(text: &str) -> Result<Vec<Mutant>, String> {
        parse(Path::new("a.mutant"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_mutant_is_read_as_it_is_written() {
        let mutants = one(ONE).unwrap();
        let [mutant] = mutants.as_slice() else { panic!("{mutants:?}") };
        assert_eq!((mutant.name.as_str(), mutant.why.as_str()), ("no-flush", "It is stale."));
        assert_eq!((mutant.original.as_str(), mutant.mutated.as_str()), ("    owed.pay();\n}", "    ();\n}"));
        assert_eq!((&mutant.suite, &mutant.equivalent), (&Suite::Simulator, &None));
        let kernel = one(&format!("{ONE}suite   kernel many_cpus\nequivalent  It is the same.\n")).unwrap();
        assert_eq!(kernel[0].suite, Suite::Kernel("many_cpus".into()));
        assert_eq!(kernel[0].equivalent.as_deref(), Some("It is the same."));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("file a.rs", "a.mutant:1: a line begins with mutant"),
            ("mutant a\nfile kernel/mm/a.rs\nbreaks R1\nwhy b\n", "the mutant a has no line that begins with `-`"),
            ("mutant a\nbreaks R1\nwhy b\n- c\n", "no line that begins with `file`"),
            ("mutant a\nfile kernel/src/a.rs\nbreaks R1\nwhy b\n- c\n", "no line that begins with `suite`"),
            (
                "mutant a\nfile b.rs\nbreaks R1\nwhy b\nsuite kernel\n- c\n",
                "it is simulator, device or `kernel FILTER`",
            ),
            ("mutant a\n  c\n", "a.mutant:2"),
        ] {
            let error = one(text).unwrap_err();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }
}
