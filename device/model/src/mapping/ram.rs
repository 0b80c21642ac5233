//! The guest's RAM, mapped: the other end of DMA.
//!
//! Invariants:
//! 1. A pointer is handed out for a frame only after the frame was found in a region and the region's place inside the
//!    mapping.
//! 2. No reference into the mapping is made; CPUs of the guest write there at any time.
use std::arch::asm;
use std::io;

use ferry_device::RamFrame;
use ferry_device::bar::WordIndex;
use ferry_device::geometry::FRAME_BYTES;
use memmap2::{MmapOptions, MmapRaw};

use crate::ram::{GuestRam, RamRegion};

/// The guest has no RAM at this frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the guest has no {0}; the device page table names it")]
pub struct NoSuchRam(pub RamFrame);

/// The guest's RAM, mapped shared, readable and writable.
pub struct RamMapping {
    mapping: MmapRaw,
    regions: Vec<RamRegion>,
}

impl RamMapping {
    /// Maps the whole file.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn new(ram: GuestRam) -> io::Result<Self> {
        Ok(Self { mapping: MmapOptions::new().map_raw(&ram.file)?, regions: ram.regions })
    }

    /// The first byte of a frame; the 4096 bytes from there are mapped.
    ///
    /// # Errors
    /// [`NoSuchRam`].
    pub fn frame(&self, frame: RamFrame) -> Result<*mut u8, NoSuchRam> {
        let offset = self.offset(frame).ok_or(NoSuchRam(frame))?;
        // SAFETY: `offset` was found to be inside the mapping, with a whole frame behind it.
        Ok(unsafe { self.mapping.as_mut_ptr().add(offset) })
    }

    /// Adds to a word, wrapping, in one step that no CPU sees half-done; returns what was there.
    ///
    /// # Errors
    /// [`NoSuchRam`].
    pub fn add(&self, frame: RamFrame, word: WordIndex, operand: u64) -> Result<u64, NoSuchRam> {
        let frame = self.frame(frame)?;
        let mut value = operand;
        // SAFETY: a word index is inside the frame, which is mapped, on an 8-byte boundary; the instruction touches
        // nothing but that word and its register, and the memory is shared with nobody who holds a reference.
        unsafe {
            let target = frame.add(word.offset());
            asm!("lock xadd qword ptr [{target}], {value}", target = in(reg) target, value = inout(reg) value,
                options(nostack));
        }
        Ok(value)
    }

    fn offset(&self, frame: RamFrame) -> Option<usize> {
        let place = |region: &RamRegion| {
            let index = frame.0.checked_sub(region.first.0).filter(|index| *index < region.frames)?;
            region.file_frame.checked_add(index)
        };
        let offset = self.regions.iter().find_map(place)?.checked_mul(FRAME_BYTES as u64)?;
        let end = offset.checked_add(FRAME_BYTES as u64)?;
        (end <= self.mapping.len() as u64).then_some(offset as usize)
    }
}
