//! The machine: everything that needs an instruction, a register or an I/O port.
//!
//! In reading order: [`layout`] (where things lie), [`stack`], [`per_cpu`] and `gdt` (what each CPU
//! has), `idt` and `entry` (how an exception arrives), [`frame`] (what it saves), [`exceptions`]
//! (what is done about it), [`probe`] (accesses that may fail), [`tables`] and [`backtrace`] (looks
//! at the machine for reports), [`cpus`] (many CPUs) and [`apic`] (how they talk), then the devices: [`serial`],
//! [`timer`], [`config_space`], [`fw_cfg_ports`], [`low_physical`], [`virtio`], [`virtio_block`], [`exit`]; and
//! [`meter`], which counts instructions.
#![allow(unsafe_code, reason = "this is the room for it")]

pub mod apic;
pub mod areas;
pub mod backtrace;
pub mod bar_window;
pub mod config_space;
pub mod cpu;
pub mod cpus;
mod entry;
pub mod exceptions;
pub mod exit;
pub mod frame;
pub mod fw_cfg_ports;
mod gdt;
mod idt;
pub mod layout;
pub mod low_physical;
pub mod machine;
mod memory_functions;
pub mod meter;
#[cfg(feature = "tests")]
pub mod misuse;
pub mod per_cpu;
pub mod probe;
pub mod serial;
pub mod stack;
pub mod tables;
pub(crate) mod takeover;
pub mod timer;
pub mod virtio;
pub mod virtio_block;

#[cfg(feature = "tests")]
mod entry_tests;

/// Prepares the CPU that boots: its features, its tables, the timer. From here on every exception
/// is reported.
///
/// `stack` is the stack that the loader has put the kernel on.
///
/// # Panics
/// When it is called twice.
pub fn init(stack: stack::StackBounds) -> cpu::Features {
    let features = cpu::enable();
    per_cpu::PerCpu::load_boot_cpu(stack);
    idt::fill_and_load();
    timer::start();
    features
}
