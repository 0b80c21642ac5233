//! Listeners that come and go between the steps of others.
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ferry_mm::notify::InvalidationReason;
use ferry_mm::space::Protection;
use ferry_sim::{Moment, audit};

use crate::notify::watching::Witness;
use crate::support::*;

/// The place of a listener is given away the moment it is free: the next one must not inherit the number of the one before.
#[test]
fn a_listener_that_takes_the_place_of_another_keeps_it() {
    let world = forever(small());
    let space = space_of(world, 8);
    fill(world.cpu(0), 8);
    let (_, first) = Witness::of(world, space, 0, 8);
    let second = Arc::new(Mutex::new(None));
    let (place, locks) = (second.clone(), AtomicUsize::new(0));
    world.sim().watch(move |_, moment| {
        // Before the lock of the table, with it, and the third time when it has just been given back.
        if moment == Moment::Lock && locks.fetch_add(1, Ordering::Relaxed) == 2 {
            *place.lock().unwrap() = Some(world.cpu(1).run(|| Witness::of(world, space, 0, 8)));
        }
    });
    assert!(world.manager().unlisten(first).is_some());
    world.sim().unwatch();
    let (witness, second) = second.lock().unwrap().take().expect("it listens");
    assert!(world.manager().sequence(second).is_ok());
    space.protect(pages(0, 8), Protection::READ).unwrap();
    assert_eq!(witness.reasons(), [InvalidationReason::Protect]);
    assert!(world.manager().unlisten(second).is_some());
    audit(world).unwrap();
    world.assert_all_free();
}

/// Who listens since the space has announced its end is told, too, before a frame is free.
#[test]
fn a_listener_that_comes_while_a_space_goes_is_told() {
    let world = forever(small());
    let space = space_of(world, 8);
    fill(world.cpu(0), 8);
    (0..2).for_each(|cpu| world.cpu(cpu).leave());
    let witness = Arc::new(Mutex::new(None));
    let (place, locks) = (witness.clone(), AtomicUsize::new(0));
    world.sim().watch(move |_, moment| {
        if moment == Moment::Lock && locks.fetch_add(1, Ordering::Relaxed) == 0 {
            *place.lock().unwrap() = Some(world.cpu(1).run(|| Witness::of(world, space, 0, 8)).0);
        }
    });
    space.destroy().unwrap();
    world.sim().unwatch();
    let told = witness.lock().unwrap().take().expect("it listens").take();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].event.reason, InvalidationReason::Release);
    assert!(told[0].entry.is_present(), "told too late");
    world.assert_all_free();
}

/// An open migration's announcement ends in its second phase; the CPU that holds it need not get there first.
#[test]
fn a_listener_can_be_removed_by_the_cpu_that_holds_a_migration_open() {
    let world = forever(small());
    let space = space_of(world, 8);
    fill(world.cpu(0), 8);
    let (witness, id) = Witness::of(world, space, 0, 8);
    let collected = space.collect(pages(0, 8), DEVICE).unwrap();
    assert_eq!(witness.reasons(), [InvalidationReason::Migrate]);
    assert!(world.manager().unlisten(id).is_some());
    drop(collected);
    // The place counts again only for whoever is told from now on.
    let (witness, _) = Witness::of(world, space, 0, 8);
    space.unmap(pages(0, 4)).unwrap();
    assert_eq!(witness.reasons(), [InvalidationReason::Unmap]);
    audit(world).unwrap();
    world.assert_all_free();
}
