//! Tables: the root pointer, the headers that all tables have, and the search for one of them.
//!
//! ```text
//!   header: 0 signature │ 4 length │ 8 revision │ 9 checksum │ 10 ... 36 names and versions, not used
//! ```
use crate::{AcpiError, Physical};

/// Longest table that is read, in bytes: the MADT of 4,000 CPUs fits.
pub const MOST_TABLE_BYTES: u32 = 64 * 1024;

/// Bytes of the header that every table begins with (ACPI 6.5, table 5.4).
pub(crate) const HEADER_BYTES: u32 = 36;

/// The root pointer: its signature, its bytes in revision 0, and where its fields are (ACPI 6.5, table 5.3).
const RSDP_SIGNATURE: [u8; 8] = *b"RSD PTR ";
const RSDP_BYTES: usize = 20;
const RSDP_REVISION: usize = 15;
const RSDP_RSDT: usize = 16;
const RSDP_XSDT: usize = 24;
/// Bytes of the root pointer from revision 2 on.
const RSDP_EXTENDED_BYTES: usize = 36;

/// A table whose signature, length and checksum are right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Table {
    /// Physical address of its header.
    pub(crate) address: u64,
    /// Its length in bytes, header included: at least [`HEADER_BYTES`].
    pub(crate) bytes: u32,
}

/// The table of tables, with the size of the addresses in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Root {
    table: Table,
    address_bytes: u32,
}

/// Reads `N` bytes.
pub(crate) fn read<const N: usize>(memory: &mut impl Physical, address: u64) -> Result<[u8; N], AcpiError> {
    let mut bytes = [0; N];
    let end = address.checked_add(N as u64);
    if end.is_some() && memory.read(address, &mut bytes) { Ok(bytes) } else { Err(AcpiError::Unreachable(address, N)) }
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    bytes[offset..].iter().take(size_of::<u32>()).rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
}

/// Follows the root pointer at `rsdp`.
pub(crate) fn root(memory: &mut impl Physical, rsdp: u64) -> Result<Root, AcpiError> {
    let pointer: [u8; RSDP_BYTES] = read(memory, rsdp)?;
    if pointer[..RSDP_SIGNATURE.len()] != RSDP_SIGNATURE {
        return Err(AcpiError::Signature(rsdp, "RSDP"));
    }
    check_sum(rsdp, sum(&pointer))?;
    if pointer[RSDP_REVISION] >= 2 {
        let pointer: [u8; RSDP_EXTENDED_BYTES] = read(memory, rsdp)?;
        check_sum(rsdp, sum(&pointer))?;
        let address = u64::from(u32_at(&pointer, RSDP_XSDT)) | u64::from(u32_at(&pointer, RSDP_XSDT + 4)) << 32;
        if address != 0 {
            return Ok(Root { table: table(memory, address, *b"XSDT", "XSDT")?, address_bytes: 8 });
        }
    }
    let address = u32_at(&pointer, RSDP_RSDT);
    Ok(Root { table: table(memory, address.into(), *b"RSDT", "RSDT")?, address_bytes: 4 })
}

/// The first table below `root` with this signature.
pub(crate) fn find(
    memory: &mut impl Physical,
    root: Root,
    signature: [u8; 4],
    name: &'static str,
) -> Result<Table, AcpiError> {
    let entries = (root.table.bytes - HEADER_BYTES) / root.address_bytes;
    for entry in 0..entries {
        let place = root.table.address + u64::from(HEADER_BYTES + entry * root.address_bytes);
        let address = if root.address_bytes == 8 {
            u64::from_le_bytes(read(memory, place)?)
        } else {
            u32::from_le_bytes(read(memory, place)?).into()
        };
        if read::<4>(memory, address)? == signature {
            return table(memory, address, signature, name);
        }
    }
    Err(AcpiError::Missing(name))
}

/// Checks the table at `address` as a whole.
fn table(memory: &mut impl Physical, address: u64, signature: [u8; 4], name: &'static str) -> Result<Table, AcpiError> {
    let header: [u8; 8] = read(memory, address)?;
    if header[..4] != signature {
        return Err(AcpiError::Signature(address, name));
    }
    let bytes = u32_at(&header, 4);
    let ends = address.checked_add(bytes.into()).is_some();
    if !(HEADER_BYTES..=MOST_TABLE_BYTES).contains(&bytes) || !ends {
        return Err(AcpiError::Length(address, bytes));
    }
    let mut total = 0u8;
    let mut chunk = [0; 64];
    for offset in (0..bytes as usize).step_by(chunk.len()) {
        let part = &mut chunk[..(bytes as usize - offset).min(64)];
        let place = address + offset as u64;
        if !memory.read(place, part) {
            return Err(AcpiError::Unreachable(place, part.len()));
        }
        total = total.wrapping_add(sum(part));
    }
    check_sum(address, total)?;
    Ok(Table { address, bytes })
}

fn check_sum(address: u64, sum: u8) -> Result<(), AcpiError> {
    if sum == 0 { Ok(()) } else { Err(AcpiError::Checksum(address, sum)) }
}
