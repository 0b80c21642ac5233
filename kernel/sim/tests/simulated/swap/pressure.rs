//! Memory pressure: more pages than frames; which go, and other CPUs that go on meanwhile.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ferry_mm::page_table::entry::RawEntry;
use ferry_mm::space::{Access, FaultError, Protection, Term};
use ferry_sim::{AccessError, Chaos, Moment, Transfer, audit};

use super::{on_disk, swap_out, swapping};
use crate::support::*;

#[test]
fn three_times_as_many_pages_as_frames_keep_their_contents() {
    const PAGES: u64 = 90;
    let world = swapping().frames(36).swap(128).build();
    let space = space_of(&world, PAGES);
    fill(world.cpu(0), PAGES);
    audit(&world).unwrap();
    for round in 0..2 {
        for number in 0..PAGES {
            assert_eq!(page(world.cpu(1), number), contents(number), "round {round}");
        }
        audit(&world).unwrap();
    }
    let resident = space.resident();
    assert_eq!(resident.ram + resident.swap, PAGES);
    world.assert_all_free();
}

#[test]
fn a_page_that_is_used_all_the_time_stays_in_ram() {
    const PAGES: u64 = 60;
    let world = swapping().frames(64).swap(128).build();
    let space = space_of(&world, PAGES);
    world.cpu(0).store(at(0, 0), &contents(0)).unwrap();
    let mut absent = 0;
    for round in 0..4 {
        for number in 1..PAGES {
            world.cpu(0).store(at(number, 0), &contents(number + round)).unwrap();
            absent += u64::from(!space.entry(at(0, 0)).is_present());
            assert_eq!(world.cpu(0).read::<8>(at(0, 0)).unwrap(), contents(0)[..8]);
        }
    }
    let out = world.manager().statistics().read().swapped_out;
    assert!(out > 20, "there was pressure: {out}");
    assert_eq!(absent, 0, "the page was swapped out while it was in use");
    world.assert_all_free();
}

/// The contract of `Space::free_lazily`: clean since then, a page is dropped; written since then, it is a page like any other.
#[test]
fn what_need_not_be_kept_is_dropped_without_a_write_unless_it_was_stored_to() {
    let world = swapping().build();
    let space = space_of(&world, 3);
    fill(world.cpu(0), 3);
    space.free_lazily(pages(0, 2)).unwrap();
    world.cpu(1).store(at(1, 0), &contents(7)).unwrap();
    swap_out(space, 0, 3);
    assert_eq!(world.disk().asked(Transfer::Write), 2);
    assert_eq!(world.manager().statistics().read().dropped_unwanted, 1);
    assert_eq!(space.entry(at(0, 0)), RawEntry::EMPTY);
    audit(&world).unwrap();
    assert_eq!(page(world.cpu(0), 0), zeros());
    assert_eq!(page(world.cpu(0), 1), contents(7));
    // Back from the disk and clean, it is wanted, also when it has left the swap cache.
    drop(space.collect(pages(1, 1), DEVICE).unwrap());
    swap_out(space, 1, 1);
    assert_eq!(page(world.cpu(0), 1), contents(7));
    assert_eq!(page(world.cpu(0), 2), contents(2));
    world.assert_all_free();
}

