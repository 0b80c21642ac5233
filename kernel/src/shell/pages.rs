//! Commands that do something with pages.
use super::desk::{Desk, Named, parse};
use super::{CommandResult, ShellError};
use crate::arch::probe;
use crate::memory::device as driver;
use crate::memory::{manager, step_of};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;
use ferry_mm::address::{PAGE_BYTES, PageRange};
use ferry_mm::frame::AnyFrame;
use ferry_mm::migrate::Report;
use ferry_mm::space::{Access, Protection, Term};
use ferry_mm::stats::{Counts, Stayed};
use ferry_protocol::options::InjectStep;

pub(super) fn map(desk: &mut Desk, name: &str, size: &str, rights: &str) -> CommandResult {
    if desk.names.iter().any(|named| named.name == name) {
        return Err(ShellError::NameTaken { word: name.into() });
    }
    let letters = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !letters || !name.starts_with(|first: char| first.is_ascii_alphabetic()) {
        return Err(ShellError::BadName { word: name.into() });
    }
    let (bytes, protection) = (parse(size)?, protection_of(rights)?);
    let range = desk.place(bytes.div_ceil(PAGE_BYTES))?;
    desk.space.map_anonymous(range, protection)?;
    desk.names.push(Named { name: name.into(), range });
    desk.say(format_args!(
        "{name}: v{:#x}..v{:#x}, {}, {}",
        range.start_address(),
        range.end(),
        count(range.pages(), "page"),
        words_of(protection)
    ));
    Ok(())
}

pub(super) fn touch(desk: &mut Desk, place: &str, pages: Option<&str>) -> CommandResult {
    let range = desk.pages(place, pages)?;
    let before = counts();
    let result = (0..range.pages()).try_for_each(|index| probe::load(range.page(index).start_address()).map(drop));
    let faults = faults_since(&before);
    result?;
    desk.say(format_args!("touched {}: {faults}", count(range.pages(), "page")));
    Ok(())
}

pub(super) fn read(desk: &mut Desk, place: &str) -> CommandResult {
    let address = desk.address(place)?;
    let before = counts();
    let value = probe::load(address)?;
    desk.say(format_args!("v{address:#x} is {value:#x} ({})", faults_since(&before)));
    Ok(())
}

pub(super) fn write(desk: &mut Desk, place: &str, value: &str, pages: Option<&str>) -> CommandResult {
    let (address, value) = (desk.address(place)?, parse(value)?);
    let pages = pages.map_or(Ok(1), parse)?;
    let before = counts();
    for index in 0..pages {
        probe::store(address + index * PAGE_BYTES, value)?;
    }
    let faults = faults_since(&before);
    match pages {
        1 => desk.say(format_args!("v{address:#x} is now {value:#x} ({faults})")),
        _ => desk.say(format_args!("the first word of {} is now {value:#x} ({faults})", count(pages, "page"))),
    }
    Ok(())
}

pub(super) fn migrate(desk: &mut Desk, place: &str, pages: Option<&str>, device: Option<&str>) -> CommandResult {
    let (range, device) = (desk.pages(place, pages)?, desk.device(device)?);
    let report = desk.space.migrate_to_device(range, device)?;
    tell(desk, report, format_args!("to device {}", device.number()))
}

pub(super) fn back(desk: &mut Desk, place: &str, pages: Option<&str>) -> CommandResult {
    let range = desk.pages(place, pages)?;
    let report = desk.space.migrate_to_system(range)?;
    tell(desk, report, format_args!("home"))
}

/// Says what a migration did; a migration of nothing is no success.
pub(super) fn tell(desk: &mut Desk, report: Report, whither: core::fmt::Arguments<'_>) -> CommandResult {
    desk.say(format_args!("{} went {whither}", count(report.moved, "page")));
    stayed(desk, &report.stayed);
    if report.moved == 0 { Err(ShellError::Stayed) } else { Ok(()) }
}

fn stayed(desk: &mut Desk, stayed: &Stayed) {
    for (reason, pages) in stayed.iter() {
        desk.say(format_args!("  {} stayed: {}", count(pages, "page"), reason.name()));
    }
}

pub(super) fn swap(desk: &mut Desk, place: &str, pages: Option<&str>) -> CommandResult {
    let range = desk.pages(place, pages)?;
    let before = counts();
    let out = desk.space.swap_out(range)?;
    desk.say(format_args!("{} went to the swap disk", count(counts().swapped_out - before.swapped_out, "page")));
    stayed(desk, &out.stayed);
    if counts().swapped_out == before.swapped_out { Err(ShellError::Stayed) } else { Ok(()) }
}

pub(super) fn evict(desk: &mut Desk, device: Option<&str>) -> CommandResult {
    let id = desk.device(device)?;
    let Some(evicted) = manager().evict_device(id) else { return Ok(()) };
    if let Some(device) = manager().device(id) {
        device.reopen();
    }
    desk.say(format_args!("device {}: {} came home", id.number(), count(evicted.returned, "page")));
    let kept =
        [(evicted.lost, "lost"), (evicted.no_memory, "no-memory"), (evicted.busy, "busy"), (evicted.pinned, "pinned")];
    for (pages, why) in kept.into_iter().filter(|(pages, _)| *pages > 0) {
        desk.say(format_args!("  {}: {why}", count(pages, "page")));
    }
    Ok(())
}

pub(super) fn pin(desk: &mut Desk, place: &str, term: Term) -> CommandResult {
    let address = desk.address(place)?;
    let pin = desk.space.pin(address, Access::Write, term)?;
    let frame = pin.frame();
    desk.pins.push(Some(pin));
    desk.say(format_args!("pin {} holds {}, the frame of v{address:#x}", desk.pins.len(), name_of(frame)));
    Ok(())
}

