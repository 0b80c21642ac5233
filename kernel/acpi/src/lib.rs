//! The CPUs of the machine, read from the firmware's ACPI tables.
//!
//! ```text
//!   RSDP ──▶ RSDT or XSDT ──▶ table, table, ...
//!                                │ signature "APIC"
//!                                ▼
//!                              MADT: header │ address, flags │ entry │ entry │ ...
//!                                                              └ processor: id, usable?
//! ```
//!
//! Invariants, whatever the tables say:
//! 1. Nothing is read but through [`Physical`], which may refuse; nothing is read outside the length that a table names, and a
//!    table longer than [`MOST_TABLE_BYTES`] is refused before it is read.
//! 2. Every table that is used has a right checksum. What is not right is an [`AcpiError`] that names the address.
//! 3. Every loop is bounded by a length that was checked, and every entry is at least two bytes long.
//!
//! Sources: ACPI 6.5, 5.2.5 (RSDP), 5.2.6 (headers), 5.2.7 (RSDT), 5.2.8 (XSDT), 5.2.12 (MADT). No locks, no allocation.
#![no_std]
#![forbid(unsafe_code)]

mod error;
mod madt;
mod table;
#[cfg(test)]
mod tests;

pub use error::AcpiError;
pub use madt::Processors;
pub use table::MOST_TABLE_BYTES;

/// Most CPUs whose ids are kept; those beyond are only counted.
pub const MOST_CPUS: usize = 64;

/// A CPU, by the id of its local APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash)]
pub struct ApicId(pub u32);

/// Physical memory as the reader of tables sees it.
pub trait Physical {
    /// Copies the bytes from physical `address` on; `false` where not all of them can be reached.
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> bool;
}

/// The CPUs that the tables below the root pointer at physical `rsdp` name.
///
/// # Errors
/// See [`AcpiError`].
pub fn processors(memory: &mut impl Physical, rsdp: u64) -> Result<Processors, AcpiError> {
    let root = table::root(memory, rsdp)?;
    let madt = table::find(memory, root, *b"APIC", "MADT")?;
    Processors::read(memory, madt)
}
