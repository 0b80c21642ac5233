//! Where CPUs reach the memory of a coherent device, and which frame stands behind a present entry.
//!
//! ```text
//!   physical addresses     RAM                         BAR of a coherent device
//!                          ┌──────────────┐            ┌─────────┬──────────────┐
//!                          │ frames       │            │ control │ frames       │
//!                          └──────────────┘            └─────────┴──────────────┘
//!   present leaf ──────────▶ AnyFrame::System            CpuWindow::first ──▶ AnyFrame::Device
//! ```
//!
//! Invariants:
//! 1. The frames of a window are no RAM: they have no descriptor among those of RAM, or a reserved one.
//! 2. Every leaf over a window carries its memory type, also one that was without access in between: two mappings of one
//!    frame never differ in type (Intel SDM 3A 12.12.4).
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use super::{AnyFrame, Descriptor, DeviceFrame, DeviceMemory};
use crate::address::PAGE_BYTES;
use crate::machine::Machine;
use crate::manager::MemoryManager;
use crate::page_table::entry::{Entry, LeafFlags, RawEntry};
use crate::space::Protection;

/// The flags of a leaf that select its memory type.
const MEMORY_TYPE: LeafFlags = LeafFlags::WRITE_THROUGH.union(LeafFlags::CACHE_DISABLE);

/// The physical addresses of a coherent device's frames, ascending from the first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuWindow {
    first: PhysFrame,
    memory_type: LeafFlags,
}

impl CpuWindow {
    /// A window whose frame 0 stands at `first`; of `memory_type`, the flags that select a type count, and they are those
    /// with which the kernel maps the same memory.
    pub const fn new(first: PhysFrame, memory_type: LeafFlags) -> Self {
        Self { first, memory_type: memory_type.intersection(MEMORY_TYPE) }
    }

    /// Where the frame of this index stands.
    #[inline]
    pub fn frame(self, index: u32) -> PhysFrame {
        PhysFrame::containing_address(self.first.start_address() + u64::from(index) * PAGE_BYTES)
    }

    /// The flags that every leaf over the window has.
    #[inline]
    pub const fn memory_type(self) -> LeafFlags {
        self.memory_type
    }

    /// The index of the frame that stands at `frame`, of a window of `frames` frames.
    #[inline]
    pub(crate) fn index_of(self, frame: PhysFrame, frames: u64) -> Option<u32> {
        let address: PhysAddr = frame.start_address();
        let index = address.as_u64().checked_sub(self.first.start_address().as_u64())? / PAGE_BYTES;
        (index < frames).then_some(index as u32)
    }
}

impl<M: Machine> MemoryManager<M> {
    /// The frame behind a present entry, or one without access, that names `frame`: RAM, or a frame of a coherent device.
    ///
    /// What is neither, such as the registers of a device, counts as RAM and has no descriptor.
    #[inline(always)]
    pub fn frame_behind(&self, frame: PhysFrame) -> AnyFrame {
        // RAM has holes, where BARs may lie below its end: their descriptors are reserved.
        match self.memory.descriptors().get((frame.start_address().as_u64() / PAGE_BYTES) as usize) {
            Some(descriptor) if !descriptor.is_reserved() => AnyFrame::System(frame),
            _ => self.frame_beside_ram(frame),
        }
    }

    #[cold]
    fn frame_beside_ram(&self, frame: PhysFrame) -> AnyFrame {
        self.devices().find_map(|device| device.frame_at(frame)).map_or(AnyFrame::System(frame), AnyFrame::Device)
    }

    /// The frame that an entry maps, of whatever kind the entry is.
    #[inline]
    pub fn mapped_frame(&self, entry: RawEntry) -> Option<AnyFrame> {
        match entry.decode() {
            Entry::Present { frame, .. } | Entry::NoAccess { frame, .. } => Some(self.frame_behind(frame)),
            other => other.frame(),
        }
    }

    /// Whether an entry of a page at rest maps `frame`.
    #[inline]
    pub(crate) fn is_mapped_by(&self, frame: AnyFrame, entry: RawEntry) -> bool {
        let at_rest = matches!(
            entry.decode(),
            Entry::Present { .. } | Entry::NoAccess { .. } | Entry::Device { .. } | Entry::Exclusive { .. }
        );
        at_rest && self.mapped_frame(entry) == Some(frame)
    }

    /// The entry of a page that is at rest in `frame`, under `protection`: with the flags of `flags` that a special entry can
    /// carry, and the memory type of the frame.
    #[inline(always)]
    pub(crate) fn entry_at_rest(&self, frame: AnyFrame, flags: LeafFlags, protection: Protection) -> RawEntry {
        match frame {
            AnyFrame::System(frame) => mapping(frame, flags & LeafFlags::CARRIED, protection),
            AnyFrame::Device(frame) => self.device_of(frame).entry_at_rest(frame, flags, protection),
        }
    }
}

impl<D: core::ops::Deref<Target = [Descriptor]>> DeviceMemory<D> {
    /// The same for a page that is at rest in a frame of this device.
    #[inline(always)]
    pub(crate) fn entry_at_rest(&self, frame: DeviceFrame, flags: LeafFlags, protection: Protection) -> RawEntry {
        let flags = flags & LeafFlags::CARRIED;
        match self.window() {
            Some(window) => mapping(window.frame(frame.index()), flags | window.memory_type(), protection),
            None => Entry::Device { frame, writable: flags.contains(LeafFlags::WRITABLE) }.encode(),
        }
    }
}

/// The entry that maps `frame`, where `protection` allows any access.
#[inline(always)]
fn mapping(frame: PhysFrame, flags: LeafFlags, protection: Protection) -> RawEntry {
    if protection.is_accessible() { Entry::Present { frame, flags } } else { Entry::NoAccess { frame, flags } }.encode()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_ends_where_its_frames_end() {
        let at = |address| PhysFrame::containing_address(PhysAddr::new(address));
        let window = CpuWindow::new(at(0x1_0000_8000), LeafFlags::WRITE_THROUGH | LeafFlags::WRITABLE);
        assert_eq!(window.memory_type(), LeafFlags::WRITE_THROUGH);
        let indices =
            [0x1_0000_7000, 0x1_0000_8000, 0x1_0000_a000, 0x1_0000_b000].map(|address| window.index_of(at(address), 3));
        assert_eq!(indices, [None, Some(0), Some(2), None]);
        assert_eq!(window.frame(2), at(0x1_0000_a000));
    }
}
