//! Swap-in: a fault on an entry that names a slot.
//!
//! ```text
//!   Swap{slot} ─▶ in the swap cache? ── yes ─▶ mapped read-only; for a store, alone: writable and out of the cache
//!                       │ no
//!                       ▼  areas given up
//!                 fresh frame, locked, in the swap cache ─▶ read ─▶ unlocked ─▶ look again
//! ```
use x86_64::VirtAddr;
use x86_64::structures::paging::{Page, PhysFrame};

use crate::frame::{Origin, OutOfFrames};
use crate::inject::Step;
use crate::lock::assert_may_wait;
use crate::machine::Machine;
use crate::page_table::entry::{Entry, LeafFlags, RawEntry, SwapSlot};
use crate::page_table::leaf_table::LeafTable;
use crate::space::{Area, FaultError, Resident, Space};

/// What a look at a swapped page came to.
pub(crate) enum SwapIn {
    /// The page is mapped.
    Mapped,
    /// Somebody else is at work on the page.
    LookAgain,
    /// No frame holds the page: it must be read, without any lock.
    Read,
}

impl<M: Machine> Space<'_, M> {
    /// Maps the page of `slot`, where a frame holds it. The caller, a fault, holds the areas.
    pub(crate) fn map_swapped(
        self,
        table: PhysFrame,
        page: Page,
        area: &Area,
        seen: RawEntry,
        slot: SwapSlot,
        write: bool,
    ) -> SwapIn {
        let manager = self.manager;
        let machine = &manager.machine;
        let holder = || manager.slots().slot_use(machine, slot).and_then(|slot| slot.frame);
        let Some(frame) = holder() else { return SwapIn::Read };
        let descriptor = manager.memory.descriptor(frame);
        // Locked: on its way to or from the disk, or out of the cache.
        if !descriptor.try_lock_page() {
            return SwapIn::LookAgain;
        }
        let mapped = {
            let leaf = LeafTable::lock(machine, &manager.memory, table);
            let unchanged = holder() == Some(frame) && leaf.load(page) == seen;
            if unchanged {
                descriptor.map_cached(area.origin_of(page));
                manager.slots().remove_entry(machine, slot);
                let mut flags = area.protection.read_only_flags() | LeafFlags::ACCESSED;
                // Alone with it, a store can go on at once. Otherwise it faults once more and decides.
                let alone = || manager.slots().slot_use(machine, slot).is_some_and(|slot| slot.entries == 0);
                if write && descriptor.mappings() == 1 && alone() && manager.leave_swap_cache(frame) {
                    flags |= LeafFlags::WRITABLE | LeafFlags::DIRTY;
                }
                leaf.swap(page, Entry::Present { frame, flags }.encode());
                self.uncharge(Resident::Swap, 1);
                self.charge(Resident::Ram, 1);
            }
            unchanged
        };
        manager.unlock_page(frame);
        if mapped { SwapIn::Mapped } else { SwapIn::LookAgain }
    }

    /// Reads a slot into a fresh frame in the swap cache, where others find it, locked, and wait. No lock is held but the
    /// frame's own. `false` where somebody was faster, or the slot is not needed any more.
    ///
    /// # Errors
    /// [`FaultError::OutOfMemory`] and [`FaultError::Disk`]; the slot keeps its contents.
    pub(crate) fn read_swapped(self, address: VirtAddr, slot: SwapSlot, origin: Origin) -> Result<bool, FaultError> {
        let manager = self.manager;
        let machine = &manager.machine;
        let fresh = manager
            .memory
            .allocate(machine, &manager.injector)
            .map_err(|OutOfFrames| FaultError::OutOfMemory(address))?;
        let frame = fresh.frame();
        let descriptor = manager.memory.descriptor(frame);
        descriptor.enter_fresh(slot, origin);
        if !manager.slots().hold(machine, slot, frame) {
            descriptor.leave_swap_cache();
            descriptor.unlock();
            return Ok(false);
        }
        let frame = fresh.into_frame();
        assert_may_wait(machine);
        let read = if manager.injector.fails(Step::DiskRead) {
            Err(super::DiskFailure)
        } else {
            manager.slots().disk().read(machine, slot, frame)
        };
        match read {
            Ok(()) => {
                machine.complete_copies();
                manager.statistics.count_swapped_in();
                manager.unlock_page(frame);
                Ok(true)
            }
            Err(super::DiskFailure) => {
                manager.statistics.count_disk_error();
                manager.slots().let_go_if(machine, slot, |_| true);
                manager.free_uncached(frame);
                Err(FaultError::Disk(address))
            }
        }
    }
}
