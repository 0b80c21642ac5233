//! A swap disk in RAM: it answers at once, so that what swapping costs is measured without a wait for a real one.
use super::error::BenchError;
use crate::arch::machine::Hardware;
use crate::memory::manager;
use alloc::boxed::Box;
use ferry_mm::machine::Machine;
use ferry_mm::page_table::entry::SwapSlot;
use ferry_mm::swap::{DiskFailure, SwapDisk};
use x86_64::structures::paging::PhysFrame;

/// The slots, one frame each.
struct RamDisk {
    first: PhysFrame,
    slots: u64,
}

impl RamDisk {
    fn frame(&self, slot: SwapSlot) -> Result<PhysFrame, DiskFailure> {
        if slot.number() < self.slots { Ok(self.first + slot.number()) } else { Err(DiskFailure) }
    }
}

impl SwapDisk<Hardware> for RamDisk {
    fn slots(&self) -> u64 {
        self.slots
    }

    fn read(&self, machine: &Hardware, slot: SwapSlot, frame: PhysFrame) -> Result<(), DiskFailure> {
        machine.copy(self.frame(slot)?.into(), frame.into());
        Ok(())
    }

    fn write(&self, machine: &Hardware, slot: SwapSlot, frame: PhysFrame) -> Result<(), DiskFailure> {
        machine.copy(frame.into(), self.frame(slot)?.into());
        Ok(())
    }
}

/// Gives the memory manager a disk of `slots` slots, rounded up to a power of two; for the rest of the run.
pub(super) fn attach(slots: u64) -> Result<(), BenchError> {
    let order = slots.next_power_of_two().ilog2();
    let first = manager().memory().allocate_block(&Hardware, order as u8)?;
    Ok(manager().attach_swap(Box::new(RamDisk { first, slots: 1 << order }))?)
}
