//! Frames: the 4 KiB pieces of RAM and of device memory, and who owns each.
//!
//! ```text
//!   SystemMemory                         DeviceMemory (one per device)
//!   ┌──────────────┐                     ┌──────────────┐
//!   │ descriptors  │ one per RAM frame   │ descriptors  │ one per device frame
//!   │ buddy lists  │                     │ free list    │
//!   └──────┬───────┘                     └──────┬───────┘
//!     allocate                             allocate
//!          ▼                                    ▼
//!   OwnedFrame ── map ──▶ mapped page    OwnedDeviceFrame ── commit ──▶ `Device` entry
//!     drop: freed                          drop: cleared and freed
//! ```
//!
//! Invariants, for RAM and device frames alike:
//! 1. A frame is free, owned (by an [`OwnedFrame`] or [`OwnedDeviceFrame`], freed on drop), or referenced by what its descriptor counts.
//! 2. `references >= mappings + pins`; each mapping holds one reference.
//! 3. A free frame has no reference, no mapping, no pin, no reverse mapping, and is not locked.
//! 4. A free device frame is zero: nothing of a former owner is visible on the device.
mod any;
mod buddy;
mod cache;
mod descriptor;
mod device;
mod device_batch;
mod device_run;
mod system;
mod system_batch;
mod window;

pub(crate) use any::{CopyFailed, LastDevice};
pub use buddy::MAX_ORDER;
pub(crate) use cache::FreedFrames;
pub(crate) use descriptor::NO_FRAME;
pub use descriptor::{Descriptor, FrameKind, MOST_REFUSALS, Origin};
pub use device::{DeviceFull, DeviceMemory, OwnedDeviceFrame, StillUsed};
pub(crate) use device_batch::FreedDeviceFrames;
pub use device_run::DeviceRun;
pub use system::{OutOfFrames, OwnedFrame, SystemMemory};
pub(crate) use system::{frame_of, number};
pub use window::CpuWindow;

use crate::page_table::entry::MAX_DEVICE;
use x86_64::structures::paging::PhysFrame;

/// A device that holds pages, by its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash)]
pub struct DeviceId(u8);

impl DeviceId {
    /// The device of this number, or `None` above [`MAX_DEVICE`].
    pub const fn new(number: u8) -> Option<Self> {
        if number <= MAX_DEVICE { Some(Self(number)) } else { None }
    }

    /// The device whose number stands in the low bits, for the entry codec, which checks the rest.
    #[inline]
    pub(crate) const fn truncated(number: u8) -> Self {
        Self(number & MAX_DEVICE)
    }

    /// The device's number.
    #[inline]
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// A frame of device memory: the device and the index of the frame behind its control area. Written `d0:0x12`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash)]
pub struct DeviceFrame {
    device: DeviceId,
    index: u32,
}

impl DeviceFrame {
    /// Frame `index` of `device`.
    #[inline]
    pub const fn new(device: DeviceId, index: u32) -> Self {
        Self { device, index }
    }

    /// The device.
    #[inline]
    pub const fn device(self) -> DeviceId {
        self.device
    }

    /// The index, from 0.
    #[inline]
    pub const fn index(self) -> u32 {
        self.index
    }
}

impl core::fmt::Display for DeviceFrame {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "d{}:{:#x}", self.device.0, self.index)
    }
}

/// A frame of RAM or of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum AnyFrame {
    /// A RAM frame.
    System(PhysFrame),
    /// A device frame.
    Device(DeviceFrame),
}

impl core::fmt::Display for AnyFrame {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::System(frame) => write!(f, "p{:#x}", frame.start_address()),
            Self::Device(frame) => frame.fmt(f),
        }
    }
}

impl From<DeviceFrame> for AnyFrame {
    fn from(frame: DeviceFrame) -> Self {
        Self::Device(frame)
    }
}

impl From<PhysFrame> for AnyFrame {
    fn from(frame: PhysFrame) -> Self {
        Self::System(frame)
    }
}
