//! Changing what an area allows.
use super::{Area, AreaKind, MapError, Protection, Space};
use crate::address::PageRange;
use crate::machine::Machine;
use crate::manager::MemoryManager;
use crate::notify::InvalidationReason;
use crate::page_table::entry::{Entry, LeafFlags, RawEntry};
use crate::page_table::flush::OwedFlush;
use crate::page_table::leaf_table::LeafTable;
use crate::page_table::walk;
use x86_64::structures::paging::Page;

impl<M: Machine> Space<'_, M> {
    /// Sets the protection of `range`, which must be mapped throughout.
    ///
    /// Leave to write is taken from entries at once, and never given here: the first store faults and
    /// decides then whether the page may be written in place.
    ///
    /// # Errors
    /// See [`MapError`]; a guard has no protection to change.
    pub fn protect(self, range: PageRange, protection: Protection) -> Result<(), MapError> {
        let manager = self.manager;
        let (_announcement, mut areas) = self.announce_and_hold(range, InvalidationReason::Protect)?;
        if !areas.covers(range) {
            return Err(MapError::NotMapped(range));
        }
        if let Some(guard) = areas.within(range).find(|area| area.kind == AreaKind::Guard) {
            return Err(MapError::WrongKind(guard.range, guard.kind));
        }
        areas.split_around(range)?;
        let mut owed = OwedFlush::new();
        for (area, part) in
            areas.within(range).flat_map(|area| area.range.by_leaf_table().map(move |part| (area, part)))
        {
            let Some(table) = walk::leaf_table(&manager.machine, self.root(), part.start()) else { continue };
            let leaf = LeafTable::lock(&manager.machine, &manager.memory, table);
            for page in (0..part.pages()).map(|index| part.page(index)) {
                let current = leaf.load(page);
                let new = |raw| protected(manager, area, page, raw, protection);
                if new(current) == current {
                    continue;
                }
                let old = leaf.update(page, new);
                if old.is_present() {
                    owed.owe(PageRange::of_page(page));
                }
            }
        }
        owed.pay(&manager.machine, self.state, &manager.statistics);
        areas.protect_inside(range, protection);
        // Neighbours of one protection may be one area now, that reaches beyond the range.
        for area in areas.within(range) {
            self.tell_areas(area.range.intersection(range).unwrap_or(area.range), Some(area));
        }
        Ok(())
    }
}

/// The entry under its new protection: weaker, or accessible again, but never writable where it was not.
fn protected<M: Machine>(
    manager: &MemoryManager<M>,
    area: &Area,
    page: Page,
    raw: RawEntry,
    protection: Protection,
) -> RawEntry {
    if let AreaKind::Device { .. } = area.kind {
        return area.device_leaf(page, protection);
    }
    let writable = |flags: LeafFlags| {
        let kept = flags & (LeafFlags::WRITABLE | LeafFlags::ACCESSED | LeafFlags::DIRTY);
        let kept = if protection.contains(Protection::WRITE) { kept } else { kept - LeafFlags::WRITABLE };
        kept | protection.read_only_flags()
    };
    match raw.decode() {
        // Exclusive use ends: its owner has been told.
        Entry::Present { frame, flags } | Entry::NoAccess { frame, flags } | Entry::Exclusive { frame, flags } => {
            return manager.entry_at_rest(manager.frame_behind(frame), writable(flags), protection);
        }
        Entry::Device { frame, writable } => {
            Entry::Device { frame, writable: writable && protection.contains(Protection::WRITE) }
        }
        other => other,
    }
    .encode()
}
