//! Physical memory below 4 GiB that is no RAM: registers of interrupt controllers, tables of the firmware.
//!
//! ```text
//!   LOW_PHYSICAL + p   4 KiB leaves, each made when its page is first asked for:
//!                      read-only for tables, writable and not cached for registers; never executable
//! ```
//!
//! Pages are added before the first address space is made, because spaces copy the kernel's level-4 entries; they stay.
//! No locks: only the CPU that boots adds pages.
use super::layout::{LOW_PHYSICAL, PAGE_SIZE};
use super::machine::{self, Hardware};
use crate::memory;
use crate::ram;
use ferry_acpi::Physical;
use ferry_mm::page_table::entry::LeafFlags;
use ferry_mm::page_table::install::{self, InstallError};
use x86_64::structures::paging::PhysFrame;
use x86_64::structures::paging::page_table::PageTableLevel;
use x86_64::{PhysAddr, VirtAddr};

const READ_ONLY: LeafFlags = LeafFlags::NO_EXECUTE.union(LeafFlags::GLOBAL);

/// Memory type "uncacheable": slot 3 of the page-attribute table, as it is at reset (Intel SDM 3A, table 11-12).
const REGISTERS: LeafFlags =
    READ_ONLY.union(LeafFlags::WRITABLE).union(LeafFlags::CACHE_DISABLE).union(LeafFlags::WRITE_THROUGH);

/// Maps the page at `address`, which lies in the window; where it is mapped already it stays as it is.
fn map(address: PhysAddr, flags: LeafFlags) -> Result<VirtAddr, InstallError> {
    let manager = memory::manager();
    let (frame, place) = (PhysFrame::containing_address(address), LOW_PHYSICAL.start() + address.as_u64());
    let page = place.align_down(PAGE_SIZE);
    let (memory, root) = (manager.memory(), manager.kernel_root());
    match install::install(&Hardware, memory, root, page, frame, PageTableLevel::One, flags) {
        Ok(()) | Err(InstallError::AlreadyMapped(..)) => Ok(place),
        Err(error) => Err(error),
    }
}

/// Maps the page of registers at `address`, for ever.
///
/// # Errors
/// No RAM for page tables.
///
/// # Panics
/// Where the address is not below 4 GiB.
pub(super) fn map_registers(address: PhysAddr) -> Result<VirtAddr, InstallError> {
    assert!(address.as_u64() < LOW_PHYSICAL.bytes(), "the registers at p{address:#x} are not below 4 GiB");
    map(address, REGISTERS)
}

/// The firmware's tables, in RAM or in what it has reserved below 4 GiB.
pub struct FirmwareTables;

impl FirmwareTables {
    /// Where the CPU finds the byte at `address`.
    fn place(address: u64) -> Option<VirtAddr> {
        let physical = PhysAddr::try_new(address).ok()?;
        if ram::contains(physical, 1) {
            return Some(
                VirtAddr::from_ptr(machine::direct(PhysFrame::containing_address(physical))) + address % PAGE_SIZE,
            );
        }
        if address >= LOW_PHYSICAL.bytes() {
            return None;
        }
        map(physical, READ_ONLY).ok()
    }
}

impl Physical for FirmwareTables {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> bool {
        for (byte, place) in bytes.iter_mut().zip(address..) {
            let Some(place) = Self::place(place) else { return false };
            // SAFETY: the byte is in RAM, which the direct map covers, or in a page that was just mapped; it may hold anything.
            *byte = unsafe { place.as_ptr::<u8>().read_volatile() };
        }
        true
    }
}