#[test]
fn pinned_pages_stay_and_when_nothing_can_go_memory_is_out() {
    let world = swapping().frames(24).swap(128).build();
    let space = space_of(&world, 40);
    let mut pins = Vec::new();
    let error = loop {
        let number = pins.len() as u64;
        match space.pin(at(number, 0), Access::Write, Term::Long) {
            Ok(pin) => pins.push(pin),
            Err(error) => break error,
        }
    };
    assert_eq!(error, FaultError::OutOfMemory(at(pins.len() as u64, 0)));
    let refused = AccessError::Refused(FaultError::OutOfMemory(at(39, 0)));
    assert_eq!(world.cpu(0).store(at(39, 0), &[1]), Err(refused));
    pins.pop();
    world.cpu(0).store(at(39, 0), &[1]).unwrap();
    drop(pins);
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_full_disk_ends_in_out_of_memory_and_loses_nothing() {
    let world = swapping().frames(24).swap(8).build();
    let space = space_of(&world, 60);
    let mut stored = 0;
    let error = loop {
        match world.cpu(0).store(at(stored, 0), &contents(stored)) {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error, AccessError::Refused(FaultError::OutOfMemory(at(stored, 0))));
    assert_eq!(world.manager().census().free_slots, 0);
    audit(&world).unwrap();
    space.unmap(pages(stored - 2, 2)).unwrap();
    for number in 0..stored - 2 {
        assert_eq!(page(world.cpu(1), number), contents(number));
    }
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn forks_moves_and_new_spaces_make_room_for_themselves() {
    let world = swapping().frames(26).swap(128).build();
    let space = space_of(&world, 40);
    fill(world.cpu(0), 40);
    assert!(world.manager().census().free_frames < 4);
    let child = space.fork().unwrap();
    world.cpu(1).enter(child);
    let third = world.manager().create_space().unwrap();
    third.map_anonymous(pages(0, 1), Protection::READ_WRITE).unwrap();
    space.relocate(pages(0, 40), at(1 << 20, 0), ferry_mm::space::Leave::Nothing).unwrap();
    audit(&world).unwrap();
    for number in 0..40 {
        assert_eq!(page(world.cpu(0), (1 << 20) + number), contents(number));
        assert_eq!(page(world.cpu(1), number), contents(number));
    }
    audit(&world).unwrap();
    world.assert_all_free();
}

/// CPU 1 stores by hardware alone at every moment it can; what it stored last is on the disk.
#[test]
fn stores_of_another_cpu_reach_the_disk_until_it_is_told_and_then_stop() {
    let world = swapping().build();
    let space = space_of(&world, 8);
    fill(world.cpu(0), 8);
    let cpu = world.cpu(1).id();
    world.cpu(1).store(at(2, 40), &[0; 8]).unwrap();
    let last = Arc::new(AtomicU64::new(0));
    let stored = last.clone();
    world.sim().watch(move |sim, moment| {
        let next = stored.load(Ordering::Relaxed) + 1;
        if sim.store(cpu, at(2, 40), u64::MAX, next).is_ok() {
            assert_ne!(moment, Moment::Disk, "a store while the page is being written");
            stored.store(next, Ordering::Relaxed);
        }
    });
    swap_out(space, 0, 8);
    world.sim().unwatch();
    let last = last.load(Ordering::Relaxed);
    assert!(last > 8, "CPU 1 wrote until it was told: {last}");
    world.sim().fence(cpu);
    assert_eq!(on_disk(&world, space, 2)[40..48], last.to_le_bytes());
    assert_eq!(world.cpu(0).read(at(2, 40)).unwrap(), last.to_le_bytes());
    audit(&world).unwrap();
    world.assert_all_free();
}

/// Real threads as CPUs: two write and check their own words in more pages than fit, one swaps, forks and migrates.
#[test]
fn threads_lose_no_store_while_pages_are_swapped() {
    const PAGES: u64 = 24;
    const ROUNDS: u64 = 60;
    let world = swapping().frames(40).cpus(3).chaos(Chaos::seeded(1)).build();
    let space = space_of(&world, PAGES);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (1..3_u64)
            .map(|cpu| {
                let (world, done) = (&world, &done);
                scope.spawn(move || {
                    let handle = world.cpu(cpu as usize);
                    let mut round = 0;
                    while round < 3 || !done.load(Ordering::Relaxed) {
                        round += 1;
                        for number in 0..PAGES {
                            let place = at(number, cpu * 8 + (round % 100) * 32);
                            let value = (round * PAGES + number).to_le_bytes();
                            handle.store(place, &value).unwrap();
                            assert_eq!(handle.read(place).unwrap(), value, "CPU {cpu}, page {number}, round {round}");
                        }
                    }
                })
            })
            .collect();
        for round in 0..ROUNDS {
            let _ = space.swap_out(pages(0, PAGES)).unwrap();
            let _ = space.migrate_to_device(pages(round % 8, 8), DEVICE).unwrap();
            let child = space.fork().unwrap();
            let _ = child.swap_out(pages(0, PAGES)).unwrap();
            let _ = space.migrate_to_system(pages(0, PAGES)).unwrap();
            child.destroy().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().unwrap();
        }
    });
    audit(&world).unwrap();
    world.assert_all_free();
}
