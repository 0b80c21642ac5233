//! Where a page is, in words.
use crate::memory::manager;
use core::fmt;
use ferry_mm::frame::{AnyFrame, DeviceFrame};
use ferry_mm::page_table::entry::{Entry, SwapSlot};
use x86_64::structures::paging::PhysFrame;

/// Where a page is, as its entry says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Nowhere: nobody has touched it.
    Nowhere,
    /// In RAM, in the one frame of zeros that all untouched pages are read from.
    ZeroPage,
    /// In RAM.
    Ram(PhysFrame),
    /// In the memory of a device.
    Device(DeviceFrame),
    /// On the swap disk.
    Swapped(SwapSlot),
    /// Neither: on its way, or lost.
    Elsewhere(Entry),
}

impl Place {
    pub(super) fn of(entry: Entry) -> Self {
        match (entry, entry.frame()) {
            (Entry::Empty, _) => Self::Nowhere,
            (Entry::Swap { slot }, _) => Self::Swapped(slot),
            (Entry::Migrating { .. } | Entry::Exclusive { .. }, _) => Self::Elsewhere(entry),
            (_, Some(AnyFrame::System(frame))) if frame == manager().zero_frame() => Self::ZeroPage,
            (_, Some(AnyFrame::System(frame))) => Self::Ram(frame),
            (_, Some(AnyFrame::Device(frame))) => Self::Device(frame),
            (_, None) => Self::Elsewhere(entry),
        }
    }

    /// Whether it is in RAM, in a frame of its own or one that it shares.
    pub fn is_ram(self) -> bool {
        matches!(self, Self::Ram(_))
    }

    /// Whether it is in the memory of a device.
    pub fn is_device(self) -> bool {
        matches!(self, Self::Device(_))
    }

    /// Whether it is on the swap disk.
    pub fn is_swapped(self) -> bool {
        matches!(self, Self::Swapped(_))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nowhere => f.write_str("nowhere"),
            Self::ZeroPage => f.write_str("the zero page"),
            Self::Ram(frame) => write!(f, "RAM frame p{:#x}", frame.start_address()),
            Self::Device(frame) => write!(f, "device frame {frame}"),
            Self::Swapped(slot) => write!(f, "swap slot {}", slot.number()),
            Self::Elsewhere(entry) => write!(f, "{entry:?}"),
        }
    }
}
