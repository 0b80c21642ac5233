//! Kernel mappings: how the kernel builds its upper half at boot, before there is any address space.
use x86_64::VirtAddr;
use x86_64::structures::paging::PhysFrame;
use x86_64::structures::paging::page_table::PageTableLevel;

use super::entry::{Entry, LeafFlags, RawEntry};
use super::slot::EntrySlot;
use super::walk::table_for;
use crate::frame::{OutOfFrames, SystemMemory};
use crate::inject::Injector;
use crate::machine::Machine;

/// Why a kernel mapping was not installed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InstallError {
    /// No frame for a page table.
    OutOfFrames,
    /// The page has an entry already.
    AlreadyMapped(VirtAddr, RawEntry),
    /// The address or the frame is not aligned to the size of the leaf.
    Misaligned(VirtAddr, PhysFrame),
}

impl From<OutOfFrames> for InstallError {
    fn from(_: OutOfFrames) -> Self {
        Self::OutOfFrames
    }
}

impl core::fmt::Display for InstallError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::OutOfFrames => OutOfFrames.fmt(f),
            Self::AlreadyMapped(address, entry) => write!(f, "v{address:#x} is mapped already, by the entry {entry:?}"),
            Self::Misaligned(address, frame) => {
                write!(f, "v{address:#x} or p{:#x} is not aligned to the size of the leaf", frame.start_address())
            }
        }
    }
}

impl core::error::Error for InstallError {}

/// Maps the leaf at `address` to `frame`: 4 KiB at level one, 2 MiB at level two.
///
/// For the kernel's half, at boot: one CPU, and nobody to flush because nothing present is changed.
///
/// # Errors
/// See [`InstallError`]; tables made on the way stay.
pub fn install<M: Machine>(
    machine: &M,
    memory: &SystemMemory<M::Descriptors>,
    root: PhysFrame,
    address: VirtAddr,
    frame: PhysFrame,
    level: PageTableLevel,
    flags: LeafFlags,
) -> Result<(), InstallError> {
    let bytes = level.table_address_space_alignment() / crate::address::TABLE_ENTRIES;
    if !address.is_aligned(bytes) || !frame.start_address().is_aligned(bytes) {
        return Err(InstallError::Misaligned(address, frame));
    }
    // Boot is no place for injected failures: an injector of its own is never armed.
    let never = Injector::new();
    let allocate = || memory.allocate_zeroed(machine, &never);
    let table = table_for(machine, memory, root, address, level, allocate)?
        .map_err(|huge| InstallError::AlreadyMapped(address, huge))?;
    let slot = EntrySlot::new(table, address.page_table_index(level));
    let huge = if level == PageTableLevel::One { LeafFlags::empty() } else { LeafFlags::HUGE };
    let entry = Entry::Present { frame, flags: flags | huge }.encode();
    machine
        .compare_exchange_entry(slot, RawEntry::EMPTY, entry)
        .map_err(|there| InstallError::AlreadyMapped(address, there))
}

/// An empty level-4 table for the kernel.
///
/// # Errors
/// [`OutOfFrames`].
pub fn new_root<M: Machine>(machine: &M, memory: &SystemMemory<M::Descriptors>) -> Result<PhysFrame, OutOfFrames> {
    let root = memory.allocate_zeroed(machine, &Injector::new())?.into_frame();
    memory.make_table(root, None);
    Ok(root)
}
