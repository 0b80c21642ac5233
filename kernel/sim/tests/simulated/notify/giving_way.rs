//! A migration gives way to whoever waits for its range, and nobody waits for himself.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ferry_mm::frame::DeviceId;
use ferry_mm::machine::Machine;
use ferry_mm::migrate::{Busy, Foreign, MigrateError, MigrateOptions};
use ferry_mm::notify::{ListenError, Watch};
use ferry_mm::page_table::flush::FlushScope;
use ferry_mm::space::{ForkError, Leave, MapError, Protection, RelocateError, Space};
use ferry_mm::stats::Reason;
use ferry_sim::{Moment, Sim, World, audit};

use crate::support::*;

/// Lets CPU 1 run `change` in a thread of its own while a migration of pages 0 to 7 is open on CPU 0; returns how the
/// migration ended. Where it gave way, the pages `untouched` are afterwards what they were.
fn interrupted(
    untouched: std::ops::Range<u64>,
    change: impl FnOnce(Space<'static, Sim>) + Send,
) -> Result<u64, MigrateError> {
    let world = forever(small());
    let space = space_of(world, 16);
    fill(world.cpu(0), 16);
    let entries = || untouched.clone().map(|number| space.entry(at(number, 0))).collect::<Vec<_>>();
    let before = entries();
    let collected = space.collect(pages(0, 8), DEVICE).unwrap();
    let waits = Arc::new(AtomicBool::new(false));
    let seen = waits.clone();
    world
        .sim()
        .watch(move |_, moment| seen.store(seen.load(Ordering::Acquire) || moment == Moment::Relax, Ordering::Release));
    let ended = std::thread::scope(|scope| {
        let done = scope.spawn(|| world.cpu(1).run(move || change(space)));
        while !waits.load(Ordering::Acquire) && !done.is_finished() {
            std::thread::yield_now();
        }
        let ended = collected.unmap().map(|unmapped| unmapped.copy().finalize().moved);
        done.join().unwrap();
        ended
    });
    world.sim().unwatch();
    if ended.is_err() {
        assert_eq!(entries(), before, "everything is given back, bit for bit");
    }
    audit(world).unwrap();
    world.assert_all_free();
    ended
}

#[test]
fn a_migration_backs_off_for_whoever_waits_for_its_range() {
    let again = Err(MigrateError::Again(pages(0, 8)));
    assert_eq!(interrupted(0..6, |space| space.unmap(pages(6, 4)).unwrap()), again);
    assert_eq!(interrupted(1..8, |space| space.discard(pages(0, 1)).unwrap()), again);
    assert_eq!(interrupted(0..7, |space| space.protect(pages(7, 1), Protection::READ).unwrap()), again);
    assert_eq!(interrupted(0..0, |space| _ = space.fork().unwrap()), again);
    let moves = |space: Space<'_, Sim>| _ = space.relocate(pages(4, 1), at(1000, 0), Leave::Empty).unwrap();
    assert_eq!(interrupted(0..4, moves), again);
}

#[test]
fn a_migration_goes_on_where_others_work_beside_it() {
    assert_eq!(interrupted(0..8, |space| space.unmap(pages(8, 4)).unwrap()), Ok(8), "another range");
    let beside = |space: Space<'_, Sim>| {
        assert_eq!(space.migrate_to_device(pages(0, 12), DEVICE).unwrap().stayed.count(Reason::Busy), 8);
    };
    assert_eq!(interrupted(0..8, beside), Ok(8), "another migration skips what is taken");
}

#[test]
fn nobody_waits_for_a_migration_that_he_holds_open() {
    let world = small().build();
    let space = space_of(&world, 8);
    fill(world.cpu(0), 8);
    let collected = space.collect(pages(0, 4), DEVICE).unwrap();
    let range = pages(4, 2);
    let itself = MapError::WouldWaitForItself(range);
    assert_eq!(space.unmap(range), Err(itself));
    assert_eq!(space.discard(range), Err(itself));
    assert_eq!(space.protect(range, Protection::READ), Err(itself));
    assert_eq!(space.relocate(range, at(1000, 0), Leave::Nothing), Err(RelocateError::Map(itself)));
    assert_eq!(space.map_anonymous(pages(600, 1), Protection::READ), Err(MapError::WouldWaitForItself(pages(600, 1))));
    assert_eq!(space.fork().err(), Some(ForkError::WouldWaitForItself));
    let listened = space.listen(Watch { range, device: None }, std::sync::Arc::new(Nobody));
    assert_eq!(listened, Err(ListenError::WouldWaitForItself(space.id())));
    assert_eq!(collected.unmap().unwrap().copy().finalize().moved, 4, "none of these asked it to give way");
    space.unmap(range).unwrap();
    audit(&world).unwrap();
    world.assert_all_free();
}

