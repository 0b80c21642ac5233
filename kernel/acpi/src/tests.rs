//! Tables as a firmware writes them, and as a hostile one might.
extern crate std;
use std::collections::BTreeMap;
use std::vec::Vec;

use crate::{AcpiError, ApicId, MOST_CPUS, MOST_TABLE_BYTES, Physical, processors};

const RSDP: u64 = 0xf_5000;
const ROOT: u64 = 0x7ff_e000;
const MADT: u64 = 0x7ff_f003;

/// Blocks of bytes at physical addresses; what lies between cannot be read.
#[derive(Clone, Default)]
struct Firmware {
    blocks: BTreeMap<u64, Vec<u8>>,
    reads: usize,
}

impl Physical for Firmware {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> bool {
        self.reads += 1;
        let Some((start, block)) = self.blocks.range(..=address).next_back() else { return false };
        let from = (address - start) as usize;
        let Some(found) = from.checked_add(bytes.len()).and_then(|end| block.get(from..end)) else { return false };
        bytes.copy_from_slice(found);
        true
    }
}

/// Sets the byte at `place` so that all bytes add up to zero.
fn seal(bytes: &mut [u8], place: usize) {
    bytes[place] = 0;
    bytes[place] = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
}

fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut bytes = signature.to_vec();
    bytes.extend((36 + body.len() as u32).to_le_bytes());
    bytes.resize(36, 0x5a);
    bytes.extend(body);
    seal(&mut bytes, 9);
    bytes
}

fn rsdp(revision: u8, rsdt: u32, xsdt: u64) -> Vec<u8> {
    let mut bytes = b"RSD PTR _FERRY_".to_vec();
    bytes.push(revision);
    bytes.extend(rsdt.to_le_bytes());
    seal(&mut bytes, 8);
    bytes.extend(36u32.to_le_bytes());
    bytes.extend(xsdt.to_le_bytes());
    bytes.resize(36, 0);
    seal(&mut bytes, 32);
    bytes
}

fn local(id: u8, flags: u32) -> Vec<u8> {
    let mut bytes = std::vec![0, 8, 7, id];
    bytes.extend(flags.to_le_bytes());
    bytes
}

fn local_x2(id: u32, flags: u32) -> Vec<u8> {
    let mut bytes = std::vec![9, 16, 0, 0];
    for word in [id, flags, 7] {
        bytes.extend(word.to_le_bytes());
    }
    bytes
}

fn madt(entries: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut body = Vec::from([0, 0, 0xe0, 0xfe, 1, 0, 0, 0]);
    body.extend(entries.into_iter().flatten());
    table(b"APIC", &body)
}

/// A firmware of revision 0, with a table before the MADT.
fn firmware(madt: Vec<u8>) -> Firmware {
    const OTHER: u32 = 0x700_0000;
    let addresses: Vec<u8> = [OTHER, MADT as u32].into_iter().flat_map(u32::to_le_bytes).collect();
    let blocks = [
        (RSDP, rsdp(0, ROOT as u32, 0)),
        (ROOT, table(b"RSDT", &addresses)),
        (OTHER.into(), table(b"FACP", &[1, 2, 3])),
        (MADT, madt),
    ];
    Firmware { blocks: blocks.into(), reads: 0 }
}

fn ids(mut firmware: Firmware) -> Result<Vec<u32>, AcpiError> {
    processors(&mut firmware, RSDP).map(|found| found.ids().map(|id| id.0).collect())
}

fn error(firmware: Firmware) -> AcpiError {
    ids(firmware).unwrap_err()
}

/// The good firmware with one block changed by `change`.
fn with(block: u64, change: impl FnOnce(&mut Vec<u8>)) -> Firmware {
    let mut changed = firmware(madt([local(0, 1)]));
    change(changed.blocks.get_mut(&block).unwrap());
    changed
}

