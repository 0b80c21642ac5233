//! What a person sees of the demo.
use ferry_protocol::link::{Checkpoint, Stage};

use super::summary::Summary;
use super::verify::{Seen, Verifier};
use crate::guest::walk::Walk;
use crate::input::Input;
use crate::machine::{Accelerator, MachineOptions};
use crate::qemu::Qemu;
use crate::screen::Screen;
use crate::size::{Size, grouped};
use crate::sys::PAGE_BYTES;

/// What will be done, and on what.
pub fn introduction(screen: &Screen, machine: &MachineOptions, qemu: &Qemu, input: &Input) {
    let (bytes, pages) = (grouped(input.bytes().len() as u64), count(input.pages(), "page"));
    let hash = input.hash();
    screen.plain(format_args!("input    {}: {bytes} bytes, {pages}, SHA-256 {hash:.16}...", input.path().display()));
    let device = match machine.devices.len() {
        0 => "no device".to_owned(),
        1 => format!("{} of device memory behind a PCI BAR", machine.vram),
        devices => format!("{devices} devices with {} of memory behind a PCI BAR each", machine.vram),
    };
    let swap = match machine.swap.size() {
        Size(0) => String::new(),
        swap => format!(", {swap} of swap"),
    };
    let accelerator = match machine.accelerator {
        Accelerator::Tcg => "TCG",
        Accelerator::Kvm => "KVM",
    };
    let (cpus, memory, version) = (count(machine.cpus.into(), "CPU"), machine.memory, qemu.version());
    screen.plain(format_args!("machine  QEMU {version} ({accelerator}), q35, {cpus}, {memory} of RAM, {device}{swap}"));
}

/// A line of the kernel's console.
pub fn console_line(screen: &Screen, line: &str) {
    screen.event(format_args!("kernel | {line}"));
}

/// The bar's label while the kernel works towards `stage`.
pub fn label(stage: Stage) -> &'static str {
    match stage {
        Stage::Populated => "filling",
        Stage::Migrated => "migrating",
        Stage::Transformed => "transforming",
        Stage::Returned => "returning",
        Stage::TornDown => "tearing down",
    }
}

/// Pages that did not go in a round.
pub fn stayed(screen: &Screen, round: u32, reason: &str, pages: u64) {
    screen.event(format_args!("round {round}: {} stayed in RAM: {reason}", count(pages, "page")));
}

/// An access that brought a page home, in strict mode.
pub fn homecoming(screen: &Screen, address: u64, instruction: &str, write: bool) {
    let access = if write { "store" } else { "load" };
    screen.event(format_args!("strict: a {access} at v{address:#018x} brought its page home: {instruction}"));
}

/// What the host saw at a checkpoint.
pub fn checkpoint(screen: &Screen, checkpoint: &Checkpoint, seen: &Seen, verifier: &Verifier) {
    let (round, pages) = (checkpoint.round, count(seen.pages, "page"));
    match checkpoint.stage {
        Stage::Populated => {
            screen.event(format_args!("host: {pages} in RAM{}, byte for byte the file", swapped(seen)));
        }
        Stage::Migrated => screen
            .event(format_args!("host: round {round}: {pages} on the device, one frame each, byte for byte the file")),
        Stage::Transformed => {
            screen.event(format_args!("host: round {round}: the device has inverted every byte of {pages}"));
        }
        Stage::Returned => {
            let swapped = swapped(seen);
            screen.event(format_args!("host: round {round}: {pages} home again{swapped}, with the device's contents"));
        }
        Stage::TornDown => {
            let stale = seen.stale_bytes.unwrap_or(0);
            let frames = count(seen.pages, "device frame");
            screen.event(format_args!("host: {frames} scanned after the end: {}", left(stale)));
        }
    }
    if let (Some(walk), Some(page)) = (&seen.sample, verifier.sample()) {
        sample(screen, checkpoint, page, walk);
    }
    if let Some(hash) = seen.hash {
        screen.event(format_args!("host: SHA-256 of all pages in guest RAM: {hash:.16}..."));
    }
}

/// The last lines of a run in which everything held.
pub fn conclusion(screen: &Screen, summary: &Summary) {
    let (pages, rounds) = (count(summary.pages(), "page"), count(summary.rounds().into(), "round"));
    let seconds = summary.wall.as_secs_f64();
    screen.plain(format_args!(
        "verified {pages} to the device and home by page fault in {rounds}, {seconds:.2} s; nothing leaked, \
         nothing left on the device"
    ));
}

/// The four-level path of the sample page, as walked from outside.
fn sample(screen: &Screen, checkpoint: &Checkpoint, page: u64, walk: &Walk) {
    let address = checkpoint.start.wrapping_add(page * PAGE_BYTES as u64);
    screen.detail(format_args!("page {} at v{address:#018x}, through the guest's own tables:", grouped(page)));
    for step in &walk.steps {
        screen.detail(format_args!("  {step}"));
    }
}

/// The part of the input that is not in RAM, where there is one.
fn swapped(seen: &Seen) -> String {
    match seen.swapped {
        0 => String::new(),
        pages => format!(" ({} of the input on the swap disk)", count(pages, "page")),
    }
}

fn left(bytes: u64) -> String {
    match bytes {
        0 => "every byte is zero".to_owned(),
        bytes => format!("{} not zero", count(bytes, "byte")),
    }
}

/// `number` and `thing`, with an s where there is not just one.
fn count(number: u64, thing: &str) -> String {
    format!("{} {thing}{}", grouped(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_many() {
        assert_eq!([count(0, "page"), count(1, "page"), count(1221, "page")], ["0 pages", "1 page", "1,221 pages"]);
    }
}
