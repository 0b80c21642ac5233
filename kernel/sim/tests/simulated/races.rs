//! Other CPUs that go on using pages while they are on their way: no store may be lost.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ferry_mm::frame::AnyFrame;
use ferry_mm::machine::Machine;
use ferry_mm::page_table::entry::{Entry, RawEntry};
use ferry_mm::space::{Access, Protection, Space, Term};
use ferry_sim::{Chaos, Sim, World, audit};

use crate::support::*;

/// Lets CPU 1 count up in word 5 of page 2, at every moment at which hardware lets it; returns the last value stored.
fn keep_writing(world: &World) -> Arc<AtomicU64> {
    let cpu = world.cpu(1).id();
    let last = Arc::new(AtomicU64::new(0));
    let stored = last.clone();
    world.sim().watch(move |sim, _| {
        let next = stored.load(Ordering::Relaxed) + 1;
        if sim.store(cpu, at(2, 40), u64::MAX, next).is_ok() {
            stored.store(next, Ordering::Relaxed);
        }
    });
    last
}

#[test]
fn stores_through_translations_that_are_not_flushed_yet_reach_the_device() {
    let world = small().build();
    let space = space_of(&world, 8);
    fill(world.cpu(0), 8);
    world.cpu(1).store(at(2, 40), &[0; 8]).unwrap();
    let last = keep_writing(&world);
    assert_eq!(space.migrate_to_device(pages(0, 8), DEVICE).unwrap().moved, 8);
    world.sim().unwatch();
    let last = last.load(Ordering::Relaxed);
    assert!(last > 8, "CPU 1 wrote until it was told: {last}");
    world.sim().fence(world.cpu(1).id());
    assert_eq!(host(&world, on_device(space, 2).0)[40..48], last.to_le_bytes(), "the last store is on the device");
    assert_eq!(world.cpu(0).read(at(2, 40)).unwrap(), last.to_le_bytes());
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_batch_that_is_dropped_loses_no_store() {
    let world = small().build();
    let space = space_of(&world, 8);
    fill(world.cpu(0), 8);
    world.cpu(1).store(at(2, 40), &[0; 8]).unwrap();
    let last = keep_writing(&world);
    drop(space.collect(pages(0, 8), DEVICE).unwrap().unmap().unwrap().copy());
    world.sim().unwatch();
    let before = last.load(Ordering::Relaxed);
    assert_eq!(world.cpu(1).read(at(2, 40)).unwrap(), before.to_le_bytes());
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn protecting_lets_no_store_through_afterwards() {
    let world = small().build();
    let space = space_of(&world, 8);
    fill(world.cpu(0), 8);
    world.cpu(1).store(at(2, 40), &[0; 8]).unwrap();
    let last = keep_writing(&world);
    space.protect(pages(0, 8), Protection::READ).unwrap();
    let at_return = last.load(Ordering::Relaxed);
    space.entry(at(2, 0));
    assert_eq!(last.load(Ordering::Relaxed), at_return, "a store after protect returned");
    world.sim().unwatch();
    assert_eq!(world.cpu(0).read(at(2, 40)).unwrap(), at_return.to_le_bytes());
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_store_in_the_buffer_when_the_page_leaves_is_not_lost() {
    let world = small().build();
    let space = space_of(&world, 1);
    world.cpu(1).store(at(0, 0), &contents(1)[..64]).unwrap();
    assert_eq!(space.migrate_to_device(pages(0, 1), DEVICE).unwrap().moved, 1);
    assert_eq!(host(&world, on_device(space, 0).0)[..64], contents(1)[..64]);
    world.assert_all_free();
}

#[test]
fn cpus_may_cache_pages_that_nobody_touched_at_any_moment() {
    for seed in 0..64 {
        let world = small().cpus(3).chaos(Chaos { seed, drain: 40, forget: 20, fill: 120 }).build();
        let space = space_of(&world, 8);
        fill(world.cpu(0), 8);
        for round in 0..3 {
            assert_eq!(space.migrate_to_device(pages(0, 8), DEVICE).unwrap().moved, 8);
            audit(&world).unwrap();
            world.cpu(1).store(at(round, 0), &contents(round)).unwrap();
            let _ = space.migrate_to_system(pages(0, 8)).unwrap();
            audit(&world).unwrap();
            space.protect(pages(0, 8), Protection::READ).unwrap();
            audit(&world).unwrap();
            space.protect(pages(0, 8), Protection::READ_WRITE).unwrap();
        }
        for number in 0..8 {
            assert_eq!(page(world.cpu(2), number), contents(number));
        }
        space.unmap(pages(0, 5)).unwrap();
        audit(&world).unwrap();
        world.assert_all_free();
    }
}

/// Real threads as CPUs: two write and check their own words, one moves the pages there and back.
#[test]
fn threads_lose_no_store_while_pages_come_and_go() {
    const PAGES: u64 = 8;
    const ROUNDS: u64 = 300;
    let world = small().cpus(3).chaos(Chaos::seeded(1)).build();
    let space = space_of(&world, PAGES);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (1..3_u64)
            .map(|cpu| {
                let (world, done) = (&world, &done);
                scope.spawn(move || {
                    let cpu_handle = world.cpu(cpu as usize);
                    let mut round = 0;
                    while round < 3 || !done.load(Ordering::Relaxed) {
                        round += 1;
                        for number in 0..PAGES {
                            let place = at(number, cpu * 8 + (round % 100) * 32);
                            let value = (round * PAGES + number).to_le_bytes();
                            cpu_handle.store(place, &value).unwrap();
                            assert_eq!(
                                cpu_handle.read(place).unwrap(),
                                value,
                                "CPU {cpu}, page {number}, round {round}"
                            );
                        }
                    }
                })
            })
            .collect();
        for round in 0..ROUNDS {
            let _ = space.migrate_to_device(pages(0, PAGES), DEVICE).unwrap();
            if round % 2 == 0 {
                let _ = space.migrate_to_system(pages(0, PAGES)).unwrap();
            } else {
                drop(space.collect(pages(0, PAGES), DEVICE).unwrap().unmap().unwrap());
            }
            world.sim().relax();
        }
        done.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().unwrap();
        }
    });
    audit(&world).unwrap();
    world.assert_all_free();
}

