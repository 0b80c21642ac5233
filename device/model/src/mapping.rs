//! The files behind the BAR and of the guest's RAM, mapped: the one place with `unsafe` in this crate.
//!
//! Invariants:
//! 1. The mapping lives as long as the [`Mapping`], and its [`Bar`] does not leave it.
//! 2. Nobody makes a reference into a mapping; the guest writes there at any time.
//! 3. No file is cut while it is mapped (an access behind its end would be a SIGBUS): the model
//!    sets the size of the first once, and QEMU keeps the size of a file that has one.
//! 4. A transfer that cannot be made has moved nothing.
#![allow(unsafe_code)]

mod ram;

use std::fs::File;
use std::io;
use std::ptr::NonNull;

use ferry_device::bar::WordIndex;
use ferry_device::geometry::FRAME_BYTES;
use ferry_device::{Bar, FrameIndex, Geometry, NoSuchFrame, RamFrame};
use memmap2::{MmapOptions, MmapRaw};

use crate::ram::GuestRam;
pub use ram::NoSuchRam;
use ram::RamMapping;

/// A page of the model's own RAM, on a boundary that suits the copy routines.
#[repr(align(4096))]
struct Page([u8; FRAME_BYTES]);

/// Why a page was not transferred.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TransferError {
    /// The device has fewer frames.
    #[error(transparent)]
    Frame(#[from] NoSuchFrame),
    /// The guest has no RAM there.
    #[error(transparent)]
    Ram(#[from] NoSuchRam),
    /// The device was started without the guest's RAM.
    #[error("the device has no way to the guest's RAM")]
    Unreachable,
}

/// The file behind the BAR, mapped shared, readable and writable, and the guest's RAM, if the device reaches it.
pub struct Mapping {
    bar: Bar,
    ram: Option<RamMapping>,
    page: Box<Page>,
    _mapping: MmapRaw,
}

impl Mapping {
    /// Maps the whole BAR of this geometry, and RAM.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn new(file: &File, geometry: Geometry, ram: Option<GuestRam>) -> io::Result<Self> {
        let length = usize::try_from(geometry.bar_bytes()).map_err(io::Error::other)?;
        let mapping = MmapOptions::new().len(length).map_raw(file)?;
        let base = NonNull::new(mapping.as_mut_ptr()).ok_or(io::ErrorKind::InvalidData)?;
        // SAFETY: `mapping` covers that many bytes, readable and writable, of a file of that size, and is kept beside
        // the `Bar`, which no method hands out by value; memory that the kernel chose for a mapping holds no object.
        let bar = unsafe { Bar::new(base, geometry.bar_bytes()) }.map_err(io::Error::other)?;
        let ram = ram.map(RamMapping::new).transpose()?;
        Ok(Self { bar, ram, page: Box::new(Page([0; FRAME_BYTES])), _mapping: mapping })
    }

    /// The control area.
    pub fn bar(&self) -> &Bar {
        &self.bar
    }

    /// Inverts every byte of a device frame.
    ///
    /// # Errors
    /// [`NoSuchFrame`] where the device has fewer frames.
    pub fn invert_frame(&mut self, frame: FrameIndex) -> Result<(), NoSuchFrame> {
        // SAFETY: a page of RAM that belongs to `self` and lies outside the mapping.
        unsafe { self.bar.read_frame(frame, self.page.0.as_mut_ptr()) }?;
        for byte in &mut self.page.0 {
            *byte = !*byte;
        }
        // SAFETY: as above.
        unsafe { self.bar.write_frame(frame, self.page.0.as_ptr()) }
    }

    /// Copies a frame of RAM into a device frame.
    ///
    /// # Errors
    /// [`TransferError`].
    pub fn read_ram(&self, from: RamFrame, to: FrameIndex) -> Result<(), TransferError> {
        let from = self.ram()?.frame(from)?;
        // SAFETY: a whole frame of the mapping of RAM, on a page boundary, and outside the BAR.
        Ok(unsafe { self.bar.write_frame(to, from) }?)
    }

    /// Copies a device frame into a frame of RAM.
    ///
    /// # Errors
    /// [`TransferError`].
    pub fn write_ram(&self, from: FrameIndex, to: RamFrame) -> Result<(), TransferError> {
        let to = self.ram()?.frame(to)?;
        // SAFETY: as in `read_ram`; RAM may be written, it is the guest's.
        Ok(unsafe { self.bar.read_frame(from, to) }?)
    }

    /// Copies a device frame into another.
    ///
    /// # Errors
    /// [`TransferError`].
    pub fn copy_frame(&mut self, from: FrameIndex, to: FrameIndex) -> Result<(), TransferError> {
        // SAFETY: a page of RAM that belongs to `self` and lies outside the mapping.
        unsafe { self.bar.read_frame(from, self.page.0.as_mut_ptr()) }?;
        // SAFETY: as above.
        Ok(unsafe { self.bar.write_frame(to, self.page.0.as_ptr()) }?)
    }

    /// Adds to a word of RAM in one step and returns what was there.
    ///
    /// # Errors
    /// [`TransferError`].
    pub fn add_to_ram(&self, frame: RamFrame, word: WordIndex, operand: u64) -> Result<u64, TransferError> {
        Ok(self.ram()?.add(frame, word, operand)?)
    }

    fn ram(&self) -> Result<&RamMapping, TransferError> {
        self.ram.as_ref().ok_or(TransferError::Unreachable)
    }
}
