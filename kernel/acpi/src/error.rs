//! What can be wrong with the firmware's tables.
use core::fmt;

use crate::ApicId;
use crate::table::MOST_TABLE_BYTES;

/// Why the tables do not say which CPUs there are. Addresses are physical.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AcpiError {
    /// So many bytes at this address cannot be read.
    Unreachable(u64, usize),
    /// What is at this address does not begin with the signature that it must have.
    Signature(u64, &'static str),
    /// The bytes of the table at this address do not add up to zero, but to this.
    Checksum(u64, u8),
    /// The table at this address is shorter than its kind, or longer than any; its length in bytes.
    Length(u64, u32),
    /// There is no such table.
    Missing(&'static str),
    /// The MADT's entry at this address has this length, which its kind or the table does not allow.
    Entry(u64, u8),
    /// Two usable CPUs have this id.
    Duplicate(ApicId),
    /// A usable CPU has the id that means "all CPUs".
    Broadcast(ApicId),
    /// The MADT names no usable CPU.
    NoCpu,
}

impl fmt::Display for AcpiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the firmware's ACPI tables are of no use: ")?;
        match self {
            Self::Unreachable(address, bytes) => write!(f, "{bytes} bytes at p{address:#x} cannot be read"),
            Self::Signature(address, name) => write!(f, "at p{address:#x} there is no {name}"),
            Self::Checksum(address, sum) => {
                write!(f, "the bytes of the table at p{address:#x} add up to {sum:#04x} and not to zero")
            }
            Self::Length(address, bytes) => write!(
                f,
                "the table at p{address:#x} says that it has {bytes} bytes; tables of its kind have more, and none has above {MOST_TABLE_BYTES}"
            ),
            Self::Missing(name) => write!(f, "there is no {name}"),
            Self::Entry(address, bytes) => write!(f, "the MADT's entry at p{address:#x} has a length of {bytes}"),
            Self::Duplicate(id) => write!(f, "two CPUs have the APIC id {}", id.0),
            Self::Broadcast(id) => write!(f, "a CPU has the APIC id {:#x}, which means all CPUs", id.0),
            Self::NoCpu => f.write_str("they name no usable CPU"),
        }
    }
}

impl core::error::Error for AcpiError {}
