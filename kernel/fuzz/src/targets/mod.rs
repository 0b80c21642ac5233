//! The targets, each in a file of its name. The first line of a file says what the target is.
mod acpi;
mod elf;
mod request;

use crate::Target;

/// Every target.
pub const ALL: &[Target] = &[acpi::TARGET, elf::TARGET, request::TARGET];
