//! The straight way through the faults that are met most: no loop, no wait, no second look without a lock.
//!
//! ```text
//!   entry                        here                                        the long way (`fault`)
//!   ─────                        ────                                        ──────────────────────
//!   empty, read                  zero page
//!   empty, write                 fresh zeroed frame
//!   private Device, sole user    RAM frame, copied; device frame cleared     shared, lost, busy, coherent
//!   shared in RAM, write         a copy of its own                           in the swap cache, on a device, the last user
//!   anything else                                                            everything
//! ```
//!
//! Invariants:
//! 1. What is done here is what the long way does for the same entry, under the same locks, with the same checks and counts.
//! 2. Where a step is not as it mostly is, everything that was done is undone and the long way begins anew; so nothing here fails,
//!    and errors come from one place.
//! 3. It is not taken where somebody watches, since events tell of each step of a way home, nor where a step shall fail, since
//!    the long way says what becomes of that, nor where listeners must be told first.
//!
//! Instead of a `Migrating` entry, the lock of the frame keeps others from a page that comes home: who finds it taken waits as for a
//! busy frame. That is enough for one page of one space, whose areas are held, and spares a second round on its table.
use x86_64::VirtAddr;
use x86_64::structures::paging::{Page, PhysFrame};

use super::fault::Attempt;
use super::{Access, Area, AreaKind, Protection, Resident, Resolution, Space};
use crate::address::PageRange;
use crate::machine::Machine;
use crate::page_table::entry::{Entry, LeafFlags, RawEntry};
use crate::page_table::flush::OwedFlush;
use crate::page_table::leaf_table::{LeafTable, peek};
use crate::stats::Cause;

impl<M: Machine> Space<'_, M> {
    /// Resolves the fault of a load or of a store, or leaves everything as it was.
    #[inline(always)]
    pub(super) fn fault_straight<const STORE: bool>(self, address: VirtAddr) -> Option<Resolution> {
        let manager = self.manager;
        let machine = &manager.machine;
        if machine.is_traced() || manager.injector.is_in_use() {
            return None;
        }
        let page = Page::containing_address(address);
        let areas = self.state.areas.try_read(machine)?;
        let area = areas.find(page)?;
        let access = if STORE { Access::Write } else { Access::Read };
        if area.kind != AreaKind::Anonymous || !area.protection.allows(access) || !self.is_told(None) {
            return None;
        }
        let table = self.state.last_table.find(self, page)?;
        let seen = peek(machine, table, page);
        match (seen == RawEntry::EMPTY, seen.is_present()) {
            (true, _) if STORE => self.touch_to_store(table, page, area),
            (true, _) => self.touch_to_load(table, page, area),
            (false, false) => self.come_home(table, page, area, seen),
            (false, true) if STORE => self.copy_shared(table, page, area, seen),
            (false, true) => None,
        }
    }

    #[inline(always)]
    fn touch_to_load(self, table: PhysFrame, page: Page, area: &Area) -> Option<Resolution> {
        let Attempt::Done(resolution) = self.map_zero_page(table, page, area) else { return None };
        self.manager.statistics.count_fault(false);
        Some(resolution)
    }

    #[inline(always)]
    fn touch_to_store(self, table: PhysFrame, page: Page, area: &Area) -> Option<Resolution> {
        let manager = self.manager;
        let fresh = manager.memory.allocate_zeroed(&manager.machine, &manager.injector).ok()?;
        let Ok(Attempt::Done(resolution)) = self.map_fresh(table, page, area, RawEntry::EMPTY, fresh) else {
            return None;
        };
        manager.statistics.count_fault(false);
        Some(resolution)
    }

    /// Brings a page home from a private device that only this space has.
    #[inline(never)]
    fn come_home(self, table: PhysFrame, page: Page, area: &Area, seen: RawEntry) -> Option<Resolution> {
        let source = seen.device_frame()?;
        let manager = self.manager;
        let machine = &manager.machine;
        let device = manager.device_of(source);
        let descriptor = device.descriptor(source);
        let target = manager.memory.allocate(machine, &manager.injector).ok()?;
        if !descriptor.try_lock_page() {
            return None;
        }
        // A device that dies meanwhile is found out afterwards, as in `copy_page`.
        if descriptor.is_used_once() && !device.is_lost() {
            machine.copy(source.into(), target.frame().into());
            machine.complete_copies();
            let leaf = LeafTable::lock(machine, &manager.memory, table);
            if leaf.load(page) == seen && !device.is_lost() {
                target.descriptor().map_to_stay(area.origin_of(page));
                let frame = target.into_frame();
                // Not accessed: the access that is retried says so itself. Dirty, because the only other copy is about to be cleared.
                let mut flags = area.protection.read_only_flags() | LeafFlags::DIRTY;
                // W stands at the same place in a `Device` entry and in a present one.
                if area.protection.contains(Protection::WRITE) {
                    flags |= seen.flags() & LeafFlags::WRITABLE;
                }
                // Before anybody finds the page at home: whoever then looks at the counts finds the fault there, too.
                manager.statistics.count_fault(true);
                leaf.swap(page, Entry::Present { frame, flags }.encode());
                self.recharge(Resident::Device, Resident::Ram, 1);
                descriptor.end_locked_mapping();
                drop(leaf);
                device.free_frame(machine, source);
                manager.statistics.count_returned(1, Cause::Fault);
                return Some(Resolution::CameHome);
            }
        }
        descriptor.unlock();
        None
    }

    /// Gives this space a copy of its own of a page in RAM that others map, too.
    #[inline(never)]
    fn copy_shared(self, table: PhysFrame, page: Page, area: &Area, seen: RawEntry) -> Option<Resolution> {
        let Entry::Present { frame: shared, flags } = seen.decode() else { return None };
        if flags.contains(LeafFlags::WRITABLE) {
            return None;
        }
        let manager = self.manager;
        let machine = &manager.machine;
        let descriptor = manager.memory.descriptor_of(shared)?;
        let fresh = manager.memory.allocate(machine, &manager.injector).ok()?;
        // So no migration takes the shared frame while it is copied; nobody writes it, since several entries map it.
        if !descriptor.try_lock_page() {
            return None;
        }
        if descriptor.mappings() > 1 && descriptor.swap_slot().is_none() {
            machine.copy(shared.into(), fresh.frame().into());
            machine.complete_copies();
            let leaf = LeafTable::lock(machine, &manager.memory, table);
            if leaf.load(page) == seen {
                fresh.descriptor().map(area.origin_of(page), 1);
                let frame = fresh.into_frame();
                let stored = LeafFlags::WRITABLE | LeafFlags::ACCESSED | LeafFlags::DIRTY;
                let flags = area.protection.read_only_flags() | stored;
                leaf.swap(page, Entry::Present { frame, flags }.encode());
                // As in `copy_on_write`: no CPU may read the shared frame here any more, or reach it without a reference. One page
                // in RAM was counted before, and is now.
                let mut owed = OwedFlush::new();
                owed.owe(PageRange::of_page(page));
                owed.pay(machine, self.state, &manager.statistics);
                drop(leaf);
                descriptor.remove_mappings(1);
                descriptor.unlock();
                if descriptor.release(1) {
                    manager.memory.free_frame(machine, shared);
                }
                manager.statistics.count_fault(false);
                manager.statistics.count_copied_page();
                return Some(Resolution::Copied);
            }
        }
        manager.unlock_page(shared);
        None
    }
}
