//! A batch that is dropped gives every page back, bit for bit, whatever phase it is in.
use ferry_mm::inject::Step;
use ferry_mm::machine::Machine;
use ferry_mm::migrate::Held;
use ferry_mm::page_table::entry::{Entry, LeafFlags, RawEntry};
use ferry_mm::space::{Access, FaultError, Protection, Space, Term};
use ferry_mm::stats::Reason;
use ferry_sim::{AccessError, Expected, Sim, World, audit, audit_with};

use crate::support::*;

/// How far a batch gets before it is dropped.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Collected,
    Unmapped,
    Copied,
}

const PHASES: [Phase; 3] = [Phase::Collected, Phase::Unmapped, Phase::Copied];

/// Takes pages 0..8 up to a phase, audits while the batch is open, and drops it.
fn take_and_drop(world: &World, space: Space<'_, Sim>, phase: Phase, during: impl Fn()) {
    let open = Expected { open_batch: true, ..Expected::default() };
    let look = || {
        audit_with(world, &open).unwrap();
        during();
    };
    let collected = space.collect(pages(0, 8), DEVICE).unwrap();
    match phase {
        Phase::Collected => {
            look();
            drop(collected);
        }
        Phase::Unmapped => {
            let unmapped = collected.unmap().unwrap();
            look();
            drop(unmapped);
        }
        Phase::Copied => {
            let copied = collected.unmap().unwrap().copy();
            look();
            drop(copied);
        }
    }
}

/// Pages 0 to 7: each of the combinations of writable, accessed and dirty that a present entry can have, as far as
/// there is room; 6 is the zero page, 7 is empty.
fn mixed(world: &World) -> Space<'_, Sim> {
    let space = space_of(world, 8);
    fill(world.cpu(0), 6);
    world.cpu(0).read::<1>(at(6, 0)).unwrap();
    for number in 0..6 {
        let step = *space.path(at(number, 0)).leaf().unwrap();
        let mut drop = LeafFlags::empty();
        drop.set(LeafFlags::DIRTY, number & 1 != 0);
        drop.set(LeafFlags::ACCESSED, number & 2 != 0);
        drop.set(LeafFlags::WRITABLE, number & 4 != 0);
        world.sim().swap_entry(step.slot, RawEntry(step.entry.0 & !drop.bits()));
    }
    for cpu in [0, 1] {
        world.cpu(cpu).enter(space);
    }
    space
}

fn entries(space: Space<'_, Sim>) -> Vec<RawEntry> {
    (0..8).map(|number| space.entry(at(number, 0))).collect()
}

#[test]
fn every_phase_restores_every_entry_bit_for_bit() {
    for phase in PHASES {
        let world = small().build();
        let space = mixed(&world);
        let (before, census) = (entries(space), world.manager().census());
        take_and_drop(&world, space, phase, || {
            let taken = entries(space);
            for (taken, before) in taken.iter().zip(&before) {
                let Entry::Migrating { flags, .. } = taken.decode() else { panic!("{taken:?} is not taken") };
                assert_eq!(
                    flags,
                    before.flags() & LeafFlags::CARRIED,
                    "what the page allowed stays readable meanwhile"
                );
            }
        });
        assert_eq!(entries(space), before, "{phase:?}");
        assert_eq!(world.manager().census(), census, "{phase:?}");
        audit(&world).unwrap();
        for number in 0..6 {
            assert_eq!(page(world.cpu(1), number), contents(number), "{phase:?}");
        }
        world.assert_all_free();
    }
}

/// Why pages of a migration stay after the entries of another space were taken, too.
#[derive(Clone, Copy, Debug)]
enum Stays {
    /// This step fails for page 2.
    Fails(Step, Reason),
    Dropped(Phase),
}

#[test]
fn a_shared_page_that_stays_is_given_back_to_every_space() {
    let causes = [
        Stays::Fails(Step::Copy, Reason::CopyFailed),
        Stays::Fails(Step::DeviceAlloc, Reason::DeviceFull),
        Stays::Dropped(Phase::Unmapped),
        Stays::Dropped(Phase::Copied),
    ];
    for cause in causes {
        let world = small().build();
        let parent = space_of(&world, 8);
        fill(world.cpu(0), 8);
        let child = parent.fork().unwrap();
        child.protect(pages(2, 1), Protection::empty()).unwrap();
        world.cpu(1).enter(child);
        let before = [entries(parent), entries(child)];
        let stayed = match cause {
            Stays::Fails(step, reason) => {
                world.manager().injector().arm(step, 3);
                let report = parent.migrate_to_device(pages(0, 8), DEVICE).unwrap();
                assert_eq!((report.moved, report.stayed.count(reason)), (7, 1), "{cause:?}");
                2..3
            }
            Stays::Dropped(phase) => {
                take_and_drop(&world, parent, phase, || {
                    let taken = |raw: &RawEntry| matches!(raw.decode(), Entry::Migrating { .. });
                    assert!(entries(child).iter().all(taken), "{cause:?}");
                });
                0..8
            }
        };
        audit(&world).unwrap();
        for (space, before) in [parent, child].into_iter().zip(&before) {
            assert_eq!(entries(space)[stayed.clone()], before[stayed.clone()], "{cause:?}");
        }
        child.protect(pages(2, 1), Protection::READ_WRITE).unwrap();
        for number in 0..8 {
            assert_eq!(page(world.cpu(0), number), contents(number), "{cause:?}");
            assert_eq!(page(world.cpu(1), number), contents(number), "{cause:?}");
        }
        world.assert_all_free();
    }
}

