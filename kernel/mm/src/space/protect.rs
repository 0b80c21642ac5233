//! Changing what an area allows.
use super::{Area, AreaKind, MapError, Protection, Space};
use crate::address::PageRange;
use crate::machine::Machine;
use crate::manager::MemoryManager;
use crate::notify::InvalidationReason;
use crate::page_table::entry::{Entry, LeafFlags, RawEntry};
use crate::page_table::flush::{OwedFlush, Weakened};
use crate::page_table::leaf_table::{LeafTable, Place};
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
            let rights = Rights::of(area, protection);
            let (mut weakened, mut index) = (Weakened::NONE, 0);
            while index < part.pages() {
                if let Some(rights) = rights {
                    index = protect_present(&leaf, part, index, rights, &mut weakened);
                }
                if index < part.pages() {
                    if self.protect_other(area, &leaf, Place::of(part, index), protection) {
                        weakened.note(index);
                    }
                    index += 1;
                }
            }
            weakened.owe(part, &mut owed);
        }
        owed.pay(&manager.machine, self.state, &manager.statistics);
        areas.protect_inside(range, protection);
        // Neighbours of one protection may be one area now, that reaches beyond the range.
        for area in areas.within(range) {
            self.tell_areas(area.range.intersection(range).unwrap_or(area.range), Some(area));
        }
        Ok(())
    }

    /// Protects an entry that needs more than a mask; whether a present one was weakened.
    #[inline(never)]
    fn protect_other(self, area: &Area, leaf: &LeafTable<'_, M>, place: Place, protection: Protection) -> bool {
        let new = |raw| protected(self.manager, area, place.page(), raw, protection);
        let current = leaf.load(place);
        new(current) != current && leaf.update(place, new).is_present()
    }
}

/// What a protection makes of every present entry of an area: it stays accessible, and keeps its frame and its memory type.
#[derive(Clone, Copy)]
struct Rights {
    kept: LeafFlags,
    given: LeafFlags,
}

impl Rights {
    /// `None` where entries become others than present ones, or name what the area says.
    fn of(area: &Area, protection: Protection) -> Option<Self> {
        if matches!(area.kind, AreaKind::Device { .. }) || !protection.is_accessible() {
            return None;
        }
        let mut kept = LeafFlags::ACCESSED | LeafFlags::DIRTY | LeafFlags::WRITE_THROUGH | LeafFlags::CACHE_DISABLE;
        kept.set(LeafFlags::WRITABLE, protection.contains(Protection::WRITE));
        Some(Self { kept, given: protection.read_only_flags() })
    }

    #[inline(always)]
    fn given_to(self, present: RawEntry) -> RawEntry {
        present.with_flags(self.kept, self.given)
    }
}

/// Protects the entries of `part` from the one at `index` on, as long as they are present, and returns where that ends. Apart, because
/// it is most of the work, and short.
#[inline(never)]
fn protect_present<M: Machine>(
    leaf: &LeafTable<'_, M>,
    part: PageRange,
    mut index: u64,
    rights: Rights,
    weakened: &mut Weakened,
) -> u64 {
    while index < part.pages() {
        let place = Place::of(part, index);
        let current = leaf.load(place);
        if !current.is_present() {
            break;
        }
        if rights.given_to(current) != current {
            leaf.update_seen(place, current, |raw| rights.given_to(raw));
            weakened.note(index);
        }
        index += 1;
    }
    index
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
