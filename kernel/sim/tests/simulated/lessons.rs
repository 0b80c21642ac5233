//! What went wrong in Linux's own heterogeneous memory management, as tests that the same mistake would fail. Each names the
//! commit that mended it; docs/lessons.md has the whole list, with the tests of other files and what cannot happen here.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ferry_mm::frame::{AnyFrame, DeviceId};
use ferry_mm::inject::Step;
use ferry_mm::migrate::MigrateError;
use ferry_mm::page_table::entry::{Entry, LeafFlags};
use ferry_mm::space::{Protection, Residency, Resolution};
use ferry_mm::stats::Reason;
use ferry_sim::{World, audit};

use crate::support::*;

/// Commit 60bae7370896: the flush came after somebody relied on the entries being gone. A CPU that goes on storing through what it
/// remembers must not reach a page once `MADV_DONTNEED` has returned, nor its frame's next owner.
#[test]
fn discarded_pages_are_flushed_before_anybody_relies_on_it() {
    let world = small().build();
    let space = space_of(&world, 4);
    fill(world.cpu(0), 4);
    let cpu = world.cpu(1).id();
    world.cpu(1).store(at(2, 0), &contents(2)[..8]).unwrap();
    world.sim().watch(move |sim, _| {
        let _ = sim.store(cpu, at(2, 0), u64::MAX, 0xdead);
    });
    space.discard(pages(0, 4)).unwrap();
    world.sim().unwatch();
    world.sim().fence(cpu);
    for number in 0..4 {
        assert!(world.sim().load(cpu, at(number, 0)).is_err());
        assert_eq!(page(world.cpu(0), number), zeros());
    }
    audit(&world).unwrap();
    world.assert_all_free();
}

