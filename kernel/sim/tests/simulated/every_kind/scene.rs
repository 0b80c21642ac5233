//! Two pages of one kind, on both sides of a border between tables, with a written page before and behind them.
use std::sync::Arc;

use ferry_mm::frame::AnyFrame;
use ferry_mm::inject::Step;
use ferry_mm::machine::Machine;
use ferry_mm::notify::{Invalidation, Listener, Watch};
use ferry_mm::page_table::entry::{Entry, LeafFlags, RawEntry};
use ferry_mm::space::{Access, FaultError, Pin, Protection, Residency, Space, Term};
use ferry_sim::{AccessError, Expected, Sim, World, audit_with};

use crate::support::*;

/// The pages of the kind.
pub const PAGES: [u64; 2] = [3, 4];

/// The pages before and behind them.
pub const NEIGHBOURS: [u64; 2] = [2, 5];

/// What can stand behind a page of an anonymous area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Dirty,
    Clean,
    /// Ours alone and in an area that allows stores, but the entry does not.
    ReadOnly,
    SharedByFork,
    ZeroPage,
    Empty,
    OnDevice,
    /// On a private device, for two spaces.
    OnDeviceShared,
    InCoherentMemory,
    /// In a slot and in no frame.
    OnDisk,
    /// In a slot, and in a frame that the child maps.
    OnDiskAndInCache,
    /// Mapped, clean, and in its slot, too.
    SwappedIn,
    Exclusive,
    Lost,
    /// Lazily free.
    Unwanted,
    Pinned,
}

pub const KINDS: [Kind; 16] = [
    Kind::Dirty,
    Kind::Clean,
    Kind::ReadOnly,
    Kind::SharedByFork,
    Kind::ZeroPage,
    Kind::Empty,
    Kind::OnDevice,
    Kind::OnDeviceShared,
    Kind::InCoherentMemory,
    Kind::OnDisk,
    Kind::OnDiskAndInCache,
    Kind::SwappedIn,
    Kind::Exclusive,
    Kind::Lost,
    Kind::Unwanted,
    Kind::Pinned,
];

impl Kind {
    /// What the page holds; `None` where that is lost.
    pub fn contents(self, page: u64) -> Option<Contents> {
        match self {
            Self::Lost => None,
            Self::ZeroPage | Self::Empty => Some(zeros()),
            _ => Some(contents(page)),
        }
    }

    /// How `count` pages of the kind are counted.
    pub fn residency(self, count: u64) -> Residency {
        let mut resident = Residency::default();
        match self {
            Self::Empty | Self::Lost => {}
            Self::ZeroPage => resident.zero = count,
            Self::OnDevice | Self::OnDeviceShared | Self::InCoherentMemory => resident.device = count,
            Self::OnDisk | Self::OnDiskAndInCache => resident.swap = count,
            _ => resident.ram = count,
        }
        resident
    }

    /// Whether a child has the pages, too.
    fn has_child(self) -> bool {
        matches!(self, Self::SharedByFork | Self::OnDeviceShared | Self::OnDiskAndInCache)
    }

    fn is_that_of(self, world: &World, raw: RawEntry) -> bool {
        let zero = AnyFrame::System(world.manager().zero_frame());
        match (self, raw.decode()) {
            (Self::Empty, entry) => entry == Entry::Empty,
            (Self::Lost, entry) => entry == Entry::Poison,
            (Self::OnDevice, Entry::Device { writable, .. }) => writable,
            (Self::OnDeviceShared, Entry::Device { writable, .. }) => !writable,
            (Self::OnDisk | Self::OnDiskAndInCache, Entry::Swap { .. })
            | (Self::Exclusive, Entry::Exclusive { .. }) => true,
            (Self::ZeroPage, Entry::Present { frame, .. }) => zero == frame.into(),
            (Self::InCoherentMemory, Entry::Present { frame, .. }) => {
                matches!(world.sim().frame_at(frame), AnyFrame::Device(_))
            }
            (Self::Dirty | Self::Pinned, Entry::Present { flags, .. }) => {
                flags.contains(LeafFlags::DIRTY | LeafFlags::WRITABLE)
            }
            (Self::Clean | Self::Unwanted, Entry::Present { flags, .. }) => {
                flags.contains(LeafFlags::WRITABLE) && !flags.contains(LeafFlags::DIRTY)
            }
            (Self::ReadOnly | Self::SharedByFork | Self::SwappedIn, Entry::Present { flags, .. }) => {
                !flags.contains(LeafFlags::WRITABLE)
            }
            _ => false,
        }
    }
}

