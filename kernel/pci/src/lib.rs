//! What is on PCI: functions, the memory behind their BARs, and the structures that a virtio device names.
//!
//! ```text
//!   bus 0 ─┬─ function
//!          ├─ bridge ── secondary bus ─┬─ function
//!          │                           └─ bridge ── …
//!          └─ function
//! ```
//! The firmware has numbered the buses and placed the BARs. Nothing that configuration space says is believed.
//!
//! Invariants:
//! 1. Every walk ends, whatever bridges and capabilities say: a bus is entered once, and a list has no more capabilities than
//!    fit.
//! 2. A BAR is written only while its function decodes nothing, and has its old value again when a call returns.
//! 3. A range that is handed out ends where the CPU can still address it.
//!
//! No locks: an access is whole by itself, and the caller lets one user at a time probe.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod bar;
pub mod capability;
mod find;
mod range;
mod walk;

pub use find::{DeviceMemory, PciError};
pub use range::PhysRange;

use pci_types::{ConfigRegionAccess, PciAddress};

/// What the vendor of an absent function reads as (PCI Local Bus Specification 3.0, 6.1).
pub const NO_VENDOR: u16 = 0xffff;

/// Devices of a bus, each a bit of [`ConfigSpace::devices_on`].
pub const DEVICES: u8 = 32;

/// Configuration space of segment 0, the first 256 bytes of each function.
pub trait ConfigSpace: ConfigRegionAccess + Copy {
    /// Reads four bytes at `offset`, a multiple of four. A function that is absent reads as all ones.
    fn get(self, function: PciAddress, offset: u16) -> u32;

    /// Writes four bytes at `offset`, a multiple of four. A BAR in the wrong place puts a device over RAM: whoever calls this
    /// puts back what it changes, with decoding off.
    fn set(self, function: PciAddress, offset: u16, value: u32);

    /// The devices of `bus` that have a function 0, each as the bit of its number. Every bus is looked at and most are empty, so it may
    /// be worth a way of its own.
    fn devices_on(self, bus: u8) -> u32 {
        let is_there = |device| self.get(PciAddress::new(0, bus, device, 0), 0) as u16 != NO_VENDOR;
        (0..DEVICES).fold(0, |found, device| found | u32::from(is_there(device)) << device)
    }
}

/// PCI, as the CPU that looks at it sees it.
#[derive(Clone, Copy, Debug)]
pub struct Pci<'r, C> {
    /// Its configuration space.
    pub config: C,
    /// All RAM.
    pub ram: &'r [PhysRange],
    /// How many bits of a physical address the CPU has, at most 52.
    pub address_bits: u8,
}
