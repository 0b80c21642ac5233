//! Base address registers: reading one, and deciding whether it can be our device memory.
//!
//! A memory BAR (PCI Local Bus Specification 3.0, 6.2.5.1):
//! ```text
//!   63                    32 31                        4 3  2 1 0
//!   │   next slot's register │   address                │P│type│0│   type 00: 32 bits, 10: 64 bits
//! ```
//! P: prefetchable, reads have no side effects. Writing all ones and reading back leaves the bits
//! that the function decodes; the lowest of them is the size. While a BAR holds ones the function
//! would answer at the wrong place, so decoding is off meanwhile.
use crate::{ConfigSpace, PhysRange};
use core::fmt;
use pci_types::{CommandRegister, HeaderType, PciAddress, PciHeader};
use x86_64::PhysAddr;

/// Offset of slot 0 in configuration space, and bytes per slot.
const FIRST_SLOT: u16 = 0x10;
const SLOT_BYTES: u16 = 4;
/// Slots of an ordinary function and of a bridge.
const ENDPOINT_SLOTS: u8 = 6;
const BRIDGE_SLOTS: u8 = 2;

/// First address that a physical address of 52 bits cannot name (Intel SDM 3A.4.1.4).
const ADDRESS_END: u64 = 1 << 52;

const IO: u32 = 1 << 0;
const TYPE: u32 = 0b11 << 1;
const TYPE_64: u32 = 0b10 << 1;
const PREFETCHABLE: u32 = 1 << 3;
const ADDRESS: u32 = !0xf;

/// How many slots a function with this kind of header has.
pub fn slots(header: HeaderType) -> u8 {
    match header {
        HeaderType::Endpoint => ENDPOINT_SLOTS,
        HeaderType::PciPciBridge => BRIDGE_SLOTS,
        _ => 0,
    }
}

/// What a slot and its successor hold, and what is left of all ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BarProbe {
    /// The register.
    pub value: u32,
    /// The next slot's register, for a 64-bit BAR that has a next slot.
    pub upper: Option<u32>,
    /// The register after all ones were written.
    pub ones: u32,
    /// The next slot's register after all ones were written there.
    pub upper_ones: u32,
}

impl BarProbe {
    /// Probes a slot and puts everything back.
    pub fn read(config: impl ConfigSpace, function: PciAddress, slot: u8) -> Self {
        let mut header = PciHeader::new(function);
        let has_next = slot + 1 < slots(header.header_type(config));
        let offset = FIRST_SLOT + SLOT_BYTES * u16::from(slot);
        let command = header.command(config);
        let decoding = CommandRegister::IO_ENABLE | CommandRegister::MEMORY_ENABLE;
        header.update_command(config, |command| command - decoding);
        let ones_in = |offset| {
            let value = config.get(function, offset);
            config.set(function, offset, u32::MAX);
            let ones = config.get(function, offset);
            config.set(function, offset, value);
            (value, ones)
        };
        let (value, ones) = ones_in(offset);
        let pair = has_next && value & (IO | TYPE) == TYPE_64;
        let upper = pair.then(|| ones_in(offset + SLOT_BYTES));
        header.update_command(config, |_| command);
        Self { value, upper: upper.map(|(value, _)| value), ones, upper_ones: upper.map_or(0, |(_, ones)| ones) }
    }

    /// How many slots the BAR takes.
    pub fn slots_used(&self) -> u8 {
        if self.upper.is_some() { 2 } else { 1 }
    }

    fn start(&self) -> u64 {
        u64::from(self.upper.unwrap_or(0)) << 32 | u64::from(self.value & ADDRESS)
    }

    /// The address bits that the function decodes.
    fn decoded(&self) -> u64 {
        let upper = if self.upper.is_some() { self.upper_ones } else { u32::MAX };
        u64::from(upper) << 32 | u64::from(self.ones & ADDRESS)
    }

    /// The memory that the BAR claims and that a physical address can name, or `None` where there is none.
    pub fn memory_range(&self) -> Option<PhysRange> {
        let bytes = self.decoded().wrapping_neg();
        let decodes = (self.ones & ADDRESS | self.upper_ones) != 0;
        let claims = self.value & IO == 0 && decodes && self.start() != 0;
        let start = PhysAddr::try_new(self.start()).ok()?;
        claims.then_some(PhysRange { start, bytes: bytes.min(ADDRESS_END - start.as_u64()) })
    }
}

