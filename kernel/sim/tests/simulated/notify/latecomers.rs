//! A listener who comes between an announcement and the change is told, too: whoever announced looks again once he holds what
//! keeps listeners out, and announces anew.
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use ferry_mm::machine::Machine;
use ferry_mm::notify::InvalidationReason;
use ferry_mm::space::{Access, Leave, Protection, Space, Term};
use ferry_sim::{Moment, Sim, World, audit};

use super::watching::*;
use crate::support::*;

/// Runs `act` on CPU 0. CPU 1 registers a second listener of page 2 once the first was told and CPU 0 goes on to take its first
/// lock; both must be told, the second before the entry changes.
fn expect_told_late(world: &'static World, space: Space<'static, Sim>, reason: InvalidationReason, act: impl FnOnce()) {
    let (first, _) = Witness::of(world, space, 2, 1);
    let before = space.entry(at(2, 0)).decode();
    let (seen, late) = (first.clone(), Arc::new(Mutex::new(None)));
    let (place, came) = (late.clone(), AtomicBool::new(false));
    let announcing = world.cpu(0).id();
    world.sim().watch(move |sim, moment| {
        let is_between = moment == Moment::Lock && sim.cpu() == announcing && sim.held_by(announcing).count() == 0;
        if is_between && seen.was_told() && !came.swap(true, Ordering::SeqCst) {
            let witness = world.cpu(1).run(|| Witness::of(world, space, 2, 1)).0;
            *place.lock().unwrap() = Some(witness);
        }
    });
    world.cpu(0).run(act);
    world.sim().unwatch();
    assert!(first.reasons().iter().all(|told| *told == reason));
    let late = late.lock().unwrap().take().expect("the moment for the second listener came");
    let told = late.take();
    assert!(!told.is_empty(), "{reason:?}: the second listener was forgotten");
    assert_eq!((told[0].event.reason, told[0].entry.decode()), (reason, before), "told too late");
    audit(world).unwrap();
    world.assert_all_free();
}

/// A space of 8 written pages.
fn written() -> (&'static World, Space<'static, Sim>) {
    let world = forever(with_coherent());
    let space = space_of(world, 8);
    fill(world.cpu(0), 8);
    (world, space)
}

#[test]
fn of_a_change_of_areas() {
    let (world, space) = written();
    expect_told_late(world, space, InvalidationReason::Unmap, || space.unmap(pages(2, 2)).unwrap());
    let (world, space) = written();
    expect_told_late(world, space, InvalidationReason::Protect, || {
        space.protect(pages(2, 2), Protection::READ).unwrap();
    });
    let (world, space) = written();
    expect_told_late(world, space, InvalidationReason::Move, || {
        let _ = space.relocate(pages(2, 2), at(1000, 0), Leave::Nothing).unwrap();
    });
}

#[test]
fn of_pages_that_are_unwanted() {
    let (world, space) = written();
    expect_told_late(world, space, InvalidationReason::FreeLazily, || space.free_lazily(pages(2, 2)).unwrap());
}

#[test]
fn of_a_migration_there_and_home() {
    let (world, space) = written();
    expect_told_late(world, space, InvalidationReason::Migrate, || {
        assert_eq!(space.migrate_to_device(pages(0, 8), DEVICE).unwrap().moved, 8);
    });
    for device in [DEVICE, COHERENT] {
        let (world, space) = written();
        assert_eq!(space.migrate_to_device(pages(0, 8), device).unwrap().moved, 8);
        expect_told_late(world, space, InvalidationReason::Migrate, || {
            assert_eq!(space.migrate_to_system(pages(0, 8)).unwrap().moved, 8);
        });
    }
}

#[test]
fn of_a_fault_and_a_pin() {
    let (world, space) = written();
    let _child = space.fork().unwrap();
    expect_told_late(world, space, InvalidationReason::CopyOnWrite, || world.cpu(0).store(at(2, 0), &[1]).unwrap());
    let (world, space) = written();
    assert_eq!(space.migrate_to_device(pages(0, 8), COHERENT).unwrap().moved, 8);
    expect_told_late(world, space, InvalidationReason::Migrate, || {
        drop(space.pin(at(2, 0), Access::Write, Term::Long).unwrap());
    });
}
