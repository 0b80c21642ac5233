//! Flushes: what a CPU must forget, and the debt of having changed an entry it may have cached.
//!
//! A CPU keeps translations it once used until it is told (Intel SDM 3A 4.10.2). Whoever makes a present
//! entry weaker (absent, read-only, or pointing elsewhere) therefore owes a flush before anybody may rely on the change.
//! Making an entry present that was not owes nothing: x86 never caches a non-present entry (Intel SDM 3A 4.10.2.3).
use crate::address::PageRange;
use crate::machine::{CpuSet, Machine};
use crate::space::SpaceState;
use crate::stats::Statistics;
use crate::trace::{Event, record};

/// Up to this many pages are flushed one by one; more are flushed by forgetting everything of the lower half.
///
/// Linux uses 33 (`tlb_single_page_flush_ceiling`), measured on hardware; the trade is the same here.
pub const PAGE_BY_PAGE_LIMIT: u64 = 33;

/// What the CPUs of a request must forget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlushScope {
    /// The translations of these pages.
    Pages(PageRange),
    /// Every translation of the lower half.
    LowerHalf,
}

/// A request to forget translations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlushRequest {
    /// The CPUs that may have cached the translations; the calling CPU may be one of them.
    pub cpus: CpuSet,
    /// What to forget.
    pub scope: FlushScope,
}

/// The debt of having weakened present entries in one address space.
///
/// Grows to the smallest range that covers all of them, and is paid once with [`OwedFlush::pay`].
#[must_use = "stale translations stay in use until the flush is paid"]
#[derive(Debug, Default)]
pub struct OwedFlush {
    scope: Option<FlushScope>,
}

impl OwedFlush {
    /// No debt yet.
    pub const fn new() -> Self {
        Self { scope: None }
    }

    /// Notes that the entry of a page in `range` was weakened.
    #[inline]
    pub fn owe(&mut self, range: PageRange) {
        self.scope = Some(match self.scope {
            None => FlushScope::Pages(range),
            Some(FlushScope::Pages(owed)) => FlushScope::Pages(owed.hull(range)),
            Some(FlushScope::LowerHalf) => FlushScope::LowerHalf,
        });
    }

    /// Notes that paths were cut: a CPU may have cached the upper entries of any address.
    pub fn owe_lower_half(&mut self) {
        self.scope = Some(FlushScope::LowerHalf);
    }

    /// Flushes what is owed on every CPU that may have cached it; nothing is sent where nothing is owed.
    #[inline]
    pub fn pay<M: Machine>(self, machine: &M, space: &SpaceState, statistics: &Statistics) {
        let Some(scope) = self.scope else { return };
        let cpus = space.cpus();
        if cpus.is_empty() {
            return;
        }
        let scope = match scope {
            FlushScope::Pages(range) if range.pages() > PAGE_BY_PAGE_LIMIT => FlushScope::LowerHalf,
            scope => scope,
        };
        statistics.count_flush();
        let request = FlushRequest { cpus, scope };
        record(machine, || Event::Flush { space: space.id(), request });
        machine.flush(request);
    }
}

/// The bounds of the pages of a part whose present entries were weakened.
pub(crate) struct Weakened {
    first: u64,
    /// One after the last; 0 where there is none.
    end: u64,
}

impl Weakened {
    /// None so far.
    pub(crate) const NONE: Self = Self { first: u64::MAX, end: 0 };

    /// Notes a page; they come in ascending order.
    #[inline(always)]
    pub(crate) fn note(&mut self, index: u64) {
        self.first = self.first.min(index);
        self.end = index + 1;
    }

    /// Owes for what was noted.
    #[inline]
    pub(crate) fn owe(&self, part: PageRange, owed: &mut OwedFlush) {
        if self.end > 0 {
            owed.owe(part.part(self.first, self.end - self.first));
        }
    }
}
