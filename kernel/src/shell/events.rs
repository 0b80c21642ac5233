//! `trace COMMAND`: every event of a command, in words.
use super::desk::Desk;
use super::{CommandResult, ShellError, execute};
use crate::trace;
use alloc::format;
use alloc::string::String;
use ferry_mm::page_table::entry::RawEntry;
use ferry_mm::page_table::words::EntryWords;
use ferry_protocol::link::decode;
use ferry_protocol::trace::{Event, MAX_FRAME_BYTES, Record};
use x86_64::structures::paging::page_table::PageTableLevel;

/// Does a command, then shows what the ring has kept of it.
pub(super) fn trace(desk: &mut Desk, name: &str, rest: &[&str]) -> CommandResult {
    if !trace::is_on() {
        return Err(ShellError::NoEvents);
    }
    if matches!(name, "trace" | "expect") {
        return Err(ShellError::Nested);
    }
    let mut frame = [0; MAX_FRAME_BYTES];
    while trace::take(&mut frame).is_some() {}
    let result = execute(desk, name, rest);
    while let Some(length) = trace::take(&mut frame) {
        let Ok(Record { event, .. }) = decode::<Record<'_>>(&mut frame[..length]) else { continue };
        desk.say(format_args!("  | {}", words(&event)));
    }
    result
}

fn words(event: &Event<'_>) -> String {
    match *event {
        Event::Entry { address, level, old, new, .. } => {
            let level = match level {
                4 => PageTableLevel::Four,
                3 => PageTableLevel::Three,
                2 => PageTableLevel::Two,
                _ => PageTableLevel::One,
            };
            let entry = |raw| EntryWords { level, entry: RawEntry(raw) };
            format!("entry L{} of v{address:#x}: {} -> {}", level as u8, entry(old), entry(new))
        }
        Event::FaultRaised { address, code, .. } => format!("page fault at v{address:#x}, error code {code:#x}"),
        Event::FaultHandled { outcome, .. } => format!("fault handled: {outcome}"),
        Event::Flush { pages: Some((start, pages)), cpus, .. } => {
            format!("flush of {pages} pages from v{start:#x} on, CPUs {cpus:#b}")
        }
        Event::Flush { pages: None, cpus, .. } => format!("flush of everything, CPUs {cpus:#b}"),
        Event::FlushLost => "... which was lost".into(),
        Event::Migration { phase, pages, device, .. } => match device {
            Some(device) => format!("migration of {pages} pages to device {device}: {phase:?}"),
            None => format!("migration of {pages} pages home: {phase:?}"),
        },
        other => format!("{other:?}"),
    }
}
