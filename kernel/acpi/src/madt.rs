//! The multiple APIC description table: which CPUs there are.
use crate::table::{HEADER_BYTES, Table, read};
use crate::{AcpiError, ApicId, MOST_CPUS, Physical};

/// Bytes between the header and the first entry: address of the local APICs, flags (ACPI 6.5, table 5.19).
const FIXED_BYTES: u32 = 8;

/// Types of the entries that name CPUs, and their lengths in bytes (ACPI 6.5, tables 5.21 and 5.32).
const LOCAL_APIC: u8 = 0;
const LOCAL_APIC_BYTES: u8 = 8;
const LOCAL_X2APIC: u8 = 9;
const LOCAL_X2APIC_BYTES: u8 = 16;

/// Flag of a CPU that is there and may be used (ACPI 6.5, table 5.22).
const ENABLED: u32 = 1;

/// Ids with which an interrupt goes to all CPUs (Intel SDM 3A, 10.6.2.1 and 10.12.9).
const BROADCAST_8: ApicId = ApicId(0xff);
const BROADCAST_32: ApicId = ApicId(u32::MAX);

/// The usable CPUs, in the table's order; each id occurs once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Processors {
    ids: [ApicId; MOST_CPUS],
    kept: usize,
    count: usize,
}

impl Processors {
    /// Reads the MADT, which is `table`.
    pub(crate) fn read(memory: &mut impl Physical, table: Table) -> Result<Self, AcpiError> {
        let mut processors = Self { ids: [ApicId(0); MOST_CPUS], kept: 0, count: 0 };
        let first = HEADER_BYTES + FIXED_BYTES;
        if table.bytes < first {
            return Err(AcpiError::Length(table.address, table.bytes));
        }
        let mut offset = first;
        while offset < table.bytes {
            let place = table.address + u64::from(offset);
            let left = table.bytes - offset;
            let [kind, bytes] = if left < 2 { return Err(AcpiError::Entry(place, 1)) } else { read(memory, place)? };
            let least = match kind {
                LOCAL_APIC => LOCAL_APIC_BYTES,
                LOCAL_X2APIC => LOCAL_X2APIC_BYTES,
                _ => 2,
            };
            if bytes < least || u32::from(bytes) > left {
                return Err(AcpiError::Entry(place, bytes));
            }
            match kind {
                LOCAL_APIC => {
                    let [_, _, _, id, flags @ ..]: [u8; LOCAL_APIC_BYTES as usize] = read(memory, place)?;
                    processors.add(ApicId(id.into()), u32::from_le_bytes(flags), BROADCAST_8)?;
                }
                LOCAL_X2APIC => {
                    let [_, _, _, _, a, b, c, d, e, f, g, h, ..]: [u8; LOCAL_X2APIC_BYTES as usize] =
                        read(memory, place)?;
                    let (id, flags) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
                    processors.add(ApicId(id), flags, BROADCAST_32)?;
                }
                _ => {}
            }
            offset += u32::from(bytes);
        }
        if processors.count == 0 { Err(AcpiError::NoCpu) } else { Ok(processors) }
    }

    fn add(&mut self, id: ApicId, flags: u32, broadcast: ApicId) -> Result<(), AcpiError> {
        if flags & ENABLED == 0 {
            return Ok(());
        }
        if id == broadcast {
            return Err(AcpiError::Broadcast(id));
        }
        if self.ids().any(|known| known == id) {
            return Err(AcpiError::Duplicate(id));
        }
        self.count += 1;
        if let Some(place) = self.ids.get_mut(self.kept) {
            *place = id;
            self.kept += 1;
        }
        Ok(())
    }

    /// The ids of the first [`MOST_CPUS`] of them.
    pub fn ids(&self) -> impl Iterator<Item = ApicId> {
        self.ids.iter().copied().take(self.kept)
    }

    /// How many there are, those whose ids are not kept included.
    pub fn count(&self) -> usize {
        self.count
    }
}
