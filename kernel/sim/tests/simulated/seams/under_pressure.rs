//! Calls that need frames where every frame is in use.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ferry_mm::machine::Machine;
use ferry_mm::space::Protection;
use ferry_sim::{Moment, World, audit};

use crate::support::*;

fn free(world: &World) -> u64 {
    world.manager().memory().free(world.sim())
}

/// A space of `count` pages that fill all of RAM.
fn full(world: &World, count: u64) -> ferry_mm::space::Space<'_, ferry_sim::Sim> {
    let space = space_of(world, count);
    fill(world.cpu(0), count);
    space
}

#[test]
fn a_migration_phase_by_phase_makes_room_for_its_tables() {
    let world = World::builder().frames(64).device(32).cpus(2).swap(128).build();
    let space = full(&world, 80);
    // A range of its own tables.
    let far = ferry_mm::address::PageRange::covering(x86_64::VirtAddr::new(0x40_0000_0000), 4 * 4096).unwrap();
    space.map_anonymous(far, Protection::READ_WRITE).unwrap();
    let mut hoard = Vec::new();
    while let Ok(block) = world.manager().memory().allocate_block(world.sim(), 0) {
        hoard.push(block);
    }
    let report = space.collect(far, DEVICE).unwrap().unmap().unwrap().copy().finalize();
    assert_eq!((report.moved, report.stayed.total()), (4, 0));
    audit_all(&world, hoard);
}

#[test]
fn a_shared_area_makes_room_for_its_pages() {
    let world = World::builder().frames(64).cpus(2).swap(128).build();
    let space = full(&world, 80);
    assert!(free(&world) < 16);
    space.map_shared(pages(100, 16), Protection::READ_WRITE).unwrap();
    for number in 0..80 {
        assert_eq!(page(world.cpu(1), number), contents(number));
    }
    for number in 100..116 {
        assert_eq!(page(world.cpu(1), number), zeros());
    }
    audit(&world).unwrap();
    world.assert_all_free();
}

fn audit_all(world: &World, hoard: Vec<x86_64::structures::paging::PhysFrame>) {
    for block in hoard {
        world.manager().memory().free_block(world.sim(), block, 0);
    }
    audit(world).unwrap();
    world.assert_all_free();
}

/// Every page belongs to a space that another CPU changes right now: memory is not out, it is busy.
#[test]
fn pages_of_a_space_that_is_being_changed_are_waited_for() {
    let world = forever(World::builder().frames(64).cpus(2).swap(128));
    let space = full(world, 80);
    let other = world.manager().create_space().unwrap();
    other.map_anonymous(pages(0, 40), Protection::READ_WRITE).unwrap();
    world.cpu(1).enter(other);
    let changing = Arc::new(AtomicBool::new(false));
    let (is_changing, waits, is_over) =
        (changing.clone(), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let changed = is_over.clone();
    let [first, second] = [0, 1].map(|number| world.cpu(number).id());
    let waited = waits.clone();
    world.sim().watch(move |sim, moment| {
        if sim.cpu() == second && moment == Moment::Relax && waited.fetch_add(1, Ordering::SeqCst) == 5 {
            while !changed.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        }
        // CPU 0 is in the middle of a change, with the areas for itself, until CPU 1 has waited a little or given up.
        if sim.cpu() == first && moment == Moment::Flush && !is_changing.swap(true, Ordering::SeqCst) {
            while waited.load(Ordering::SeqCst) < 5 {
                std::thread::yield_now();
            }
        }
    });
    std::thread::scope(|scope| {
        scope.spawn(|| {
            world.cpu(0).run(|| space.protect(pages(0, 80), Protection::READ)).unwrap();
            is_over.store(true, Ordering::SeqCst);
        });
        scope.spawn(|| {
            while !changing.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            let stored = (0..40).try_for_each(|number| world.cpu(1).store(at(number, 0), &contents(number)));
            waits.store(usize::MAX / 2, Ordering::SeqCst);
            stored.unwrap();
        });
    });
    world.sim().unwatch();
    (0..40).for_each(|number| assert_eq!(page(world.cpu(1), number), contents(number)));
    audit(world).unwrap();
    world.assert_all_free();
}
