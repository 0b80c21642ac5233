//! A CPU that holds a migration open would wait for itself also in other spaces, or for a CPU that waits for it.
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use ferry_mm::migrate::Unmapped;
use ferry_mm::space::{Access, DestroyError, FaultError, ForkError, Leave, MapError, Protection, RelocateError, Term};
use ferry_sim::{AccessError, Expected, Moment, Sim, audit, audit_with};

use crate::support::*;

const OPEN: Expected = Expected { open_batch: true, pins: Vec::new() };

/// Two CPUs that each hold a migration open and want the other's space for themselves would wait for each other.
#[test]
fn whoever_holds_a_migration_open_asks_for_no_space_exclusively() {
    let world = small().build();
    let space = space_of(&world, 8);
    fill(world.cpu(0), 8);
    let other = world.manager().create_space().unwrap();
    other.map_anonymous(pages(0, 8), Protection::READ_WRITE).unwrap();
    let collected = space.collect(pages(0, 4), DEVICE).unwrap();
    for wanted in [space, other] {
        let part = pages(4, 2);
        let refused = Err(MapError::WouldWaitForItself(part));
        assert_eq!(wanted.unmap(part), refused);
        assert_eq!(wanted.discard(part), refused);
        assert_eq!(wanted.protect(part, Protection::READ), refused);
        assert_eq!(wanted.map_anonymous(pages(8, 2), Protection::READ), Err(MapError::WouldWaitForItself(pages(8, 2))));
        let moved = wanted.relocate(part, at(100, 0), Leave::Nothing);
        assert_eq!(moved, Err(RelocateError::Map(MapError::WouldWaitForItself(part))));
        assert_eq!(wanted.fork().err(), Some(ForkError::WouldWaitForItself));
    }
    assert_eq!(other.destroy(), Err(DestroyError::WouldWaitForItself));
    (0..2).for_each(|cpu| world.cpu(cpu).leave());
    assert_eq!(space.destroy(), Err(DestroyError::WouldWaitForItself));
    // An empty space disturbs nobody.
    let empty = world.manager().create_space().unwrap();
    audit_with(&world, &OPEN).unwrap();
    // Another CPU only has to wait, and this one to finish.
    drop(collected);
    empty.destroy().unwrap();
    other.destroy().unwrap();
    audit(&world).unwrap();
    world.assert_all_free();
}

/// The child's page is on its way, its frame is locked, the parent's entry still maps it.
#[test]
fn a_store_to_a_page_that_this_cpu_moves_for_a_sharer_is_an_error() {
    let world = small().build();
    let parent = space_of(&world, 4);
    fill(world.cpu(0), 4);
    let child = parent.fork().unwrap();
    let collected = child.collect(pages(0, 4), DEVICE).unwrap();
    assert_eq!(world.cpu(0).store(at(1, 0), &[1]), Err(AccessError::Refused(FaultError::WaitsForItself(at(1, 0)))));
    // Whoever finds the lock of a frame taken leaves it alone.
    audit_with(&world, &OPEN).unwrap();
    assert_eq!(parent.pin(at(1, 0), Access::Read, Term::Long).err(), Some(FaultError::WaitsForItself(at(1, 0))));
    assert_eq!(world.cpu(0).read::<8>(at(1, 0)).unwrap()[..], contents(1)[..8], "a load needs nothing");
    drop(collected);
    world.cpu(0).store(at(1, 0), &[1]).unwrap();
    audit(&world).unwrap();
    world.assert_all_free();
}

/// CPU 1 opens a migration of pages that two spaces share, at any moment of a fork that begins on CPU 0, and keeps it
/// open until the fork is over: it must not hold the child, which the fork waits for.
#[test]
fn a_fork_waits_for_no_migration_of_other_spaces() {
    for moment_of_lock in 0..40 {
        let world = forever(small());
        let space = space_of(world, 4);
        fill(world.cpu(0), 4);
        let shared = world.manager().create_space().unwrap();
        shared.map_anonymous(pages(0, 4), Protection::READ_WRITE).unwrap();
        world.cpu(1).enter(shared);
        fill(world.cpu(1), 4);
        let _sharer = shared.fork().unwrap();
        static OPEN: Mutex<Option<Unmapped<'static, Sim>>> = Mutex::new(None);
        let locks = AtomicUsize::new(0);
        let forking = world.cpu(0).id();
        world.sim().watch(move |sim, moment| {
            let is_ours = ferry_mm::machine::Machine::cpu(sim) == forking;
            let held = sim.held_by(forking).count();
            if is_ours && moment == Moment::Lock && locks.fetch_add(1, Ordering::Relaxed) == moment_of_lock {
                let unmap = || shared.collect(pages(0, 4), DEVICE).unwrap().unmap().unwrap();
                *OPEN.lock().unwrap() = Some(world.cpu(1).run(unmap));
            }
            if is_ours && moment == Moment::Relax {
                // For the parent's areas, which every migration of shared pages holds, it may wait; then it holds nothing itself.
                assert_eq!(held, 0, "the fork waits for its child, at lock {moment_of_lock}");
                world.cpu(1).run(|| drop(OPEN.lock().unwrap().take()));
            }
        });
        let child = world.cpu(0).run(|| space.fork());
        world.sim().unwatch();
        world.cpu(1).run(|| drop(OPEN.lock().unwrap().take()));
        assert!(child.is_ok());
        audit(world).unwrap();
        world.assert_all_free();
    }
}
