//! The state after any record, from the records alone.
//!
//! Nothing is known here but what was told: no table of the guest is looked at, and no code of the memory manager decides
//! anything but what the bits of an entry mean.
//!
//! Invariants, each checked with every record:
//! 1. What an entry was is what the record before said it became, but for the accessed and dirty bits that CPUs set by themselves.
//! 2. A frame is taken only while it is free, and freed only while it is taken.
//! 3. A space that is gone has no entries, no areas, and counts no page. No count falls below zero.
//! 4. An announcement that ends has begun.
use std::collections::{BTreeMap, HashMap};

use ferry_mm::page_table::entry::{Entry, LeafFlags, RawEntry};
use ferry_protocol::trace::{AreaKind, Event, Frame, FrameState, Record, Resident};

use super::stream::Stream;
use crate::sys::PAGE_BYTES;

/// Most frames of RAM, and most pages that one record may be about: 256 GiB and 16 GiB. More is no machine that Ferry boots, and
/// each of them is kept here.
const MOST_FRAMES: u64 = 1 << 26;
const MOST_PAGES: u64 = 1 << 22;

/// What a contradiction is.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("record {sequence} says {event}, but {known}")]
pub struct ReplayError {
    /// The record.
    pub sequence: u64,
    /// What it says.
    pub event: String,
    /// What was known before.
    pub known: String,
}

/// What is known about a RAM frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// Not the memory manager's, or the kernel's own since before the stream.
    Kernel,
    /// Free.
    Free,
    /// Taken.
    Taken,
    /// The zero page.
    Zero,
}

/// An address space.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Space {
    /// The frame of its level-4 table.
    pub root: u64,
    /// Its protections and kinds of areas, by page number.
    pub areas: BTreeMap<u64, (u8, AreaKind)>,
    /// Pages that it counts, by kind.
    pub charged: BTreeMap<Resident, u64>,
    /// Its entries that are not empty, by level and first address.
    pub entries: BTreeMap<(u8, u64), u64>,
}

/// A device.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Device {
    /// How many frames it has.
    pub frames: u64,
    /// Where CPUs map the first one.
    pub window: Option<u64>,
    /// The frames that are taken.
    pub taken: BTreeMap<u32, ()>,
}

/// A translation that CPUs may still use, though the entry is another one by now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stale {
    /// The entry as it was.
    pub entry: u64,
    /// One bit for each CPU.
    pub cpus: u64,
}

/// The state.
#[derive(Clone, Default, Debug)]
pub struct Replay {
    /// Living address spaces.
    pub spaces: BTreeMap<u16, Space>,
    /// RAM frames, by number.
    pub ram: Vec<Use>,
    /// Frames that hold tables, with the space and the level of each.
    pub tables: BTreeMap<u64, (u16, u8)>,
    /// Devices.
    pub devices: BTreeMap<u8, Device>,
    /// Level-1 entries that name a frame, `Migrating` ones included: how many, and how many of them are `Migrating`.
    pub named: HashMap<Frame, (u32, u32)>,
    /// Pins of each frame.
    pub pins: HashMap<Frame, u32>,
    /// Announcements that have not ended, by space, first address and pages.
    pub announced: BTreeMap<(u16, u64, u64), u32>,
    /// The space that each CPU is in.
    pub entered: BTreeMap<u8, u16>,
    /// Translations that are older than the entry, by space and page address.
    pub stale: BTreeMap<(u16, u64), Vec<Stale>>,
}

/// An entry without the bits that CPUs set by themselves.
pub fn without_used(raw: u64) -> u64 {
    let used = LeafFlags::ACCESSED | LeafFlags::DIRTY;
    if RawEntry(raw).is_present() { raw & !used.bits() } else { raw }
}

impl Replay {
    /// The state after the first `count` records of `stream`.
    ///
    /// # Errors
    /// [`ReplayError`] where records contradict each other. A stream with lost records is not replayed at all.
    pub fn of(stream: &Stream, count: usize) -> Result<Self, ReplayError> {
        let mut replay = Self::default();
        for index in 0..count {
            replay.step(stream, index)?;
        }
        Ok(replay)
    }

    /// Goes on by record `index` of `stream`.
    ///
    /// # Errors
    /// [`ReplayError`] where it contradicts what was told before.
    pub fn step(&mut self, stream: &Stream, index: usize) -> Result<(), ReplayError> {
        let record = &stream.records[index];
        let lost = matches!(record.event, Event::Flush { .. }) && stream.flush_is_lost(index);
        self.apply(record, lost).map_err(|known| ReplayError {
            sequence: record.sequence,
            event: format!("{:?}", record.event),
            known,
        })
    }

