//! Changing what an area allows.
use super::{MapError, Protection, Space};
use crate::address::PageRange;
use crate::machine::Machine;
use crate::manager::MemoryManager;
use crate::notify::InvalidationReason;
use crate::page_table::entry::{Entry, LeafFlags, RawEntry};
use crate::page_table::flush::OwedFlush;
use crate::page_table::leaf_table::LeafTable;
use crate::page_table::walk;

impl<M: Machine> Space<'_, M> {
    /// Sets the protection of `range`, which must be mapped throughout.
    ///
    /// Leave to write is taken from entries at once, and never given here: the first store faults and
    /// decides then whether the page may be written in place.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn protect(self, range: PageRange, protection: Protection) -> Result<(), MapError> {
        let manager = self.manager;
        let (_announcement, mut areas) = self.announce_and_hold(range, InvalidationReason::Protect)?;
        if !areas.covers(range) {
            return Err(MapError::NotMapped(range));
        }
        areas.split_around(range)?;
        let mut owed = OwedFlush::new();
        for part in range.by_leaf_table() {
            let Some(table) = walk::leaf_table(&manager.machine, self.root(), part.start()) else { continue };
            let leaf = LeafTable::lock(&manager.machine, &manager.memory, table);
            for page in (0..part.pages()).map(|index| part.page(index)) {
                let current = leaf.load(page);
                if protected(manager, current, protection) == current {
                    continue;
                }
                let old = leaf.update(page, |raw| protected(manager, raw, protection));
                if old.is_present() {
                    owed.owe(PageRange::of_page(page));
                }
            }
        }
        owed.pay(&manager.machine, self.state, &manager.statistics);
        areas.protect_inside(range, protection);
        self.tell_areas(range, Some(protection));
        Ok(())
    }
}

/// The entry under its new protection: weaker, or accessible again, but never writable where it was not.
fn protected<M: Machine>(manager: &MemoryManager<M>, raw: RawEntry, protection: Protection) -> RawEntry {
    let writable = |flags: LeafFlags| {
        let kept = flags & (LeafFlags::WRITABLE | LeafFlags::ACCESSED | LeafFlags::DIRTY);
        let kept = if protection.contains(Protection::WRITE) { kept } else { kept - LeafFlags::WRITABLE };
        kept | protection.read_only_flags()
    };
    match raw.decode() {
        Entry::Present { frame, flags } | Entry::NoAccess { frame, flags } => {
            return manager.entry_at_rest(manager.frame_behind(frame), writable(flags), protection);
        }
        Entry::Device { frame, writable } => {
            Entry::Device { frame, writable: writable && protection.contains(Protection::WRITE) }
        }
        other => other,
    }
    .encode()
}
