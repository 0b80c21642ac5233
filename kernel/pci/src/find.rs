//! Our devices, and the memory behind their BARs.
use crate::bar::{self, BarError, BarProbe};
use crate::{ConfigSpace, Pci, PhysRange};
use alloc::vec::Vec;
use core::fmt;
use core::ops::ControlFlow;
use pci_types::{CommandRegister, PciAddress, PciHeader};

/// QEMU's shared-memory device (QEMU, docs/specs/ivshmem-spec).
const VENDOR: u16 = 0x1af4;
const DEVICE: u16 = 0x1110;
/// The slot of its memory.
const MEMORY_SLOT: u8 = 2;

/// A device of ours: its function and the memory behind its BAR, decoding switched on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceMemory {
    /// Where it sits.
    pub function: PciAddress,
    /// Its memory.
    pub range: PhysRange,
}

/// Why there is no device memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PciError {
    /// No function is a device of ours; so many there are.
    NoDevice(u32),
    /// The BAR of this function cannot be used.
    Bar(PciAddress, BarError),
}

impl fmt::Display for PciError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevice(functions) => write!(
                f,
                "none of the {functions} PCI functions is the device {VENDOR:04x}:{DEVICE:04x}; start QEMU with -device ivshmem-plain"
            ),
            Self::Bar(function, error) => write!(f, "BAR {MEMORY_SLOT} of PCI function {function}: {error}"),
        }
    }
}

impl core::error::Error for PciError {}

impl<C: ConfigSpace> Pci<'_, C> {
    /// Finds our devices, in the order of their functions, checks their BARs and switches decoding on.
    ///
    /// # Errors
    /// There is no device, or the BAR of one cannot be used, or has fewer than `minimum` bytes.
    pub fn device_memories(&self, minimum: u64) -> Result<Vec<DeviceMemory>, PciError> {
        let (mut count, mut functions) = (0, Vec::new());
        self.each_function(|header| {
            count += 1;
            if header.id(self.config) == (VENDOR, DEVICE) {
                functions.push(header.address());
            }
            ControlFlow::<()>::Continue(())
        });
        if functions.is_empty() {
            return Err(PciError::NoDevice(count));
        }
        functions.into_iter().map(|function| self.device_memory(function, minimum)).collect()
    }

    fn device_memory(&self, function: PciAddress, minimum: u64) -> Result<DeviceMemory, PciError> {
        let bad_bar = |error| PciError::Bar(function, error);
        // What other headers have there is no BAR.
        if MEMORY_SLOT >= bar::slots(PciHeader::new(function).header_type(self.config)) {
            return Err(bad_bar(BarError::Absent));
        }
        let probe = BarProbe::read(self.config, function, MEMORY_SLOT);
        let range = bar::device_range(&probe, minimum, self.address_bits).map_err(bad_bar)?;
        self.check_place(function, MEMORY_SLOT, range).map_err(bad_bar)?;
        let enabled = CommandRegister::MEMORY_ENABLE | CommandRegister::BUS_MASTER_ENABLE;
        PciHeader::new(function).update_command(self.config, |command| command | enabled);
        Ok(DeviceMemory { function, range })
    }

    /// Checks that the CPU reaches `range`, the memory of BAR `slot` of `function`, and that nothing else lies there.
    ///
    /// # Errors
    /// It ends above what the CPU can address, or RAM or another BAR lies there.
    pub fn check_place(&self, function: PciAddress, slot: u8, range: PhysRange) -> Result<(), BarError> {
        if range.end() > 1 << self.address_bits {
            let (start, bytes, bits) = (range.start.as_u64(), range.bytes, self.address_bits);
            return Err(BarError::TooHigh { start, bytes, bits });
        }
        if let Some(ram) = self.ram.iter().find(|ram| ram.overlaps(&range)) {
            return Err(BarError::OverRam { bar: range, ram: *ram });
        }
        let overlapping = self.each_function(|header| {
            let owner = header.address();
            let mut bars = self.memory_bars(owner).filter(|(other, _)| (owner, *other) != (function, slot));
            match bars.find(|(_, other)| other.overlaps(&range)) {
                Some((slot, other)) => ControlFlow::Break(BarError::OverBar { bar: range, other, owner, slot }),
                None => ControlFlow::Continue(()),
            }
        });
        overlapping.map_or(Ok(()), Err)
    }
}