    fn apply(&mut self, record: &Record, flush_is_lost: bool) -> Result<(), String> {
        let this_cpu = 1u64.checked_shl(record.cpu.into()).ok_or("no machine has such a CPU")?;
        match record.event {
            Event::Frames { first, count, state } => self.begin(first, count, state)?,
            Event::Device { device, frames, window } => {
                self.devices.insert(device, Device { frames, window, ..Device::default() });
            }
            Event::SpaceCreated { space, root } => {
                self.tables.insert(root, (space, 4));
                if self.spaces.insert(space, Space { root, ..Space::default() }).is_some() {
                    return Err("there is such a space already".to_owned());
                }
            }
            Event::SpaceDestroyed { space } => {
                let gone = self.space(space)?.clone();
                if !gone.entries.is_empty() || !gone.areas.is_empty() || gone.charged.values().any(|pages| *pages > 0) {
                    return Err(format!("the space has {} entries and counts {:?}", gone.entries.len(), gone.charged));
                }
                self.tables.remove(&gone.root);
                self.spaces.remove(&space);
                self.stale.retain(|(owner, _), _| *owner != space);
            }
            Event::Forked { parent, child } => {
                let areas = self.space(parent)?.areas.clone();
                self.space(child)?.areas = areas;
            }
            Event::Entered { space } => drop(self.entered.insert(record.cpu, space)),
            Event::Left { space } => {
                self.entered.remove(&record.cpu);
                self.forget(space, this_cpu, None);
            }
            Event::Areas { space, start, pages, area } => {
                let areas = &mut self.space(space)?.areas;
                let first = start / PAGE_BYTES as u64;
                let told = first..first.saturating_add(pages);
                match area {
                    Some(_) if pages > MOST_PAGES => return Err("no area is so large".to_owned()),
                    Some(area) => areas.extend(told.map(|page| (page, area))),
                    None => areas.retain(|page, _| !told.contains(page)),
                }
            }
            Event::Entry { space: Some(space), address, level, old, new } => {
                self.entry(space, address, level, old, new)?;
            }
            Event::Charged { space, resident, pages } => {
                let charged = self.space(space)?.charged.entry(resident).or_default();
                *charged = charged.checked_add(pages).ok_or_else(|| format!("it counts {charged} already"))?;
            }
            Event::Uncharged { space, resident, pages } => {
                let charged = self.space(space)?.charged.entry(resident).or_default();
                *charged = charged.checked_sub(pages).ok_or_else(|| format!("it counts {charged}"))?;
            }
            Event::Announced { space, start, pages, .. } => {
                *self.announced.entry((space, start, pages)).or_default() += 1;
            }
            Event::AnnouncementEnds { space, start, pages } => {
                let open = self.announced.get_mut(&(space, start, pages)).filter(|open| **open > 0);
                *open.ok_or("nothing was announced")? -= 1;
            }
            Event::Flush { space, cpus, pages } if !flush_is_lost => self.forget(space, cpus, pages),
            Event::FrameTaken { frame, order } => self.change(frame, order, Use::Free, Use::Taken)?,
            Event::FrameFreed { frame, order } => self.change(frame, order, Use::Taken, Use::Free)?,
            Event::DeviceFrameTaken { device, frame } => {
                if self.device(device)?.taken.insert(frame, ()).is_some() {
                    return Err("the frame is taken already".to_owned());
                }
            }
            Event::DeviceFrameFreed { device, frame } => {
                self.device(device)?.taken.remove(&frame).ok_or("the frame is free already")?;
            }
            Event::Pinned { frame, .. } => *self.pins.entry(frame).or_default() += 1,
            Event::Unpinned { frame } => {
                let pins = self.pins.get_mut(&frame).ok_or("the frame is not pinned")?;
                *pins -= 1;
                if *pins == 0 {
                    self.pins.remove(&frame);
                }
            }
            Event::Begin { .. }
            | Event::Lost { .. }
            | Event::Entry { space: None, .. }
            | Event::Flush { .. }
            | Event::FlushLost
            | Event::FaultRaised { .. }
            | Event::FaultHandled { .. }
            | Event::Migration { .. }
            | Event::Moved { .. }
            | Event::Stays { .. }
            | Event::EvictionBegins { .. }
            | Event::EvictionEnds { .. }
            | Event::Cleared { .. }
            | Event::Copied { .. }
            | Event::DeviceWorked { .. }
            | Event::DiskWritten { .. }
            | Event::DiskRead { .. }
            | Event::Step { .. }
            | Event::Loaded { .. }
            | Event::Stored { .. } => {}
        }
        Ok(())
    }

    fn space(&mut self, space: u16) -> Result<&mut Space, String> {
        self.spaces.get_mut(&space).ok_or_else(|| "there is no such space".to_owned())
    }

