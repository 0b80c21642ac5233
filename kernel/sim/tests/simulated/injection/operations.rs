//! The table of operations.
use ferry_mm::frame::{AnyFrame, DeviceFrame, DeviceId};
use ferry_mm::inject::Step;
use ferry_mm::migrate::{Foreign, MigrateError, MigrateOptions, Mode};
use ferry_mm::mirror::{MirrorEntry, MirrorError, MirrorRequest, Want};
use ferry_mm::page_table::entry::{Entry, LeafFlags};
use ferry_mm::space::{
    Access, CreateError, ExclusiveError, FaultError, ForkError, Leave, MapError, Protection, RelocateError, Term,
};
use ferry_sim::AccessError;
use x86_64::VirtAddr;

use super::scene::{BEHIND_BAR, ELSEWHERE, Kind, OTHER, PAGES, Place, Scene};
use crate::support::*;

/// Why an operation was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// No frame.
    NoMemory,
    /// The contents are lost.
    Lost,
    /// A copy failed, and nothing is lost by it.
    NotCopied,
    /// The disk failed.
    Disk,
}

type Run = Box<dyn Fn(&mut Scene<'_>) -> Result<(), Refused>>;

/// One operation of the memory manager.
pub struct Operation {
    pub name: String,
    /// Does it, checks what it says, and notes in the scene what must be in the pages now.
    pub run: Run,
    /// Steps that it cannot do without.
    pub takes: &'static [Step],
    /// What it did before the step that failed stays: it goes page by page, and each is as good as done.
    pub keeps_progress: bool,
}

impl From<FaultError> for Refused {
    fn from(error: FaultError) -> Self {
        match error {
            FaultError::OutOfMemory(_) => Self::NoMemory,
            FaultError::Poisoned(_) => Self::Lost,
            FaultError::Disk(_) => Self::Disk,
            error => panic!("{error}"),
        }
    }
}

impl From<AccessError> for Refused {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::Refused(error) => error.into(),
            error => panic!("{error}"),
        }
    }
}

impl From<MapError> for Refused {
    fn from(error: MapError) -> Self {
        assert_eq!(error, MapError::OutOfFrames);
        Self::NoMemory
    }
}

/// Why a page cannot be reached: it still stands on the disk, or is lost.
fn unreachable_page(scene: &Scene<'_>, address: VirtAddr) -> Refused {
    match scene.parent().entry(address).decode() {
        Entry::Swap { .. } => Refused::Disk,
        Entry::Poison => Refused::Lost,
        other => panic!("nothing is wrong with {other:?}"),
    }
}

fn access(kind: Kind, write: bool) -> Operation {
    let run = move |scene: &mut Scene<'_>| {
        let (cpu, number) = (scene.world.cpu(0), kind.page());
        if write {
            cpu.store(at(number, 0), &[0xa5; 16])?;
            scene.page(number).splice_front(&[0xa5; 16]);
        } else {
            let found = cpu.read::<16>(at(number, 0))?;
            assert_eq!(found[..], scene.page(number)[..16]);
        }
        Ok(())
    };
    let takes: &[Step] = match kind {
        Kind::Empty | Kind::Zero if write => &[Step::Alloc],
        Kind::Shared if write => &[Step::Alloc],
        Kind::OnDevice | Kind::OnDeviceShared | Kind::OnOther => &[Step::Alloc, Step::Copy],
        Kind::Swapped | Kind::SwappedShared => &[Step::DiskRead],
        _ => &[],
    };
    operation(format!("{} {kind:?}", if write { "store to" } else { "load from" }), takes, run)
}

fn pin(kind: Kind, access: Access, term: Term) -> Operation {
    let run = move |scene: &mut Scene<'_>| {
        let number = kind.page();
        let pinned = scene.parent().pin(at(number, 0), access, term);
        if let Err(FaultError::PinnedOnDevice(_)) = pinned {
            assert_eq!((kind, term), (Kind::PinnedCoherent, Term::Long));
            return Ok(());
        }
        let pin = pinned?;
        assert_eq!(host(scene.world, pin.frame()), *scene.page(number));
        assert!(term == Term::Short || matches!(pin.frame(), AnyFrame::System(_)));
        scene.pins.push(pin);
        Ok(())
    };
    // On its way through several hands: home, then a copy of its own.
    stepwise(format!("pin {kind:?} for {access:?}, {term:?}"), &[], run)
}

fn make_exclusive(kind: Kind) -> Operation {
    let run = move |scene: &mut Scene<'_>| {
        let number = kind.page();
        match scene.parent().make_exclusive(at(number, 0), scene.listener) {
            Ok(taken) => assert_eq!(host(scene.world, taken.frame), *scene.page(number)),
            Err(ExclusiveError::Fault(error)) => return Err(error.into()),
            Err(ExclusiveError::Pinned(_)) => assert!(matches!(kind, Kind::Pinned | Kind::PinnedCoherent)),
            Err(error) => panic!("{error}"),
        }
        Ok(())
    };
    stepwise(format!("make {kind:?} exclusive"), &[], run)
}

