//! Contents that need not be kept (`MADV_FREE`): the page stays until memory is short, and may then read as zeros.
//!
//! ```text
//!              free_lazily             a store: the CPU sets the dirty bit
//!   dirty ───────────────▶ unwanted, clean ─────────────────────────────▶ unwanted, dirty: kept
//!                                │
//!                                └── memory is short: entry emptied, frame freed, nothing written to the swap disk
//! ```
//!
//! Invariants:
//! 1. A page may be dropped only where its frame is unwanted and, after its entry was taken and flushed, no entry of it was dirty.
//! 2. The flush is paid before the call returns: a CPU that remembers the entry as dirty would not set the bit again.
//! 3. A frame that somebody uses by its address is never unwanted: a device's stores set no dirty bit.
//!
//! Locks: areas shared, one table at a time; the flush of a table is paid while it is locked.
use super::{MapError, Space};
use crate::address::PageRange;
use crate::frame::AnyFrame;
use crate::machine::Machine;
use crate::notify::InvalidationReason;
use crate::page_table::entry::{Entry, LeafFlags, RawEntry};
use crate::page_table::flush::OwedFlush;
use crate::page_table::leaf_table::LeafTable;
use crate::page_table::walk;

impl<M: Machine> Space<'_, M> {
    /// Says that the contents of `range` need not be kept, until they are written again. What was read meanwhile may be the old
    /// contents or zeros; what is written after the call returned is kept.
    ///
    /// Pages that are shared, pinned, on a device or swapped out are left as they are: that is no error.
    ///
    /// # Errors
    /// [`MapError::NotMapped`] and [`MapError::WrongKind`], as [`Space::discard`].
    pub fn free_lazily(self, range: PageRange) -> Result<(), MapError> {
        let manager = self.manager;
        // A device that may write a page would not make it dirty again: it must ask anew.
        let (_announcement, areas) = self.announce_and_share(range, InvalidationReason::FreeLazily);
        if !areas.covers(range) {
            return Err(MapError::NotMapped(range));
        }
        areas.require_anonymous(range)?;
        for part in range.by_leaf_table() {
            let Some(table) = walk::leaf_table(&manager.machine, self.root(), part.start()) else { continue };
            let leaf = LeafTable::lock(&manager.machine, &manager.memory, table);
            let mut owed = OwedFlush::new();
            for page in (0..part.pages()).map(|index| part.page(index)) {
                let entry = leaf.load(page);
                let Some(AnyFrame::System(frame)) = manager.mapped_frame(entry) else { continue };
                let at_rest = matches!(entry.decode(), Entry::Present { .. } | Entry::NoAccess { .. });
                let descriptor = manager.memory.descriptor(frame);
                let alone = descriptor.mappings() == 1 && descriptor.references() == 1;
                if frame == manager.zero_frame || !at_rest || !alone {
                    continue;
                }
                descriptor.set_unwanted();
                descriptor.end_stay();
                let old = leaf.update(page, |raw| RawEntry(raw.0 & !(LeafFlags::ACCESSED | LeafFlags::DIRTY).bits()));
                if old.is_present() {
                    owed.owe(PageRange::of_page(page));
                }
            }
            owed.pay(&manager.machine, self.state, &manager.statistics);
        }
        Ok(())
    }
}