/// R29: whoever finds the entry on the way home finds the contents behind it.
#[test]
fn a_device_frame_keeps_its_contents_for_as_long_as_an_entry_names_it() {
    let ways: [fn(&World, Space<'_, Sim>); 4] = [
        |world, _| world.cpu(0).store(at(2, 9), &[1]).unwrap(),
        |_, space| assert_eq!(space.migrate_to_system(pages(0, 4)).unwrap().moved, 4),
        |world, _| {
            let evicted = [DEVICE, COHERENT].map(|device| world.manager().evict_device(device).unwrap());
            assert_eq!(evicted.map(|evicted| evicted.busy), [0, 0]);
        },
        |_, space| drop(space.pin(at(2, 0), Access::Read, Term::Long).unwrap()),
    ];
    // A store to a page that is ours alone leaves it in coherent memory.
    let cases = [(true, &ways[..]), (false, &ways[1..])].into_iter();
    let cases = cases.flat_map(|(is_shared, ways)| ways.iter().map(move |way| (is_shared, way)));
    for (device, (is_shared, way)) in cases.flat_map(|case| [(DEVICE, case), (COHERENT, case)]) {
        let world = with_coherent().build();
        let parent = space_of(&world, 4);
        fill(world.cpu(0), 4);
        let child = is_shared.then(|| parent.fork().unwrap());
        assert_eq!(parent.migrate_to_device(pages(0, 4), device).unwrap().moved, 4);
        let slot = |space: Space<'_, Sim>| space.path(at(2, 0)).leaf().unwrap().slot;
        let slots: Vec<_> = child.into_iter().chain([parent]).map(slot).collect();
        let looks = Arc::new(AtomicU64::new(0));
        let count = looks.clone();
        world.sim().watch(move |sim, _| {
            for slot in &slots {
                let offset = usize::from(slot.index()) * 8;
                let word = sim.bytes(slot.table().into())[offset..offset + 8].try_into().unwrap();
                let named = match RawEntry(u64::from_le_bytes(word)).decode() {
                    Entry::Present { frame, .. } => Some(sim.frame_at(frame)),
                    entry => entry.frame(),
                };
                if let Some(frame @ AnyFrame::Device(_)) = named {
                    assert!(sim.bytes(frame)[..] == contents(2)[..], "{frame} was cleared too early");
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        way(&world, parent);
        world.sim().unwatch();
        assert!(looks.load(Ordering::Relaxed) > 0);
        assert!(in_ram(&world, parent, 2));
        audit(&world).unwrap();
        world.assert_all_free();
    }
}