/// Asks until nothing changes under the question.
fn range_fault(first: u64, count: u64, want: Want) -> Operation {
    let run = move |scene: &mut Scene<'_>| {
        let mut entries = vec![MirrorEntry::None; count as usize];
        for _ in 0..=count {
            let since = scene.world.manager().sequence(scene.listener).unwrap();
            let request = MirrorRequest { listener: scene.listener, since, want };
            match scene.parent().range_fault(pages(first, count), &request, &mut entries) {
                Ok(_) => {
                    for (number, entry) in (first..).zip(entries) {
                        let frame = match entry {
                            MirrorEntry::Ram { frame, .. } => AnyFrame::System(frame),
                            MirrorEntry::Device { frame, .. } => AnyFrame::Device(frame),
                            other => {
                                assert_eq!((want, other), (Want::Look, MirrorEntry::None), "page {number}");
                                continue;
                            }
                        };
                        assert_eq!(host(scene.world, frame), *scene.page(number), "page {number}");
                    }
                    return Ok(());
                }
                Err(MirrorError::Again) => {}
                Err(MirrorError::NoMemory(_)) => return Err(Refused::NoMemory),
                Err(MirrorError::Fault(address)) => return Err(unreachable_page(scene, address)),
                Err(error) => panic!("{error}"),
            }
        }
        panic!("the pages are never found in place");
    };
    stepwise(format!("range_fault of {count} page(s) from {first}, {want:?}"), &[], run)
}

fn to_device(device: DeviceId, foreign: Foreign, mode: Mode, takes: &'static [Step]) -> Operation {
    let run = move |scene: &mut Scene<'_>| {
        let options = MigrateOptions { foreign, mode, ..MigrateOptions::default() };
        let report = match scene.parent().migrate_to_device_with(pages(0, PAGES), device, options) {
            Ok(report) => report,
            Err(MigrateError::NoMemory) => return Err(Refused::NoMemory),
            Err(MigrateError::Fault(address)) => return Err(unreachable_page(scene, address)),
            Err(error) => panic!("{error}"),
        };
        assert_eq!(report.moved + report.stayed.total(), PAGES, "{report:?}");
        assert!(report.moved > 5, "{report:?}");
        Ok(())
    };
    let name = format!("migrate to device {}, foreign {foreign:?}, {mode:?}", device.number());
    if foreign == Foreign::ViaRam { stepwise(name, takes, run) } else { operation(name, takes, run) }
}

fn evict(device: DeviceId) -> Operation {
    let run = move |scene: &mut Scene<'_>| {
        let evicted = scene.world.manager().evict_device(device).unwrap();
        assert!(evicted.returned + evicted.lost + evicted.no_memory > 0 && evicted.busy == 0, "{evicted:?}");
        scene.world.manager().device(device).unwrap().reopen();
        Ok(())
    };
    operation(format!("evict device {}", device.number()), &[Step::Alloc, Step::Copy], run)
}

fn relocate(leave: Leave) -> Operation {
    let run = move |scene: &mut Scene<'_>| {
        match scene.parent().relocate(pages(0, PAGES), at(ELSEWHERE, 0), leave) {
            Ok(there) => assert_eq!(there, pages(ELSEWHERE, PAGES)),
            Err(RelocateError::OutOfFrames) => return Err(Refused::NoMemory),
            Err(error) => panic!("{error}"),
        }
        for number in 0..PAGES {
            let moved = scene.places[0].pages.remove(&number).unwrap();
            scene.places[0].pages.insert(ELSEWHERE + number, moved);
            if leave == Leave::Empty {
                scene.places[0].pages.insert(number, Some(zeros()));
            }
        }
        Ok(())
    };
    operation(format!("relocate, leave {leave:?}"), &[Step::Alloc], run)
}

fn fork(place: usize) -> Operation {
    let run = move |scene: &mut Scene<'_>| match scene.places[place].space.fork() {
        Ok(space) => {
            let pages = scene.places[place].pages.clone();
            scene.places.push(Place { space, pages });
            Ok(())
        }
        Err(ForkError::OutOfFrames | ForkError::Create(CreateError::OutOfFrames)) => Err(Refused::NoMemory),
        Err(ForkError::CopyFailed(_)) => Err(Refused::NotCopied),
        Err(error) => panic!("{error}"),
    };
    operation(format!("fork space {place}"), &[Step::Alloc], run)
}

fn map_shared() -> Operation {
    let run = |scene: &mut Scene<'_>| {
        scene.parent().map_shared(pages(ELSEWHERE, 4), Protection::READ_WRITE)?;
        scene.places[0].pages.extend((ELSEWHERE..ELSEWHERE + 4).map(|number| (number, Some(zeros()))));
        Ok(())
    };
    operation("map shared memory".into(), &[Step::Alloc], run)
}

