//! Where an entry stands: a table frame and an index.
use x86_64::structures::paging::{PageTableIndex, PhysFrame};

/// The place of one page-table entry.
///
/// Only the walker makes them, from entries that name a table, so holding one means that `table` was
/// a page-table frame when it was made. It stays one while the locks say so (see `docs/lock-order.md`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntrySlot {
    table: PhysFrame,
    index: PageTableIndex,
}

impl EntrySlot {
    /// The slot `index` of the table in `table`.
    #[inline]
    pub(crate) fn new(table: PhysFrame, index: PageTableIndex) -> Self {
        Self { table, index }
    }

    /// The frame of the table.
    #[inline]
    pub fn table(self) -> PhysFrame {
        self.table
    }

    /// The index in the table, 0 to 511.
    #[inline]
    pub fn index(self) -> PageTableIndex {
        self.index
    }
}
