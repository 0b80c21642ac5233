//! The capabilities of a function, and the structures of a virtio device that they name.
//!
//! ```text
//!   0x34 ──▶ │ id │ next │ ...      next ──▶ │ id │ next = 0 │ ...
//!              9: vendor's; of virtio: │ 9 │ next │ length │ type │ bar │ ... │ offset (+8) │ bytes (+12) │
//! ```
//! The crate `virtio-drivers` follows the list as far as it goes and adds 32-bit numbers of it, so the list is checked here
//! before that crate sees it.
//!
//! Sources: PCI Local Bus Specification 3.0, 6.7; Virtio 1.2, 4.1.4.
use crate::{ConfigSpace, Pci};
use core::fmt;
use pci_types::PciAddress;

/// Offset of the status register's word; the bit in it that says whether there is a list; offset of the list's pointer.
const STATUS: u16 = 0x04;
const HAS_LIST: u32 = 1 << 20;
const POINTER: u16 = 0x34;

/// Where capabilities may stand, and the bytes between the first of one and the first of the next, at least.
const FIRST: u8 = 0x40;
const END: u16 = 0x100;
const STEP: u8 = 4;

/// Most capabilities of a function: as many as fit.
pub const MOST_CAPABILITIES: usize = (END as usize - FIRST as usize) / STEP as usize;

/// The id of a capability of the vendor, its least length as virtio has it, and the length of one with a multiplier.
const VENDORS: u8 = 9;
const VIRTIO_BYTES: u16 = 16;
const NOTIFY_BYTES: u16 = 20;

/// Types of virtio's structures: common, notifications, interrupts, device. Others name nothing that a driver must have.
const NOTIFY: u8 = 2;
const LAST_STRUCTURE: u8 = 4;

/// Why a list cannot be followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CapabilityError {
    /// A pointer leads here, where no capability can stand.
    Pointer(u8),
    /// The list comes back to this capability.
    Loop(u8),
    /// This capability does not end within configuration space.
    TooLong(u8),
    /// This capability names a structure in this BAR, which is no memory.
    NoBar(u8, u8),
    /// The structure that this capability names has so many bytes at this offset of its BAR, which has fewer.
    Outside {
        /// Where the capability stands.
        capability: u8,
        /// Offset of the structure in its BAR.
        offset: u32,
        /// Its bytes.
        bytes: u32,
        /// Bytes of the BAR.
        bar_bytes: u64,
    },
}

impl fmt::Display for CapabilityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pointer(to) => {
                write!(f, "a pointer in its list of capabilities leads to {to:#x}, where none can stand")?
            }
            Self::Loop(to) => write!(f, "its list of capabilities comes back to {to:#x}")?,
            Self::TooLong(at) => write!(f, "its capability at {at:#x} does not end within configuration space")?,
            Self::NoBar(at, bar) => write!(f, "its capability at {at:#x} names BAR {bar}, which is no memory")?,
            Self::Outside { capability, offset, bytes, bar_bytes } => write!(
                f,
                "its capability at {capability:#x} names {bytes:#x} bytes at offset {offset:#x} of a BAR that has {bar_bytes:#x}"
            )?,
        }
        f.write_str("; use QEMU's virtio-blk-pci")
    }
}

impl core::error::Error for CapabilityError {}

impl<C: ConfigSpace> Pci<'_, C> {
    /// Checks the list of capabilities of a virtio device, and that the structures that it names are in its BARs.
    ///
    /// # Errors
    /// See [`CapabilityError`]; the first thing that is wrong.
    pub fn check_virtio(&self, function: PciAddress) -> Result<(), CapabilityError> {
        if self.config.get(function, STATUS) & HAS_LIST == 0 {
            return Ok(());
        }
        let mut seen = [false; MOST_CAPABILITIES];
        // Its two lowest bits are reserved.
        let mut at = self.config.get(function, POINTER) as u8 & !(STEP - 1);
        while at != 0 {
            if at < FIRST || !at.is_multiple_of(STEP) {
                return Err(CapabilityError::Pointer(at));
            }
            let place = &mut seen[usize::from((at - FIRST) / STEP)];
            if core::mem::replace(place, true) {
                return Err(CapabilityError::Loop(at));
            }
            let [id, next, length, kind] = self.config.get(function, at.into()).to_le_bytes();
            if id == VENDORS && u16::from(length) >= VIRTIO_BYTES && (1..=LAST_STRUCTURE).contains(&kind) {
                self.check_structure(function, at, kind)?;
            }
            at = next;
        }
        Ok(())
    }

    fn check_structure(&self, function: PciAddress, at: u8, kind: u8) -> Result<(), CapabilityError> {
        let needed = if kind == NOTIFY { NOTIFY_BYTES } else { VIRTIO_BYTES };
        if u16::from(at) + needed > END {
            return Err(CapabilityError::TooLong(at));
        }
        let word = |offset| self.config.get(function, u16::from(at) + offset);
        let (bar, offset, bytes) = (word(4) as u8, word(8), word(12));
        let range = self.memory_bars(function).find(|(slot, _)| *slot == bar);
        let (_, range) = range.ok_or(CapabilityError::NoBar(at, bar))?;
        // The crate adds them in 32 bits.
        if offset.checked_add(bytes).is_none_or(|end| u64::from(end) > range.bytes) {
            return Err(CapabilityError::Outside { capability: at, offset, bytes, bar_bytes: range.bytes });
        }
        Ok(())
    }
}
