//! The scene in which every operation is tried: a space with one page of each kind, and a child that shares some of them.
use std::collections::BTreeMap;
use std::sync::Arc;

use ferry_mm::frame::DeviceId;
use ferry_mm::notify::{Invalidation, Listener, ListenerId, Watch};
use ferry_mm::page_table::entry::{Entry, RawEntry};
use ferry_mm::space::{Access, FaultError, Pin, Space, Term};
use ferry_sim::{AccessError, Expected, Sim, Transfer, World, audit_with};

use crate::support::*;

/// The device whose pages nobody but page [`Kind::OnOther`] is on.
pub const OTHER: DeviceId = DeviceId::new(1).unwrap();
/// The coherent device.
pub const BEHIND_BAR: DeviceId = DeviceId::new(2).unwrap();

/// The pages of the parent, by number. Those that are shared the child has, too; its other pages are empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Empty,
    Zero,
    Owned,
    Shared,
    OnDevice,
    OnDeviceShared,
    OnOther,
    Coherent,
    CoherentShared,
    Swapped,
    SwappedShared,
    Cached,
    OnlyCopyShared,
    Exclusive,
    Pinned,
    PinnedCoherent,
}

impl Kind {
    pub const ALL: [Self; 16] = [
        Self::Empty,
        Self::Zero,
        Self::Owned,
        Self::Shared,
        Self::OnDevice,
        Self::OnDeviceShared,
        Self::OnOther,
        Self::Coherent,
        Self::CoherentShared,
        Self::Swapped,
        Self::SwappedShared,
        Self::Cached,
        Self::OnlyCopyShared,
        Self::Exclusive,
        Self::Pinned,
        Self::PinnedCoherent,
    ];

    /// The page of this kind.
    pub const fn page(self) -> u64 {
        self as u64
    }

    fn is_shared(self) -> bool {
        matches!(
            self,
            Self::Shared | Self::OnDeviceShared | Self::CoherentShared | Self::SwappedShared | Self::OnlyCopyShared
        )
    }
}

/// Pages of the area.
pub const PAGES: u64 = Kind::ALL.len() as u64;

/// Where nothing is mapped: in tables of its own.
pub const ELSEWHERE: u64 = 1000;

/// A space and what each of its pages must contain; `None` where the contents are lost.
pub struct Place<'w> {
    pub space: Space<'w, Sim>,
    pub pages: BTreeMap<u64, Option<Contents>>,
}

/// The entry of every page that a space has.
pub type Entries = Vec<BTreeMap<u64, RawEntry>>;

/// A device that keeps no translation longer than the call that looks them up.
struct Forgetful;

impl Listener for Forgetful {
    fn invalidate(&self, _: &Invalidation) {}
}

/// The scene.
pub struct Scene<'w> {
    pub world: &'w World,
    /// The parent, its child, and whatever spaces the operation makes.
    pub places: Vec<Place<'w>>,
    pub listener: ListenerId,
    pub pins: Vec<Pin<'w, Sim>>,
}

/// The machine of the scene.
pub fn machine(has_disk: bool) -> World {
    World::builder()
        .frames(160)
        .device(32)
        .device(32)
        .coherent_device(32)
        .swap(if has_disk { 64 } else { 0 })
        .cpus(2)
        .build()
}

