//! The input's pages as the guest's own tables show them: where each is, and what it holds there.
//!
//! ```text
//!   entry on level 1              page is              read from
//!   present, frame in RAM         Ram                  guest RAM
//!   present, frame in a BAR       Device (coherent)    the file behind the BAR
//!   special, Device               Device (private)     the file behind the BAR
//!   special, Swap                 Swap                 the swap disk's image; RAM where the kernel says that a write failed
//! ```
//!
//! Invariant: the kernel says only where its root table is, where the input begins, where each BAR lies, and where
//! pages stand that the disk did not take. Everything else is read from outside.
use std::collections::BTreeMap;
use std::io;

use ferry_device::DeviceType;
use ferry_device::geometry::{FRAME_BYTES, FrameIndex};
use ferry_device_model::MemoryError;
use ferry_mm::frame::{DeviceFrame, DeviceId};
use ferry_mm::page_table::entry::{Entry, SwapSlot};
use x86_64::{PhysAddr, VirtAddr};

use super::failure::{Mismatch, Place};
use crate::guest::ram::Physical;
use crate::guest::swap_image::SwapImage;
use crate::guest::walk::{Target, Walk, walk};
use crate::sys::{PAGE_BYTES, PageBytes};

/// A device's memory, as the checks read it.
pub trait DeviceMemory {
    /// How the CPU may reach it.
    fn device_type(&self) -> DeviceType;
    /// Number of device frames.
    fn frames(&self) -> u64;
    /// The device frame that begins `offset` bytes into the BAR.
    fn frame_at(&self, offset: u64) -> Option<u32>;
    /// A copy of device frame `index`.
    ///
    /// # Errors
    /// Where there is no such frame or the memory cannot be read.
    fn frame(&self, index: u64) -> Result<PageBytes, MemoryError>;
    /// Bytes of all device frames that are not zero.
    ///
    /// # Errors
    /// Where the memory cannot be read.
    fn bytes_not_zero(&self) -> Result<u64, MemoryError>;
}

const _: () = assert!(FRAME_BYTES == PAGE_BYTES, "a device frame holds a page");

/// The memory of a device of the machine, through the file behind its BAR.
pub struct BehindBar<'m> {
    /// How the machine was asked to have it.
    pub device_type: DeviceType,
    /// The file.
    pub memory: &'m ferry_device_model::DeviceMemory,
}

impl DeviceMemory for BehindBar<'_> {
    fn device_type(&self) -> DeviceType {
        self.device_type
    }

    fn frames(&self) -> u64 {
        self.memory.geometry().frames()
    }

    fn frame_at(&self, offset: u64) -> Option<u32> {
        let first = self.memory.geometry().frame_offset(FrameIndex(0)).ok()? as u64;
        let inside = offset.checked_sub(first).filter(|inside| inside.is_multiple_of(FRAME_BYTES as u64))?;
        u32::try_from(inside / FRAME_BYTES as u64).ok().filter(|index| u64::from(*index) < self.frames())
    }

    fn frame(&self, index: u64) -> Result<PageBytes, MemoryError> {
        let mut bytes = [0; PAGE_BYTES];
        self.memory.frame_bytes(FrameIndex(index), &mut bytes)?;
        Ok(bytes)
    }

    fn bytes_not_zero(&self) -> Result<u64, MemoryError> {
        self.memory.non_zero_bytes()
    }
}

/// The slots of a swap disk, as the checks read them.
pub trait SwapSlots {
    /// A copy of what stands in `slot`, or `None` beyond the last one.
    ///
    /// # Errors
    /// Where the disk's image cannot be read.
    fn page(&self, slot: u64) -> io::Result<Option<PageBytes>>;
}

impl SwapSlots for SwapImage {
    fn page(&self, slot: u64) -> io::Result<Option<PageBytes>> {
        self.page(slot)
    }
}

/// What can be read of a machine from outside.
pub struct Outside<'m, M, D> {
    /// Its RAM.
    pub memory: &'m M,
    /// The memory of its devices, by number.
    pub devices: &'m [D],
    /// Its swap disk.
    pub swap: Option<&'m dyn SwapSlots>,
}

/// Where the BARs lie, by the devices' numbers, as the kernel says.
pub type Bars = BTreeMap<u8, PhysAddr>;

/// Frames of swapped pages that could not be written, by slot.
pub type Unwritten = BTreeMap<u64, PhysAddr>;

/// Where a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Location {
    /// In RAM, at this address.
    Ram(PhysAddr),
    /// On a device.
    Device(DeviceFrame),
    /// On the swap disk.
    Swap(SwapSlot),
}

