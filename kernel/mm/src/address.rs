//! Ranges of pages, and where areas may lie.
use x86_64::VirtAddr;
use x86_64::structures::paging::{Page, Size4KiB};

/// Bytes of a page and of a frame.
pub const PAGE_BYTES: u64 = 4096;

/// Entries of one page table.
pub const TABLE_ENTRIES: u64 = 512;

/// Bytes that one level-1 table maps.
pub const LEAF_TABLE_BYTES: u64 = PAGE_BYTES * TABLE_ENTRIES;

/// First address that an area may use. Below it an access is a stray null pointer.
pub const AREAS_START: VirtAddr = VirtAddr::new_truncate(0x0000_0000_0020_0000);

/// First address above all areas: the end of the lower half.
const AREAS_END: u64 = 0x0000_8000_0000_0000;

/// Why a range of pages is no range for areas.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RangeError {
    /// No byte in it.
    Empty(VirtAddr),
    /// It begins below [`AREAS_START`].
    TooLow(VirtAddr),
    /// It ends above the lower half.
    TooHigh(VirtAddr, u64),
}

impl core::fmt::Display for RangeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Empty(start) => write!(f, "the range at v{start:#x} is empty; give it at least one byte"),
            Self::TooLow(start) => {
                write!(f, "v{start:#x} is below v{AREAS_START:#x}, where areas begin; choose a higher address")
            }
            Self::TooHigh(start, bytes) => {
                write!(
                    f,
                    "v{start:#x} plus {bytes:#x} bytes leaves the lower half; choose a lower address or a smaller size"
                )
            }
        }
    }
}

impl core::error::Error for RangeError {}

/// A non-empty range of whole pages in the lower half.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRange {
    start: Page,
    pages: u64,
}

impl PageRange {
    /// The pages that hold the `bytes` bytes from `start`: rounded outward at both ends.
    ///
    /// # Errors
    /// [`RangeError`] where the range is empty or leaves the part of the lower half where areas may lie.
    pub fn covering(start: VirtAddr, bytes: u64) -> Result<Self, RangeError> {
        if bytes == 0 {
            return Err(RangeError::Empty(start));
        }
        if start < AREAS_START {
            return Err(RangeError::TooLow(start));
        }
        match start.as_u64().checked_add(bytes) {
            Some(end) if end <= AREAS_END => {
                let first: Page = Page::containing_address(start);
                let pages = end.div_ceil(PAGE_BYTES) - first.start_address().as_u64() / PAGE_BYTES;
                Ok(Self { start: first, pages })
            }
            _ => Err(RangeError::TooHigh(start, bytes)),
        }
    }

    /// Every page of the lower half where areas may lie.
    pub(crate) fn everything() -> Self {
        let start = AREAS_START.as_u64();
        Self { start: Page::containing_address(AREAS_START), pages: (AREAS_END - start) / PAGE_BYTES }
    }

    /// First page.
    #[inline]
    pub fn start(self) -> Page {
        self.start
    }

    /// Address of the first byte.
    #[inline]
    pub fn start_address(self) -> VirtAddr {
        self.start.start_address()
    }

    /// First address after the range, as a number because it may be the first non-canonical one.
    #[inline]
    pub fn end(self) -> u64 {
        self.start.start_address().as_u64() + self.bytes()
    }

    /// Number of pages, at least 1.
    #[inline]
    pub fn pages(self) -> u64 {
        self.pages
    }

    /// Size in bytes.
    #[inline]
    pub fn bytes(self) -> u64 {
        self.pages * PAGE_BYTES
    }

    /// The page `index` pages after the first.
    #[inline(always)]
    pub fn page(self, index: u64) -> Page {
        Page::containing_address(VirtAddr::new_truncate(self.start_address().as_u64() + index * PAGE_BYTES))
    }

    /// The `pages` pages from the one at `first` on, at least one, all of which are in the range.
    pub fn part(self, first: u64, pages: u64) -> Self {
        debug_assert!(pages > 0 && first + pages <= self.pages, "no part of {self:?}: {first}, {pages}");
        Self { start: self.page(first), pages }
    }

    /// Whether every page of `other` is in this range.
    #[inline]
    pub fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    /// Whether `page` is in this range.
    #[inline]
    pub fn contains_page(self, page: Page) -> bool {
        page.start_address().as_u64().wrapping_sub(self.start_address().as_u64()) < self.bytes()
    }

