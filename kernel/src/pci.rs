//! PCI as this machine has it: the walks and checks of [`ferry_pci`] on the real configuration space.
#![deny(unsafe_code)]
use crate::arch::config_space::ConfigSpace;
use crate::arch::cpu;
use crate::ram;
pub use ferry_pci::bar::BarError;
pub use ferry_pci::capability::CapabilityError;
pub use ferry_pci::{DeviceMemory, Pci, PciError};

/// All of it. Before [`ram::init`] no RAM is known.
pub fn bus() -> Pci<'static, ConfigSpace> {
    Pci { config: ConfigSpace, ram: ram::ranges(), address_bits: cpu::physical_address_bits() }
}

#[cfg(feature = "tests")]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use core::ops::ControlFlow;
    use ferry_pci::ConfigSpace as _;
    use pci_types::{CommandRegister, PciAddress, PciHeader};

    /// What an absent function reads as, and how many there may be.
    const NO_VENDOR: u16 = 0xffff;
    const DEVICES: u8 = 32;
    const FUNCTIONS: u8 = 8;

    use crate::harness::{TestResult, check, check_eq, kernel_test};

    kernel_test! {
        fn the_walk_finds_each_function_once() -> TestResult {
            let mut found = Vec::new();
            bus().each_function(|header| {
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
            let found = bus().device_memories(1 << 20)?;
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
            check!(bus().device_memories(1 << 20)? == found, "a second look sees something else")?;
            let bytes = found[0].range.bytes;
            let too_small = BarError::TooSmall { bytes, minimum: bytes + 1 };
            check_eq!(bus().device_memories(bytes + 1), Err(PciError::Bar(found[0].function, too_small)));
            Ok(())
        }
    }
}
