//! The firmware's ACPI tables: root pointer, RSDT or XSDT, MADT
//!
//! The input is a flag and an image of memory, which the reader sees twice:
//!
//! ```text
//!   0x1000                          2^64 - 1 - length    2^64 - 1
//!   │ image: root pointer, tables │ ... │ image          │      nothing else can be read
//! ```
//!
//! With the flag, checksums are made right first, so that what lies behind them is reached.
//!
//! Oracle: a reader without any checks but those that the specification asks for, on vectors. Both must find the same CPUs, or
//! neither any.
use ferry_acpi::{MOST_CPUS, MOST_TABLE_BYTES, Physical, Processors, processors};

use crate::Target;

/// See the module.
pub const TARGET: Target = Target { name: "acpi", check, seeds, most_bytes: 4096 };

/// Where the image lies, the root pointer first.
const START: u64 = 0x1000;

/// Flag: make the checksums right.
const SEAL: u8 = 1;

/// Most bytes that may be read for one answer: every table twice, a signature for each of an RSDT's entries.
const MOST_BYTES_READ: usize = 4 * MOST_TABLE_BYTES as usize;

/// The image, at both of its places.
struct Image {
    bytes: Vec<u8>,
    read: usize,
}

impl Image {
    /// Where in the image the `count` bytes at `address` are.
    fn place(&self, address: u64, count: usize) -> Option<usize> {
        let length = self.bytes.len() as u128;
        [u128::from(START), (1 << 64) - 1 - length].into_iter().find_map(|start| {
            let offset = u128::from(address).checked_sub(start)?;
            (offset + count as u128 <= length).then_some(offset as usize)
        })
    }

    fn get(&self, address: u64, count: usize) -> Option<&[u8]> {
        self.place(address, count).map(|place| &self.bytes[place..place + count])
    }

    fn number(&self, address: u64, count: usize) -> Option<u64> {
        Some(self.get(address, count)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }
}

impl Physical for Image {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> bool {
        self.read += bytes.len();
        assert!(self.read <= MOST_BYTES_READ, "{} bytes were read and there is no end", self.read);
        let Some(found) = self.get(address, bytes.len()) else { return false };
        bytes.copy_from_slice(found);
        true
    }
}

/// What the oracle does with a checksum: `count` bytes from an address, of which the last says where it is stored.
type Sum<'s> = &'s mut dyn FnMut(&mut Image, u64, usize, u64) -> Option<()>;

fn is_right(image: &mut Image, address: u64, count: usize, _: u64) -> Option<()> {
    image.get(address, count)?.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).eq(&0).then_some(())
}

fn make_right(image: &mut Image, address: u64, count: usize, stored: u64) -> Option<()> {
    let sum = image.get(address, count)?.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    let place = image.place(address.checked_add(stored)?, 1)?;
    image.bytes[place] = image.bytes[place].wrapping_sub(sum);
    Some(())
}

/// The table at an address: its length.
fn table(image: &mut Image, address: u64, signature: &[u8], sum: Sum) -> Option<usize> {
    let count = image.number(address.checked_add(4)?, 4)?;
    if image.get(address, 4)? != signature || !(36..=u64::from(MOST_TABLE_BYTES)).contains(&count) {
        return None;
    }
    sum(image, address, count as usize, 9)?;
    Some(count as usize)
}

/// The usable CPUs in the table's order.
fn naive(image: &mut Image, sum: Sum) -> Option<Vec<u32>> {
    if image.get(START, 8)? != b"RSD PTR " {
        return None;
    }
    sum(image, START, 20, 8)?;
    let mut root = (image.number(START + 16, 4)?, 4, b"RSDT");
    if image.number(START + 15, 1)? >= 2 {
        sum(image, START, 36, 32)?;
        let address = image.number(START + 24, 8)?;
        if address != 0 {
            root = (address, 8, b"XSDT");
        }
    }
    let (address, width, signature) = root;
    let entries = (table(image, address, signature, sum)? - 36) / width;
    for entry in 0..entries {
        let found = image.number(address + 36 + (entry * width) as u64, width)?;
        if image.get(found, 4)? == b"APIC" {
            let count = table(image, found, b"APIC", sum)?;
            return cpus(image.get(found, count)?.get(44..)?);
        }
    }
    None
}

