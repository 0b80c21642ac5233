//! Which CPUs the machine has, as its firmware says, and the start of those that do not boot.
#![forbid(unsafe_code)]
use crate::arch::cpu::Features;
use crate::arch::cpus::{self, start::StartError};
use crate::arch::low_physical::FirmwareTables;
use crate::arch::per_cpu::MOST_CPUS;
use ferry_acpi::processors;

/// Starts every CPU that the tables below the root pointer at physical `rsdp` name, up to [`MOST_CPUS`].
///
/// Without usable tables the machine runs on with the CPU that boots.
///
/// # Errors
/// A CPU that is named does not start.
pub fn start_cpus(features: Features, rsdp: Option<u64>) -> Result<(), StartError> {
    let Some(rsdp) = rsdp else {
        log::warn!("the loader does not say where the ACPI tables are; running on one CPU");
        return Ok(());
    };
    match processors(&mut FirmwareTables, rsdp) {
        Ok(found) => {
            if found.count() > MOST_CPUS {
                log::warn!("the machine has {} CPUs; {MOST_CPUS} of them are used", found.count());
            }
            cpus::start::start(features, found.ids())
        }
        Err(error) => {
            log::warn!("{error}; running on one CPU");
            Ok(())
        }
    }
}
