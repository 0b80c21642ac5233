//! Ranges of physical addresses.
use core::fmt;
use x86_64::PhysAddr;

/// A range of physical addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PhysRange {
    /// The first address.
    pub start: PhysAddr,
    /// Length in bytes.
    pub bytes: u64,
}

impl PhysRange {
    /// First address above the range, as a number: it may be one past the last address there is.
    pub fn end(&self) -> u64 {
        self.start.as_u64() + self.bytes
    }

    /// Whether the two have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.start.as_u64() < other.end() && other.start.as_u64() < self.end()
    }
}

impl fmt::Display for PhysRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{:#x}..p{:#x}", self.start, self.end())
    }
}
