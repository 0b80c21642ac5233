//! Which physical addresses are RAM, as the loader said.
//!
//! Reports use it to read page tables without faulting, and PCI to see that no BAR lies over RAM.
//! Written once at boot, read without a lock.
#![forbid(unsafe_code)]
use crate::arch::machine::Hardware;
use bootloader_api::info::{MemoryRegion, MemoryRegionKind};
use ferry_mm::lock::{Level, Once};
pub use ferry_pci::PhysRange;
use x86_64::PhysAddr;

/// Most separate ranges of RAM that are kept; a PC has two or three.
const MOST_RANGES: usize = 32;

struct Map {
    ranges: [PhysRange; MOST_RANGES],
    count: usize,
}

static MAP: Once<Map> = Once::new(Level::Stored);

/// Keeps what `regions`, in ascending order, say.
///
/// # Panics
/// Where they form more than 32 separate ranges.
pub fn init(regions: &[MemoryRegion]) {
    let mut map = Map { ranges: [PhysRange { start: PhysAddr::zero(), bytes: 0 }; MOST_RANGES], count: 0 };
    for region in regions {
        if !matches!(region.kind, MemoryRegionKind::Usable | MemoryRegionKind::Bootloader) {
            continue;
        }
        let bytes = region.end - region.start;
        match map.ranges[..map.count].last_mut() {
            Some(last) if last.end() == region.start => last.bytes += bytes,
            _ => {
                assert!(map.count < MOST_RANGES, "the memory map has more than {MOST_RANGES} separate ranges of RAM");
                map.ranges[map.count] = PhysRange { start: PhysAddr::new(region.start), bytes };
                map.count += 1;
            }
        }
    }
    MAP.get_or_init(&Hardware, || map);
}

/// All RAM, in ascending order; empty before [`init`].
pub fn ranges() -> &'static [PhysRange] {
    MAP.get().map_or(&[], |map| &map.ranges[..map.count])
}

/// Whether `bytes` at `address` are RAM.
pub fn contains(address: PhysAddr, bytes: u64) -> bool {
    let address = address.as_u64();
    ranges().iter().any(|range| range.start.as_u64() <= address && address + bytes <= range.end())
}
