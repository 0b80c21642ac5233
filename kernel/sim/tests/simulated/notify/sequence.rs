//! Listeners by themselves: registration, the sequence, exclusion.
use std::sync::{Arc, Mutex};

use ferry_mm::migrate::MigrateOptions;
use ferry_mm::notify::{Invalidating, Invalidation, InvalidationReason, ListenError, Listener, MAX_LISTENERS, Watch};
use ferry_mm::space::Protection;
use ferry_sim::World;

use super::watching::*;
use crate::support::*;

#[test]
fn a_lookup_fails_while_its_pages_are_invalidated_and_after() {
    let world = forever(small());
    let space = space_of(world, 8);
    fill(world.cpu(0), 8);
    let manager = world.manager();
    let (_first, first) = Witness::of(world, space, 0, 4);
    let (_second, second) = Witness::of(world, space, 4, 4);
    let since = [manager.sequence(first).unwrap(), manager.sequence(second).unwrap()];
    let seen = Arc::new(Mutex::new(Vec::new()));
    let during = seen.clone();
    world.sim().watch(move |_, _| during.lock().unwrap().push(manager.sequence(first)));
    space.protect(pages(1, 1), Protection::READ).unwrap();
    world.sim().unwatch();
    let refused = seen.lock().unwrap().iter().filter(|sequence| **sequence == Err(Invalidating(first))).count();
    assert!(refused > 3, "refused while the page was protected: {refused}");
    assert!(manager.has_moved(first, since[0]));
    assert!(!manager.has_moved(second, since[1]), "its pages were not touched");
    let since = manager.sequence(first).unwrap();
    world.cpu(0).read::<1>(at(0, 0)).unwrap();
    assert!(!manager.has_moved(first, since));
    world.assert_all_free();
}

#[test]
fn the_initiator_is_not_told_and_everybody_else_is() {
    let world = forever(small());
    let space = space_of(world, 8);
    fill(world.cpu(0), 8);
    let (own, initiator) = Witness::for_device(world, space, 0, 8, Some(DEVICE));
    let (other, _) = Witness::of(world, space, 0, 8);
    let since = world.manager().sequence(initiator).unwrap();
    let options = MigrateOptions { initiator: Some(initiator), ..MigrateOptions::default() };
    assert_eq!(space.migrate_to_device_with(pages(0, 8), DEVICE, options).unwrap().moved, 8);
    assert_eq!(own.reasons(), []);
    assert!(!world.manager().has_moved(initiator, since), "and what it looked up stays");
    assert_eq!(other.reasons(), [InvalidationReason::Migrate]);
    world.cpu(0).read::<1>(at(3, 0)).unwrap();
    assert_eq!((own.reasons().len(), other.reasons().len()), (1, 1), "the way home concerns both");
    world.assert_all_free();
}

#[test]
fn a_listener_hears_of_its_own_space_and_range_only() {
    let world = forever(small());
    let space = space_of(world, 8);
    let child = space.fork().unwrap();
    let (witness, id) = Witness::of(world, child, 2, 2);
    space.discard(pages(0, 8)).unwrap();
    child.discard(pages(0, 2)).unwrap();
    child.discard(pages(4, 4)).unwrap();
    assert_eq!(witness.take(), []);
    child.discard(pages(3, 4)).unwrap();
    assert_eq!(witness.take()[0].event.range, pages(3, 1), "cut to what it watches");
    assert!(world.manager().unlisten(id).is_some());
    assert!(world.manager().unlisten(id).is_none());
    child.discard(pages(0, 8)).unwrap();
    assert_eq!(witness.take(), []);
    assert_eq!(world.manager().sequence(id), Err(Invalidating(id)), "it is gone");
    world.assert_all_free();
}

struct Deaf;

impl Listener for Deaf {
    fn invalidate(&self, _: &Invalidation) {}
}

#[test]
fn the_table_has_room_for_so_many_and_places_are_used_again() {
    let world = World::builder().build();
    let space = space_of(&world, 1);
    let watch = Watch { range: pages(0, 1), device: None };
    let ids: Vec<_> = (0..MAX_LISTENERS).map(|_| space.listen(watch, Arc::new(Deaf)).unwrap()).collect();
    assert_eq!(space.listen(watch, Arc::new(Deaf)), Err(ListenError::TooMany));
    world.manager().unlisten(ids[7]).unwrap();
    let again = space.listen(watch, Arc::new(Deaf)).unwrap();
    assert_ne!(again, ids[7], "the same place, another listener");
    assert!(world.manager().unlisten(ids[7]).is_none());
    world.assert_all_free();
}