#[test]
fn a_page_can_be_taken_again_after_it_was_given_back() {
    for phase in PHASES {
        let world = small().build();
        let space = mixed(&world);
        take_and_drop(&world, space, phase, || {});
        let report = space.migrate_to_device(pages(0, 8), DEVICE).unwrap();
        assert_eq!(report.moved, 8, "{phase:?}: {report:?}");
        audit(&world).unwrap();
        world.assert_all_free();
    }
}

#[test]
fn no_cpu_reaches_a_page_that_a_batch_holds() {
    for phase in PHASES {
        let world = small().build();
        let space = space_of(&world, 8);
        fill(world.cpu(0), 8);
        for number in 0..8 {
            world.cpu(1).store(at(number, 0), &contents(number)[..8]).unwrap();
        }
        take_and_drop(&world, space, phase, || {
            for cpu in [0, 1] {
                let id = world.cpu(cpu).id();
                assert!(world.sim().load(id, at(3, 0)).is_err(), "CPU {cpu} still reads in {phase:?}");
                assert!(world.sim().store(id, at(3, 0), u64::MAX, 1).is_err(), "CPU {cpu} still writes in {phase:?}");
            }
        });
        for number in 0..8 {
            assert_eq!(page(world.cpu(1), number), contents(number));
        }
        world.assert_all_free();
    }
}

#[test]
fn the_cpu_that_migrates_a_page_is_told_not_to_wait_for_itself() {
    for phase in PHASES {
        let world = small().build();
        let space = mixed(&world);
        take_and_drop(&world, space, phase, || {
            let itself = AccessError::Refused(FaultError::WaitsForItself(at(0, 0)));
            assert_eq!(world.cpu(0).store(at(0, 0), &[1]), Err(itself));
            assert_eq!(
                world.cpu(0).run(|| space.pin(at(0, 0), Access::Read, Term::Long)).err(),
                Some(FaultError::WaitsForItself(at(0, 0)))
            );
        });
        audit(&world).unwrap();
        world.assert_all_free();
    }
}

#[test]
fn pages_outside_the_batch_are_faulted_in_while_it_is_open() {
    let world = small().build();
    let space = mixed(&world);
    space.map_anonymous(pages(8, 4), Protection::READ_WRITE).unwrap();
    let collected = space.collect(pages(0, 8), DEVICE).unwrap();
    world.cpu(0).store(at(9, 0), &contents(9)).unwrap();
    world.cpu(1).store(at(10, 0), &contents(10)).unwrap();
    world.sim().fence(world.cpu(1).id());
    assert_eq!(collected.unmap().unwrap().copy().finalize().moved, 8);
    assert_eq!(page(world.cpu(0), 10), contents(10));
    assert_eq!(page(world.cpu(1), 9), contents(9));
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_second_batch_finds_the_pages_of_the_first_busy() {
    let world = small().build();
    let space = mixed(&world);
    let mut first = space.collect(pages(0, 4), DEVICE).unwrap();
    assert!(first.standings().all(|held| held == Held::Yes));
    let mut second = world.cpu(1).run(|| space.collect(pages(0, 8), DEVICE)).unwrap();
    let standings: Vec<Held> = second.standings().collect();
    assert_eq!(standings[..4], [Held::No(Reason::Busy); 4]);
    assert_eq!(standings[4..], [Held::Yes; 4]);
    let report = world.cpu(1).run(|| second.unmap().unwrap().copy().finalize());
    assert_eq!((report.moved, report.stayed.count(Reason::Busy)), (4, 4));
    assert_eq!(first.unmap().unwrap().copy().finalize().moved, 4);
    audit(&world).unwrap();
    for number in 0..6 {
        assert_eq!(page(world.cpu(1), number), contents(number));
    }
    world.assert_all_free();
}
