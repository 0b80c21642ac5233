//! From the loader's page tables to the kernel's own.
//!
//! ```text
//!   window        what                      leaf      rights
//!   KERNEL        the image, as loaded      4 KiB     per segment: read, read+execute, or read+write
//!   STACKS        the boot stack            4 KiB     read+write
//!   HEAP          fresh frames              2 MiB     read+write
//!   DIRECT_MAP    all RAM but the image     2 MiB, or 4 KiB around the image    read+write
//!   lower half    nothing
//! ```
//!
//! The image is left out of the direct map, so code and constants have no writable alias. Guard pages have no entry.
//! Everything is global: it is the same in every address space.
//!
//! Runs once, on the boot CPU, with nobody to flush.
use super::layout::{DIRECT_MAP, HEAP, KERNEL, STACKS};
use super::machine::{self, Hardware};
use super::per_cpu;
use crate::ram::{self, PhysRange};
use bootloader_api::info::{MemoryRegion, MemoryRegionKind};
use core::fmt;
use ferry_mm::address::PAGE_BYTES;
use ferry_mm::frame::{Descriptor, OutOfFrames, SystemMemory};
use ferry_mm::machine::Machine;
use ferry_mm::page_table::entry::{Entry, LeafFlags};
use ferry_mm::page_table::install::{self, InstallError};
use ferry_mm::page_table::walk;
use x86_64::structures::paging::PhysFrame;
use x86_64::structures::paging::page_table::PageTableLevel;
use x86_64::{PhysAddr, VirtAddr};

/// What the memory manager starts from.
pub struct Ground {
    /// RAM, with everything in it that is free.
    pub memory: SystemMemory<&'static [Descriptor]>,
    /// The kernel's level-4 table.
    pub root: PhysFrame,
}

/// Why the kernel cannot take over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TakeoverError {
    /// No usable region has room for this many bytes of frame descriptors.
    NoRoomForDescriptors(u64),
    /// No RAM for page tables or the heap.
    OutOfFrames,
    /// A kernel mapping cannot be made.
    Install(InstallError),
    /// The image is in more pieces than expected.
    ScatteredImage,
}

impl fmt::Display for TakeoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoomForDescriptors(bytes) => {
                write!(f, "no room for {bytes} bytes of frame descriptors; give the machine more with --memory")
            }
            Self::OutOfFrames => OutOfFrames.fmt(f),
            Self::Install(error) => error.fmt(f),
            Self::ScatteredImage => {
                f.write_str("the loader has scattered the kernel's image over RAM; use boot/loader")
            }
        }
    }
}

impl From<OutOfFrames> for TakeoverError {
    fn from(_: OutOfFrames) -> Self {
        Self::OutOfFrames
    }
}

impl From<InstallError> for TakeoverError {
    fn from(error: InstallError) -> Self {
        Self::Install(error)
    }
}

/// Bytes of a leaf at level 2.
const HUGE_BYTES: u64 = 2 * 1024 * 1024;

/// Order of a block of [`HUGE_BYTES`].
const HUGE_ORDER: u8 = 9;

/// Leaves of the heap.
const HEAP_LEAVES: u64 = 2;

/// Below the first mebibyte firmware keeps its tables, whatever the memory map says.
const LOW_MEMORY: u64 = 1024 * 1024;

const KERNEL_DATA: LeafFlags = LeafFlags::WRITABLE.union(LeafFlags::NO_EXECUTE).union(LeafFlags::GLOBAL);

/// Makes the descriptors, the kernel's tables and the heap, and switches to the tables.
///
/// # Errors
/// See [`TakeoverError`].
///
/// # Panics
/// When it is called twice.
pub fn run(regions: &[MemoryRegion]) -> Result<Ground, TakeoverError> {
    let memory = describe(regions)?;
    let root = install::new_root(&Hardware, &memory)?;
    let mut image = Pieces::new();
    copy_loaders(&memory, root, &mut image)?;
    for ram in ram::ranges() {
        map_directly(&memory, root, *ram, &image)?;
    }
    for leaf in 0..HEAP_LEAVES {
        let block = memory.allocate_block(&Hardware, HUGE_ORDER)?;
        let address = HEAP.start() + leaf * HUGE_BYTES;
        install::install(&Hardware, &memory, root, address, block, PageTableLevel::Two, KERNEL_DATA)?;
    }
    Hardware.load_root(root);
    // SAFETY: the heap's leaves were just installed over frames that nobody else has.
    unsafe { crate::heap::init(HEAP.start(), (HEAP_LEAVES * HUGE_BYTES) as usize) };
    Ok(Ground { memory, root })
}

