//! A disk error is an error of the access that needed the page, or of nobody; nothing is lost by it.
use ferry_mm::inject::Step;
use ferry_mm::migrate::MigrateError;
use ferry_mm::space::{Access, FaultError, Space, Term};
use ferry_mm::stats::Reason;
use ferry_sim::{AccessError, Sim, Transfer, World, audit};

use super::{on_disk, slot, swap_out, swapping};
use crate::support::*;

#[test]
fn a_failed_read_is_the_error_of_that_access_and_may_be_tried_again() {
    for write in [false, true] {
        let world = swapping().build();
        let space = space_of(&world, 2);
        fill(world.cpu(0), 2);
        swap_out(space, 0, 2);
        let free = world.manager().census().free_frames;
        let before = slot(space, 0);
        world.disk().fail(Transfer::Read, 1);
        let refused = AccessError::Refused(FaultError::Disk(at(0, 8)));
        if write {
            assert_eq!(world.cpu(0).store(at(0, 8), &[1; 8]), Err(refused));
        } else {
            assert_eq!(world.cpu(0).read::<8>(at(0, 8)), Err(refused));
        }
        assert_eq!((slot(space, 0), world.manager().census().free_frames), (before, free));
        assert_eq!(world.manager().statistics().read().disk_errors, 1);
        audit(&world).unwrap();
        for number in 0..2 {
            assert_eq!(page(world.cpu(1), number), contents(number));
        }
        world.assert_all_free();
    }
}

