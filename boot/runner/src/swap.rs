//! The swap disk as the user asks for it: its geometry, and what it shall do wrong.
use std::fmt;
use std::str::FromStr;

use crate::size::{Size, SizeError};
use crate::sys::PAGE_BYTES;

/// Bytes of a sector, in which QEMU counts.
const SECTOR_BYTES: u64 = 512;

/// Sectors of a slot, which holds a page.
pub const SECTORS_PER_SLOT: u64 = PAGE_BYTES as u64 / SECTOR_BYTES;

/// How large the disk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SwapSize {
    /// As large as the input needs: none where RAM has room for all of it.
    Auto,
    /// This size; 0 for no disk.
    Fixed(Size),
}

/// Why a text is no size of the disk.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("'{text}' is neither auto nor a size: {source}")]
pub struct SwapSizeError {
    text: String,
    source: SizeError,
}

impl SwapSize {
    /// The size, as long as there is no input that needs more.
    pub const fn size(self) -> Size {
        match self {
            Self::Auto => Size(0),
            Self::Fixed(size) => size,
        }
    }
}

impl FromStr for SwapSize {
    type Err = SwapSizeError;

    fn from_str(text: &str) -> Result<Self, SwapSizeError> {
        match text {
            "auto" => Ok(Self::Auto),
            text => text.parse().map(Self::Fixed).map_err(|source| SwapSizeError { text: text.to_owned(), source }),
        }
    }
}

impl fmt::Display for SwapSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Fixed(size) => size.fmt(f),
        }
    }
}

/// What the disk does wrong. QEMU does it, below the disk that the kernel sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SwapFault {
    /// Each read of this slot ends with an error.
    Read(u64),
    /// Each write of this slot does.
    Write(u64),
    /// No access is answered, but perhaps the first.
    Stall,
}

/// Why a text names no fault.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("'{0}' is no fault of the swap disk; it is one of read:SLOT, write:SLOT or stall")]
pub struct SwapFaultError(String);

impl SwapFault {
    /// The last slot that it needs.
    pub fn slot(self) -> u64 {
        match self {
            Self::Read(slot) | Self::Write(slot) => slot,
            Self::Stall => 0,
        }
    }
}

impl FromStr for SwapFault {
    type Err = SwapFaultError;

    fn from_str(text: &str) -> Result<Self, SwapFaultError> {
        let wrong = || SwapFaultError(text.to_owned());
        let slot = |digits: &str| digits.parse().map_err(|_| wrong());
        match text.split_once(':') {
            Some(("read", digits)) => Ok(Self::Read(slot(digits)?)),
            Some(("write", digits)) => Ok(Self::Write(slot(digits)?)),
            None if text == "stall" => Ok(Self::Stall),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for SwapFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(slot) => write!(f, "read:{slot}"),
            Self::Write(slot) => write!(f, "write:{slot}"),
            Self::Stall => f.write_str("stall"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_are_written() {
        for size in [SwapSize::Auto, SwapSize::Fixed(Size(0)), SwapSize::Fixed(Size::mebibytes(3))] {
            assert_eq!(size.to_string().parse(), Ok(size));
        }
        assert!("automatic".parse::<SwapSize>().unwrap_err().to_string().contains("neither auto nor a size"));
    }

    #[test]
    fn faults_are_read_as_they_are_written() {
        for fault in [SwapFault::Read(0), SwapFault::Write(4095), SwapFault::Stall] {
            assert_eq!(fault.to_string().parse(), Ok(fault));
        }
        for text in ["", "read", "read:", "read:x", "read:-1", "write:0x1", "stall:1", "erase:1"] {
            assert_eq!(text.parse::<SwapFault>(), Err(SwapFaultError(text.to_owned())));
        }
    }
}
