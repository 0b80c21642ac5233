//! Whose pages: contexts of the device, and the names of pages and frames in them.
//!
//! A context is one address space as the device sees it, through a page table of its own (see
//! [`page_table`](crate::page_table)); it covers one window of pages of that address space.
//!
//! Invariants:
//! 1. A [`ContextId`] is below [`MAX_CONTEXTS`].
//! 2. A [`PageSpan`] has 1 to [`WINDOW_PAGES`] pages and does not pass the end of a 48-bit address space.
use core::fmt;
use core::ops::Range;

/// Contexts that a device has room for.
pub const MAX_CONTEXTS: usize = 16;

/// Operations that a device has under way at a time, over all contexts.
pub const MAX_OPERATIONS: usize = 16;

/// Most pages in a window: 1 GiB, what a root frame of 512 pointers to 512 entries reaches.
pub const WINDOW_PAGES: u64 = 512 * 512;

/// Pages of an address space of 48 bits.
const SPACE_PAGES: u64 = 1 << 36;

/// A context of a device, by its number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ContextId(u8);

impl ContextId {
    /// The context with this number; `None` where the device has no such context.
    pub const fn new(number: u64) -> Option<Self> {
        if number < MAX_CONTEXTS as u64 { Some(Self(number as u8)) } else { None }
    }

    /// Its number.
    pub const fn number(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ContextId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "context {}", self.0)
    }
}

/// A page of an address space, by its number: the address divided by 4096.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VirtualPage(pub u64);

/// A frame of the guest's RAM, by its number: the physical address divided by 4096.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RamFrame(pub u64);

impl fmt::Display for RamFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RAM frame {:#x}", self.0)
    }
}

/// Consecutive pages of an address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageSpan {
    first: VirtualPage,
    count: u64,
}

impl PageSpan {
    /// `count` pages from `first` on.
    ///
    /// # Errors
    /// [`BadSpan`] for no page, more than [`WINDOW_PAGES`], or pages behind the end of the address space.
    pub const fn new(first: VirtualPage, count: u64) -> Result<Self, BadSpan> {
        let fits = count >= 1 && count <= WINDOW_PAGES && first.0 < SPACE_PAGES && count <= SPACE_PAGES - first.0;
        if fits { Ok(Self { first, count }) } else { Err(BadSpan { first, count }) }
    }

    /// The first page.
    pub const fn first(self) -> VirtualPage {
        self.first
    }

    /// How many, at least one.
    pub const fn count(self) -> u64 {
        self.count
    }

    /// The pages' numbers.
    pub const fn numbers(self) -> Range<u64> {
        self.first.0..self.first.0 + self.count
    }

    /// Whether all of `other` lies in it.
    pub const fn contains(self, other: Self) -> bool {
        self.first.0 <= other.first.0 && other.numbers().end <= self.numbers().end
    }

    /// How far behind the first page `page` stands; `None` outside.
    pub fn index_of(self, page: VirtualPage) -> Option<u64> {
        self.numbers().contains(&page.0).then(|| page.0 - self.first.0)
    }
}

/// Pages that no command may name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadSpan {
    /// The first page.
    pub first: VirtualPage,
    /// How many.
    pub count: u64,
}

impl fmt::Display for BadSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} pages from page {:#x} on are not 1 to {WINDOW_PAGES} pages of a 48-bit address space",
            self.count, self.first.0
        )
    }
}

impl core::error::Error for BadSpan {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_checked_at_both_ends_and_against_overflow() {
        let span = |first, count| PageSpan::new(VirtualPage(first), count);
        assert_eq!(span(0, WINDOW_PAGES).unwrap().numbers(), 0..1 << 18);
        assert_eq!(span((1 << 36) - 1, 1).unwrap().count(), 1);
        for (first, count) in [(0, 0), (0, WINDOW_PAGES + 1), ((1 << 36) - 1, 2), (1 << 36, 1), (u64::MAX, u64::MAX)] {
            assert_eq!(span(first, count), Err(BadSpan { first: VirtualPage(first), count }));
        }
        let window = span(100, 50).unwrap();
        assert!(window.contains(span(100, 50).unwrap()) && window.contains(span(149, 1).unwrap()));
        assert!(!window.contains(span(99, 2).unwrap()) && !window.contains(span(149, 2).unwrap()));
        assert_eq!([99, 100, 149, 150].map(|page| window.index_of(VirtualPage(page))), [None, Some(0), Some(49), None]);
        assert_eq!([15, 16, u64::MAX].map(|number| ContextId::new(number).is_some()), [true, false, false]);
    }
}
