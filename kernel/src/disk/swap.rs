//! The disk as the memory manager's swap disk.
use super::{Disk, DiskError, DiskProblem, find};
use crate::arch::machine::Hardware;
use crate::memory;
use crate::trace::{self, Told};
use alloc::boxed::Box;
use ferry_mm::lock::{Level, Once};
use ferry_mm::page_table::entry::SwapSlot;
use ferry_mm::swap::{DiskFailure, SwapDisk};
use x86_64::structures::paging::PhysFrame;

impl SwapDisk<Hardware> for Disk {
    fn slots(&self) -> u64 {
        self.pages()
    }

    fn read(&self, _: &Hardware, slot: SwapSlot, frame: PhysFrame) -> Result<(), DiskFailure> {
        self.read_page(slot.number(), frame).map_err(|error| self.keep(error))?;
        trace::tell(|| Told::DiskRead { slot: slot.number(), frame: trace::number(frame) });
        Ok(())
    }

    fn write(&self, _: &Hardware, slot: SwapSlot, frame: PhysFrame) -> Result<(), DiskFailure> {
        self.write_page(slot.number(), frame).map_err(|error| self.keep(error))?;
        trace::tell(|| Told::DiskWritten { slot: slot.number(), frame: trace::number(frame) });
        Ok(())
    }
}

impl Disk {
    /// Keeps why an access failed, for a report: the memory manager passes on only that it did.
    fn keep(&self, error: DiskError) -> DiskFailure {
        *self.0.failure.lock(&Hardware) = Some(error);
        DiskFailure
    }
}

static ATTACHED: Once<Result<Option<Disk>, DiskProblem>> = Once::new(Level::Setup);

/// Gives the machine's disk, if it has one, to the memory manager; later calls change nothing and say the same.
///
/// # Errors
/// There is a disk that cannot be used.
///
/// # Panics
/// As [`find()`].
pub fn attach() -> Result<Option<Disk>, DiskProblem> {
    // Found before the lock is taken that finding takes, too.
    let found = find();
    let attach = || {
        let disk = found?;
        if let Some(disk) = disk {
            memory::manager().attach_swap(Box::new(disk)).map_err(DiskProblem::Attach)?;
        }
        Ok(disk)
    };
    ATTACHED.get_or_init(&Hardware, attach).clone()
}

/// Why the disk failed last, for reports: waits for nobody.
pub fn last_failure() -> Option<DiskError> {
    let disk = ATTACHED.get()?.as_ref().ok()?.as_ref()?;
    *disk.0.failure.try_lock(&Hardware)?
}
