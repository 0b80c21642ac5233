//! What the memory manager believes about an address, for reports: reads without a lock, allocates nothing.
#![forbid(unsafe_code)]
use super::{MANAGER, current_space};
use crate::disk;
use core::fmt::{self, Write};
use x86_64::VirtAddr;

/// Writes what is known about the page at `address`.
///
/// # Errors
/// Those of `out`.
pub fn explain(address: VirtAddr, out: &mut dyn Write) -> fmt::Result {
    let Some(manager) = MANAGER.get() else {
        return writeln!(out, "the memory manager does not exist yet");
    };
    let Some(space) = current_space() else {
        return writeln!(out, "this CPU is in no address space");
    };
    let entry = space.entry(address);
    writeln!(out, "in address space {} the page is {}", space.id().number(), entry.decode())?;
    if let Some(failure) = disk::last_failure() {
        writeln!(out, "{failure}")?;
    }
    let Some(frame) = manager.mapped_frame(entry) else { return Ok(()) };
    let Some(descriptor) = manager.descriptor(frame) else {
        return writeln!(out, "there is no such frame: the entry is damaged");
    };
    writeln!(
        out,
        "its frame is {:?}, has {} references, {} mappings and {} pins, and is {}",
        descriptor.kind(),
        descriptor.references(),
        descriptor.mappings(),
        descriptor.pins(),
        if descriptor.is_locked() { "locked" } else { "not locked" },
    )
}
