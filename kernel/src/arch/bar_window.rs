//! The window of a device: its BAR, mapped, and the descriptors of its frames.
//!
//! ```text
//!   BAR_WINDOWS + number × 1 TiB  ┬ BAR, 2 MiB or 4 KiB leaves, write-combining
//!                     + 512 GiB   ┼ descriptors, one per device frame, 4 KiB leaves over RAM
//!                                 ┴
//! ```
//! A window is numbered as its device is found, before the device has said which number it goes by.
use super::cpu::WRITE_COMBINING;
use super::layout::BAR_WINDOWS;
use super::machine::Hardware;
use super::meter;
use crate::memory::MemoryManager;
use crate::ram::PhysRange;
use core::fmt;
use core::ptr::NonNull;
use ferry_device::bar::{Bar, BarError};
use ferry_device::geometry::CONTROL_BYTES;
use ferry_mm::address::PAGE_BYTES;
use ferry_mm::frame::{CpuWindow, Descriptor, OutOfFrames};
use ferry_mm::manager::MAX_DEVICES;
use ferry_mm::page_table::entry::LeafFlags;
use ferry_mm::page_table::install::{self, InstallError};
use x86_64::VirtAddr;
use x86_64::structures::paging::PhysFrame;
use x86_64::structures::paging::page_table::PageTableLevel;

/// Bytes of the part that each device has. Registers of virtio devices lie behind the last of them; see [`super::virtio`].
pub(super) const WINDOW_BYTES: u64 = 1 << 40;
const DESCRIPTORS_OFFSET: u64 = WINDOW_BYTES / 2;
const HUGE_BYTES: u64 = 2 * 1024 * 1024;
const DATA: LeafFlags = LeafFlags::WRITABLE.union(LeafFlags::NO_EXECUTE).union(LeafFlags::GLOBAL);

/// The number of a window, below [`MAX_DEVICES`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WindowNumber(u8);

impl WindowNumber {
    /// Every window there is, in ascending order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..MAX_DEVICES as u8).map(Self)
    }
}

const _: () = assert!(MAX_DEVICES as u64 * WINDOW_BYTES <= BAR_WINDOWS.bytes(), "every device has a window");

/// Why a device has no window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WindowError {
    /// The BAR is larger than its part of the window, in bytes.
    TooLarge(u64),
    /// It cannot be mapped.
    Install(InstallError),
    /// It is no BAR of our device.
    Bar(BarError),
}

impl fmt::Display for WindowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge(bytes) => write!(f, "a BAR of {bytes} bytes is too large; give the device less with --vram"),
            Self::Install(error) => error.fmt(f),
            Self::Bar(error) => error.fmt(f),
        }
    }
}

impl From<InstallError> for WindowError {
    fn from(error: InstallError) -> Self {
        Self::Install(error)
    }
}

fn window(number: WindowNumber) -> VirtAddr {
    BAR_WINDOWS.start() + u64::from(number.0) * WINDOW_BYTES
}

/// Maps the BAR at `range` into a window. Once per window, before the first address space is made.
///
/// # Errors
/// See [`WindowError`].
pub fn map(manager: &MemoryManager, number: WindowNumber, range: PhysRange) -> Result<Bar, WindowError> {
    if range.bytes > DESCRIPTORS_OFFSET {
        return Err(WindowError::TooLarge(range.bytes));
    }
    let write_combining = LeafFlags::from_bits_retain(WRITE_COMBINING.bits());
    let huge = range.start.is_aligned(HUGE_BYTES) && range.bytes.is_multiple_of(HUGE_BYTES);
    let (level, step) = if huge { (PageTableLevel::Two, HUGE_BYTES) } else { (PageTableLevel::One, PAGE_BYTES) };
    for offset in (0..range.bytes).step_by(step as usize) {
        let frame = PhysFrame::containing_address(range.start + offset);
        let address = window(number) + offset;
        install::install(
            &Hardware,
            manager.memory(),
            manager.kernel_root(),
            address,
            frame,
            level,
            DATA | write_combining,
        )?;
    }
    let base = NonNull::new(window(number).as_mut_ptr()).expect("a window is not at address 0");
    // SAFETY: the range is a memory BAR that the caller has validated and was just mapped, for ever; nothing of ours lies there.
    unsafe { Bar::new(base, range.bytes) }.map_err(WindowError::Bar)
}

/// Shows an observer where the first device's BAR of `bytes` bytes lies; it is mapped.
pub fn show_first(bytes: u64) {
    let start = window(WindowNumber(0));
    meter::show_bar(start.as_ptr(), (start + (bytes - size_of::<u64>() as u64)).as_ptr());
}

/// Where CPUs map the frames of a coherent device whose BAR is at `range`: with the memory type that the window has, too.
pub fn frames_for_cpus(range: PhysRange) -> CpuWindow {
    let first = PhysFrame::containing_address(range.start + CONTROL_BYTES as u64);
    CpuWindow::new(first, LeafFlags::from_bits_retain(WRITE_COMBINING.bits()))
}

/// Makes `count` descriptors for the frames behind the BAR in a window. Once per window, before the first address space is made.
///
/// # Errors
/// No RAM for them.
pub fn descriptors(
    manager: &MemoryManager,
    number: WindowNumber,
    count: u64,
) -> Result<&'static [Descriptor], InstallError> {
    let memory = manager.memory();
    let start = window(number) + DESCRIPTORS_OFFSET;
    for offset in (0..count * size_of::<Descriptor>() as u64).step_by(PAGE_BYTES as usize) {
        let frame = memory.allocate_block(&Hardware, 0).map_err(|OutOfFrames| InstallError::OutOfFrames)?;
        super::machine::clear_ram(frame);
        install::install(&Hardware, memory, manager.kernel_root(), start + offset, frame, PageTableLevel::One, DATA)?;
    }
    // SAFETY: zeroed frames of our own were just mapped there, for ever, and a descriptor of all zeros is valid.
    Ok(unsafe { core::slice::from_raw_parts(start.as_ptr(), count as usize) })
}
