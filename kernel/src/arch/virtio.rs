//! What the crate `virtio-drivers` needs of the machine: memory for its queues, a device's registers, and the
//! configuration space of its function.
//!
//! ```text
//!   BAR_WINDOWS + 8 TiB  ┬ registers of virtio devices: p0x.. modulo 1 TiB, 4 KiB leaves, uncached
//!                        ┴
//!   DIRECT_MAP           queues and buffers: frames of the memory manager
//! ```
//!
//! Invariants:
//! 1. A register's virtual address follows from its physical one, so that no list of BARs is kept. Two BARs whose
//!    places in the window are the same cannot both be mapped.
//! 2. Whatever a device is given to read or write is in the direct map, so one subtraction says where it is.
//!
//! Locks: none of its own.
use super::bar_window::WINDOW_BYTES;
use super::config_space::ConfigSpace;
use super::layout::{BAR_WINDOWS, DIRECT_MAP};
use super::machine::{Hardware, clear_ram, direct};
use crate::memory::{self, MemoryManager};
use crate::ram::PhysRange;
use core::ptr::NonNull;
use ferry_mm::address::PAGE_BYTES;
use ferry_mm::manager::MAX_DEVICES;
use ferry_mm::page_table::entry::LeafFlags;
use ferry_mm::page_table::install::{self, InstallError};
use ferry_pci::ConfigSpace as _;
use pci_types::PciAddress;
use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};
use virtio_drivers::{BufferDirection, Hal};
use x86_64::structures::paging::PhysFrame;
use x86_64::structures::paging::page_table::PageTableLevel;
use x86_64::{PhysAddr, VirtAddr};

/// Where the registers lie in [`BAR_WINDOWS`]: behind the windows of our own devices.
const REGISTERS_OFFSET: u64 = MAX_DEVICES as u64 * WINDOW_BYTES;

const REGISTERS: LeafFlags =
    LeafFlags::WRITABLE.union(LeafFlags::NO_EXECUTE).union(LeafFlags::GLOBAL).union(LeafFlags::CACHE_DISABLE);

const _: () = assert!(REGISTERS_OFFSET + WINDOW_BYTES <= BAR_WINDOWS.bytes(), "registers have room of their own");
const _: () = assert!(virtio_drivers::PAGE_SIZE as u64 == PAGE_BYTES, "the crate counts in pages of the same size");

/// Where the window has the register at a physical address.
fn register(address: PhysAddr) -> VirtAddr {
    BAR_WINDOWS.start() + REGISTERS_OFFSET + address.as_u64() % WINDOW_BYTES
}

/// Maps the BAR at `range` as registers. Once per BAR, before the first address space is made.
///
/// # Errors
/// No RAM for page tables, or another BAR is there.
pub fn map_registers(manager: &MemoryManager, range: PhysRange) -> Result<(), InstallError> {
    let first = range.start.align_down(PAGE_BYTES);
    for offset in (0..range.end() - first.as_u64()).step_by(PAGE_BYTES as usize) {
        let frame = PhysFrame::containing_address(first + offset);
        let address = register(frame.start_address());
        install::install(
            &Hardware,
            manager.memory(),
            manager.kernel_root(),
            address,
            frame,
            PageTableLevel::One,
            REGISTERS,
        )?;
    }
    Ok(())
}

/// The function's address as the crate writes it.
pub(super) fn device_function(address: PciAddress) -> DeviceFunction {
    DeviceFunction { bus: address.bus(), device: address.device(), function: address.function() }
}

impl ConfigurationAccess for ConfigSpace {
    fn read_word(&self, function: DeviceFunction, offset: u8) -> u32 {
        self.get(pci_address(function), offset.into())
    }

    fn write_word(&mut self, function: DeviceFunction, offset: u8, value: u32) {
        self.set(pci_address(function), offset.into(), value);
    }

    unsafe fn unsafe_clone(&self) -> Self {
        *self
    }
}

fn pci_address(function: DeviceFunction) -> PciAddress {
    PciAddress::new(0, function.bus, function.device, function.function)
}

/// The machine's memory, as the crate sees it.
pub struct DmaMemory;

/// The order of the smallest block with this many frames.
fn order_of(frames: usize) -> u8 {
    frames.next_power_of_two().trailing_zeros() as u8
}

// SAFETY: memory is a block of frames that nobody else has until it is given back, zeroed and reached through the direct
// map, page by page; a register's place was mapped for ever before the crate is told of the function; and a shared
// buffer is in the direct map, so it is where the subtraction says.
unsafe impl Hal for DmaMemory {
    /// A physical address of 0 is how the crate learns that there is no memory.
    fn dma_alloc(pages: usize, _: BufferDirection) -> (u64, NonNull<u8>) {
        let order = order_of(pages);
        let Ok(first) = memory::manager().memory().allocate_block(&Hardware, order) else {
            return (0, NonNull::dangling());
        };
        for index in 0..1 << order {
            clear_ram(first + index);
        }
        let start = NonNull::new(direct(first)).expect("the direct map is not at address 0");
        (first.start_address().as_u64(), start)
    }

    unsafe fn dma_dealloc(address: u64, _: NonNull<u8>, pages: usize) -> i32 {
        let first = PhysFrame::containing_address(PhysAddr::new_truncate(address));
        memory::manager().memory().free_block(&Hardware, first, order_of(pages));
        0
    }

    unsafe fn mmio_phys_to_virt(address: u64, _: usize) -> NonNull<u8> {
        let address = register(PhysAddr::new_truncate(address));
        NonNull::new(address.as_mut_ptr()).expect("the window is not at address 0")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> u64 {
        let address = VirtAddr::from_ptr(buffer.as_ptr().cast::<u8>());
        assert!(DIRECT_MAP.contains(address), "v{address:#x} is no memory that a device may be given");
        address - DIRECT_MAP.start()
    }

    unsafe fn unshare(_: u64, _: NonNull<[u8]>, _: BufferDirection) {
        // The device has worked on the buffer itself.
    }
}
