//! Commands that only look.
use super::desk::Desk;
use super::pages::{addresses, count, counts, name_of, words_of};
use super::{CommandResult, ShellError};
use crate::memory::manager;
use core::fmt;
use ferry_mm::frame::AnyFrame;
use ferry_mm::page_table::entry::{Entry, RawEntry};
use ferry_mm::page_table::words::EntryWords;
use ferry_mm::space::Residency;
use x86_64::VirtAddr;
use x86_64::structures::paging::page_table::PageTableLevel;

pub(super) fn maps(desk: &mut Desk) -> CommandResult {
    if desk.names.is_empty() {
        desk.say(format_args!("nothing is mapped; try: map heap 16K"));
    }
    for named in desk.names.clone() {
        let mut where_they_are = Residency::default();
        for address in addresses(named.range) {
            let entry = desk.space.entry(address);
            match entry.decode() {
                Entry::Swap { .. } => where_they_are.swap += 1,
                _ => match manager().mapped_frame(entry) {
                    Some(AnyFrame::System(frame)) if frame == manager().zero_frame() => where_they_are.zero += 1,
                    Some(AnyFrame::System(_)) => where_they_are.ram += 1,
                    Some(AnyFrame::Device(_)) => where_they_are.device += 1,
                    None => {}
                },
            }
        }
        let Residency { ram, zero, device, swap } = where_they_are;
        let untouched = named.range.pages() - ram - zero - device - swap;
        let rights = desk.space.area(named.range.start()).map_or("not mapped here", |area| words_of(area.protection));
        desk.say(format_args!(
            "{:<8} v{:#x}..v{:#x}  {rights}: {ram} in RAM, {zero} the zero page, {device} on a device, {swap} swapped, {untouched} untouched",
            named.name,
            named.range.start_address(),
            named.range.end(),
        ));
    }
    Ok(())
}

/// The whole path of an address.
pub(super) fn walk(desk: &mut Desk, place: &str) -> CommandResult {
    let address = desk.address(place)?;
    let [four, three, two, one] =
        [address.p4_index(), address.p3_index(), address.p2_index(), address.p1_index()].map(u16::from);
    let offset = u16::from(address.page_offset());
    desk.say(format_args!("v{address:#x} = L4[{four}] L3[{three}] L2[{two}] L1[{one}] + {offset:#x}"));
    let path = desk.space.path(address);
    for step in path.steps() {
        let words = EntryWords { level: step.level, entry: step.entry };
        desk.say(format_args!(
            "  L{}[{:3}] in p{:#x}  {:#018x}  {words}",
            step.level as u8,
            u16::from(step.slot.index()),
            step.slot.table().start_address().as_u64(),
            step.entry.0
        ));
    }
    if path.leaf().is_none() && path.last() == RawEntry::EMPTY {
        desk.say(format_args!("  the tables below do not exist: nothing was ever here"));
    }
    Ok(())
}

/// The last entries of several pages.
pub(super) fn leaves(desk: &mut Desk, place: &str, pages: &str) -> CommandResult {
    let range = desk.pages(place, Some(pages))?;
    for address in addresses(range) {
        let entry = desk.space.entry(address);
        desk.say(format_args!("{}", Leaf { address, entry }));
    }
    Ok(())
}

/// A page's address and its level-1 entry.
pub(super) struct Leaf {
    pub address: VirtAddr,
    pub entry: RawEntry,
}

impl fmt::Display for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = EntryWords { level: PageTableLevel::One, entry: self.entry };
        write!(f, "  v{:#x}  {:#018x}  {words}", self.address, self.entry.0)
    }
}

pub(super) fn count_frames(desk: &mut Desk) -> CommandResult {
    let census = manager().census();
    desk.say(format_args!("RAM: {} frames free, {} are page tables", census.free_frames, census.table_frames));
    desk.say(format_args!("devices: {} frames free", census.free_device_frames));
    desk.say(format_args!("swap disk: {} slots free", census.free_slots));
    desk.say(format_args!(
        "{}, {} special entries in them",
        count(census.spaces, "address space"),
        census.special_entries
    ));
    Ok(())
}

/// The descriptor of the frame behind a page.
pub(super) fn frame(desk: &mut Desk, place: &str) -> CommandResult {
    let address = desk.address(place)?;
    let entry = desk.space.entry(address);
    let Some(frame) = manager().mapped_frame(entry) else {
        desk.say(format_args!(
            "no frame is behind v{address:#x}: {}",
            EntryWords { level: PageTableLevel::One, entry }
        ));
        return Ok(());
    };
    let Some(descriptor) = manager().descriptor(frame) else { return Err(ShellError::NoPages) };
    desk.say(format_args!(
        "{}: {:?}, {}, {}, {}, {}",
        name_of(frame),
        descriptor.kind(),
        count(descriptor.references().into(), "reference"),
        count(descriptor.mappings().into(), "mapping"),
        count(descriptor.pins().into(), "pin"),
        if descriptor.is_locked() { "locked" } else { "not locked" },
    ));
    Ok(())
}

pub(super) fn devices(desk: &mut Desk) -> CommandResult {
    for attached in desk.devices {
        let Some(memory) = manager().device(attached.id) else { continue };
        desk.say(format_args!(
            "device {} ({}): PCI function {}, BAR {}, {} of {} frames free",
            attached.id.number(),
            attached.device_type,
            attached.function,
            attached.range,
            memory.free(),
            memory.frames()
        ));
    }
    Ok(())
}

pub(super) fn statistics(desk: &mut Desk) -> CommandResult {
    let (before, now) = (core::mem::replace(&mut desk.seen, counts()), counts());
    let changed = before.iter().zip(now.iter()).filter(|((_, before), (_, now))| before != now);
    let mut any = false;
    for ((name, before), (_, now)) in changed {
        desk.say(format_args!("{name:<24} {:>8}  (+{})", now, now - before));
        any = true;
    }
    if !any {
        desk.say(format_args!("nothing has changed since the last time"));
    }
    Ok(())
}
