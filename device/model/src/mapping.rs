//! The file behind the BAR, mapped: the one place with `unsafe` in this crate.
//!
//! Invariants:
//! 1. The mapping lives as long as the [`Mapping`], and its [`Bar`] does not leave it.
//! 2. Nobody makes a reference into the mapping; the guest writes there at any time.
//! 3. The file is not cut while it is mapped (an access behind its end would be a SIGBUS): the model
//!    sets its size once, and QEMU keeps the size of a file that has one.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ptr::NonNull;

use ferry_device::geometry::FRAME_BYTES;
use ferry_device::{Bar, FrameIndex, Geometry, NoSuchFrame};
use memmap2::{MmapOptions, MmapRaw};

/// A page of the model's own RAM, on a boundary that suits the copy routines.
#[repr(align(4096))]
struct Page([u8; FRAME_BYTES]);

/// The file behind the BAR, mapped shared, readable and writable.
pub struct Mapping {
    bar: Bar,
    page: Box<Page>,
    _mapping: MmapRaw,
}

impl Mapping {
    /// Maps the whole BAR of this geometry.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn new(file: &File, geometry: Geometry) -> io::Result<Self> {
        let length = usize::try_from(geometry.bar_bytes()).map_err(io::Error::other)?;
        let mapping = MmapOptions::new().len(length).map_raw(file)?;
        let base = NonNull::new(mapping.as_mut_ptr()).ok_or(io::ErrorKind::InvalidData)?;
        // SAFETY: `mapping` covers that many bytes, readable and writable, of a file of that size, and is kept beside
        // the `Bar`, which no method hands out by value; memory that the kernel chose for a mapping holds no object.
        let bar = unsafe { Bar::new(base, geometry.bar_bytes()) }.map_err(io::Error::other)?;
        Ok(Self { bar, page: Box::new(Page([0; FRAME_BYTES])), _mapping: mapping })
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
}
