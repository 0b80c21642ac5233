//! The targets, each in a file of its name. The first line of a file says what the target is.
mod acpi;
mod driver;
mod elf;
mod link;
mod model;
mod options;
mod pci;
mod request;

use crate::Target;

/// Every target.
pub const ALL: &[Target] = &[
    acpi::TARGET,
    driver::TARGET,
    elf::TARGET,
    link::TARGET,
    model::TARGET,
    options::TARGET,
    pci::TARGET,
    request::TARGET,
];