pub(super) fn list_pins(desk: &mut Desk) -> CommandResult {
    let held: Vec<_> =
        (1..).zip(&desk.pins).filter_map(|(number, pin)| Some((number, pin.as_ref()?.frame()))).collect();
    if held.is_empty() {
        desk.say(format_args!("nothing is pinned"));
    }
    for (number, frame) in held {
        desk.say(format_args!("pin {number} holds {}", name_of(frame)));
    }
    Ok(())
}

pub(super) fn unpin(desk: &mut Desk, number: &str) -> CommandResult {
    let index = parse(number)?.checked_sub(1);
    let pin = index.and_then(|index| desk.pins.get_mut(index as usize)).and_then(Option::take);
    let Some(pin) = pin else { return Err(ShellError::NoSuchPin { word: number.into() }) };
    let frame = name_of(pin.frame());
    drop(pin);
    desk.say(format_args!("{frame} is let go"));
    Ok(())
}

pub(super) fn protect(desk: &mut Desk, place: &str, pages: Option<&str>, rights: &str) -> CommandResult {
    let (range, protection) = (desk.pages(place, pages)?, protection_of(rights)?);
    desk.space.protect(range, protection)?;
    desk.say(format_args!("{} may now be used: {}", count(range.pages(), "page"), words_of(protection)));
    Ok(())
}

pub(super) fn discard(desk: &mut Desk, place: &str, pages: Option<&str>) -> CommandResult {
    let range = desk.pages(place, pages)?;
    desk.space.discard(range)?;
    desk.say(format_args!("the contents of {} are gone", count(range.pages(), "page")));
    Ok(())
}

pub(super) fn unmap(desk: &mut Desk, place: &str, pages: Option<&str>) -> CommandResult {
    let range = desk.pages(place, pages)?;
    desk.space.unmap(range)?;
    desk.names.retain(|named| !range.contains(named.range));
    desk.say(format_args!("{} unmapped", count(range.pages(), "page")));
    Ok(())
}

pub(super) fn invert(desk: &mut Desk, place: &str, pages: Option<&str>) -> CommandResult {
    let range = desk.pages(place, pages)?;
    for device in desk.devices {
        let there = |index| match manager().mapped_frame(desk.space.entry(range.page(index).start_address())) {
            Some(AnyFrame::Device(frame)) if frame.device() == device.id => Some(frame),
            _ => None,
        };
        let frames: Vec<_> = (0..range.pages()).filter_map(there).collect();
        if !frames.is_empty() {
            let done = driver::invert(device.id, frames)?;
            desk.say(format_args!("device {} inverted every byte of {}", device.id.number(), count(done, "page")));
        }
    }
    Ok(())
}

pub(super) fn inject(desk: &mut Desk, kind: &str, number: &str) -> CommandResult {
    let Some((name, step)) = InjectStep::NAMES.iter().find(|(name, _)| *name == kind) else {
        return Err(ShellError::BadStep { word: kind.into() });
    };
    let number = parse(number)?;
    manager().injector().arm(step_of(*step), number);
    desk.say(format_args!("step {name} number {number} from now on fails"));
    Ok(())
}

fn protection_of(word: &str) -> Result<Protection, ShellError> {
    match word {
        "rw" => Ok(Protection::READ_WRITE),
        "r" => Ok(Protection::READ),
        "none" => Ok(Protection::empty()),
        _ => Err(ShellError::BadRights { word: word.into() }),
    }
}

/// A protection in words.
pub(super) fn words_of(protection: Protection) -> &'static str {
    match (protection.contains(Protection::READ), protection.contains(Protection::WRITE)) {
        (_, true) => "loads and stores",
        (true, false) => "loads only",
        (false, false) => "no access",
    }
}

/// A frame as people write it.
pub(super) fn name_of(frame: AnyFrame) -> String {
    let mut text = String::new();
    // A String takes everything.
    let _ = match frame {
        AnyFrame::System(frame) => write!(text, "page frame p{:#x}", frame.start_address().as_u64()),
        AnyFrame::Device(frame) => write!(text, "frame {} of device {}", frame.index(), frame.device().number()),
    };
    text
}

/// `number` and `thing`, with an s where there is not just one.
pub(super) fn count(number: u64, thing: &str) -> String {
    let mut text = String::new();
    let _ = write!(text, "{number} {thing}{}", if number == 1 { "" } else { "s" });
    text
}

pub(super) fn counts() -> Counts {
    manager().statistics().read()
}

/// What faults have done since `before`, in words.
pub(super) fn faults_since(before: &Counts) -> String {
    let now = counts();
    let faults = now.faults - before.faults;
    if faults == 0 {
        return "no fault".into();
    }
    let mut text = count(faults, "fault");
    let mut mark = ':';
    for (pages, what) in [
        (now.zero_pages_mapped - before.zero_pages_mapped, "got the zero page"),
        (now.fresh_pages_mapped - before.fresh_pages_mapped, "got a fresh frame"),
        (now.copied_pages_mapped - before.copied_pages_mapped, "got a copy"),
        (now.returned_by_fault - before.returned_by_fault, "came home"),
        (now.swapped_in - before.swapped_in, "came from the swap disk"),
    ] {
        if pages > 0 {
            let _ = write!(text, "{mark} {} {what}", count(pages, "page"));
            mark = ',';
        }
    }
    text
}

/// The pages of a range, by address.
pub(super) fn addresses(range: PageRange) -> impl Iterator<Item = x86_64::VirtAddr> {
    (0..range.pages()).map(move |index| range.page(index).start_address())
}