/// A device that keeps no translation, so that there is nothing to stop.
struct Idle;

impl Listener for Idle {
    fn invalidate(&self, _: &Invalidation) {}
}

/// A space with pages of one kind; CPU 0 and CPU 1 are in it.
pub struct Scene<'w> {
    pub world: &'w World,
    pub kind: Kind,
    pub space: Space<'w, Sim>,
    pub child: Option<Space<'w, Sim>>,
    pins: Vec<Pin<'w, Sim>>,
}

impl<'w> Scene<'w> {
    fn new(world: &'w World, kind: Kind) -> Self {
        let mut scene = Self { world, kind, space: space_of(world, 8), child: None, pins: Vec::new() };
        let (space, both) = (scene.space, pages(PAGES[0], 2));
        let is_filled = |page: &u64| NEIGHBOURS.contains(page) || !matches!(kind, Kind::ZeroPage | Kind::Empty);
        for number in (2..6).filter(is_filled) {
            world.cpu(0).store(at(number, 0), &contents(number)).unwrap();
            world.cpu(1).read::<1>(at(number, 0)).unwrap();
        }
        if matches!(kind, Kind::OnDevice | Kind::OnDeviceShared | Kind::Lost) {
            assert_eq!(space.migrate_to_device(both, DEVICE).unwrap().moved, 2);
        }
        scene.child = kind.has_child().then(|| space.fork().unwrap());
        match kind {
            Kind::Clean => scene.change_entries(|raw| RawEntry(raw.0 & !LeafFlags::DIRTY.bits())),
            Kind::ReadOnly => {
                space.protect(both, Protection::READ).unwrap();
                space.protect(both, Protection::READ_WRITE).unwrap();
            }
            Kind::ZeroPage => PAGES.into_iter().for_each(|number| assert_eq!(page(world.cpu(1), number), zeros())),
            Kind::InCoherentMemory => assert_eq!(space.migrate_to_device(both, COHERENT).unwrap().moved, 2),
            Kind::OnDisk | Kind::OnDiskAndInCache | Kind::SwappedIn => {
                assert_eq!(space.swap_out(both).unwrap().freed, 2);
                let reader = if kind == Kind::OnDisk { None } else { Some(scene.child.unwrap_or(space)) };
                for number in reader.into_iter().flat_map(|_| PAGES) {
                    assert_eq!(scene.page_of(reader.unwrap(), number), Ok(contents(number)));
                }
            }
            Kind::Exclusive => {
                let listener = space.listen(Watch { range: both, device: None }, Arc::new(Idle)).unwrap();
                for number in PAGES {
                    let _ = space.make_exclusive(at(number, 0), listener).unwrap();
                }
            }
            Kind::Lost => {
                for number in PAGES {
                    world.manager().injector().arm(Step::Copy, 1);
                    assert!(world.cpu(0).read::<1>(at(number, 0)).is_err());
                }
            }
            Kind::Unwanted => space.free_lazily(both).unwrap(),
            Kind::Pinned => {
                scene.pins.extend(PAGES.map(|number| space.pin(at(number, 0), Access::Write, Term::Long).unwrap()));
            }
            _ => {}
        }
        for number in PAGES {
            assert!(kind.is_that_of(world, scene.entry(number)), "{kind:?} is {:?}", scene.entry(number).decode());
        }
        assert_eq!(space.resident(), scene.neighbours_and(kind.residency(2)));
        scene.audit();
        scene
    }

