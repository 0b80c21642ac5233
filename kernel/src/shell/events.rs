//! `trace COMMAND`: every event of a command, in words.
use super::desk::Desk;
use super::pages::count;
use super::{CommandResult, ShellError, execute};
use crate::trace;
use core::fmt;
use ferry_mm::address::PAGE_BYTES;
use ferry_mm::page_table::entry::RawEntry;
use ferry_mm::page_table::words::EntryWords;
use ferry_protocol::link::decode;
use ferry_protocol::trace::{Event, Frame, MAX_FRAME_BYTES, Phase, Record, Resident};
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
        desk.say(format_args!("  | {}", Words(&event)));
    }
    result
}

/// An event, in words.
struct Words<'a>(&'a Event<'a>);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self.0 {
            Event::Entry { address, level, old, new, .. } => {
                let level = match level {
                    4 => PageTableLevel::Four,
                    3 => PageTableLevel::Three,
                    2 => PageTableLevel::Two,
                    _ => PageTableLevel::One,
                };
                let entry = |raw| EntryWords { level, entry: RawEntry(raw) };
                write!(f, "entry L{} of v{address:#x}: {} -> {}", level as u8, entry(old), entry(new))
            }
            Event::FaultRaised { address, code, .. } => write!(f, "page fault at v{address:#x}, error code {code:#x}"),
            Event::FaultHandled { outcome, .. } => write!(f, "fault handled: {outcome}"),
            Event::Flush { pages: Some((start, pages)), cpus, .. } => {
                write!(f, "flush of {} from v{start:#x} on, CPUs {cpus:#b}", count(pages, "page"))
            }
            Event::Flush { pages: None, cpus, .. } => write!(f, "flush of everything, CPUs {cpus:#b}"),
            Event::FlushLost => f.write_str("... which was lost"),
            Event::Migration { phase, pages, device, .. } => {
                write!(f, "migration of {} ", count(pages, "page"))?;
                match device {
                    Some(device) => write!(f, "to device {device}: ")?,
                    None => f.write_str("home: ")?,
                }
                match phase {
                    Phase::Collect => f.write_str("collect"),
                    Phase::Unmap => f.write_str("check for other users"),
                    Phase::Copy => f.write_str("copy"),
                    Phase::Finalize => f.write_str("finalize"),
                    Phase::GiveBack => f.write_str("give back"),
                    Phase::Done(moved, stayed) => write!(f, "done, {moved} moved and {stayed} stayed"),
                }
            }
            Event::Moved { address, .. } => write!(f, "the page at v{address:#x} has moved"),
            Event::Stays { address, reason, .. } => write!(f, "the page at v{address:#x} stays: {reason}"),
            Event::EvictionBegins { device } => write!(f, "all pages of device {device} shall come home"),
            Event::EvictionEnds { device, returned, failed } => {
                write!(f, "device {device}: {} came home, {failed} did not", count(returned, "page"))
            }
            Event::Announced { start, pages, reason, .. } => {
                write!(f, "listeners told of {} from v{start:#x} on: {reason}", count(pages, "page"))
            }
            Event::AnnouncementEnds { start, pages, .. } => {
                write!(f, "listeners may look again at {} from v{start:#x} on", count(pages, "page"))
            }
            Event::Charged { resident, pages, .. } => write!(f, "{} more {}", count(pages, "page"), place(resident)),
            Event::Uncharged { resident, pages, .. } => write!(f, "{} fewer {}", count(pages, "page"), place(resident)),
            Event::FrameTaken { frame, order } => write!(f, "taken: {}", Block { frame, order }),
            Event::FrameFreed { frame, order } => write!(f, "free again: {}", Block { frame, order }),
            Event::DeviceFrameTaken { device, frame } => write!(f, "taken: {}", Place(Frame::Device(device, frame))),
            Event::DeviceFrameFreed { device, frame } => {
                write!(f, "free again: {}", Place(Frame::Device(device, frame)))
            }
            Event::Cleared { frame } => write!(f, "cleared: {}", Place(frame)),
            Event::Copied { source, target } => write!(f, "copied: {} -> {}", Place(source), Place(target)),
            Event::Pinned { address, frame, .. } => write!(f, "pinned: {} of v{address:#x}", Place(frame)),
            Event::Unpinned { frame } => write!(f, "no longer pinned: {}", Place(frame)),
            Event::DeviceWorked { device, frames } => {
                write!(f, "device {device} has changed {}", count(frames, "device frame"))
            }
            Event::DiskWritten { slot, frame } => write!(f, "written to slot {slot}: {}", Place(Frame::Ram(frame))),
            Event::DiskRead { slot, frame } => write!(f, "read from slot {slot}: {}", Place(Frame::Ram(frame))),
            Event::Areas { start, pages, area: Some(_), .. } => {
                write!(f, "area of {} from v{start:#x} on", count(pages, "page"))
            }
            Event::Areas { start, pages, area: None, .. } => {
                write!(f, "no area any more for {} from v{start:#x} on", count(pages, "page"))
            }
            Event::SpaceCreated { space, root } => {
                write!(f, "space {space} made, its level-4 table {}", Place(Frame::Ram(root)))
            }
            Event::SpaceDestroyed { space } => write!(f, "space {space} gone"),
            Event::Forked { parent, child } => write!(f, "space {child} is a copy of space {parent}"),
            Event::Entered { space } => write!(f, "space {space} entered"),
            Event::Left { space } => write!(f, "space {space} left"),
            Event::Lost { records } => write!(f, "{} lost: the ring was full", count(records, "event")),
            // Those of a stream's beginning and of stories, which no command of the shell makes.
            ref other => write!(f, "{other:?}"),
        }
    }
}

/// A frame, as users write it.
struct Place(Frame);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Frame::Ram(number) => write!(f, "frame p{:#x}", number * PAGE_BYTES),
            Frame::Device(device, frame) => write!(f, "device {device}, device frame {frame}"),
        }
    }
}

/// 2 to the power of `order` RAM frames from `frame` on.
struct Block {
    frame: u64,
    order: u8,
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.order {
            0 => Place(Frame::Ram(self.frame)).fmt(f),
            order => write!(f, "{} frames from p{:#x} on", 1_u64 << order, self.frame * PAGE_BYTES),
        }
    }
}

/// Where pages are counted.
fn place(resident: Resident) -> &'static str {
    match resident {
        Resident::Ram => "in RAM",
        Resident::Zero => "for which the zero page stands",
        Resident::Device => "on devices",
        Resident::Swap => "on the swap disk",
    }
}