    fn device(&mut self, device: u8) -> Result<&mut Device, String> {
        self.devices.get_mut(&device).ok_or_else(|| "there is no such device".to_owned())
    }

    fn begin(&mut self, first: u64, count: u64, state: FrameState) -> Result<(), String> {
        if first != self.ram.len() as u64 {
            return Err(format!("{} frames were told of", self.ram.len()));
        }
        let state = match state {
            FrameState::Reserved | FrameState::Kernel | FrameState::Table => Use::Kernel,
            FrameState::Free => Use::Free,
            FrameState::Zero => Use::Zero,
        };
        let end = first.checked_add(count).filter(|end| *end <= MOST_FRAMES).ok_or("no machine has so many frames")?;
        self.ram.resize(end as usize, state);
        Ok(())
    }

    fn change(&mut self, first: u64, order: u8, from: Use, to: Use) -> Result<(), String> {
        let end = 1u64.checked_shl(order.into()).and_then(|frames| first.checked_add(frames));
        for frame in first..end.ok_or("there is no such block")? {
            let there = self.ram.get_mut(frame as usize).ok_or("there is no such frame")?;
            // The kernel may give back what it had before the stream began.
            if *there != from && !(to == Use::Free && *there == Use::Kernel) {
                return Err(format!("the frame {frame:#x} is {there:?}"));
            }
            *there = to;
        }
        Ok(())
    }

    fn entry(&mut self, space: u16, address: u64, level: u8, old: u64, new: u64) -> Result<(), String> {
        let entries = &mut self.space(space)?.entries;
        let known = match new {
            0 => entries.remove(&(level, address)),
            new => entries.insert((level, address), new),
        };
        let known = known.unwrap_or(0);
        if without_used(known) != without_used(old) {
            return Err(format!("the entry was {known:#018x}"));
        }
        if level > 1 {
            if let Some(table) = RawEntry(old).named_frame() {
                self.tables.remove(&(table.start_address().as_u64() / PAGE_BYTES as u64));
            }
            if let Some(table) = RawEntry(new).named_frame() {
                self.tables.insert(table.start_address().as_u64() / PAGE_BYTES as u64, (space, level - 1));
            }
            return Ok(());
        }
        self.name(old, false);
        self.name(new, true);
        let in_use: u64 = self.entered.iter().filter(|(_, entered)| **entered == space).map(|(cpu, _)| 1 << cpu).sum();
        if RawEntry(old).is_present() && in_use != 0 && without_used(old) != without_used(new) {
            let stale = self.stale.entry((space, address)).or_default();
            stale.push(Stale { entry: without_used(old), cpus: in_use });
        }
        Ok(())
    }

    /// Counts or uncounts the frame that a level-1 entry names.
    fn name(&mut self, raw: u64, more: bool) {
        let Some(frame) = self.frame_of(raw) else { return };
        let moving = u32::from(matches!(RawEntry(raw).decode(), Entry::Migrating { .. }));
        let (names, migrating) = self.named.entry(frame).or_default();
        if more {
            (*names, *migrating) = (*names + 1, *migrating + moving);
        } else {
            (*names, *migrating) = (names.saturating_sub(1), migrating.saturating_sub(moving));
        }
        if *names == 0 {
            self.named.remove(&frame);
        }
    }

    /// The frame that a level-1 entry names; one behind a window is the device's.
    pub fn frame_of(&self, raw: u64) -> Option<Frame> {
        match RawEntry(raw).decode().frame()? {
            ferry_mm::frame::AnyFrame::Device(frame) => Some(Frame::Device(frame.device().number(), frame.index())),
            ferry_mm::frame::AnyFrame::System(frame) => {
                let number = frame.start_address().as_u64() / PAGE_BYTES as u64;
                let behind = self.devices.iter().find_map(|(device, shape)| {
                    let index = number.checked_sub(shape.window?)?;
                    (index < shape.frames).then_some(Frame::Device(*device, index as u32))
                });
                Some(behind.unwrap_or(Frame::Ram(number)))
            }
        }
    }

    /// These CPUs hold no older translation of these pages any more.
    fn forget(&mut self, space: u16, cpus: u64, pages: Option<(u64, u64)>) {
        let (first, end) = pages.map_or((0, u64::MAX), |(start, pages)| {
            (start, start.saturating_add(pages.saturating_mul(PAGE_BYTES as u64)))
        });
        for (_, stale) in self.stale.range_mut((space, first)..(space, end)) {
            stale.iter_mut().for_each(|stale| stale.cpus &= !cpus);
            stale.retain(|stale| stale.cpus != 0);
        }
        self.stale.retain(|_, stale| !stale.is_empty());
    }
}
