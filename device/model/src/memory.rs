//! A look at the device's memory from the host, through read calls on the file.
//!
//! It shares nothing with the engine but the file: neither the mapping nor the copy routines nor
//! anything that the guest could have written about sizes. So what it says checks both.
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use ferry_device::geometry::FRAME_BYTES;
use ferry_device::{FrameIndex, Geometry, NoSuchFrame};

/// Bytes read at once while scanning.
const SCAN_BYTES: usize = 1 << 20;

/// The device's memory, read only. Usable after the model has stopped, too.
#[derive(Debug)]
pub struct DeviceMemory {
    file: File,
    geometry: Geometry,
}

impl DeviceMemory {
    pub(crate) const fn new(file: File, geometry: Geometry) -> Self {
        Self { file, geometry }
    }

    /// How the BAR divides into control area and device frames.
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Reads a device frame.
    ///
    /// # Errors
    /// [`MemoryError`] where there is no such frame or the file cannot be read.
    pub fn frame_bytes(&self, frame: FrameIndex, bytes: &mut [u8; FRAME_BYTES]) -> Result<(), MemoryError> {
        let offset = self.geometry.frame_offset(frame)?;
        Ok(self.file.read_exact_at(bytes, offset as u64)?)
    }

    /// Counts the bytes of all device frames that are not zero.
    ///
    /// # Errors
    /// [`MemoryError::File`] where the file cannot be read.
    pub fn non_zero_bytes(&self) -> Result<u64, MemoryError> {
        let mut buffer = vec![0; SCAN_BYTES];
        let mut offset = self.geometry.frame_offset(FrameIndex(0))? as u64;
        let mut count = 0;
        while offset < self.geometry.bar_bytes() {
            let length = SCAN_BYTES.min((self.geometry.bar_bytes() - offset) as usize);
            let chunk = &mut buffer[..length];
            self.file.read_exact_at(chunk, offset)?;
            count += chunk.iter().map(|byte| u64::from(*byte != 0)).sum::<u64>();
            offset += length as u64;
        }
        Ok(count)
    }
}

/// Why device memory could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The device has fewer frames.
    #[error(transparent)]
    NoSuchFrame(#[from] NoSuchFrame),
    /// The file cannot be read.
    #[error("cannot read the file with the device memory: {0}")]
    File(#[from] io::Error),
}