/// Why a BAR cannot be the device's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the fields are the values that the variant's sentence names")]
pub enum BarError {
    /// The function has no BAR there.
    Absent,
    /// It is for I/O ports.
    NotMemory { value: u32 },
    /// It is a 32-bit one, or of a reserved type.
    NotSixtyFour { value: u32 },
    /// Reads have side effects.
    NotPrefetchable { value: u32 },
    /// It is a 64-bit one without an upper half that can be written.
    NoUpperHalf { upper_ones: u32 },
    /// The decoded bits are not those of a power of two.
    NotPowerOfTwo { decoded: u64 },
    /// The firmware has given it no address.
    NotPlaced { bytes: u64 },
    /// Its address is not a multiple of its size.
    Misaligned { start: u64, bytes: u64 },
    /// It is too small.
    TooSmall { bytes: u64, minimum: u64 },
    /// It ends above what the CPU can address.
    TooHigh { start: u64, bytes: u64, bits: u8 },
    /// It lies over RAM.
    OverRam { bar: PhysRange, ram: PhysRange },
    /// It lies over another BAR.
    OverBar { bar: PhysRange, other: PhysRange, owner: PciAddress, slot: u8 },
}

impl fmt::Display for BarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// For values that only a broken or foreign device has.
        const FOREIGN: &str = "the device is not QEMU's ivshmem-plain; start QEMU with -device ivshmem-plain";
        /// For addresses that the firmware has chosen.
        const PLACEMENT: &str = "the firmware has placed it wrongly; use QEMU's own firmware";
        match self {
            Self::Absent => write!(f, "is not there; {FOREIGN}"),
            Self::NotMemory { value } => write!(f, "is for I/O ports, not memory (register {value:#010x}); {FOREIGN}"),
            Self::NotSixtyFour { value } => write!(f, "is not a 64-bit one (register {value:#010x}); {FOREIGN}"),
            Self::NotPrefetchable { value } => write!(f, "is not prefetchable (register {value:#010x}); {FOREIGN}"),
            Self::NoUpperHalf { upper_ones } => {
                write!(f, "is a 64-bit one without an upper half (it keeps {upper_ones:#x} of all ones); {FOREIGN}")
            }
            Self::NotPowerOfTwo { decoded } => {
                write!(f, "decodes the address bits {decoded:#x}, which is no power of two; {FOREIGN}")
            }
            Self::NotPlaced { bytes } => write!(
                f,
                "has no address: the firmware found no room for {bytes:#x} bytes; make the device memory smaller with --vram"
            ),
            Self::Misaligned { start, bytes } => {
                write!(f, "begins at p{start:#x}, not a multiple of its {bytes:#x} bytes; {PLACEMENT}")
            }
            Self::TooSmall { bytes, minimum } => {
                write!(f, "has {bytes} bytes, and {minimum} are needed; make the device memory larger with --vram")
            }
            Self::TooHigh { start, bytes, bits } => write!(
                f,
                "has {bytes:#x} bytes at p{start:#x}, more than the CPU's {bits} address bits reach; start QEMU with -cpu max"
            ),
            Self::OverRam { bar, ram } => write!(f, "at {bar} overlaps RAM at {ram}; {PLACEMENT}"),
            Self::OverBar { bar, other, owner, slot } => {
                write!(f, "at {bar} overlaps BAR {slot} of function {owner} at {other}; {PLACEMENT}")
            }
        }
    }
}