/// The memory that holds the input.
pub struct View<'m, M, D> {
    /// The machine.
    pub outside: &'m Outside<'m, M, D>,
    /// Where its BARs lie.
    pub bars: &'m Bars,
    /// Where the pages of slots stand that could not be written, as the kernel says.
    pub unwritten: &'m Unwritten,
    /// The root table.
    pub root: PhysAddr,
    /// The input's first address.
    pub start: u64,
}

impl<M: Physical, D: DeviceMemory> View<'_, M, D> {
    /// The address of a page.
    pub fn address(&self, page: u64) -> VirtAddr {
        VirtAddr::new_truncate(self.start.wrapping_add(page * PAGE_BYTES as u64))
    }

    /// The way to a page.
    ///
    /// # Errors
    /// The tables are damaged.
    pub fn walk(&self, page: u64) -> Result<Walk, Mismatch> {
        Ok(walk(self.outside.memory, self.root, self.address(page))?)
    }

    /// Where a page is.
    ///
    /// # Errors
    /// The tables are damaged, it is nowhere, or it is on a device in a way that a device of its type does not know.
    pub fn locate(&self, page: u64) -> Result<(Location, Walk), Mismatch> {
        let walk = self.walk(page)?;
        let location = match walk.target {
            Target::Present(address) => match self.behind_bar(address) {
                Some(frame) => self.on_device(page, frame, DeviceType::Coherent)?,
                None => Location::Ram(address),
            },
            Target::NotPresent(Entry::Device { frame, .. }) => self.on_device(page, frame, DeviceType::Private)?,
            Target::NotPresent(Entry::Swap { slot }) => Location::Swap(slot),
            Target::NotPresent(entry) => return Err(self.nowhere(page, entry)),
            Target::NoTable => return Err(self.nowhere(page, Entry::Empty)),
        };
        Ok((location, walk))
    }

    /// What a page holds where it is.
    ///
    /// # Errors
    /// There is no such place, or it cannot be read.
    pub fn read(&self, page: u64, location: Location) -> Result<(Place, PageBytes), Mismatch> {
        match location {
            Location::Ram(address) => {
                let bytes = self.outside.memory.page(address).ok_or(Mismatch::NoRam { page, address })?;
                Ok((Place::Ram(address), bytes))
            }
            Location::Device(frame) => {
                let device = self.device(page, frame)?;
                let bytes = device.frame(frame.index().into()).map_err(|source| Mismatch::Device { page, source })?;
                Ok((Place::DeviceFrame(frame), bytes))
            }
            Location::Swap(slot) if self.unwritten.contains_key(&slot.number()) => {
                self.read(page, Location::Ram(self.unwritten[&slot.number()]))
            }
            Location::Swap(slot) => {
                let swap = self.outside.swap.ok_or(Mismatch::NoSwap(page))?;
                let bytes = swap.page(slot.number()).map_err(|source| Mismatch::Swap { page, source })?;
                Ok((Place::Slot(slot), bytes.ok_or(Mismatch::NoSlot { page, slot: slot.number() })?))
            }
        }
    }

    /// What a page holds that must not be on a device.
    ///
    /// # Errors
    /// It is, or cannot be read.
    pub fn read_at_home(&self, page: u64) -> Result<(Place, PageBytes), Mismatch> {
        match self.locate(page)? {
            (Location::Device(frame), _) => Err(Mismatch::NotHome { page, address: self.address(page), frame }),
            (location, _) => self.read(page, location),
        }
    }

    fn nowhere(&self, page: u64, entry: Entry) -> Mismatch {
        Mismatch::Nowhere { page, address: self.address(page), entry }
    }

    fn device(&self, page: u64, frame: DeviceFrame) -> Result<&D, Mismatch> {
        let number = frame.device().number();
        self.outside.devices.get(usize::from(number)).ok_or(Mismatch::NoSuchDevice { page, device: number })
    }

    fn on_device(&self, page: u64, frame: DeviceFrame, as_on: DeviceType) -> Result<Location, Mismatch> {
        let device_type = self.device(page, frame)?.device_type();
        match device_type == as_on {
            true => Ok(Location::Device(frame)),
            false => Err(Mismatch::WrongType { page, frame, device_type, as_on }),
        }
    }

    /// The device frame at a physical address.
    fn behind_bar(&self, address: PhysAddr) -> Option<DeviceFrame> {
        self.bars.iter().find_map(|(number, bar)| {
            let offset = address.as_u64().checked_sub(bar.as_u64())?;
            let index = self.outside.devices.get(usize::from(*number))?.frame_at(offset)?;
            Some(DeviceFrame::new(DeviceId::new(*number)?, index))
        })
    }
}
