//! What the memory manager asks of a disk.
use x86_64::structures::paging::PhysFrame;

use crate::page_table::entry::SwapSlot;

/// The disk failed a transfer, or refused it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskFailure;

impl core::fmt::Display for DiskFailure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the swap disk failed; see what the host says about its disk")
    }
}

impl core::error::Error for DiskFailure {}

/// A disk of slots, a page each. (Linux: `swap_info_struct`.)
///
/// It is called by several CPUs, from page faults, too: it takes no heap memory. It may wait, bounded; no lock of the memory
/// manager is held meanwhile. Whoever waits calls [`crate::machine::Machine::relax`] on the machine it is given.
pub trait SwapDisk<M>: Send + Sync {
    /// Number of slots; never changes.
    fn slots(&self) -> u64;

    /// Reads a slot into a RAM frame that nobody else uses meanwhile.
    ///
    /// # Errors
    /// [`DiskFailure`]; the frame's contents are undefined then, the slot's are as they were.
    fn read(&self, machine: &M, slot: SwapSlot, frame: PhysFrame) -> Result<(), DiskFailure>;

    /// Writes a RAM frame that nobody changes meanwhile into a slot.
    ///
    /// # Errors
    /// [`DiskFailure`]; the slot's contents are undefined then, those of every other slot are as they were.
    fn write(&self, machine: &M, slot: SwapSlot, frame: PhysFrame) -> Result<(), DiskFailure>;
}