/// The range of a BAR that can be the device's memory, as far as the BAR itself can tell.
///
/// # Errors
/// The first thing that is wrong with it. `bits` is how many address bits the CPU has.
pub fn device_range(probe: &BarProbe, minimum: u64, bits: u8) -> Result<PhysRange, BarError> {
    let value = probe.value;
    if value == 0 && probe.ones == 0 {
        return Err(BarError::Absent);
    }
    if value & IO != 0 {
        return Err(BarError::NotMemory { value });
    }
    if value & TYPE != TYPE_64 {
        return Err(BarError::NotSixtyFour { value });
    }
    if value & PREFETCHABLE == 0 {
        return Err(BarError::NotPrefetchable { value });
    }
    if probe.upper.is_none() || probe.upper_ones == 0 {
        return Err(BarError::NoUpperHalf { upper_ones: probe.upper_ones });
    }
    let (start, decoded) = (probe.start(), probe.decoded());
    let bytes = decoded.wrapping_neg();
    if !bytes.is_power_of_two() {
        return Err(BarError::NotPowerOfTwo { decoded });
    }
    if start == 0 {
        return Err(BarError::NotPlaced { bytes });
    }
    if !start.is_multiple_of(bytes) {
        return Err(BarError::Misaligned { start, bytes });
    }
    if bytes < minimum {
        return Err(BarError::TooSmall { bytes, minimum });
    }
    let too_high = BarError::TooHigh { start, bytes, bits };
    let last = start.checked_add(bytes - 1).ok_or(too_high)?;
    if last >> bits != 0 {
        return Err(too_high);
    }
    PhysAddr::try_new(start).map(|start| PhysRange { start, bytes }).map_err(|_| too_high)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// 64 MiB at 0xfc_0000_0000, 64-bit, prefetchable.
    const GOOD: BarProbe =
        BarProbe { value: 0x0000_000c, upper: Some(0xfc), ones: 0xfc00_000c, upper_ones: 0xffff_ffff };

    fn judge(probe: BarProbe) -> Result<(u64, u64), BarError> {
        device_range(&probe, 2 * MIB, 40).map(|range| (range.start.as_u64(), range.bytes))
    }

    #[test]
    fn a_good_bar_is_taken_as_it_is() {
        assert_eq!(judge(GOOD), Ok((0xfc_0000_0000, 64 * MIB)));
        // 8 GiB: no bit of the lower half is decoded.
        let large = BarProbe { upper: Some(0x10), ones: 0xc, upper_ones: 0xffff_fffe, ..GOOD };
        assert_eq!(judge(large), Ok((0x10_0000_0000, 8192 * MIB)));
        // Below 4 GiB.
        let low = BarProbe { value: 0xf800_000c, upper: Some(0), ..GOOD };
        assert_eq!(judge(low), Ok((0xf800_0000, 64 * MIB)));
    }

    #[test]
    fn every_flaw_has_its_error() {
        let absent = BarProbe { value: 0, upper: None, ones: 0, upper_ones: 0 };
        assert_eq!(judge(absent), Err(BarError::Absent));
        assert_eq!(judge(BarProbe { value: 0xc001, ..GOOD }), Err(BarError::NotMemory { value: 0xc001 }));
        assert_eq!(judge(BarProbe { value: 0x8, ..GOOD }), Err(BarError::NotSixtyFour { value: 0x8 }));
        assert_eq!(judge(BarProbe { value: 0xe, ..GOOD }), Err(BarError::NotSixtyFour { value: 0xe }));
        assert_eq!(judge(BarProbe { value: 0x4, ..GOOD }), Err(BarError::NotPrefetchable { value: 0x4 }));
        assert_eq!(judge(BarProbe { upper: None, ..GOOD }), Err(BarError::NoUpperHalf { upper_ones: u32::MAX }));
        assert_eq!(judge(BarProbe { upper_ones: 0, ..GOOD }), Err(BarError::NoUpperHalf { upper_ones: 0 }));
        let holes = BarProbe { ones: 0xf400_000c, ..GOOD };
        assert_eq!(judge(holes), Err(BarError::NotPowerOfTwo { decoded: 0xffff_ffff_f400_0000 }));
        let nowhere = BarProbe { value: 0xc, upper: Some(0), ..GOOD };
        assert_eq!(judge(nowhere), Err(BarError::NotPlaced { bytes: 64 * MIB }));
        let crooked = BarProbe { value: 0x0200_000c, ..GOOD };
        assert_eq!(judge(crooked), Err(BarError::Misaligned { start: 0xfc_0200_0000, bytes: 64 * MIB }));
        let small = BarProbe { ones: 0xfff0_000c, ..GOOD };
        assert_eq!(judge(small), Err(BarError::TooSmall { bytes: MIB, minimum: 2 * MIB }));
        let high = BarProbe { upper: Some(0x100), ..GOOD };
        let start = 0x100_0000_0000;
        assert_eq!(judge(high), Err(BarError::TooHigh { start, bytes: 64 * MIB, bits: 40 }));
    }

    #[test]
    fn the_last_bar_below_the_border_fits() {
        let last = BarProbe { value: 0xfc00_000c, upper: Some(0xff), ..GOOD };
        assert_eq!(judge(last), Ok((0xff_fc00_0000, 64 * MIB)));
    }
}
