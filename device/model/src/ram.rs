//! The guest's RAM as its machine lays it out: which file it is, and where in it each frame stands.
//!
//! The model knows nothing of machines; whoever starts it says where RAM is.
use std::fs::File;
use std::io;
use std::path::Path;

use ferry_device::RamFrame;

/// Consecutive frames of RAM that stand one after the other in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RamRegion {
    /// The first frame.
    pub first: RamFrame,
    /// How many.
    pub frames: u64,
    /// Where the first one stands in the file, in frames from its start.
    pub file_frame: u64,
}

/// The guest's RAM, for transfers by DMA.
#[derive(Debug)]
pub struct GuestRam {
    pub(crate) file: File,
    pub(crate) regions: Vec<RamRegion>,
}

impl GuestRam {
    /// The RAM that the file at `path` holds. The file must keep its size.
    ///
    /// # Errors
    /// Where it cannot be opened for reading and writing.
    pub fn open(path: &Path, regions: Vec<RamRegion>) -> io::Result<Self> {
        Ok(Self { file: File::options().read(true).write(true).open(path)?, regions })
    }
}
