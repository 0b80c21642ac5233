//! Walks: over the functions of all buses, and over the memory BARs of one.
//!
//! Bridges are followed, and then the buses are looked at that no bridge leads to (extra root buses).
use crate::bar::{self, BarProbe};
use crate::{ConfigSpace, NO_VENDOR, Pci, PhysRange};
use core::ops::ControlFlow;
use pci_types::{PciAddress, PciHeader, PciPciBridgeHeader};

const BUSES: usize = 256;
const FUNCTIONS: u8 = 8;

impl<C: ConfigSpace> Pci<'_, C> {
    /// The memory BARs of `function`, each with its slot.
    pub fn memory_bars(&self, function: PciAddress) -> impl Iterator<Item = (u8, PhysRange)> {
        let config = self.config;
        let slots = bar::slots(PciHeader::new(function).header_type(config));
        let mut next = 0;
        core::iter::from_fn(move || {
            while next < slots {
                let slot = next;
                let probe = BarProbe::read(config, function, slot);
                next += probe.slots_used();
                if let Some(range) = probe.memory_range() {
                    return Some((slot, range));
                }
            }
            None
        })
    }

    /// Visits every function, bus by bus, until `visit` breaks.
    pub fn each_function<R>(&self, mut visit: impl FnMut(PciHeader) -> ControlFlow<R>) -> Option<R> {
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
                let found = self.each_function_on(bus, |header| {
                    if let Some(bridge) = PciPciBridgeHeader::from_header(PciHeader::new(header.address()), self.config)
                    {
                        let behind = bridge.secondary_bus_number(self.config);
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

    fn each_function_on<R>(&self, bus: u8, mut visit: impl FnMut(PciHeader) -> ControlFlow<R>) -> Option<R> {
        let mut devices = self.config.devices_on(bus);
        while devices != 0 {
            let device = devices.trailing_zeros() as u8;
            devices &= devices - 1;
            let present = |function| {
                let header = PciHeader::new(PciAddress::new(0, bus, device, function));
                (header.id(self.config).0 != NO_VENDOR).then_some(header)
            };
            let Some(first) = present(0) else { continue };
            let functions = if first.has_multiple_functions(self.config) { FUNCTIONS } else { 1 };
            for header in (0..functions).filter_map(present) {
                if let ControlFlow::Break(result) = visit(header) {
                    return Some(result);
                }
            }
        }
        None
    }
}
