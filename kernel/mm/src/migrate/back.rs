//! The way home: `Device` becomes `Migrating`, then `Present`.
//!
//! Nothing is flushed: the entry was not present before, and x86 does not cache what is not present. A page whose copy fails is lost, as in
//! v11: its entry becomes `Poison`. A page for which there is no RAM frame stays on the device.
//!
//! A page that other spaces share comes home as a copy of its own: the others keep the device frame. So a fault waits for no other space.
use x86_64::structures::paging::{Page, PhysFrame};

use super::batch::{Batch, Slot, SlotState, Slots};
use super::{MigrateError, MigrateOptions, Report};
use crate::address::PageRange;
use crate::frame::{AnyFrame, OutOfFrames};
use crate::inject::Step;
use crate::machine::Machine;
use crate::page_table::entry::{Entry, LeafFlags, RawEntry};
use crate::page_table::leaf_table::LeafTable;
use crate::page_table::walk;
use crate::space::{Area, Protection, Resident, Space};
use crate::stats::Reason;
use crate::trace::{Direction, Phase};

/// Why a page did not come home for a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BringHomeError {
    /// No RAM frame; the page stays on the device.
    NoMemory,
    /// The copy failed; the page is poisoned now.
    Lost,
}

impl<'m, M: Machine> Space<'m, M> {
    /// Brings the pages of `range` home that are on a device; the others stay as they are, with their reasons.
    ///
    /// # Errors
    /// See [`MigrateError`].
    pub fn migrate_to_system(self, range: PageRange) -> Result<Report, MigrateError> {
        self.migrate_home_for(range, MigrateOptions::default())
    }

    /// The same, on behalf of whoever the options name.
    pub(super) fn migrate_home_for(self, range: PageRange, options: MigrateOptions) -> Result<Report, MigrateError> {
        let manager = self.manager;
        let machine = &manager.machine;
        let mut batch = Batch::announced(self, range, Direction::Home, options)?;
        let mut slots = batch.slots.iter_mut();
        for part in range.by_leaf_table() {
            let Some(table) = walk::leaf_table(machine, self.root(), part.start()) else {
                for slot in slots.by_ref().take(part.pages() as usize) {
                    *slot = Slot::stays(Reason::Empty);
                }
                continue;
            };
            let leaf = LeafTable::lock(machine, &manager.memory, table);
            for (index, slot) in (0..part.pages()).zip(&mut slots) {
                *slot = self.take_home(&leaf, part.page(index));
            }
        }
        batch.tell(Phase::Copy);
        Self::copy_home(&mut batch);
        batch.tell(Phase::Finalize);
        Self::finalize_home(&mut batch);
        let report = batch.report();
        manager.statistics.count_returned(report.moved, false);
        Ok(report)
    }

    /// Brings one page home for a fault; `false` where its entry is no longer `seen` or its frame is in other hands.
    #[inline]
    pub(crate) fn bring_home(
        self,
        table: PhysFrame,
        page: Page,
        area: &Area,
        seen: RawEntry,
    ) -> Result<bool, BringHomeError> {
        let manager = self.manager;
        let mut batch = Batch::of_page(self, page, *area);
        {
            let leaf = LeafTable::lock(&manager.machine, &manager.memory, table);
            if leaf.load(page) != seen {
                return Ok(false);
            }
            batch.slots[0] = self.take_home(&leaf, page);
        }
        Self::copy_home(&mut batch);
        Self::finalize_home(&mut batch);
        match batch.slots[0].state {
            SlotState::Moved => {
                manager.statistics.count_returned(1, true);
                Ok(true)
            }
            SlotState::Stays(Reason::NoMemory) => Err(BringHomeError::NoMemory),
            SlotState::Stays(Reason::Poisoned) => Err(BringHomeError::Lost),
            _ => Ok(false),
        }
    }

    /// Takes one `Device` entry, or says why it stays.
    #[inline]
    fn take_home(self, leaf: &LeafTable<'m, M>, page: Page) -> Slot {
        match leaf.load(page).decode() {
            Entry::Device { frame, .. } => {
                if !self.manager.device_descriptor(frame).try_lock_page() {
                    return Slot::stays(Reason::Busy);
                }
                self.take_entry(leaf, page, AnyFrame::Device(frame))
            }
            Entry::Empty => Slot::stays(Reason::Empty),
            Entry::Present { .. } | Entry::NoAccess { .. } => Slot::stays(Reason::AlreadyThere),
            Entry::Poison => Slot::stays(Reason::Poisoned),
            Entry::Migrating { .. } | Entry::Swap { .. } | Entry::Exclusive { .. } | Entry::Unknown(_) => {
                Slot::stays(Reason::Busy)
            }
        }
    }

    /// A RAM frame for each page, and its contents.
    #[inline]
    fn copy_home<S: AsMut<[Slot]>>(batch: &mut Batch<'m, M, S>) {
        let manager = batch.space.manager;
        let machine = &manager.machine;
        for slot in batch.slots.as_mut().iter_mut().filter(|slot| slot.state == SlotState::Taken) {
            let Some(source) = slot.source(manager) else { continue };
            slot.state = match manager.memory.allocate(machine, &manager.injector) {
                Err(OutOfFrames) => SlotState::GivingUp(Reason::NoMemory),
                Ok(_) if manager.injector.fails(Step::Copy) => SlotState::Lost,
                Ok(target) => {
                    machine.copy(source, target.frame().into());
                    SlotState::Copied(target.into_frame().into())
                }
            };
        }
        machine.complete_copies();
    }

    /// Writes the new entries, or the old ones again; device frames are cleared and freed.
    #[inline]
    fn finalize_home<S: AsMut<[Slot]>>(batch: &mut Batch<'m, M, S>) {
        let area = batch.area;
        batch.for_each_in_tables(|space, leaf, page, slot| match slot.state {
            SlotState::Copied(AnyFrame::System(target)) => {
                let entry = space.commit_home(page, slot, &area, target);
                leaf.swap(page, entry);
                space.free_device_source(slot);
                slot.state = SlotState::Moved;
            }
            SlotState::Lost => {
                leaf.swap(page, Entry::Poison.encode());
                space.free_device_source(slot);
                space.manager.statistics.count_poisoned(1);
                slot.state = SlotState::Stays(Reason::Poisoned);
            }
            SlotState::GivingUp(reason) => Batch::<M, Slots>::give_back(space, leaf, page, slot, reason),
            _ => {}
        });
    }

    /// Makes `target` the frame of `page`; returns the entry to write.
    #[inline]
    fn commit_home(self, page: Page, slot: &Slot, area: &Area, target: PhysFrame) -> RawEntry {
        self.manager.memory.descriptor(target).map(area.origin_of(page), 1);
        self.state.charge(Resident::Ram, 1);
        // Dirty, because the only other copy is about to be cleared. Writable only where both the entry and the area say so.
        let mut flags = area.protection.read_only_flags() | LeafFlags::ACCESSED | LeafFlags::DIRTY;
        if matches!(slot.saved.decode(), Entry::Device { writable: true, .. })
            && area.protection.contains(Protection::WRITE)
        {
            flags |= LeafFlags::WRITABLE;
        }
        Entry::Present { frame: target, flags }.encode()
    }

    /// Lets go of the device frame that a page came from.
    #[inline]
    fn free_device_source(self, slot: &Slot) {
        if let Some(AnyFrame::Device(source)) = slot.source(self.manager) {
            self.drop_locked_device_mapping(source);
        }
    }
}