struct Nobody;

impl ferry_mm::notify::Listener for Nobody {
    fn invalidate(&self, _: &ferry_mm::notify::Invalidation) {}
}

#[test]
fn busy_pages_are_waited_for_where_the_caller_asks() {
    let world = small().build();
    let space = space_of(&world, 4);
    fill(world.cpu(0), 4);
    let first = space.collect(pages(0, 2), DEVICE).unwrap();
    let waits = MigrateOptions { busy: Busy::Wait, ..MigrateOptions::default() };
    let report = space.migrate_to_device_with(pages(0, 4), DEVICE, waits).unwrap();
    assert_eq!((report.moved, report.stayed.count(Reason::Busy)), (2, 2), "not for this CPU's own");
    let patient = world.cpu(1).run(|| space.migrate_to_device_with(pages(0, 4), DEVICE, waits)).unwrap();
    assert_eq!((patient.moved, patient.stayed.count(Reason::Busy)), (0, 2), "not for ever");
    let held = world.manager().census().held_locks;
    // CPU 1 is kept in a turn of its wait until the pages are free, however slowly the threads run.
    let (waits_now, freed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (waiter, until) = (waits_now.clone(), freed.clone());
    let second_cpu = world.cpu(1).id();
    world.sim().watch(move |sim, moment| {
        if moment == Moment::Relax && sim.cpu() == second_cpu {
            waiter.store(true, Ordering::SeqCst);
            while !until.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        }
    });
    std::thread::scope(|scope| {
        let second = scope.spawn(|| world.cpu(1).run(|| space.migrate_to_device_with(pages(0, 4), DEVICE, waits)));
        while !waits_now.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        drop(first);
        freed.store(true, Ordering::SeqCst);
        assert_eq!(second.join().unwrap().unwrap().moved, 2, "they came free");
    });
    world.sim().unwatch();
    assert_eq!(world.manager().census().held_locks, held - 1);
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn pages_of_another_device_go_by_way_of_ram_where_the_caller_asks() {
    let world = World::builder().frames(128).device(16).device(16).cpus(2).build();
    let other = DeviceId::new(1).unwrap();
    let space = space_of(&world, 8);
    fill(world.cpu(0), 8);
    let part = |first| space.migrate_to_device(pages(first, 2), other).unwrap().moved;
    assert_eq!([part(1), part(4)], [2, 2]);
    let report = space.migrate_to_device(pages(0, 8), DEVICE).unwrap();
    assert_eq!((report.moved, report.stayed.count(Reason::ForeignDevice)), (4, 4), "they stay unless asked");
    let by_way = MigrateOptions { foreign: Foreign::ViaRam, ..MigrateOptions::default() };
    let report = space.migrate_to_device_with(pages(0, 8), DEVICE, by_way).unwrap();
    assert_eq!((report.moved, report.stayed.count(Reason::AlreadyThere)), (4, 4));
    for number in 0..8 {
        assert_eq!(on_device(space, number).0.device(), DEVICE);
        assert_eq!(host(&world, on_device(space, number).0), contents(number));
    }
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn pages_that_go_by_way_of_ram_cost_one_flush_for_each_run_of_them() {
    let world = with_coherent().build();
    let space = space_of(&world, 9);
    fill(world.cpu(0), 9);
    let runs = [(0, 2), (3, 3), (7, 1)];
    for (first, count) in runs {
        assert_eq!(space.migrate_to_device(pages(first, count), COHERENT).unwrap().moved, count);
    }
    world.sim().take_flushes();
    let by_way = MigrateOptions { foreign: Foreign::ViaRam, ..MigrateOptions::default() };
    assert_eq!(space.migrate_to_device_with(pages(0, 9), DEVICE, by_way).unwrap().moved, 9);
    let flushed: Vec<_> = world.sim().take_flushes().into_iter().map(|request| request.scope).collect();
    let expected = [(0, 2), (3, 3), (7, 1), (0, 9)].map(|(first, count)| FlushScope::Pages(pages(first, count)));
    assert_eq!(flushed, expected, "one for each run that comes home, one for all that go");
    for number in 0..9 {
        assert_eq!(host(&world, on_device(space, number).0), contents(number));
    }
    audit(&world).unwrap();
    world.assert_all_free();
}
