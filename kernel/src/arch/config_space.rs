//! PCI configuration space through the two I/O ports that every PC has (PCI Local Bus
//! Specification 3.0, 3.2.2.3.2, "configuration mechanism #1").
use super::machine::Hardware;
use ferry_mm::lock::{Level, Lock};
use ferry_pci::{DEVICES, NO_VENDOR};
use pci_types::{ConfigRegionAccess, PciAddress};
use x86_64::instructions::port::Port;

/// Ports for the address and for the data there.
const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
/// Bit of the address port that turns an access of the data port into a configuration access.
const ENABLE: u32 = 1 << 31;

/// Where the device's number stands in the address port.
const DEVICE_SHIFT: u32 = 11;

/// One access is two port accesses that must not be mixed with those of another CPU.
static PORTS: Lock<()> = Lock::new(Level::PciConfig, ());

/// Access to the first 256 bytes of every function's configuration space in segment 0.
#[derive(Clone, Copy, Debug)]
pub struct ConfigSpace;

impl ferry_pci::ConfigSpace for ConfigSpace {
    fn get(self, function: PciAddress, offset: u16) -> u32 {
        // SAFETY: the mechanism is there on every PC, and absent functions read as all ones.
        unsafe { self.read(function, offset) }
    }

    fn set(self, function: PciAddress, offset: u16, value: u32) {
        // SAFETY: as for `get`; callers put back what they change, with decoding off.
        unsafe { self.write(function, offset, value) }
    }

    /// One hold of the ports for all of them.
    fn devices_on(self, bus: u8) -> u32 {
        let first = selector(PciAddress::new(0, bus, 0, 0), 0);
        let _ports = PORTS.lock(&Hardware);
        let is_there = |device: u32| {
            // SAFETY: as for `get`; the lock keeps the pair of accesses together.
            let id: u32 = unsafe {
                Port::new(ADDRESS).write(first | device << DEVICE_SHIFT);
                Port::new(DATA).read()
            };
            id as u16 != NO_VENDOR
        };
        (0..DEVICES.into()).fold(0, |found, device| found | u32::from(is_there(device)) << device)
    }
}

fn selector(address: PciAddress, offset: u16) -> u32 {
    let function = u32::from(address.bus()) << 16
        | u32::from(address.device()) << DEVICE_SHIFT
        | u32::from(address.function()) << 8;
    ENABLE | function | u32::from(offset & 0xfc)
}

impl ConfigRegionAccess for ConfigSpace {
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        let _ports = PORTS.lock(&Hardware);
        // SAFETY: the lock keeps the pair of accesses together.
        unsafe {
            Port::new(ADDRESS).write(selector(address, offset));
            Port::new(DATA).read()
        }
    }

    unsafe fn write(&self, address: PciAddress, offset: u16, value: u32) {
        let _ports = PORTS.lock(&Hardware);
        // SAFETY: the lock keeps the pair of accesses together; the caller answers for the value.
        unsafe {
            Port::new(ADDRESS).write(selector(address, offset));
            Port::new(DATA).write(value);
        }
    }
}
