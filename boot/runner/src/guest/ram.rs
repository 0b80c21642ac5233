//! Guest RAM by physical address.
//!
//! QEMU's q35 leaves a hole below 4 GiB for devices; the RAM that would stand there continues at 4 GiB. The file is
//! without the hole:
//!
//! ```text
//!   physical   0 ── low RAM ── low end      (hole)      4 GiB ── high RAM ──▶
//!   file       0 ── low RAM ── low end ── high RAM ──▶
//! ```
//!
//! `low end` is all of the RAM if that is less than 0xb000_0000, else 0x8000_0000 (QEMU, `hw/i386/pc_q35.c`).
use std::io;
use std::path::Path;

use ferry_device::RamFrame;
use ferry_device_model::RamRegion;
use x86_64::PhysAddr;

use crate::sys::{PAGE_BYTES, PageBytes, SharedFile};

/// From this size on, RAM is split around the hole.
const SPLIT_FROM: u64 = 0xb000_0000;

/// Where the hole begins then.
const SPLIT_LOW_END: u64 = 0x8000_0000;

/// Where RAM continues above the hole.
const HIGH_START: u64 = 1 << 32;

/// Physical memory that can be read.
pub trait Physical {
    /// The 64-bit word at `address`, or `None` where there is no RAM or the address is not aligned to 8.
    fn word(&self, address: PhysAddr) -> Option<u64>;

    /// A copy of the page at `address`, or `None` where there is no RAM or the address is not a page's.
    fn page(&self, address: PhysAddr) -> Option<PageBytes>;
}

/// The file that is the guest's RAM.
pub struct GuestRam {
    file: SharedFile,
}

impl GuestRam {
    /// Maps the file that QEMU was given as memory.
    ///
    /// # Errors
    /// Where it cannot be opened or mapped.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: SharedFile::open(path)? })
    }
}

impl Physical for GuestRam {
    fn word(&self, address: PhysAddr) -> Option<u64> {
        self.file.word(file_offset(address, self.file.bytes())?)
    }

    fn page(&self, address: PhysAddr) -> Option<PageBytes> {
        self.file.page(file_offset(address, self.file.bytes())?)
    }
}

/// The RAM of a machine with `ram` bytes, for devices that transfer from and to it: low and high RAM.
pub fn regions(ram: u64) -> Vec<RamRegion> {
    const PAGE: u64 = PAGE_BYTES as u64;
    let low = low_end(ram) / PAGE;
    let high = ram / PAGE - low;
    let low = RamRegion { first: RamFrame(0), frames: low, file_frame: 0 };
    let high = RamRegion { first: RamFrame(HIGH_START / PAGE), frames: high, file_frame: low.frames };
    [low, high].into_iter().filter(|region| region.frames > 0).collect()
}

fn low_end(ram: u64) -> u64 {
    if ram >= SPLIT_FROM { SPLIT_LOW_END } else { ram }
}

/// Where the byte at `address` stands in the file of a machine with `ram` bytes.
fn file_offset(address: PhysAddr, ram: u64) -> Option<u64> {
    let address = address.as_u64();
    let low_end = low_end(ram);
    if address < low_end {
        return Some(address);
    }
    let offset = address.checked_sub(HIGH_START)?.checked_add(low_end)?;
    (offset < ram).then_some(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_step_over_the_hole() {
        let at = |address, ram| file_offset(PhysAddr::new(address), ram);
        let small = 256 << 20;
        assert_eq!(at(0, small), Some(0));
        assert_eq!(at(small - 1, small), Some(small - 1));
        assert_eq!(at(small, small), None);
        assert_eq!(at(HIGH_START, small), None);

        let just_below = SPLIT_FROM - (1 << 20);
        assert_eq!(at(just_below - 1, just_below), Some(just_below - 1));
        assert_eq!(at(HIGH_START, just_below), None);

        let large = 4 << 30;
        assert_eq!(at(SPLIT_LOW_END - 1, large), Some(SPLIT_LOW_END - 1));
        assert_eq!(at(SPLIT_LOW_END, large), None);
        assert_eq!(at(HIGH_START - 1, large), None);
        assert_eq!(at(HIGH_START, large), Some(SPLIT_LOW_END));
        assert_eq!(at(HIGH_START + SPLIT_LOW_END - 1, large), Some(large - 1));
        assert_eq!(at(HIGH_START + SPLIT_LOW_END, large), None);
    }

    #[test]
    fn devices_find_each_frame_where_the_walk_finds_its_bytes() {
        let machines: [(u64, &[u64]); 2] =
            [(256 << 20, &[0, 0xffff, 0x1_0000]), (4 << 30, &[0x7_ffff, 0x8_0000, 1 << 20, 0x17_ffff])];
        for (ram, frames) in machines {
            for frame in frames {
                let place = regions(ram).iter().find_map(|region| {
                    let index = frame.checked_sub(region.first.0).filter(|index| *index < region.frames)?;
                    Some((region.file_frame + index) * 4096)
                });
                assert_eq!(place, file_offset(PhysAddr::new(frame * 4096), ram), "frame {frame:#x} of {ram:#x}");
            }
        }
    }
}
