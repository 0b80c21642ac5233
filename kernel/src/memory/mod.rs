//! Where the memory manager meets the kernel: its one instance, the tables it starts from, faults, and the device.
//!
//! ```text
//!   arch::takeover ──▶ descriptors, kernel tables, heap ──▶ MANAGER
//!   arch::exceptions ──▶ fault::page_fault ──▶ Space::fault of the space this CPU is in
//!   mirror::Mirror ──▶ a device that follows a space: its page table, what it asks, what it is told
//!   device::attach ──▶ BAR window ──▶ MemoryManager::register_device
//! ```
//!
//! Locks: those of [`ferry_mm::lock`]. Which space this CPU is in is part of its [`PerCpu`].
#![deny(unsafe_code)]

pub mod device;
pub mod explain;
pub mod fault;
pub mod mirror;
pub mod protection;
pub mod strict;

#[cfg(feature = "tests")]
mod tests;

use crate::arch::cpus::run_on;
use crate::arch::cpus::work::Results;
use crate::arch::machine::Hardware;
use crate::arch::per_cpu::PerCpu;
use crate::arch::takeover::{self, Ground, TakeoverError};
use bootloader_api::info::MemoryRegion;
use core::fmt;
use ferry_mm::frame::OutOfFrames;
use ferry_mm::inject::Step;
use ferry_mm::lock::{Level, Once};
use ferry_mm::machine::{CpuId, CpuSet, Machine};
use ferry_mm::space::Space;
use ferry_protocol::options::InjectStep;
use protection::WritableAndExecutable;

/// The kernel's memory manager.
pub type MemoryManager = ferry_mm::MemoryManager<Hardware>;

/// An address space of the kernel's memory manager.
pub type AddressSpace = Space<'static, Hardware>;

static MANAGER: Once<MemoryManager> = Once::new(Level::Stored);

/// Takes the page tables over from the loader and makes the memory manager; returns how many leaves the kernel's
/// tables have, none of them both writable and executable.
///
/// # Errors
/// See [`InitError`].
pub fn init(regions: &[MemoryRegion]) -> Result<u64, InitError> {
    let Ground { memory, root } = takeover::run(regions).map_err(InitError::Takeover)?;
    let leaves = protection::check(root).map_err(InitError::Protection)?;
    let manager = MemoryManager::new(Hardware, memory, root).map_err(InitError::OutOfFrames)?;
    MANAGER.get_or_init(&Hardware, || manager);
    Ok(leaves)
}

/// Why there is no memory manager.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InitError {
    /// The page tables cannot be taken over.
    Takeover(TakeoverError),
    /// A page of the kernel is both writable and executable.
    Protection(WritableAndExecutable),
    /// No frame for the zero page.
    OutOfFrames(OutOfFrames),
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Takeover(error) => error.fmt(f),
            Self::Protection(error) => error.fmt(f),
            Self::OutOfFrames(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for InitError {}

/// The memory manager.
///
/// # Panics
/// Before [`init`].
#[inline]
pub fn manager() -> &'static MemoryManager {
    MANAGER.get().expect("the memory manager is made at boot, before anything asks for it")
}

/// The space that this CPU is in.
#[inline(always)]
pub fn current_space() -> Option<AddressSpace> {
    PerCpu::space()
}

/// Makes this CPU use `space` for the lower half; it leaves the space it was in.
pub fn enter(space: AddressSpace) {
    leave();
    PerCpu::set_space(Some(space));
    space.enter();
}

/// Makes this CPU leave the space it is in, if any.
pub fn leave() {
    if let Some(space) = current_space() {
        manager().leave(space);
        PerCpu::set_space(None);
    }
}

/// Runs `work` on each of `cpus` at the same time, each in `space`, and waits until all are done.
///
/// The calling CPU stays in the space that it is in; where it takes part, that is `space`. The others leave it afterwards.
///
/// # Panics
/// Where a CPU does not run or has work, or the calling CPU takes part and is in another space.
pub fn run_in<R: Send>(space: AddressSpace, cpus: CpuSet, work: impl Fn(CpuId) -> R + Sync) -> Results<R> {
    let caller = Hardware.cpu();
    let inside = current_space().is_some_and(|current| current.id() == space.id());
    assert!(inside || !cpus.contains(caller), "CPU {} takes part without being in the space", caller.number());
    run_on(cpus, |cpu| {
        if cpu == caller {
            return work(cpu);
        }
        enter(space);
        let result = work(cpu);
        leave();
        result
    })
}

/// What there is of everything that can leak.
pub fn census() -> ferry_mm::manager::Census {
    manager().census()
}

/// The memory manager's name for a step that the options name.
pub fn step_of(step: InjectStep) -> Step {
    match step {
        InjectStep::Alloc => Step::Alloc,
        InjectStep::DeviceAlloc => Step::DeviceAlloc,
        InjectStep::Copy => Step::Copy,
        InjectStep::DiskRead => Step::DiskRead,
        InjectStep::DiskWrite => Step::DiskWrite,
    }
}
