//! PCI: finding our devices and the memory behind their BARs.
//!
//! ```text
//!   bus 0 ─┬─ function
//!          ├─ bridge ── secondary bus ─┬─ function
//!          │                           └─ bridge ── …
//!          └─ function
//! ```
//! The firmware has numbered the buses and placed the BARs; this module follows the bridges, and
//! then looks at the buses that no bridge leads to (extra root buses).
#![deny(unsafe_code)]
pub mod bar;

use crate::arch::config_space::ConfigSpace;
use crate::arch::cpu;
use crate::ram::{self, PhysRange};
use alloc::vec::Vec;
use bar::{BarError, BarProbe};
use core::fmt;
use core::ops::ControlFlow;
use ferry_protocol::exit::ExitCode;
use pci_types::{CommandRegister, PciAddress, PciHeader, PciPciBridgeHeader};

/// QEMU's shared-memory device (QEMU, docs/specs/ivshmem-spec).
const VENDOR: u16 = 0x1af4;
const DEVICE: u16 = 0x1110;
/// The slot of its memory.
const MEMORY_SLOT: u8 = 2;

/// What an absent function reads as (PCI Local Bus Specification 3.0, 6.1).
const NO_VENDOR: u16 = 0xffff;
const BUSES: usize = 256;
const DEVICES: u8 = 32;
const FUNCTIONS: u8 = 8;

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

impl PciError {
    /// How the run ends where this is not handled.
    pub const fn exit_code(&self) -> ExitCode {
        match self {
            Self::NoDevice(_) => ExitCode::NoDevice,
            Self::Bar(..) => ExitCode::BadBar,
        }
    }
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

/// Finds our devices, in the order of their functions, checks their BARs and switches decoding on.
///
/// # Errors
/// There is no device, or the BAR of one cannot be used, or has fewer than `minimum` bytes.
pub fn device_memories(minimum: u64) -> Result<Vec<DeviceMemory>, PciError> {
    let (mut count, mut functions) = (0, Vec::new());
    each_function(|header| {
        count += 1;
        if header.id(ConfigSpace) == (VENDOR, DEVICE) {
            functions.push(header.address());
        }
        ControlFlow::<()>::Continue(())
    });
    if functions.is_empty() {
        return Err(PciError::NoDevice(count));
    }
    functions.into_iter().map(|function| device_memory(function, minimum)).collect()
}

fn device_memory(function: PciAddress, minimum: u64) -> Result<DeviceMemory, PciError> {
    let bad_bar = |error| PciError::Bar(function, error);
    let probe = BarProbe::read(function, MEMORY_SLOT);
    let range = bar::device_range(&probe, minimum, cpu::physical_address_bits()).map_err(bad_bar)?;
    check_place(function, MEMORY_SLOT, range).map_err(bad_bar)?;
    let enabled = CommandRegister::MEMORY_ENABLE | CommandRegister::BUS_MASTER_ENABLE;
    PciHeader::new(function).update_command(ConfigSpace, |command| command | enabled);
    Ok(DeviceMemory { function, range })
}

/// Checks that nothing else lies where BAR `slot` of `function` has its memory, `range`.
///
/// # Errors
/// RAM or another BAR does.
pub fn check_place(function: PciAddress, slot: u8, range: PhysRange) -> Result<(), BarError> {
    if let Some(ram) = ram::ranges().iter().find(|ram| ram.overlaps(&range)) {
        return Err(BarError::OverRam { bar: range, ram: *ram });
    }
    let overlapping = each_function(|header| {
        let owner = header.address();
        let mut bars = memory_bars(owner).filter(|(other, _)| (owner, *other) != (function, slot));
        match bars.find(|(_, other)| other.overlaps(&range)) {
            Some((slot, other)) => ControlFlow::Break(BarError::OverBar { bar: range, other, owner, slot }),
            None => ControlFlow::Continue(()),
        }
    });
    overlapping.map_or(Ok(()), Err)
}

/// The memory BARs of `function`, each with its slot.
pub fn memory_bars(function: PciAddress) -> impl Iterator<Item = (u8, PhysRange)> {
    let slots = bar::slots(PciHeader::new(function).header_type(ConfigSpace));
    let mut next = 0;
    core::iter::from_fn(move || {
        while next < slots {
            let slot = next;
            let probe = BarProbe::read(function, slot);
            next += probe.slots_used();
            if let Some(range) = probe.memory_range() {
                return Some((slot, range));
            }
        }
        None
    })
}

/// Visits every function, bus by bus, until `visit` breaks.
pub fn each_function<R>(mut visit: impl FnMut(PciHeader) -> ControlFlow<R>) -> Option<R> {
    let mut seen = [false; BUSES];
    // Buses that wait; each is entered once, so the list cannot overflow, whatever bridges say.
    let mut waiting = [0u8; BUSES];
    let mut count = 0;
    for root in 0..=u8::MAX {
        if !seen[usize::from(root)] {
            seen[usize::from(root)] = true;
            (waiting[0], count) = (root, 1);
        }
        while count > 0 {
            count -= 1;
            let bus = waiting[count];
            let found = each_function_on(bus, |header| {
                if let Some(bridge) = PciPciBridgeHeader::from_header(PciHeader::new(header.address()), ConfigSpace) {
                    let behind = bridge.secondary_bus_number(ConfigSpace);
                    if !seen[usize::from(behind)] {
                        seen[usize::from(behind)] = true;
                        waiting[count] = behind;
                        count += 1;
                    }
                }
                visit(header)
            });
            if found.is_some() {
                return found;
            }
        }
    }
    None
}

fn each_function_on<R>(bus: u8, mut visit: impl FnMut(PciHeader) -> ControlFlow<R>) -> Option<R> {
    for device in 0..DEVICES {
        let present = |function| {
            let header = PciHeader::new(PciAddress::new(0, bus, device, function));
            (header.id(ConfigSpace).0 != NO_VENDOR).then_some(header)
        };
        let Some(first) = present(0) else { continue };
        let functions = if first.has_multiple_functions(ConfigSpace) { FUNCTIONS } else { 1 };
        for header in (0..functions).filter_map(present) {
            if let ControlFlow::Break(result) = visit(header) {
                return Some(result);
            }
        }
    }
    None
}

#[cfg(feature = "tests")]
mod tests {
    use super::*;
    use crate::harness::{TestResult, check, check_eq, kernel_test};

