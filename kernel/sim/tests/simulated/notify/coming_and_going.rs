//! Listeners who come and go while others are at work: nobody is called after he has gone, and nobody counts as told who was
//! not there.
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ferry_mm::machine::Machine;
use ferry_mm::notify::{Invalidation, ListenError, Listener, MAX_LISTENERS, Watch};
use ferry_mm::space::{Protection, Space};
use ferry_mm::stats::Reason;
use ferry_sim::{Moment, Sim, World, audit};

use super::watching::*;
use crate::support::*;

/// A space of 8 written pages.
fn written() -> (&'static World, Space<'static, Sim>) {
    let world = forever(World::builder().frames(160).device(32).device(32).cpus(2));
    let space = space_of(world, 8);
    fill(world.cpu(0), 8);
    (world, space)
}

/// Waits for somebody, in host threads that are CPUs of their own.
fn until(flag: &AtomicBool) {
    while !flag.load(Ordering::SeqCst) {
        std::thread::yield_now();
    }
}

/// Gives others the time to do what they must not.
fn linger(wrong: &AtomicBool) {
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(1));
        assert!(!wrong.load(Ordering::SeqCst), "somebody did not wait");
    }
}

/// A listener whose work lasts.
#[derive(Default)]
struct Slow {
    began: AtomicBool,
    removed: AtomicBool,
}

impl Listener for Slow {
    fn invalidate(&self, _: &Invalidation) {
        self.began.store(true, Ordering::SeqCst);
        linger(&self.removed);
    }
}

#[test]
fn a_listener_is_removed_when_it_is_called_by_nobody() {
    let (world, space) = written();
    let slow = Arc::new(Slow::default());
    let id = space.listen(Watch { range: pages(0, 4), device: None }, slow.clone()).unwrap();
    std::thread::scope(|scope| {
        let unmap = scope.spawn(|| world.cpu(0).run(|| space.unmap(pages(0, 1)).unwrap()));
        until(&slow.began);
        drop(world.cpu(1).run(|| world.manager().unlisten(id)).expect("it listens"));
        slow.removed.store(true, Ordering::SeqCst);
        unmap.join().unwrap();
    });
    audit(world).unwrap();
}

/// Whoever holds the areas may not have seen the newcomer, and changes entries.
#[test]
fn a_listener_comes_when_nobody_is_at_work_who_has_not_seen_it() {
    let (world, space) = written();
    let listens = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let batch = space.collect(pages(0, 4), DEVICE).unwrap();
        let newcomer = scope.spawn(|| {
            world.cpu(1).run(|| drop(Witness::of(world, space, 0, 4)));
            listens.store(true, Ordering::SeqCst);
        });
        linger(&listens);
        drop(batch);
        newcomer.join().unwrap();
    });
    assert!(listens.load(Ordering::SeqCst));
    audit(world).unwrap();
}

/// An announcement remembers places by number.
#[test]
fn the_place_of_who_was_told_is_not_given_away_before_the_announcement_ends() {
    let (world, space) = written();
    let other = world.manager().create_space().unwrap();
    let (_first, first) = Witness::of(world, space, 0, 4);
    let batch = space.collect(pages(0, 4), DEVICE).unwrap();
    drop(world.manager().unlisten(first).expect("it listens"));
    // On the other CPU: this one holds a migration open.
    let (_second, second) = world.cpu(1).run(|| Witness::of(world, other, 0, 4));
    assert!(world.manager().sequence(second).is_ok(), "nothing of what it watches is being invalidated");
    drop(batch);
    assert!(world.manager().sequence(second).is_ok());
    audit(world).unwrap();
}

/// A second listener of a sharer, who comes between the word to the first and the hold of all spaces: the pages stay.
#[test]
fn pages_of_a_sharer_stay_where_not_all_of_its_listeners_were_told() {
    let (world, space) = written();
    let child = space.fork().unwrap();
    world.cpu(1).enter(child);
    let (first, _) = Witness::of(world, child, 2, 1);
    let (seen, late, came) = (first.clone(), Arc::new(Mutex::new(None)), AtomicBool::new(false));
    let (place, cpu) = (late.clone(), world.cpu(0).id());
    world.sim().watch(move |sim, moment| {
        let is_between = moment == Moment::Lock && sim.cpu() == cpu && sim.held_by(cpu).count() == 0;
        if is_between && seen.was_told() && !came.swap(true, Ordering::SeqCst) {
            *place.lock().unwrap() = Some(world.cpu(1).run(|| Witness::of(world, child, 2, 1)).0);
        }
    });
    let report = world.cpu(0).run(|| space.migrate_to_device(pages(2, 1), DEVICE).unwrap());
    world.sim().unwatch();
    let late = late.lock().unwrap().take().expect("the moment for the second listener came");
    assert!(!late.was_told());
    assert_eq!((report.moved, report.stayed.count(Reason::Busy)), (0, 1));
    assert!(in_ram(world, child, 2) && in_ram(world, space, 2));
    audit(world).unwrap();
}

/// A listener that has nothing to do.
struct Idle;

impl Listener for Idle {
    fn invalidate(&self, _: &Invalidation) {}
}

#[test]
fn who_listens_to_a_space_that_goes_leaves_his_place_to_others() {
    let world = forever(small());
    let beside = space_of(world, 4);
    let listener = Arc::new(Idle);
    let listens =
        |space: Space<'static, Sim>| space.listen(Watch { range: pages(0, 4), device: None }, listener.clone());
    let stays = listens(beside).unwrap();
    for _ in 0..3 {
        let space = world.manager().create_space().unwrap();
        (1..MAX_LISTENERS).for_each(|_| _ = listens(space).unwrap());
        assert_eq!(listens(space), Err(ListenError::TooMany));
        space.destroy().unwrap();
        assert_eq!(Arc::strong_count(&listener), 2, "the one of the other space");
    }
    assert!(world.manager().unlisten(stays).is_some());
    world.assert_all_free();
}

#[test]
fn a_space_that_nobody_listens_to_any_more_announces_nothing() {
    let (world, space) = written();
    let ids = [0, 1].map(|_| Witness::of(world, space, 0, 8).1);
    for (left, id) in [1, 0].into_iter().zip(ids) {
        drop(world.manager().unlisten(id).unwrap());
        let before = world.manager().statistics().read().announcements;
        space.protect(pages(0, 1), Protection::READ).unwrap();
        assert_eq!(world.manager().statistics().read().announcements - before, left, "announcements");
    }
    world.assert_all_free();
}