fn usable(regions: &[MemoryRegion]) -> impl Iterator<Item = (u64, u64)> {
    let usable = regions.iter().filter(|region| region.kind == MemoryRegionKind::Usable);
    usable
        .map(|region| (region.start.max(LOW_MEMORY).next_multiple_of(PAGE_BYTES), region.end / PAGE_BYTES * PAGE_BYTES))
}

fn frame(address: u64) -> PhysFrame {
    PhysFrame::containing_address(PhysAddr::new_truncate(address))
}

/// Makes a descriptor for every frame up to the end of RAM, and hands the usable ones to the allocator.
fn describe(regions: &[MemoryRegion]) -> Result<SystemMemory<&'static [Descriptor]>, TakeoverError> {
    let end = usable(regions).map(|(_, end)| end).max().unwrap_or(0);
    let count = end / PAGE_BYTES;
    let bytes = (count * size_of::<Descriptor>() as u64).next_multiple_of(PAGE_BYTES);
    let (place, _) = usable(regions)
        .find(|(start, end)| end.saturating_sub(*start) >= bytes)
        .ok_or(TakeoverError::NoRoomForDescriptors(bytes))?;
    // SAFETY: the range is usable RAM, in the loader's direct map as in ours, and left out of what is donated below.
    let descriptors = unsafe { machine::zeroed_descriptors(frame(place), count as usize) };
    let memory = SystemMemory::new(descriptors);
    for (start, end) in usable(regions) {
        let start = if start == place { start + bytes } else { start };
        if start < end {
            memory.donate(&Hardware, frame(start), (end - start) / PAGE_BYTES);
        }
    }
    Ok(memory)
}

/// Copies the leaves of the image and of the boot stack, without guard pages; notes where the image lies.
fn copy_loaders(
    memory: &SystemMemory<&'static [Descriptor]>,
    root: PhysFrame,
    image: &mut Pieces,
) -> Result<(), TakeoverError> {
    let mut result = Ok(());
    walk::for_each_leaf(&Hardware, machine::current_root(), &mut |address: VirtAddr, entry, rights| {
        let in_image = KERNEL.contains(address);
        let Entry::Present { frame, .. } = entry.decode() else { return };
        if result.is_err() || !(in_image || STACKS.contains(address)) {
            return;
        }
        if in_image {
            result = image.add(frame);
        }
        if per_cpu::guard_pages().any(|guard| guard == address) {
            return;
        }
        let rights = rights & (LeafFlags::WRITABLE | LeafFlags::NO_EXECUTE) | LeafFlags::GLOBAL;
        let installed = install::install(&Hardware, memory, root, address, frame, PageTableLevel::One, rights);
        result = result.and(installed.map_err(TakeoverError::from));
    });
    result
}

/// Maps the RAM of `range`, except the pieces of the image, into the direct map.
fn map_directly(
    memory: &SystemMemory<&'static [Descriptor]>,
    root: PhysFrame,
    range: PhysRange,
    image: &Pieces,
) -> Result<(), TakeoverError> {
    let mut next = range.start.as_u64();
    while next < range.end() {
        let fits = next.is_multiple_of(HUGE_BYTES) && next + HUGE_BYTES <= range.end();
        let (level, bytes) = if fits && !image.overlaps(next, HUGE_BYTES) {
            (PageTableLevel::Two, HUGE_BYTES)
        } else {
            (PageTableLevel::One, PAGE_BYTES)
        };
        if !image.overlaps(next, bytes) {
            let address = DIRECT_MAP.start() + next;
            install::install(&Hardware, memory, root, address, frame(next), level, KERNEL_DATA)?;
        }
        next += bytes;
    }
    Ok(())
}

/// Physical ranges that the image occupies.
struct Pieces {
    pieces: [(u64, u64); MOST_PIECES],
    count: usize,
}

/// A loader that keeps the image in one piece or one per segment needs no more.
const MOST_PIECES: usize = 16;

impl Pieces {
    const fn new() -> Self {
        Self { pieces: [(0, 0); MOST_PIECES], count: 0 }
    }

    fn add(&mut self, frame: PhysFrame) -> Result<(), TakeoverError> {
        let start = frame.start_address().as_u64();
        if let Some((_, end)) = self.pieces[..self.count].last_mut().filter(|(_, end)| *end == start) {
            *end += PAGE_BYTES;
            return Ok(());
        }
        let piece = self.pieces.get_mut(self.count).ok_or(TakeoverError::ScatteredImage)?;
        *piece = (start, start + PAGE_BYTES);
        self.count += 1;
        Ok(())
    }

    fn overlaps(&self, start: u64, bytes: u64) -> bool {
        self.pieces[..self.count].iter().any(|(first, end)| *first < start + bytes && start < *end)
    }
}
