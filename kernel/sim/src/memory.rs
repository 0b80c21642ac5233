//! The bytes of the machine: RAM, which CPUs and the walker reach, and private device memory, which only copies reach.
//!
//! Everything is kept in atomic words of 8 bytes, as page-table entries are; so several host threads may act as CPUs.
//! RAM is full of [`GARBAGE`] at first: whoever forgets to clear a frame shows it. Device memory is zero, as
//! [`ferry_mm::frame::DeviceMemory`] demands.
use std::sync::atomic::{AtomicU64, Ordering};

use ferry_mm::address::PAGE_BYTES;
use ferry_mm::frame::{AnyFrame, DeviceFrame};
use x86_64::structures::paging::PhysFrame;

/// Words of a frame.
pub(crate) const FRAME_WORDS: usize = (PAGE_BYTES / 8) as usize;

/// What RAM holds before anybody wrote to it. Read as an entry it is not present.
pub(crate) const GARBAGE: u64 = 0xa5a5_a5a5_a5a5_a5a4;

/// RAM and the memory of every device.
pub(crate) struct Memory {
    ram: Box<[AtomicU64]>,
    devices: Vec<Box<[AtomicU64]>>,
}

fn words(frames: usize, value: u64) -> Box<[AtomicU64]> {
    (0..frames * FRAME_WORDS).map(|_| AtomicU64::new(value)).collect()
}

impl Memory {
    /// RAM of this many frames from physical address 0, and a device for each number of device frames.
    pub(crate) fn new(frames: usize, devices: &[usize]) -> Self {
        Self { ram: words(frames, GARBAGE), devices: devices.iter().map(|frames| words(*frames, 0)).collect() }
    }

    /// The RAM word of this index.
    ///
    /// # Panics
    /// Where there is no such RAM: something followed an entry that nobody may have written.
    pub(crate) fn ram(&self, word: usize) -> &AtomicU64 {
        let there = self.ram.get(word);
        there.unwrap_or_else(|| panic!("p{:#x} is no RAM; an entry that leads there is damaged", word * 8))
    }

    /// The words of a frame.
    ///
    /// # Panics
    /// Where there is no such frame.
    pub(crate) fn frame(&self, frame: AnyFrame) -> &[AtomicU64] {
        let (memory, index) = match frame {
            AnyFrame::System(frame) => (&*self.ram, frame_index(frame)),
            AnyFrame::Device(frame) => (self.device(frame), frame.index() as usize),
        };
        let words = index * FRAME_WORDS..(index + 1) * FRAME_WORDS;
        memory.get(words).unwrap_or_else(|| panic!("{frame:?} does not exist"))
    }

    fn device(&self, frame: DeviceFrame) -> &[AtomicU64] {
        let memory = self.devices.get(usize::from(frame.device().number()));
        memory.unwrap_or_else(|| panic!("{frame} names a device that does not exist"))
    }

    /// The bytes of a frame as they stand in memory, without what waits in store buffers.
    pub(crate) fn bytes(&self, frame: AnyFrame) -> Vec<u8> {
        self.frame(frame).iter().flat_map(|word| word.load(Ordering::SeqCst).to_le_bytes()).collect()
    }
}

/// The number of a RAM frame.
pub(crate) fn frame_index(frame: PhysFrame) -> usize {
    (frame.start_address().as_u64() / PAGE_BYTES) as usize
}