#[test]
fn usable_cpus_are_found_in_order_and_other_entries_skipped() {
    let other = Vec::from([1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
    let entries = [local(4, 1), other, local(2, 0), local(0xff, 0), local(1, 3), local_x2(0x1234_5678, 1)];
    assert_eq!(ids(firmware(madt(entries))), Ok(Vec::from([4, 1, 0x1234_5678])));
}

#[test]
fn a_newer_root_pointer_leads_through_wide_addresses() {
    const HIGH: u64 = 0x1_2345_6789_a000;
    let mut new = firmware(madt([local(9, 1)]));
    new.blocks.insert(RSDP, rsdp(2, 0xdead_0000, HIGH));
    new.blocks.insert(HIGH, table(b"XSDT", &MADT.to_le_bytes()));
    assert_eq!(ids(new.clone()), Ok(Vec::from([9])));
    // Without an address of the wide table the narrow one counts.
    new.blocks.insert(RSDP, rsdp(2, ROOT as u32, 0));
    assert_eq!(ids(new.clone()), Ok(Vec::from([9])));
    // The second checksum covers what the first does not.
    new.blocks.get_mut(&RSDP).unwrap()[24] ^= 1;
    assert_eq!(error(new), AcpiError::Checksum(RSDP, 1));
}

#[test]
fn every_single_damaged_byte_that_is_covered_is_noticed() {
    let good = firmware(madt([local(0, 1), local(1, 1)]));
    for (address, covered) in [(RSDP, 20), (ROOT, 44), (MADT, 60)] {
        for place in 0..covered {
            let mut damaged = good.clone();
            damaged.blocks.get_mut(&address).unwrap()[place] ^= 0x10;
            assert!(ids(damaged).is_err(), "byte {place} of p{address:#x}");
        }
    }
}

#[test]
fn tables_that_are_cut_are_out_of_reach_or_too_short() {
    let good = firmware(madt([local(0, 1)]));
    for (address, bytes) in [(RSDP, 20), (ROOT, 44), (MADT, 52)] {
        for cut in 0..bytes {
            let mut short = good.clone();
            short.blocks.get_mut(&address).unwrap().truncate(cut);
            assert!(matches!(error(short), AcpiError::Unreachable(..)), "p{address:#x} cut to {cut} bytes");
        }
    }
}

#[test]
fn lengths_that_no_table_has_are_refused_before_anything_is_read() {
    for length in [0, 35, MOST_TABLE_BYTES + 1, u32::MAX] {
        let mut changed = with(MADT, |bytes| bytes[4..8].copy_from_slice(&length.to_le_bytes()));
        assert_eq!(processors(&mut changed, RSDP), Err(AcpiError::Length(MADT, length)));
        assert!(changed.reads < 20, "{} reads", changed.reads);
    }
    // A MADT with a header and nothing of its own.
    assert_eq!(error(firmware(table(b"APIC", &[0; 7]))), AcpiError::Length(MADT, 43));
}

#[test]
fn addresses_at_the_end_of_all_addresses_do_not_wrap() {
    let at = |address: u64| {
        let mut changed = firmware(madt([]));
        changed.blocks.insert(RSDP, rsdp(2, 0, address));
        changed.blocks.insert(address, table(b"XSDT", &[]));
        error(changed)
    };
    assert_eq!(at(u64::MAX - 3), AcpiError::Unreachable(u64::MAX - 3, 8));
    assert_eq!(at(u64::MAX - 20), AcpiError::Length(u64::MAX - 20, 36));
    assert_eq!(processors(&mut Firmware::default(), u64::MAX), Err(AcpiError::Unreachable(u64::MAX, 20)));
}

#[test]
fn entries_that_do_not_fit_are_refused() {
    let first = MADT + 44;
    let with_entry = |entry: &[u8]| error(firmware(madt([entry.to_vec()])));
    // Without a length the walk would not end.
    assert_eq!(with_entry(&[2, 0]), AcpiError::Entry(first, 0));
    assert_eq!(with_entry(&[2, 1]), AcpiError::Entry(first, 1));
    assert_eq!(with_entry(&[2]), AcpiError::Entry(first, 1));
    assert_eq!(with_entry(&[2, 9, 0, 0]), AcpiError::Entry(first, 9));
    assert_eq!(with_entry(&[0, 7, 0, 0, 1, 0, 0]), AcpiError::Entry(first, 7));
    assert_eq!(with_entry(&[9, 8, 0, 0, 1, 0, 0, 0]), AcpiError::Entry(first, 8));
    assert_eq!(with_entry(&local(1, 1)[..7]), AcpiError::Entry(first, 8));
}

#[test]
fn ids_that_cannot_be_are_refused() {
    assert_eq!(error(firmware(madt([]))), AcpiError::NoCpu);
    assert_eq!(error(firmware(madt([local(3, 0)]))), AcpiError::NoCpu);
    assert_eq!(error(firmware(madt([local(3, 1), local_x2(3, 1)]))), AcpiError::Duplicate(ApicId(3)));
    assert_eq!(error(firmware(madt([local(0xff, 1)]))), AcpiError::Broadcast(ApicId(0xff)));
    assert_eq!(error(firmware(madt([local_x2(u32::MAX, 1)]))), AcpiError::Broadcast(ApicId(u32::MAX)));
    assert_eq!(ids(firmware(madt([local_x2(0xff, 1)]))), Ok(Vec::from([0xff])));
}

#[test]
fn more_cpus_than_are_kept_are_counted() {
    let mut many = firmware(madt((0..200).map(|id| local(id, 1))));
    let found = processors(&mut many, RSDP).unwrap();
    assert_eq!((found.ids().count(), found.count()), (MOST_CPUS, 200));
}

#[test]
fn a_missing_or_wrong_table_is_named() {
    let mut without = firmware(madt([]));
    without.blocks.insert(ROOT, table(b"RSDT", &[]));
    assert_eq!(error(without), AcpiError::Missing("MADT"));
    assert_eq!(error(with(RSDP, |bytes| bytes[0] = b'X')), AcpiError::Signature(RSDP, "RSDP"));
    assert_eq!(error(with(ROOT, |bytes| bytes[0] = b'X')), AcpiError::Signature(ROOT, "RSDT"));
    // Addresses beyond what can be reached, and an address that is cut off at the end of its table.
    let far = 0xdead_0000u32.to_le_bytes();
    assert_eq!(error(with(ROOT, |bytes| *bytes = table(b"RSDT", &far))), AcpiError::Unreachable(0xdead_0000, 4));
    assert_eq!(error(with(ROOT, |bytes| *bytes = table(b"RSDT", &far[..3]))), AcpiError::Missing("MADT"));
}

#[test]
fn noise_is_an_error_and_ends() {
    // xorshift64 (Marsaglia 2003), in MADTs that are right but for what is in their entries.
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..2_000 {
        let length = next() % 200;
        let noise = (0..length).map(|_| (next() % 20) as u8).collect();
        let mut firmware = firmware(madt([noise]));
        let _ = processors(&mut firmware, RSDP);
        assert!(firmware.reads < 300, "{} reads of a table of {length} bytes", firmware.reads);
    }
}