/// Commit fd35ca3d12cc: the entry was read, then cleared; a dirty bit that the CPU set in between was lost.
#[test]
fn a_dirty_bit_set_in_the_last_moment_is_kept() {
    let world = small().build();
    let space = space_of(&world, 4);
    fill(world.cpu(0), 4);
    // Clean, so that the next store sets the bit.
    space.free_lazily(pages(0, 4)).unwrap();
    let cpu = world.cpu(1).id();
    let stored = Arc::new(AtomicU64::new(0));
    let count = stored.clone();
    world.sim().watch(move |sim, _| {
        if sim.store(cpu, at(2, 8), u64::MAX, 7).is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    drop(space.collect(pages(0, 4), DEVICE).unwrap());
    world.sim().unwatch();
    assert!(stored.load(Ordering::Relaxed) > 0, "CPU 1 stored before its page was taken");
    let dirty = |number| present(space, number).1.contains(LeafFlags::DIRTY);
    assert_eq!([dirty(1), dirty(2), dirty(3)], [false, true, false]);
    audit(&world).unwrap();
    world.assert_all_free();
}

/// Commits 16ce101db85d, ffa65753c431, 1afaeb8293c9 and b570f37a2ce4: threads that fault on one page of a device took references
/// while they waited, each of which made the others' migration fail. Every one of them ends here, and the page came home once.
#[test]
fn many_threads_fault_on_one_page_and_it_comes_home_once() {
    let world = World::builder().frames(128).device(8).cpus(4).build();
    let space = space_of(&world, 2);
    fill(world.cpu(0), 2);
    for round in 1..=60 {
        assert_eq!(world.cpu(0).run(|| space.migrate_to_device(pages(0, 2), DEVICE)).unwrap().moved, 2);
        std::thread::scope(|threads| {
            for number in 0..4 {
                let world = &world;
                threads.spawn(move || assert_eq!(page(world.cpu(number), 1), contents(1)));
            }
        });
        assert_eq!(world.manager().statistics().read().returned_by_fault, round);
        assert_eq!(world.cpu(0).run(|| space.migrate_to_system(pages(0, 2))).unwrap().moved, 1);
        audit(&world).unwrap();
    }
    world.assert_all_free();
}

/// Commit 44af0b45d58d: pages that nobody had touched were not counted among those that may move.
#[test]
fn untouched_pages_are_counted_like_others() {
    let world = small().build();
    let space = space_of(&world, 6);
    fill(world.cpu(0), 2);
    let report = space.migrate_to_device(pages(0, 6), DEVICE).unwrap();
    assert_eq!((report.moved, report.stayed.total()), (6, 0));
    assert_eq!(space.resident(), Residency { device: 6, ..Residency::default() });
    assert_eq!(world.manager().statistics().read().migrated, 6);
    world.assert_all_free();
}

/// Commit 9a137153fc87: accounting that asked "is it a swap entry?" first left pages on a device out.
#[test]
fn pages_on_a_device_are_counted_wherever_pages_are() {
    let world = small().build();
    let space = space_of(&world, 6);
    fill(world.cpu(0), 6);
    assert_eq!(space.migrate_to_device(pages(1, 3), DEVICE).unwrap().moved, 3);
    let expected = Residency { ram: 3, device: 3, ..Residency::default() };
    assert_eq!((space.resident(), space.resident().charged()), (expected, 6));
    let child = space.fork().unwrap();
    assert_eq!(child.resident(), expected);
    child.relocate(pages(0, 6), at(32, 0), ferry_mm::space::Leave::Nothing).unwrap();
    assert_eq!(child.resident(), expected);
    child.discard(pages(32, 2)).unwrap();
    assert_eq!(child.resident(), Residency { ram: 2, device: 2, ..Residency::default() });
    audit(&world).unwrap();
    world.assert_all_free();
}

/// Commit aab8d0520e6e: the walk over a page's mappings did not take entries on a device for mappings.
#[test]
fn every_mapping_of_a_page_on_a_device_is_found() {
    let world = small().build();
    let parent = space_of(&world, 4);
    fill(world.cpu(0), 4);
    assert_eq!(parent.migrate_to_device(pages(0, 4), DEVICE).unwrap().moved, 4);
    let child = parent.fork().unwrap();
    child.relocate(pages(0, 4), at(32, 0), ferry_mm::space::Leave::Nothing).unwrap();
    let evicted = world.manager().evict_device(DEVICE).unwrap();
    assert_eq!(evicted.returned, 4);
    for number in 0..4 {
        assert_eq!(present(parent, number).0, present(child, number + 32).0, "home for both, in one frame");
        assert_eq!(page(world.cpu(0), number), contents(number));
    }
    audit(&world).unwrap();
    world.assert_all_free();
}

/// Commit 07707125aec6: a page came home read-only that had been writable, and took one fault more.
#[test]
fn a_writable_page_comes_home_writable() {
    let world = small().build();
    let space = space_of(&world, 2);
    fill(world.cpu(0), 2);
    assert_eq!(space.migrate_to_device(pages(0, 2), DEVICE).unwrap().moved, 2);
    assert_eq!(page(world.cpu(0), 0), contents(0));
    let faults = world.manager().statistics().read().faults;
    world.cpu(0).store(at(0, 0), &[1]).unwrap();
    assert_eq!(world.manager().statistics().read().faults, faults);
    audit(&world).unwrap();
    world.assert_all_free();
}

/// Commits 1de13ee59225 and 242c6e42b678: a frame kept the page of its former owner in its reverse map.
#[test]
fn a_frame_that_is_free_belongs_to_no_page() {
    let world = small().build();
    let space = space_of(&world, 2);
    fill(world.cpu(0), 2);
    let frame = present(space, 0).0;
    assert_eq!(space.migrate_to_device(pages(0, 2), DEVICE).unwrap().moved, 2);
    let there = on_device(space, 0).0;
    let origin = |frame: AnyFrame| world.manager().descriptor(frame).unwrap().origin();
    assert_eq!(origin(frame.into()), None);
    assert!(origin(there.into()).is_some());
    space.unmap(pages(0, 2)).unwrap();
    assert_eq!(origin(there.into()), None);
    world.assert_all_free();
}

/// Commits 63451de16e0a and 69da78e5180b: an error branch kept a lock, or gave it back twice; R. Roberts' series of 2023: so did the
/// loser of a race between faults. The audit counts what each CPU holds.
#[test]
fn no_way_out_of_a_call_keeps_a_lock() {
    let world = small().build();
    let space = space_of(&world, 8);
    fill(world.cpu(0), 4);
    let injector = world.manager().injector();
    injector.arm(Step::Alloc, 1);
    assert_eq!(space.migrate_to_device(pages(0, 8), DEVICE), Err(MigrateError::NoMemory));
    audit(&world).unwrap();
    injector.arm(Step::Alloc, 1);
    assert!(space.fork().is_err());
    audit(&world).unwrap();
    assert_eq!(space.migrate_to_device(pages(0, 4), DEVICE).unwrap().moved, 4);
    injector.arm(Step::Alloc, 1);
    assert!(world.cpu(0).read::<1>(at(0, 0)).is_err());
    audit(&world).unwrap();
    injector.arm(Step::Copy, 1);
    assert!(world.cpu(0).read::<1>(at(1, 0)).is_err());
    audit(&world).unwrap();
    assert_eq!(space.migrate_to_device(pages(0, 4), DEVICE), Err(MigrateError::Fault(at(1, 0))));
    audit(&world).unwrap();
    assert_eq!(page(world.cpu(1), 0), contents(0));
    world.assert_all_free();
}

/// Commit 2c6f81d58741: a page table made for a change that was given up was never freed.
#[test]
fn a_table_made_for_a_call_that_failed_is_not_lost() {
    let world = small().build();
    space_of(&world, 1);
    world.manager().injector().arm(Step::Alloc, 3);
    assert!(world.cpu(0).store(at(0, 0), &[1]).is_err());
    // What was made stays in its place, and goes with the space.
    audit(&world).unwrap();
    world.assert_all_free();
}

/// Commit 0620837490e0 (Xe): two devices that wanted one range kept taking it from each other. Each page is on one of them in the end,
/// and both calls come to their end.
#[test]
fn two_devices_that_want_one_range_share_it() {
    let world = World::builder().frames(128).device(16).device(16).cpus(2).build();
    let space = space_of(&world, 8);
    fill(world.cpu(0), 8);
    let devices = [DEVICE, DeviceId::new(1).unwrap()];
    for _ in 0..40 {
        let moved = std::thread::scope(|threads| {
            let calls = [0, 1].map(|number| {
                let world = &world;
                threads.spawn(move || {
                    world.cpu(number).run(|| space.migrate_to_device(pages(0, 8), devices[number])).unwrap()
                })
            });
            calls.map(|call| call.join().unwrap())
        });
        for (report, other) in moved.iter().zip(moved.iter().rev()) {
            let stayed = report.stayed.count(Reason::Busy) + report.stayed.count(Reason::ForeignDevice);
            assert_eq!(report.moved + stayed, 8, "{report:?} beside {other:?}");
        }
        audit(&world).unwrap();
        assert_eq!(
            world.cpu(0).run(|| space.migrate_to_system(pages(0, 8))).unwrap().moved,
            moved[0].moved + moved[1].moved
        );
    }
    for number in 0..8 {
        assert_eq!(page(world.cpu(0), number), contents(number));
    }
    world.assert_all_free();
}

/// drm_gpusvm, and the 2025 series on huge pages: half of what is on the device is unmapped; the other half is untouched.
#[test]
fn a_range_on_the_device_can_be_unmapped_in_part() {
    for first in [0, 2, 4] {
        let world = small().build();
        let space = space_of(&world, 8);
        fill(world.cpu(0), 8);
        assert_eq!(space.migrate_to_device(pages(0, 8), DEVICE).unwrap().moved, 8);
        space.unmap(pages(first, 4)).unwrap();
        audit(&world).unwrap();
        for number in 0..8 {
            if (first..first + 4).contains(&number) {
                assert!(world.cpu(0).read::<1>(at(number, 0)).is_err());
            } else {
                assert_eq!(page(world.cpu(1), number), contents(number));
            }
        }
        world.assert_all_free();
    }
}

/// What no test of Linux covers: a page on a device that is protected there, then stored to.
#[test]
fn a_page_protected_on_the_device_is_written_only_when_that_is_allowed_again() {
    let world = small().build();
    let space = space_of(&world, 2);
    fill(world.cpu(0), 2);
    assert_eq!(space.migrate_to_device(pages(0, 2), DEVICE).unwrap().moved, 2);
    space.protect(pages(0, 2), Protection::READ).unwrap();
    assert!(world.cpu(0).store(at(0, 0), &[1]).is_err());
    assert!(matches!(space.entry(at(0, 0)).decode(), Entry::Device { .. }), "a refused store brings nothing home");
    space.protect(pages(0, 2), Protection::READ_WRITE).unwrap();
    world.cpu(1).store(at(0, 0), &[1]).unwrap();
    let mut expected = contents(0).to_vec();
    expected[0] = 1;
    assert!(page(world.cpu(1), 0)[..] == expected);
    audit(&world).unwrap();
    world.assert_all_free();
}

/// What no test of Linux covers: an exit with pages outstanding on a device.
#[test]
fn exit_with_pages_on_the_device_brings_every_count_back_to_zero() {
    let world = small().build();
    let space = space_of(&world, 8);
    fill(world.cpu(0), 6);
    assert_eq!(space.fault(at(6, 0), ferry_mm::space::Access::Read), Ok(Resolution::ZeroPage));
    assert_eq!(space.migrate_to_device(pages(2, 3), DEVICE).unwrap().moved, 3);
    assert_eq!(space.resident(), Residency { ram: 3, zero: 1, device: 3, swap: 0 });
    for cpu in [0, 1] {
        world.cpu(cpu).leave();
    }
    let (frames, device) = (world.free_at_boot(), world.manager().device(DEVICE).unwrap());
    space.destroy().unwrap();
    assert_eq!((world.manager().memory().free(world.sim()), device.free()), (frames, device.frames()));
    let next = world.manager().create_space().unwrap();
    assert_eq!(
        (next.id(), next.resident()),
        (space.id(), Residency::default()),
        "the number's next owner starts at zero"
    );
    world.assert_all_free();
}
