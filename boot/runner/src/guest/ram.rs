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

use x86_64::PhysAddr;

use crate::sys::{PageBytes, SharedFile};

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

/// Where the byte at `address` stands in the file of a machine with `ram` bytes.
fn file_offset(address: PhysAddr, ram: u64) -> Option<u64> {
    let address = address.as_u64();
    let low_end = if ram >= SPLIT_FROM { SPLIT_LOW_END } else { ram };
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
}
