//! The targets, each in a file of its name. The first line of a file says what the target is.
mod acpi;
mod driver;
mod elf;
mod fw_cfg;
mod link;
mod memory_map;
mod model;
mod options;
mod pci;
mod request;
mod trace;

use crate::Target;

/// Every target.
pub const ALL: &[Target] = &[
    acpi::TARGET,
    driver::TARGET,
    elf::TARGET,
    fw_cfg::TARGET,
    link::TARGET,
    memory_map::TARGET,
    model::TARGET,
    options::TARGET,
    pci::TARGET,
    request::TARGET,
    trace::TARGET,
];