/// The usable CPUs in the entries of a MADT.
fn cpus(mut entries: &[u8]) -> Option<Vec<u32>> {
    let mut ids = Vec::new();
    while !entries.is_empty() {
        let length = usize::from(*entries.get(1)?);
        let entry = entries.get(..length).filter(|entry| entry.len() >= 2)?;
        let word = |at| Some(u32::from_le_bytes(entry.get(at..at + 4)?.try_into().ok()?));
        let (id, flags, all) = match entry[0] {
            0 => (u32::from(*entry.get(3)?), word(4)?, 0xff),
            9 => {
                word(12)?;
                (word(4)?, word(8)?, u32::MAX)
            }
            _ => (0, 0, 0),
        };
        if flags & 1 != 0 {
            if id == all || ids.iter().take(MOST_CPUS).any(|known| *known == id) {
                return None;
            }
            ids.push(id);
        }
        entries = &entries[length..];
    }
    (!ids.is_empty()).then_some(ids)
}

fn ids(found: &Processors) -> Vec<u32> {
    found.ids().map(|id| id.0).collect()
}

fn check(input: &[u8]) {
    let Some((flags, image)) = input.split_first() else { return };
    let mut image = Image { bytes: image.to_vec(), read: 0 };
    if flags & SEAL != 0 {
        naive(&mut image, &mut make_right);
    }
    let expected = naive(&mut image, &mut is_right);
    match (processors(&mut image, START), expected) {
        (Ok(found), Some(expected)) => {
            assert_eq!(found.count(), expected.len(), "another number of CPUs");
            assert_eq!(ids(&found), expected[..expected.len().min(MOST_CPUS)], "other CPUs");
        }
        (Err(error), None) => assert!(!error.to_string().is_empty(), "an error has a text"),
        (found, expected) => panic!("found {:?}, expected {expected:?}", found.map(|found| ids(&found))),
    }
}

/// A table without a checksum.
fn sample_table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut bytes = signature.to_vec();
    bytes.extend((36 + body.len() as u32).to_le_bytes());
    bytes.resize(36, 0);
    bytes.extend(body);
    bytes
}

/// Root pointer, root table of this width and a MADT with these entries, 64 bytes and 64 bytes from each other.
fn sample(revision: u8, width: usize, entries: &[u8]) -> Vec<u8> {
    const ROOT: u64 = START + 64;
    const MADT: u64 = START + 128;
    let mut bytes = b"RSD PTR _FERRY_".to_vec();
    bytes.push(revision);
    bytes.extend((ROOT as u32).to_le_bytes());
    bytes.extend(36u32.to_le_bytes());
    bytes.extend(ROOT.to_le_bytes());
    bytes.resize(64, 0);
    bytes.extend(sample_table(if width == 8 { b"XSDT" } else { b"RSDT" }, &MADT.to_le_bytes()[..width]));
    bytes.resize(128, 0);
    bytes.extend(sample_table(b"APIC", &[&[0, 0, 0xe0, 0xfe, 1, 0, 0, 0], entries].concat()));
    bytes.insert(0, SEAL);
    bytes
}

fn seeds() -> Vec<Vec<u8>> {
    const LOCAL: [u8; 16] = [0, 8, 0, 0, 1, 0, 0, 0, 0, 8, 1, 1, 1, 0, 0, 0];
    const LOCAL_X2: [u8; 16] = [9, 16, 0, 0, 7, 1, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0];
    let many: Vec<u8> = (0..70).flat_map(|id| [0, 8, id, id, 1, 0, 0, 0]).collect();
    vec![
        sample(0, 4, &LOCAL),
        sample(2, 8, &LOCAL_X2),
        sample(2, 8, &[&LOCAL[..], &[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &LOCAL_X2].concat()),
        sample(0, 4, &many),
    ]
}
