//! The events alone, replayed: whoever has seen them all must know every table, every area and every frame.
//!
//! The other side is what stands in simulated memory: the tables as the machine holds them, the kinds in the descriptors.
use std::collections::{BTreeMap, BTreeSet};

use ferry_mm::address::{PAGE_BYTES, PageRange};
use ferry_mm::frame::{DeviceFrame, FrameKind};
use ferry_mm::notify::InvalidationReason;
use ferry_mm::page_table::entry::{LeafFlags, RawEntry};
use ferry_mm::space::{AreaKind, Leave, Protection, Residency, Resident, Space, SpaceId};
use ferry_mm::trace::{Event, Phase};
use ferry_sim::{Sim, World};
use x86_64::structures::paging::page_table::PageTableLevel;

use crate::notify::watching::Witness;
use crate::support::*;

/// Pages from the first one of the tests on whose areas are compared.
const WATCHED_PAGES: u64 = 24;

/// What the events have told so far.
pub struct Replay<'w> {
    world: &'w World,
    /// Entries of every level that are not empty, by space, level and first address.
    entries: BTreeMap<(u16, PageTableLevel, u64), RawEntry>,
    areas: BTreeMap<u16, BTreeMap<u64, (Protection, AreaKind)>>,
    charged: BTreeMap<u16, Residency>,
    /// Announcements that listeners have not seen the end of.
    announced: Vec<(u16, PageRange)>,
    taken: BTreeSet<u64>,
    taken_on_devices: BTreeSet<DeviceFrame>,
}

/// Accessed and dirty bits are set by CPUs, which tell nobody.
fn without_used(raw: RawEntry) -> RawEntry {
    let used = LeafFlags::ACCESSED | LeafFlags::DIRTY;
    if raw.is_present() { RawEntry(raw.0 & !used.bits()) } else { raw }
}

fn is_taken(kind: FrameKind) -> bool {
    !matches!(kind, FrameKind::Reserved | FrameKind::Free | FrameKind::FreeTail)
}

fn numbers(frames: &[ferry_mm::frame::Descriptor]) -> BTreeSet<u64> {
    (0..).zip(frames).filter(|(_, descriptor)| is_taken(descriptor.kind())).map(|(number, _)| number).collect()
}

impl<'w> Replay<'w> {
    /// Listens from now on, before there is any space.
    pub fn begin(world: &'w World) -> Self {
        assert_eq!(world.manager().spaces().count(), 0);
        world.sim().listen();
        let taken = numbers(world.manager().memory().descriptors());
        Self {
            world,
            entries: BTreeMap::new(),
            areas: BTreeMap::new(),
            charged: BTreeMap::new(),
            announced: Vec::new(),
            taken,
            taken_on_devices: BTreeSet::new(),
        }
    }

    /// Takes the events since the last time, and compares what they tell with what is.
    pub fn check(&mut self) {
        for (_, event) in self.world.sim().take_events() {
            self.take(&event);
        }
        assert_eq!(self.announced, [], "announcements without an end");
        assert_eq!(self.taken, numbers(self.world.manager().memory().descriptors()), "RAM frames in use");
        for device in self.world.manager().devices() {
            let told: BTreeSet<u64> = self
                .taken_on_devices
                .iter()
                .filter(|frame| frame.device() == device.id())
                .map(|frame| u64::from(frame.index()))
                .collect();
            assert_eq!(told, numbers(device.descriptors()), "frames of device {} in use", device.id().number());
        }
        for space in self.world.manager().spaces() {
            self.check_space(space);
        }
    }

    fn check_space(&self, space: Space<'_, Sim>) {
        let number = space.id().number();
        let told = |level| {
            let inside = self.entries.iter().filter(move |((space, at, _), _)| (*space, *at) == (number, level));
            inside.map(|((_, _, address), raw)| (*address, without_used(*raw))).collect::<BTreeMap<_, _>>()
        };
        let mut leaves = BTreeMap::new();
        space.for_each_entry(|page, raw| {
            leaves.insert(page.start_address().as_u64(), without_used(raw));
            for step in space.path(page.start_address()).steps().filter(|step| step.level > PageTableLevel::One) {
                let first = page.start_address().align_down(step.level.entry_address_space_alignment());
                let known = self.entries.get(&(number, step.level, first.as_u64()));
                assert_eq!(known.copied().map(without_used), Some(without_used(step.entry)), "{step:?}");
            }
        });
        assert_eq!(told(PageTableLevel::One), leaves, "leaf entries of space {number}");
        // What is charged is held against the entries by the audit.
        assert_eq!(self.charged.get(&number).copied(), Some(space.resident()), "pages counted of space {number}");
        let areas = self.areas.get(&number);
        for index in 0..WATCHED_PAGES {
            let page = pages(index, 1).start();
            let known = areas.and_then(|areas| areas.get(&page.start_address().as_u64())).copied();
            let area = space.area(page).map(|area| (area.protection, area.kind));
            assert_eq!(known, area, "{:#x}", at(index, 0));
        }
    }

    fn count(&mut self, space: SpaceId, resident: Resident) -> &mut u64 {
        let charged = self.charged.get_mut(&space.number()).expect("a living space");
        match resident {
            Resident::Ram => &mut charged.ram,
            Resident::Zero => &mut charged.zero,
            Resident::Device => &mut charged.device,
            Resident::Swap => &mut charged.swap,
        }
    }

