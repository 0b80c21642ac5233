//! A set of pages of the input.
use super::DemoError;
use alloc::vec::Vec;
use core::ops::Range;

/// A set of pages of the input: one bit for each.
pub(super) struct PageSet {
    words: Vec<u64>,
    len: u64,
}

impl PageSet {
    pub(super) fn new(pages: u64) -> Result<Self, DemoError> {
        let count = pages.div_ceil(u64::from(u64::BITS)) as usize;
        let mut words = Vec::new();
        words.try_reserve_exact(count).map_err(|_| DemoError::HeapFull(count as u64 * size_of::<u64>() as u64))?;
        words.resize(count, 0);
        Ok(Self { words, len: 0 })
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn clear(&mut self) {
        self.words.fill(0);
        self.len = 0;
    }

    pub(super) fn contains(&self, page: u64) -> bool {
        self.words[(page / u64::from(u64::BITS)) as usize] & 1 << (page % u64::from(u64::BITS)) != 0
    }

    pub(super) fn insert(&mut self, page: u64) {
        self.len += u64::from(!self.contains(page));
        self.words[(page / u64::from(u64::BITS)) as usize] |= 1 << (page % u64::from(u64::BITS));
    }

    /// Pages of `range` that are in the set, in ascending order.
    pub(super) fn iter(&self, range: Range<u64>) -> impl Iterator<Item = u64> {
        range.filter(|page| self.contains(*page))
    }

    /// The first run of pages in `range` that are in the set, or that are not, at most `longest` long.
    pub(super) fn run(&self, range: Range<u64>, within: bool, longest: u64) -> Option<Range<u64>> {
        let first = range.clone().find(|page| self.contains(*page) == within)?;
        let limit = range.end.min(first + longest);
        let end = (first..limit).find(|page| self.contains(*page) != within).unwrap_or(limit);
        Some(first..end)
    }
}