impl<'w> Scene<'w> {
    /// Makes one page of each kind. Without a disk, the pages that would be swapped out are in RAM.
    pub fn new(world: &'w World) -> Self {
        let parent = space_of(world, PAGES);
        let store = |kind: Kind| world.cpu(0).store(at(kind.page(), 0), &contents(kind.page())).unwrap();
        let range = |kind: Kind| pages(kind.page(), 1);
        let go = |kind, device| assert_eq!(parent.migrate_to_device(range(kind), device).unwrap().moved, 1);
        let out = |kind, freed| {
            if world.manager().swap().is_some() {
                assert_eq!(parent.swap_out(range(kind)).unwrap().freed, freed);
            }
        };
        let is_written = |kind: &Kind| !matches!(kind, Kind::Empty | Kind::Zero);
        world.cpu(0).read::<1>(at(Kind::Zero.page(), 0)).unwrap();
        Kind::ALL.into_iter().filter(|kind| kind.is_shared()).for_each(store);
        go(Kind::OnDeviceShared, DEVICE);
        go(Kind::CoherentShared, BEHIND_BAR);
        out(Kind::SwappedShared, 1);
        if world.manager().swap().is_some() {
            world.disk().fail(Transfer::Write, 1);
            out(Kind::OnlyCopyShared, 0);
        }
        let child = parent.fork().unwrap();
        child.discard(range(Kind::Zero)).unwrap();
        world.cpu(1).enter(child);
        Kind::ALL.into_iter().filter(|kind| is_written(kind) && !kind.is_shared()).for_each(store);
        go(Kind::OnDevice, DEVICE);
        go(Kind::OnOther, OTHER);
        go(Kind::Coherent, BEHIND_BAR);
        go(Kind::PinnedCoherent, BEHIND_BAR);
        out(Kind::Swapped, 1);
        out(Kind::Cached, 1);
        world.cpu(0).read::<1>(at(Kind::Cached.page(), 0)).unwrap();
        let watch = Watch { range: pages(0, PAGES), device: Some(DEVICE) };
        let listener = parent.listen(watch, Arc::new(Forgetful)).unwrap();
        parent.make_exclusive(at(Kind::Exclusive.page(), 0), listener).unwrap();
        let pins = [Kind::Pinned, Kind::PinnedCoherent]
            .map(|kind| parent.pin(at(kind.page(), 0), Access::Write, Term::Short).unwrap());
        let model = |is_there: fn(Kind) -> bool| {
            let page = |kind: Kind| if is_there(kind) { contents(kind.page()) } else { zeros() };
            Kind::ALL.into_iter().map(|kind| (kind.page(), Some(page(kind)))).collect()
        };
        let places = vec![
            Place { space: parent, pages: model(|kind| !matches!(kind, Kind::Empty | Kind::Zero)) },
            Place { space: child, pages: model(Kind::is_shared) },
        ];
        let scene = Self { world, places, listener, pins: pins.into() };
        scene.audit();
        scene.compare();
        scene
    }

    pub fn parent(&self) -> Space<'w, Sim> {
        self.places[0].space
    }

    /// What the parent's page must contain.
    pub fn page(&mut self, number: u64) -> &mut Contents {
        self.places[0].pages.get_mut(&number).and_then(Option::as_mut).expect("a page that is not lost")
    }

    pub fn audit(&self) {
        let pins = self.pins.iter().map(Pin::frame).collect();
        audit_with(self.world, &Expected { pins, ..Expected::default() }).unwrap();
    }

    pub fn entries(&self) -> Entries {
        let entries = |place: &Place<'w>| -> BTreeMap<u64, RawEntry> {
            place.pages.keys().map(|number| (*number, place.space.entry(at(*number, 0)))).collect()
        };
        self.places.iter().map(entries).collect()
    }

    /// Notes which pages are poisoned; returns their numbers.
    pub fn find_lost(&mut self) -> Vec<u64> {
        let mut lost = Vec::new();
        for place in &mut self.places {
            for (number, contents) in &mut place.pages {
                if place.space.entry(at(*number, 0)).decode() == Entry::Poison {
                    *contents = None;
                    lost.push(*number);
                }
            }
        }
        lost.dedup();
        lost.sort_unstable();
        lost.dedup();
        lost
    }

    /// Compares the bytes of every page, wherever they are, without touching the page.
    pub fn compare(&self) {
        self.world.sim().cpus().for_each(|cpu| self.world.sim().fence(cpu));
        for (index, place) in self.places.iter().enumerate() {
            for (number, expected) in &place.pages {
                let found = self.bytes(place.space.entry(at(*number, 0)));
                assert_eq!(found, *expected, "space {index}, page {number}");
            }
        }
    }

    fn bytes(&self, entry: RawEntry) -> Option<Contents> {
        let manager = self.world.manager();
        match entry.decode() {
            Entry::Empty => Some(zeros()),
            Entry::Poison => None,
            Entry::Swap { slot } => {
                let cached = manager.swap().unwrap().slot_use(manager.machine(), slot).unwrap().frame;
                Some(cached.map_or_else(|| on_disk(self.world, slot), |frame| host(self.world, frame)))
            }
            _ => manager.mapped_frame(entry).map(|frame| host(self.world, frame)),
        }
    }

    /// Reads every page as a CPU does, then gives everything back.
    pub fn end(mut self) {
        self.pins.clear();
        for place in &self.places {
            self.world.cpu(1).enter(place.space);
            for (number, expected) in &place.pages {
                let found = self.world.cpu(1).read::<4096>(at(*number, 0));
                match expected {
                    Some(expected) => assert!(found.unwrap() == expected[..], "page {number}"),
                    None => assert_eq!(found, Err(AccessError::Refused(FaultError::Poisoned(at(*number, 0))))),
                }
            }
        }
        self.audit();
        self.world.assert_all_free();
    }
}
