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

/// Configuration space of segment 0, the first 256 bytes of each function.
pub trait ConfigSpace: ConfigRegionAccess + Copy {
    /// Reads four bytes at `offset`, a multiple of four. A function that is absent reads as all ones.
    fn get(self, function: PciAddress, offset: u16) -> u32;

    /// Writes four bytes at `offset`, a multiple of four. A BAR in the wrong place puts a device over RAM: whoever calls this
    /// puts back what it changes, with decoding off.
    fn set(self, function: PciAddress, offset: u16, value: u32);
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