    /// Changes the entries behind the memory manager's back; both CPUs forget them.
    fn change_entries(&self, change: impl Fn(RawEntry) -> RawEntry) {
        for number in PAGES {
            let step = *self.space.path(at(number, 0)).leaf().unwrap();
            self.world.sim().swap_entry(step.slot, change(step.entry));
        }
        for cpu in [0, 1] {
            self.world.cpu(cpu).enter(self.space);
        }
    }

    pub fn entry(&self, number: u64) -> RawEntry {
        self.space.entry(at(number, 0))
    }

    /// The pages' entries, and those of the child.
    pub fn entries(&self) -> [Vec<RawEntry>; 2] {
        let of = |space: Space<'w, Sim>| PAGES.map(|number| space.entry(at(number, 0))).to_vec();
        [of(self.space), self.child.map(of).unwrap_or_default()]
    }

    pub fn neighbours_and(&self, mut resident: Residency) -> Residency {
        resident.ram += NEIGHBOURS.len() as u64;
        resident
    }

    /// The frames of the pinned pages.
    pub fn pinned(&self) -> Vec<AnyFrame> {
        self.pins.iter().map(Pin::frame).collect()
    }

    pub fn audit(&self) {
        audit_with(self.world, &Expected { pins: self.pinned(), ..Expected::default() }).unwrap();
    }

    /// The whole page, as CPU 1 finds it in `space`; it is back in its own afterwards.
    pub fn page_of(&self, space: Space<'w, Sim>, number: u64) -> Result<Contents, AccessError> {
        let cpu = self.world.cpu(1);
        cpu.enter(space);
        let found = cpu.read::<1>(at(number, 0)).map(|_| page(cpu, number));
        cpu.enter(self.space);
        found
    }

    /// What a load of a page of the kind gives.
    pub fn expected(&self, number: u64) -> Result<Contents, AccessError> {
        self.kind.contents(number).ok_or(AccessError::Refused(FaultError::Poisoned(at(number, 0))))
    }

    /// Expects the pages `numbers` of `space` to hold what they held, wherever `first` says page 0 is now; then stores to them, which
    /// must change this space only.
    pub fn expect_kept_and_usable(&self, numbers: &[u64], moved_by: u64) {
        for number in numbers {
            let (there, expected) = (number + moved_by, self.kind.contents(*number));
            let Some(mut expected) = expected else {
                let error = AccessError::Refused(FaultError::Poisoned(at(there, 0)));
                assert_eq!(self.page_of(self.space, there), Err(error));
                continue;
            };
            assert_eq!(self.page_of(self.space, there).as_ref(), Ok(&expected));
            self.world.cpu(1).store(at(there, 0), &[0xa5]).unwrap();
            self.world.sim().fence(self.world.cpu(1).id());
            expected.splice_front(&[0xa5]);
            assert_eq!(page(self.world.cpu(0), there), expected);
        }
        for (pin, number) in self.pins.iter().zip(PAGES).filter(|(_, number)| numbers.contains(number)) {
            assert_eq!(host(self.world, pin.frame())[..], page(self.world.cpu(0), number + moved_by)[..]);
        }
        self.expect_others_untouched();
    }

    /// Expects the neighbours, and the child's pages, to be what they were.
    pub fn expect_others_untouched(&self) {
        for number in NEIGHBOURS {
            assert_eq!(page(self.world.cpu(0), number), contents(number));
        }
        for (child, number) in self.child.into_iter().flat_map(|child| PAGES.map(|number| (child, number))) {
            assert_eq!(self.page_of(child, number), self.expected(number));
        }
        self.audit();
    }
}

/// Runs `operation` on pages of each kind, each in a machine of its own; everything must be free in the end.
pub fn for_each_kind(operation: impl Fn(&Scene<'_>)) {
    for kind in KINDS {
        println!("pages of the kind {kind:?}");
        let world = with_coherent().swap(64).build();
        let scene = Scene::new(&world, kind);
        operation(&scene);
        scene.audit();
        drop(scene);
        world.assert_all_free();
    }
}
