//! The bytes of the machine: RAM, which CPUs and the walker reach, and device memory. Private device memory has no physical
//! address: only copies reach it. Coherent device memory has one, behind its device's BAR, so that CPUs reach it, too.
//!
//! ```text
//!   p0x0                  RAM
//!   p0x100_0000_0000      BAR of device 0, if it is coherent      (COHERENT_BYTES for each device)
//!   p0x200_0000_0000      BAR of device 1, if it is coherent
//! ```
//!
//! Everything is kept in atomic words of 8 bytes, as page-table entries are; so several host threads may act as CPUs.
//! RAM is full of [`GARBAGE`] at first: whoever forgets to clear a frame shows it. Device memory is zero, as
//! [`ferry_mm::frame::DeviceMemory`] demands.
use std::sync::atomic::{AtomicU64, Ordering};

use ferry_mm::address::PAGE_BYTES;
use ferry_mm::frame::{AnyFrame, DeviceFrame, DeviceId};
use ferry_mm::page_table::entry::LeafFlags;
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

/// Words of a frame.
pub(crate) const FRAME_WORDS: usize = (PAGE_BYTES / 8) as usize;

/// What RAM holds before anybody wrote to it. Read as an entry it is not present.
pub(crate) const GARBAGE: u64 = 0xa5a5_a5a5_a5a5_a5a4;

/// RAM and the memory of every device.
pub(crate) struct Memory {
    ram: Box<[AtomicU64]>,
    devices: Vec<DeviceWords>,
}

/// The memory of one device.
struct DeviceWords {
    words: Box<[AtomicU64]>,
    coherent: bool,
}

/// How many frames a device has, and whether CPUs reach them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeviceShape {
    pub(crate) frames: usize,
    pub(crate) coherent: bool,
    /// Whether the memory manager knows it.
    pub(crate) registered: bool,
}

/// Distance between the BARs of two devices; the first stands this far above physical address 0.
const COHERENT_BYTES: u64 = 1 << 40;

/// The memory type of every leaf over a coherent device.
pub(crate) const COHERENT_TYPE: LeafFlags = LeafFlags::WRITE_THROUGH;

/// The physical frame behind the BAR, for a frame of a coherent device.
pub(crate) fn coherent_frame(frame: DeviceFrame) -> PhysFrame {
    let bar = (u64::from(frame.device().number()) + 1) * COHERENT_BYTES;
    PhysFrame::containing_address(PhysAddr::new(bar + u64::from(frame.index()) * PAGE_BYTES))
}

/// The device frame behind this physical frame, where it stands behind the BAR of any device there could be.
pub(crate) fn behind_bar(frame: PhysFrame) -> Option<DeviceFrame> {
    let address = frame.start_address().as_u64();
    let device = (address / COHERENT_BYTES).checked_sub(1)?;
    let device = DeviceId::new(u8::try_from(device).ok()?)?;
    Some(DeviceFrame::new(device, (address % COHERENT_BYTES / PAGE_BYTES) as u32))
}

fn words(frames: usize, value: u64) -> Box<[AtomicU64]> {
    (0..frames * FRAME_WORDS).map(|_| AtomicU64::new(value)).collect()
}

impl Memory {
    /// RAM of this many frames from physical address 0, and a device for each number of device frames.
    pub(crate) fn new(frames: usize, devices: &[DeviceShape]) -> Self {
        let device = |shape: &DeviceShape| DeviceWords { words: words(shape.frames, 0), coherent: shape.coherent };
        Self { ram: words(frames, GARBAGE), devices: devices.iter().map(device).collect() }
    }

    /// The word of this index, counted from physical address 0, as a CPU reaches it.
    ///
    /// # Panics
    /// Where nothing answers there: something followed an entry that nobody may have written.
    pub(crate) fn physical(&self, word: usize) -> &AtomicU64 {
        let per_device = (COHERENT_BYTES / 8) as usize;
        let there = match word / per_device {
            0 => self.ram.get(word),
            above => self
                .devices
                .get(above - 1)
                .filter(|device| device.coherent)
                .and_then(|device| device.words.get(word % per_device)),
        };
        there.unwrap_or_else(|| panic!("nothing is at p{:#x}; an entry that leads there is damaged", word * 8))
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
        let memory = self.devices.get(usize::from(frame.device().number())).map(|device| &*device.words);
        memory.unwrap_or_else(|| panic!("{frame} names a device that does not exist"))
    }

    /// The bytes of a frame as they stand in memory, without what waits in store buffers.
    pub(crate) fn bytes(&self, frame: AnyFrame) -> Vec<u8> {
        self.frame(frame).iter().flat_map(|word| word.load(Ordering::SeqCst).to_le_bytes()).collect()
    }
}

/// The number of a physical frame.
pub(crate) fn frame_index(frame: PhysFrame) -> usize {
    (frame.start_address().as_u64() / PAGE_BYTES) as usize
}