fn map_device() -> Operation {
    let run = |scene: &mut Scene<'_>| {
        // Registers, for all that the memory manager knows: beyond RAM and beyond every BAR.
        let last = scene.world.sim().coherent_frame(DeviceFrame::new(BEHIND_BAR, 31));
        scene.parent().map_device(pages(ELSEWHERE, 4), last + 64, LeafFlags::CACHE_DISABLE, Protection::READ)?;
        Ok(())
    };
    operation("map a device's addresses".into(), &[Step::Alloc], run)
}

fn create_space() -> Operation {
    let run = |scene: &mut Scene<'_>| match scene.world.manager().create_space() {
        Ok(space) => {
            scene.places.push(Place { space, pages: Default::default() });
            Ok(())
        }
        Err(CreateError::OutOfFrames) => Err(Refused::NoMemory),
        Err(error) => panic!("{error}"),
    };
    operation("create a space".into(), &[Step::Alloc], run)
}

/// What cannot fail for want of anything, but works on pages of every kind.
fn without_failure(name: &str, run: impl Fn(&mut Scene<'_>) + 'static) -> Operation {
    operation(name.into(), &[], move |scene| {
        run(scene);
        Ok(())
    })
}

fn operation(
    name: String,
    takes: &'static [Step],
    run: impl Fn(&mut Scene<'_>) -> Result<(), Refused> + 'static,
) -> Operation {
    Operation { name, run: Box::new(run), takes, keeps_progress: false }
}

fn stepwise(
    name: String,
    takes: &'static [Step],
    run: impl Fn(&mut Scene<'_>) -> Result<(), Refused> + 'static,
) -> Operation {
    Operation { keeps_progress: true, ..operation(name, takes, run) }
}

/// Every operation.
pub fn operations() -> Vec<Operation> {
    let mut all = Vec::new();
    for kind in Kind::ALL {
        all.extend([access(kind, false), access(kind, true), make_exclusive(kind)]);
        let pins = [(Access::Read, Term::Short), (Access::Read, Term::Long), (Access::Write, Term::Long)];
        all.extend(pins.map(|(access, term)| pin(kind, access, term)));
        all.extend([Want::Look, Want::Read, Want::Write].map(|want| range_fault(kind.page(), 1, want)));
    }
    const GO: &[Step] = &[Step::DeviceAlloc, Step::Copy, Step::DiskRead];
    all.extend([
        range_fault(0, PAGES, Want::Read),
        range_fault(0, PAGES, Want::Write),
        to_device(DEVICE, Foreign::Stay, Mode::Stop, GO),
        to_device(OTHER, Foreign::Stay, Mode::Stop, GO),
        to_device(BEHIND_BAR, Foreign::Stay, Mode::Stop, GO),
        to_device(DEVICE, Foreign::Stay, Mode::Transactional, GO),
        to_device(BEHIND_BAR, Foreign::Stay, Mode::Transactional, GO),
        to_device(DEVICE, Foreign::ViaRam, Mode::Stop, &[Step::Alloc, Step::DeviceAlloc, Step::Copy, Step::DiskRead]),
        to_device(
            BEHIND_BAR,
            Foreign::ViaRam,
            Mode::Stop,
            &[Step::Alloc, Step::DeviceAlloc, Step::Copy, Step::DiskRead],
        ),
        operation("migrate to system".into(), &[Step::Alloc, Step::Copy], |scene| {
            let report = scene.parent().migrate_to_system(pages(0, PAGES)).unwrap();
            assert_eq!(report.moved + report.stayed.total(), PAGES, "{report:?}");
            assert!(report.moved > 3, "{report:?}");
            Ok(())
        }),
        evict(DEVICE),
        evict(OTHER),
        evict(BEHIND_BAR),
        fork(0),
        fork(1),
        relocate(Leave::Nothing),
        relocate(Leave::Empty),
        map_shared(),
        map_device(),
        create_space(),
        without_failure("swap out", |scene| _ = scene.parent().swap_out(pages(0, PAGES))),
        without_failure("free lazily", |scene| scene.parent().free_lazily(pages(0, PAGES)).unwrap()),
        without_failure("protect and back", |scene| {
            for protection in [Protection::empty(), Protection::READ_WRITE] {
                scene.parent().protect(pages(0, PAGES), protection).unwrap();
            }
        }),
        without_failure("discard", |scene| {
            scene.parent().discard(pages(0, PAGES)).unwrap();
            scene.places[0].pages.values_mut().for_each(|contents| *contents = Some(zeros()));
        }),
        without_failure("unmap", |scene| {
            scene.parent().unmap(pages(0, PAGES)).unwrap();
            scene.places[0].pages.clear();
        }),
        without_failure("map anonymous memory and a guard", |scene| {
            scene.parent().map_anonymous(pages(ELSEWHERE, 2), Protection::READ_WRITE).unwrap();
            scene.parent().map_guard(pages(ELSEWHERE + 2, 1)).unwrap();
            scene.places[0].pages.extend((ELSEWHERE..ELSEWHERE + 2).map(|number| (number, Some(zeros()))));
        }),
    ]);
    all
}
