//! The N-th step fails, for every N until nothing fails any more: each outcome is right, or a clear error; nothing leaks.
use ferry_mm::frame::DeviceId;
use ferry_mm::inject::Step;
use ferry_mm::migrate::MigrateError;
use ferry_mm::page_table::entry::Entry;
use ferry_mm::space::{CreateError, FaultError, Protection, Space};
use ferry_mm::stats::Reason;
use ferry_sim::{AccessError, Sim, World, audit};

use crate::support::*;

/// Pages with contents; two more are empty.
const FILLED: u64 = 6;
const PAGES: u64 = FILLED + 2;

/// A step that may fail once: tried again, it succeeds.
fn again<T, E>(mut step: impl FnMut() -> Result<T, E>, expected: impl Fn(&E) -> bool) -> T {
    match step() {
        Ok(value) => value,
        Err(error) => {
            assert!(expected(&error), "not the error that was injected");
            step().unwrap_or_else(|_| panic!("only one step was to fail"))
        }
    }
}

fn out_of_memory(error: &AccessError) -> bool {
    matches!(error, AccessError::Refused(FaultError::OutOfMemory(_)))
}

/// Migrates until every page is on the device; a page may stay once.
fn all_to_device(world: &World, space: Space<'_, Sim>, device: DeviceId) {
    let mut moved = 0;
    for _ in 0..3 {
        match space.migrate_to_device(pages(0, PAGES), device) {
            Ok(report) => {
                moved += report.moved;
                let stayed = report.stayed;
                let injected = stayed.count(Reason::DeviceFull) + stayed.count(Reason::CopyFailed);
                assert!(injected <= 1, "{report:?}");
                assert_eq!(stayed.total(), injected + stayed.count(Reason::AlreadyThere), "{report:?}");
            }
            Err(error) => assert_eq!(error, MigrateError::NoMemory),
        }
        audit(world).unwrap();
    }
    assert_eq!(moved, PAGES);
    for number in 0..FILLED {
        assert_eq!(host(world, on_device(space, number).0), contents(number));
    }
}

/// Whether the page is poisoned; if not, its contents must be right.
fn is_lost(world: &World, space: Space<'_, Sim>, number: u64) -> bool {
    let is_poison = space.entry(at(number, 0)).decode() == Entry::Poison;
    let read = world.cpu(1).read::<4096>(at(number, 0));
    match read {
        Err(error) => {
            assert!(is_poison, "{error}");
            assert_eq!(error, AccessError::Refused(FaultError::Poisoned(at(number, 0))));
        }
        Ok(bytes) => {
            assert!(!is_poison, "a poisoned page was read");
            let expected = if number < FILLED { contents(number) } else { zeros() };
            assert!(bytes == expected[..], "page {number}");
        }
    }
    is_poison
}

/// There and back with one step failing; returns whether it did fail.
fn there_and_back(step: Step, count: u64) -> bool {
    let world = small().build();
    let injector = world.manager().injector();
    injector.arm(step, count);
    let create = || world.manager().create_space();
    let space = again(create, |error| *error == CreateError::OutOfFrames);
    space.map_anonymous(pages(0, PAGES), Protection::READ_WRITE).unwrap();
    for cpu in [0, 1] {
        world.cpu(cpu).enter(space);
    }
    for number in 0..FILLED {
        again(|| world.cpu(0).store(at(number, 0), &contents(number)), out_of_memory);
        audit(&world).unwrap();
    }
    all_to_device(&world, space, DEVICE);

    let mut lost = 0;
    for number in [0, 1, 2, FILLED] {
        match world.cpu(1).read::<1>(at(number, 8)) {
            Ok(_) => {}
            Err(error) if out_of_memory(&error) => {
                assert_eq!(step, Step::Alloc);
                on_device(space, number);
            }
            Err(error) => assert_eq!(error, AccessError::Refused(FaultError::Poisoned(at(number, 8)))),
        }
        audit(&world).unwrap();
        lost += u64::from(is_lost(&world, space, number));
    }
    let report = space.migrate_to_system(pages(0, PAGES)).unwrap();
    audit(&world).unwrap();
    assert!(report.stayed.count(Reason::NoMemory) + report.stayed.count(Reason::Poisoned) <= 1, "{report:?}");
    let all_lost = (0..PAGES).filter(|number| is_lost(&world, space, *number)).count() as u64;
    assert!(lost <= all_lost && all_lost <= 1, "one failed copy loses one page at most");
    assert!(all_lost == 0 || step == Step::Copy);
    assert_eq!(world.manager().statistics().read().poisoned, all_lost);
    audit(&world).unwrap();
    let failed = !injector.is_armed(step);
    world.assert_all_free();
    failed
}

fn every_count(step: Step, at_least: u64) {
    let failures = (1..1000).take_while(|count| there_and_back(step, *count)).count() as u64;
    assert!((at_least..500).contains(&failures), "{failures} different steps failed");
}

#[test]
fn every_failed_allocation_is_survived() {
    every_count(Step::Alloc, 1 + 4 + FILLED + PAGES);
}

#[test]
fn every_failed_device_allocation_is_survived() {
    every_count(Step::DeviceAlloc, PAGES);
}

#[test]
fn every_failed_copy_is_survived_or_reported() {
    every_count(Step::Copy, 2 * FILLED);
}
