//! From the memory manager's events to the records of the stream: types become numbers, names become text.
use ferry_mm::address::{PAGE_BYTES, PageRange};
use ferry_mm::frame::{AnyFrame, CpuWindow, DeviceId};
use ferry_mm::page_table::flush::FlushScope;
use ferry_mm::space::{Access, AreaKind, Resident};
use ferry_mm::trace::{Direction, Event, Phase};
use ferry_protocol::trace::{self, Frame, cut};
use x86_64::structures::paging::PhysFrame;

/// The record's event for an event of the memory manager.
pub(super) fn event(event: &Event) -> trace::Event<'static> {
    use trace::Event as Told;
    match *event {
        Event::SpaceCreated { space, root } => Told::SpaceCreated { space: space.number(), root: ram(root) },
        Event::SpaceDestroyed { space } => Told::SpaceDestroyed { space: space.number() },
        Event::Forked { parent, child } => Told::Forked { parent: parent.number(), child: child.number() },
        Event::Entered { space } => Told::Entered { space: space.number() },
        Event::Left { space } => Told::Left { space: space.number() },
        Event::Areas { space, range, area } => {
            let ((start, pages), area) = (parts(range), area.map(|(rights, kind)| (rights.bits(), area_kind(kind))));
            Told::Areas { space: space.number(), start, pages, area }
        }
        Event::Entry { space, address, level, old, new } => {
            let (space, address) = (space.map(|space| space.number()), address.as_u64());
            Told::Entry { space, address, level: level as u8, old: old.0, new: new.0 }
        }
        Event::Fault { space, address, access, outcome } => Told::FaultHandled {
            space: space.number(),
            address: address.as_u64(),
            access: self::access(access),
            resolved: outcome.is_ok(),
            outcome: cut(outcome.map_or_else(|error| error.name(), |resolution| resolution.name())),
        },
        Event::Flush { space, request } => Told::Flush {
            space: space.number(),
            cpus: request.cpus.bits(),
            pages: match request.scope {
                FlushScope::Pages(range) => Some(parts(range)),
                FlushScope::LowerHalf => None,
            },
        },
        Event::Migration { space, range, direction, phase } => {
            let (start, pages) = parts(range);
            let device = match direction {
                Direction::ToDevice(device) => Some(device.number()),
                Direction::Home => None,
            };
            Told::Migration { space: space.number(), start, pages, device, phase: self::phase(phase) }
        }
        Event::Moved { space, page } => Told::Moved { space: space.number(), address: page.start_address().as_u64() },
        Event::Stays { space, page, reason } => {
            let address = page.start_address().as_u64();
            Told::Stays { space: space.number(), address, reason: cut(reason.name()) }
        }
        Event::EvictionBegins { device } => Told::EvictionBegins { device: device.number() },
        Event::EvictionEnds { device, returned, failed } => {
            Told::EvictionEnds { device: device.number(), returned, failed }
        }
        Event::Announced { space, range, reason } => {
            let (start, pages) = parts(range);
            Told::Announced { space: space.number(), start, pages, reason: cut(reason.name()) }
        }
        Event::AnnouncementEnds { space, range } => {
            let (start, pages) = parts(range);
            Told::AnnouncementEnds { space: space.number(), start, pages }
        }
        Event::Charged { space, resident, pages } => {
            Told::Charged { space: space.number(), resident: self::resident(resident), pages }
        }
        Event::Uncharged { space, resident, pages } => {
            Told::Uncharged { space: space.number(), resident: self::resident(resident), pages }
        }
        Event::FrameTaken { frame, order } => Told::FrameTaken { frame: ram(frame), order },
        Event::FrameFreed { frame, order } => Told::FrameFreed { frame: ram(frame), order },
        Event::DeviceRegistered { device, frames, window } => self::device(device, frames, window),
        Event::DeviceFrameTaken { frame } => {
            Told::DeviceFrameTaken { device: frame.device().number(), frame: frame.index() }
        }
        Event::DeviceFrameFreed { frame } => {
            Told::DeviceFrameFreed { device: frame.device().number(), frame: frame.index() }
        }
        Event::Pinned { space, page, frame } => {
            let address = page.start_address().as_u64();
            Told::Pinned { space: space.number(), address, frame: any(frame) }
        }
        Event::Unpinned { frame } => Told::Unpinned { frame: any(frame) },
    }
}

/// The record's event for a device that there is.
pub(super) fn device(device: DeviceId, frames: u64, window: Option<CpuWindow>) -> trace::Event<'static> {
    trace::Event::Device { device: device.number(), frames, window: window.map(|window| ram(window.frame(0))) }
}

/// A frame of either kind.
pub(super) fn any(frame: AnyFrame) -> Frame {
    match frame {
        AnyFrame::System(frame) => Frame::Ram(ram(frame)),
        AnyFrame::Device(frame) => Frame::Device(frame.device().number(), frame.index()),
    }
}

/// A RAM frame's number in records.
pub fn ram(frame: PhysFrame) -> u64 {
    frame.start_address().as_u64() / PAGE_BYTES
}

fn parts(range: PageRange) -> (u64, u64) {
    (range.start_address().as_u64(), range.pages())
}

fn area_kind(kind: AreaKind) -> trace::AreaKind {
    match kind {
        AreaKind::Anonymous => trace::AreaKind::Anonymous,
        AreaKind::Shared => trace::AreaKind::Shared,
        AreaKind::Device { .. } => trace::AreaKind::Device,
        AreaKind::Guard => trace::AreaKind::Guard,
    }
}

fn resident(resident: Resident) -> trace::Resident {
    match resident {
        Resident::Ram => trace::Resident::Ram,
        Resident::Zero => trace::Resident::Zero,
        Resident::Device => trace::Resident::Device,
        Resident::Swap => trace::Resident::Swap,
    }
}

fn access(access: Access) -> trace::Access {
    match access {
        Access::Read => trace::Access::Read,
        Access::Write => trace::Access::Write,
        Access::Execute => trace::Access::Execute,
    }
}

fn phase(phase: Phase) -> trace::Phase {
    match phase {
        Phase::Collect => trace::Phase::Collect,
        Phase::Unmap => trace::Phase::Unmap,
        Phase::Copy => trace::Phase::Copy,
        Phase::Finalize => trace::Phase::Finalize,
        Phase::GiveBack => trace::Phase::GiveBack,
        Phase::Done { moved, stayed } => trace::Phase::Done(moved, stayed),
    }
}