#[test]
fn a_failed_write_leaves_the_page_where_a_fault_finds_it() {
    let world = swapping().build();
    let space = space_of(&world, 3);
    fill(world.cpu(0), 3);
    world.disk().fail(Transfer::Write, 2);
    let out = space.swap_out(pages(0, 3)).unwrap();
    assert_eq!((out.freed, out.stayed.count(Reason::DiskFailed)), (2, 1));
    audit(&world).unwrap();
    for number in 0..3 {
        assert_eq!(page(world.cpu(1), number), contents(number));
    }
    assert_eq!(world.disk().asked(Transfer::Read), 2, "the third was still in RAM");
    // Mapped from the only copy, it must be written the next time.
    swap_out(space, 0, 3);
    assert_eq!(on_disk(&world, space, 1), contents(1).to_vec());
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn the_only_copy_goes_with_the_last_entry_that_names_it() {
    for discard in [false, true] {
        let world = swapping().build();
        let space = space_of(&world, 1);
        fill(world.cpu(0), 1);
        world.disk().fail(Transfer::Write, 1);
        assert_eq!(space.swap_out(pages(0, 1)).unwrap().freed, 0);
        slot(space, 0);
        if discard { space.discard(pages(0, 1)) } else { space.unmap(pages(0, 1)) }.unwrap();
        assert_eq!(world.manager().census().free_slots, world.disk().slots());
        audit(&world).unwrap();
        world.assert_all_free();
    }
}

#[test]
fn a_migration_over_a_page_that_cannot_be_read_takes_nothing() {
    let world = swapping().build();
    let space = space_of(&world, 4);
    fill(world.cpu(0), 4);
    swap_out(space, 2, 2);
    let entries = || (0..4).map(|number| space.entry(at(number, 0))).collect::<Vec<_>>();
    let before = entries();
    world.disk().fail(Transfer::Read, 1);
    assert_eq!(space.migrate_to_device(pages(0, 4), DEVICE), Err(MigrateError::Fault(at(2, 0))));
    assert_eq!(entries(), before);
    audit(&world).unwrap();
    assert_eq!(space.migrate_to_device(pages(0, 4), DEVICE).unwrap().moved, 4);
    for number in 0..4 {
        assert_eq!(page(world.cpu(1), number), contents(number));
    }
    world.assert_all_free();
}

#[test]
fn a_pin_of_a_page_that_cannot_be_read_fails_and_holds_nothing() {
    let world = swapping().build();
    let space = space_of(&world, 1);
    fill(world.cpu(0), 1);
    swap_out(space, 0, 1);
    world.disk().fail(Transfer::Read, 1);
    assert_eq!(space.pin(at(0, 0), Access::Read, Term::Long).err(), Some(FaultError::Disk(at(0, 0))));
    audit(&world).unwrap();
    assert_eq!(host(&world, space.pin(at(0, 0), Access::Read, Term::Long).unwrap().frame()), contents(0));
    world.assert_all_free();
}

/// What is to fail.
#[derive(Clone, Copy, Debug)]
enum Failure {
    Disk(Transfer),
    Step(Step),
}

impl Failure {
    fn arm(self, world: &World, count: u64) {
        match self {
            Self::Disk(transfer) => world.disk().fail(transfer, count),
            Self::Step(step) => world.manager().injector().arm(step, count),
        }
    }

    fn is_armed(self, world: &World) -> bool {
        match self {
            Self::Disk(transfer) => world.disk().will_fail(transfer),
            Self::Step(step) => world.manager().injector().is_armed(step),
        }
    }
}

/// An access that may fail once, with an error that loses nothing.
fn again<T>(mut access: impl FnMut() -> Result<T, AccessError>) -> T {
    access()
        .or_else(|error| match error {
            AccessError::Refused(FaultError::OutOfMemory(_) | FaultError::Disk(_)) => access(),
            error => Err(error),
        })
        .unwrap()
}

const PAGES: u64 = 28;

/// More pages than RAM has frames: written, changed, read, forked, migrated, with the `count`-th step failing. Whether it did.
fn more_than_fits(failure: Failure, count: u64) -> bool {
    let world = swapping().frames(20).device(6).build();
    let space = space_of(&world, PAGES);
    failure.arm(&world, count);
    for number in 0..PAGES {
        again(|| world.cpu(0).store(at(number, 0), &contents(number)));
    }
    audit(&world).unwrap();
    for number in 0..PAGES {
        again(|| world.cpu(1).store(at(number, 0), &contents(number + 1)[..64]));
    }
    audit(&world).unwrap();
    check(&world, space);
    let child = space.fork().or_else(|_| space.fork()).unwrap();
    world.cpu(1).enter(child);
    again(|| world.cpu(1).store(at(0, 0), &contents(77)));
    audit(&world).unwrap();
    let moved = space.migrate_to_device(pages(2, 8), DEVICE).or_else(|error| {
        assert!(matches!(error, MigrateError::Fault(_) | MigrateError::NoMemory), "{error}");
        space.migrate_to_device(pages(2, 8), DEVICE)
    });
    assert_eq!(moved.map(|report| report.moved + report.stayed.total()), Ok(8));
    audit(&world).unwrap();
    let _ = space.migrate_to_system(pages(2, 8)).unwrap();
    audit(&world).unwrap();
    for number in 1..PAGES {
        let mut expected = contents(number);
        expected.splice_front(&contents(number + 1)[..64]);
        assert!(again(|| world.cpu(1).read::<4096>(at(number, 0))) == expected[..], "page {number} of the child");
    }
    world.cpu(1).enter(space);
    check(&world, space);
    let failed = !failure.is_armed(&world);
    failure.arm(&world, 0);
    world.assert_all_free();
    failed
}

/// Every page of the space holds what was stored last.
fn check(world: &World, space: Space<'_, Sim>) {
    assert_eq!(world.cpu(0).space().map(Space::id), Some(space.id()));
    for number in 0..PAGES {
        let mut expected = contents(number);
        expected.splice_front(&contents(number + 1)[..64]);
        assert!(again(|| world.cpu(0).read::<4096>(at(number, 0))) == expected[..], "page {number}");
    }
    audit(world).unwrap();
}

fn every_count(failure: Failure, at_least: u64) {
    let failures = (1..2000).take_while(|count| more_than_fits(failure, *count)).count() as u64;
    assert!((at_least..2000).contains(&failures), "{failures} different steps failed");
}

#[test]
fn every_failed_disk_read_is_survived() {
    every_count(Failure::Disk(Transfer::Read), PAGES);
}

#[test]
fn every_failed_disk_write_is_survived() {
    every_count(Failure::Disk(Transfer::Write), PAGES);
}

#[test]
fn every_failed_allocation_under_pressure_is_survived() {
    every_count(Failure::Step(Step::Alloc), 2 * PAGES);
}

#[test]
fn injected_disk_failures_strike_like_those_of_the_disk() {
    assert!(more_than_fits(Failure::Step(Step::DiskRead), 3));
    assert!(more_than_fits(Failure::Step(Step::DiskWrite), 3));
}