    /// The pages that are in both ranges.
    pub fn intersection(self, other: Self) -> Option<Self> {
        let start = self.start.max(other.start);
        let end = self.end().min(other.end());
        Self::between(start.start_address().as_u64(), end)
    }

    /// The smallest range that covers both.
    #[inline]
    pub(crate) fn hull(self, other: Self) -> Self {
        let start = self.start.min(other.start);
        let end = self.end().max(other.end());
        Self { start, pages: (end - start.start_address().as_u64()) / PAGE_BYTES }
    }

    /// The part of this range below `address` and the part from it on; one of them may be empty.
    pub(crate) fn split_at(self, address: u64) -> (Option<Self>, Option<Self>) {
        let start = self.start_address().as_u64();
        let middle = address.clamp(start, self.end());
        (Self::between(start, middle), Self::between(middle, self.end()))
    }

    /// The parts of this range that fall into one level-1 table each, ascending.
    pub(crate) fn by_leaf_table(self) -> impl Iterator<Item = Self> {
        let mut next = self.start_address().as_u64();
        core::iter::from_fn(move || {
            let border = (next / LEAF_TABLE_BYTES + 1) * LEAF_TABLE_BYTES;
            let part = Self::between(next, border.min(self.end()))?;
            next = part.end();
            Some(part)
        })
    }

    /// A range of as many pages from `start` on.
    pub(crate) fn moved_to(self, start: Page) -> Self {
        Self { start, ..self }
    }

    /// The single page that holds `address`.
    pub(crate) fn of_page(page: Page) -> Self {
        Self { start: page, pages: 1 }
    }

    fn between(start: u64, end: u64) -> Option<Self> {
        if start >= end {
            return None;
        }
        let start_page = Page::<Size4KiB>::containing_address(VirtAddr::new_truncate(start));
        Some(Self { start: start_page, pages: (end - start) / PAGE_BYTES })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, bytes: u64) -> PageRange {
        PageRange::covering(VirtAddr::new(start), bytes).unwrap()
    }

    #[test]
    fn rounds_outward() {
        let odd = range(0x20_0fff, 2);
        assert_eq!((odd.start_address().as_u64(), odd.pages()), (0x20_0000, 2));
        assert_eq!(range(0x20_0000, 1).pages(), 1);
        assert_eq!(range(0x20_0000, 4097).pages(), 2);
    }

    #[test]
    fn refuses_what_cannot_be() {
        let start = VirtAddr::new(0x40_0000);
        assert_eq!(PageRange::covering(start, 0), Err(RangeError::Empty(start)));
        let low = VirtAddr::new(0x1f_ffff);
        assert_eq!(PageRange::covering(low, 1), Err(RangeError::TooLow(low)));
        for bytes in [AREAS_END - 0x40_0000 + 1, u64::MAX] {
            assert_eq!(PageRange::covering(start, bytes), Err(RangeError::TooHigh(start, bytes)));
        }
        assert_eq!(range(0x40_0000, AREAS_END - 0x40_0000).end(), AREAS_END);
    }

    #[test]
    fn parts_by_table_cover_the_range_once() {
        let whole = range(0x3f_f000, LEAF_TABLE_BYTES + 2 * PAGE_BYTES);
        let mut next = whole.start_address().as_u64();
        for part in whole.by_leaf_table() {
            assert_eq!(part.start_address().as_u64(), next);
            assert_eq!((part.end() - 1) / LEAF_TABLE_BYTES, next / LEAF_TABLE_BYTES);
            next = part.end();
        }
        assert_eq!(next, whole.end());
    }

    #[test]
    fn splits_and_intersections() {
        let whole = range(0x20_0000, 4 * PAGE_BYTES);
        assert_eq!(whole.split_at(0x20_1000), (Some(range(0x20_0000, 4096)), Some(range(0x20_1000, 3 * 4096))));
        assert_eq!(whole.split_at(0), (None, Some(whole)));
        assert_eq!(whole.split_at(u64::MAX), (Some(whole), None));
        assert_eq!(whole.intersection(range(0x20_3000, 8 * 4096)), Some(range(0x20_3000, 4096)));
        assert_eq!(whole.intersection(range(0x20_4000, 4096)), None);
    }
}