    kernel_test! {
        fn the_walk_finds_each_function_once() -> TestResult {
            let mut found = Vec::new();
            each_function(|header| {
                found.push(header.address());
                ControlFlow::<()>::Continue(())
            });
            // By brute force, without the multi-function bit and without bridges.
            let mut expected = Vec::new();
            for bus in 0..=u8::MAX {
                for device in 0..DEVICES {
                    for function in 0..FUNCTIONS {
                        let address = PciAddress::new(0, bus, device, function);
                        if ConfigSpace.get(address, 0) as u16 != NO_VENDOR {
                            expected.push(address);
                        }
                    }
                }
            }
            found.sort();
            check_eq!(found, expected);
            // The host bridge is always there.
            check_eq!(found.first().copied(), Some(PciAddress::new(0, 0, 0, 0)));
            Ok(())
        }

        fn every_device_is_found_and_its_bar_is_usable() -> TestResult {
            let found = device_memories(1 << 20)?;
            // As many as the host tool gives to the machine that tests run on.
            check_eq!(found.len(), 4);
            for (index, memory) in found.iter().enumerate() {
                let bytes = memory.range.bytes;
                check!(bytes.is_power_of_two() && memory.range.start.is_aligned(bytes), "{}", memory.range)?;
                let command = PciHeader::new(memory.function).command(ConfigSpace);
                check!(command.contains(CommandRegister::MEMORY_ENABLE), "decoding is off: {command:?}")?;
                let apart = found[..index].iter().all(|other| !other.range.overlaps(&memory.range));
                check!(apart, "{} is not a place of its own", memory.range)?;
            }
            // Probing has put everything back, so a second look sees the same.
            check!(device_memories(1 << 20)? == found, "a second look sees something else")?;
            let bytes = found[0].range.bytes;
            let too_small = BarError::TooSmall { bytes, minimum: bytes + 1 };
            check_eq!(device_memories(bytes + 1), Err(PciError::Bar(found[0].function, too_small)));
            Ok(())
        }
    }
}