    fn take(&mut self, event: &Event) {
        match *event {
            Event::SpaceCreated { space, .. } => {
                assert!(self.entries.keys().all(|(number, ..)| *number != space.number()), "{event:?}");
                self.areas.insert(space.number(), BTreeMap::new());
                self.charged.insert(space.number(), Residency::default());
            }
            Event::SpaceDestroyed { space } => {
                assert_eq!(self.areas.remove(&space.number()), Some(BTreeMap::new()), "{event:?}");
                assert_eq!(self.charged.remove(&space.number()), Some(Residency::default()), "{event:?}");
            }
            Event::Forked { parent, child } => {
                let areas = self.areas[&parent.number()].clone();
                self.areas.insert(child.number(), areas);
            }
            Event::Areas { space, range, area } => {
                let areas = self.areas.get_mut(&space.number()).expect("a living space");
                for address in (0..range.pages()).map(|index| range.start_address().as_u64() + index * PAGE_BYTES) {
                    match area {
                        Some(area) => drop(areas.insert(address, area)),
                        None => drop(areas.remove(&address)),
                    }
                }
            }
            Event::Charged { space, resident, pages } => *self.count(space, resident) += pages,
            Event::Uncharged { space, resident, pages } => {
                let count = self.count(space, resident);
                *count = count.checked_sub(pages).unwrap_or_else(|| panic!("{event:?} of fewer"));
            }
            Event::Announced { space, range, .. } => self.announced.push((space.number(), range)),
            Event::AnnouncementEnds { space, range } => {
                let open = self.announced.iter().position(|open| *open == (space.number(), range));
                self.announced.swap_remove(open.unwrap_or_else(|| panic!("{event:?} without a beginning")));
            }
            Event::Entry { space: None, .. } => panic!("nobody changes tables of the kernel: {event:?}"),
            Event::Entry { space: Some(space), address, level, old, new } => {
                let key = (space.number(), level, address.as_u64());
                let known =
                    if new == RawEntry::EMPTY { self.entries.remove(&key) } else { self.entries.insert(key, new) };
                let known = known.unwrap_or(RawEntry::EMPTY);
                assert_eq!(without_used(known), without_used(old), "an event before {event:?} is missing");
            }
            Event::FrameTaken { frame, order } | Event::FrameFreed { frame, order } => {
                let first = frame.start_address().as_u64() / PAGE_BYTES;
                for number in first..first + (1 << order) {
                    let changed = match event {
                        Event::FrameTaken { .. } => self.taken.insert(number),
                        _ => self.taken.remove(&number),
                    };
                    assert!(changed, "{event:?} of a frame that was so already");
                }
            }
            Event::DeviceFrameTaken { frame } => assert!(self.taken_on_devices.insert(frame), "{event:?}"),
            Event::DeviceFrameFreed { frame } => assert!(self.taken_on_devices.remove(&frame), "{event:?}"),
            Event::Entered { .. }
            | Event::Left { .. }
            | Event::Fault { .. }
            | Event::Flush { .. }
            | Event::Migration { .. }
            | Event::Moved { .. }
            | Event::Stays { .. }
            | Event::EvictionBegins { .. }
            | Event::EvictionEnds { .. }
            | Event::DeviceRegistered { .. }
            | Event::Pinned { .. }
            | Event::Unpinned { .. } => {}
        }
    }
}

/// A short life of two spaces, and all that is told of it.
#[test]
fn the_events_of_a_short_life_tell_every_table_area_and_frame() {
    let world = with_coherent().swap(16).build();
    let mut replay = Replay::begin(&world);
    let space = space_of(&world, 12);
    space.map_guard(pages(14, 2)).unwrap();
    fill(world.cpu(0), 12);
    replay.check();
    assert_eq!(space.migrate_to_device(pages(0, 6), DEVICE).unwrap().moved, 6);
    assert_eq!(space.migrate_to_device(pages(6, 3), COHERENT).unwrap().moved, 3);
    replay.check();
    space.protect(pages(5, 2), Protection::READ).unwrap();
    let child = space.fork().unwrap();
    replay.check();
    world.cpu(0).store(at(0, 0), &contents(1)).unwrap();
    assert_eq!(space.migrate_to_system(pages(1, 2)).unwrap().moved, 2);
    assert_eq!(world.manager().evict_device(COHERENT).unwrap().returned, 3);
    replay.check();
    child.destroy().unwrap();
    assert_eq!(space.swap_out(pages(9, 3)).unwrap().freed, 3);
    space.relocate(pages(3, 2), at(20, 0), Leave::Nothing).unwrap();
    space.unmap(pages(0, 2)).unwrap();
    space.discard(pages(2, 1)).unwrap();
    replay.check();
    assert_eq!(page(world.cpu(1), 20), contents(3));
    assert_eq!(page(world.cpu(1), 10), contents(10));
    replay.check();
    world.assert_all_free();
}

/// Who looks at a migration sees its phases in order, and who is told of it while it goes on.
#[test]
fn a_migration_tells_its_phases_and_its_announcement() {
    let world = forever(small());
    let space = space_of(world, 4);
    fill(world.cpu(0), 2);
    let (_witness, id) = Witness::of(world, space, 0, 1);
    world.sim().listen();
    assert_eq!(space.migrate_to_device(pages(0, 2), DEVICE).unwrap().moved, 2);
    assert_eq!(space.migrate_to_device(pages(2, 1), DEVICE).unwrap().moved, 1);
    let (mut phases, mut announced) = (Vec::new(), Vec::new());
    for (_, event) in world.sim().take_events() {
        match event {
            Event::Migration { range, phase, .. } if range == pages(0, 2) => phases.push(phase),
            Event::Announced { range, reason, .. } => announced.push((range, reason)),
            _ => {}
        }
    }
    let done = Phase::Done { moved: 2, stayed: 0 };
    assert_eq!(phases, [Phase::Collect, Phase::Unmap, Phase::Copy, Phase::Finalize, done]);
    assert_eq!(announced, [(pages(0, 2), InvalidationReason::Migrate)], "nobody watches page 2");
    world.manager().unlisten(id);
    world.assert_all_free();
}
