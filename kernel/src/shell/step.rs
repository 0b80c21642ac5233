//! A migration or a fault, phase by phase: what the entries say after each, and what would go wrong if it stopped there.
//!
//! The phases are the memory manager's own: each is a type, and only the one before it leads there
//! (`ferry_mm::migrate::{Collected, Unmapped, Copied}`). Dropping any of them gives every page back.
use super::CommandResult;
use super::desk::Desk;
use super::look::Leaf;
use super::pages::{addresses, counts, tell};
use crate::arch::probe;
use core::fmt;
use ferry_mm::address::PageRange;
use ferry_mm::migrate::Held;
use ferry_mm::page_table::entry::{Entry, LeafFlags};
use ferry_mm::space::Access;

/// Entries that are shown of a longer range.
const SHOWN: u64 = 4;

pub(super) fn migrate(desk: &mut Desk, place: &str, pages: Option<&str>) -> CommandResult {
    let (range, device) = (desk.pages(place, pages)?, desk.device(None)?);
    let (space, before) = (desk.space, counts());
    desk.say(format_args!("before"));
    show(desk, range);
    let mut collected = space.collect(range, device)?;
    desk.say(format_args!(
        "phase 1, collect: each entry was exchanged for one that says `migrating`, then every CPU that may have cached \
                           them was flushed ({} flush)",
        counts().flushes - before.flushes
    ));
    show(desk, range);
    held(desk, collected.standings());
    stop(desk, "whoever touches the pages would wait for ever: the contents are safe, but nobody finishes");
    let mut unmapped = collected.unmap()?;
    desk.say(format_args!(
        "phase 2, check: no CPU can store to the pages any more, so now their references are counted; pages that \
                           somebody else uses are given back"
    ));
    held(desk, unmapped.standings());
    stop(desk, "checked before the flush, a store could still come, through a translation that a CPU remembers");
    let mut copied = unmapped.copy();
    desk.say(format_args!("phase 3, copy: the contents stand twice, in RAM and on device {}", device.number()));
    show(desk, range);
    held(desk, copied.standings());
    stop(
        desk,
        "the device frames would be lost for good, and with them the RAM frames that the entries still remember",
    );
    let report = copied.finalize();
    desk.say(format_args!("phase 4, finalize: the entries name device frames, and the RAM frames are free"));
    show(desk, range);
    desk.say(format_args!(
        "  freed before the flush of phase 1, a frame could belong to somebody else while a CPU still stores to it"
    ));
    tell(desk, report, format_args!("to device {}", device.number()))
}

pub(super) fn fault(desk: &mut Desk, place: &str, access: Access) -> CommandResult {
    let address = desk.address(place)?;
    let range = desk.pages(place, Some("1"))?;
    let entry = desk.space.entry(address).decode();
    let verb = if access == Access::Write { "store to" } else { "load from" };
    desk.say(format_args!("1, the CPU walks for a {verb} v{address:#x} and finds"));
    show(desk, range);
    if let Entry::Present { flags, .. } = entry
        && (access == Access::Read || flags.contains(LeafFlags::WRITABLE))
    {
        desk.say(format_args!("  it is present and allows that, so there is no fault"));
        return Ok(());
    }
    let present = if matches!(entry, Entry::Present { .. }) { "present, but it forbids that" } else { "not present" };
    desk.say(format_args!("  {present}: the CPU raises a page fault (vector 14) and leaves the address in CR2"));
    match desk.space.area(range.start()) {
        Some(area) => desk.say(format_args!("2, the area says: {}", super::pages::words_of(area.protection))),
        None => desk.say(format_args!("2, no area is there, so the access cannot succeed")),
    }
    desk.say(format_args!("3, {}", what_to_do(entry)));
    stop(desk, "the instruction would fault again, and again: a fault ends by changing the entry, or the program");
    let before = counts();
    let resolution = desk.space.fault(address, access)?;
    desk.say(format_args!(
        "4, done ({}), with {} flushes; the entry is now",
        resolution.name(),
        counts().flushes - before.flushes
    ));
    show(desk, range);
    let value = probe::load(address)?;
    desk.say(format_args!("5, the instruction is tried again and succeeds: v{address:#x} holds {value:#x}"));
    Ok(())
}

/// What the fault handler does about an entry.
fn what_to_do(entry: Entry) -> &'static str {
    match entry {
        Entry::Empty => "nothing was ever here: a load gets the zero page, a store a fresh frame full of zeros",
        Entry::Present { .. } => {
            "a store to a page that is shared, or is the zero page: this space gets a frame of its own"
        }
        Entry::Device { .. } => {
            "the page is on a device: a RAM frame is taken, the contents are copied home, the device frame is freed"
        }
        Entry::Swap { .. } => "the page is on the swap disk: it is read into a frame, with no lock held meanwhile",
        Entry::Migrating { .. } => "somebody is moving the page: wait without a lock or a reference, and look again",
        Entry::Exclusive { .. } => "a device has the page for itself: it is told, then the entry is present again",
        Entry::NoAccess { .. } | Entry::Poison | Entry::Unknown(_) => {
            "nothing can be done: the access ends in an error"
        }
    }
}

fn show(desk: &mut Desk, range: PageRange) {
    for address in addresses(range).take(SHOWN as usize) {
        let entry = desk.space.entry(address);
        desk.say(format_args!("{}", Leaf { address, entry }));
    }
    if range.pages() > SHOWN {
        desk.say(format_args!("  ... and {} more", range.pages() - SHOWN));
    }
}

fn held(desk: &mut Desk, standings: impl Iterator<Item = Held>) {
    let (mut ours, mut stay) = (0, 0);
    for standing in standings {
        match standing {
            Held::Yes => ours += 1,
            Held::No(_) => stay += 1,
        }
    }
    desk.say(format_args!("  {ours} pages under way, {stay} stay"));
}

fn stop(desk: &mut Desk, what: impl fmt::Display) {
    desk.say(format_args!("  stopped here: {what}"));
}
