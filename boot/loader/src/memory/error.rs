//! Why there is no memory for something.
use super::MAX_REGIONS;
use core::fmt;

/// Why there is no memory for something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryError {
    /// The firmware reported no RAM at all.
    NoMap,
    /// The map has more than [`MAX_REGIONS`] regions.
    TooManyRegions,
    /// No usable range below the limit has this many bytes in a row, for this purpose.
    Exhausted {
        /// How many bytes were asked for.
        bytes: u64,
        /// What for.
        purpose: Purpose,
    },
}

/// What frames are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// A segment of the kernel.
    Segment,
    /// The kernel's stack.
    Stack,
    /// `BootInfo` and the memory regions.
    BootInfo,
    /// A page table.
    PageTable,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Segment => "a segment of the kernel",
            Self::Stack => "the kernel's stack",
            Self::BootInfo => "the boot information",
            Self::PageTable => "a page table",
        })
    }
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMap => f.write_str("the firmware reported no RAM"),
            Self::TooManyRegions => write!(f, "the firmware reported more than {MAX_REGIONS} memory regions"),
            Self::Exhausted { bytes, purpose } => {
                write!(f, "no {} KiB of free RAM in a row for {purpose}", bytes.div_ceil(1024))
            }
        }
    }
}

impl core::error::Error for MemoryError {}
