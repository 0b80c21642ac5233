//! The defects that a reader finds in the migration code posted in 2015 (v11 and its neighbours), each as a test that it would
//! fail. The letters are those of the project's list of them; docs/lessons.md says where each stands in the posted code.
use std::sync::atomic::{AtomicBool, Ordering};

use ferry_mm::address::PageRange;
use ferry_mm::inject::Step;
use ferry_mm::migrate::{Invalid, MigrateError};
use ferry_mm::page_table::entry::{Entry, LeafFlags, RawEntry, SwapSlot};
use ferry_mm::space::{Access, Protection, Residency, Space, Term};
use ferry_mm::stats::Reason;
use ferry_sim::{Expected, Sim, audit, audit_with};

use crate::support::*;

fn entries(space: Space<'_, Sim>, count: u64) -> Vec<RawEntry> {
    (0..count).map(|number| space.entry(at(number, 0))).collect()
}

/// The test for the zero page was inverted: untouched pages got a frame of RAM each, only to be freed again.
#[test]
fn defect_a_an_untouched_page_moves_without_a_frame_of_ram() {
    let world = small().build();
    let space = space_of(&world, 4);
    assert_eq!(page(world.cpu(0), 1), zeros());
    let (free, before) = (world.manager().census().free_frames, world.manager().statistics().read());
    assert_eq!(space.migrate_to_device(pages(0, 4), DEVICE).unwrap().moved, 4);
    assert_eq!(world.manager().census().free_frames, free);
    let after = world.manager().statistics().read();
    assert_eq!((after.fresh_pages_mapped, after.faults), (before.fresh_pages_mapped, before.faults));
    for number in 0..4 {
        assert_eq!(host(&world, on_device(space, number).0), zeros());
        assert_eq!(page(world.cpu(1), number), zeros());
    }
    audit(&world).unwrap();
    world.assert_all_free();
}

/// An error was not reset before the retry, so the loop did nothing for ever, or gave a positive number back. Here nothing is
/// retried inside a call: a page that is busy stays, those behind it move, and the next call finds it.
#[test]
fn defect_b_a_busy_page_ends_neither_the_call_nor_the_work_on_the_others() {
    let world = small().build();
    let space = space_of(&world, 8);
    fill(world.cpu(0), 8);
    let open = world.cpu(1).run(|| space.collect(pages(3, 1), DEVICE)).unwrap();
    let report = space.migrate_to_device(pages(0, 8), DEVICE).unwrap();
    assert_eq!((report.moved, report.stayed.count(Reason::Busy), report.stayed.total()), (7, 1, 1));
    world.cpu(1).run(|| drop(open));
    let report = space.migrate_to_device(pages(0, 8), DEVICE).unwrap();
    assert_eq!((report.moved, report.stayed.count(Reason::AlreadyThere)), (1, 7));
    for number in 0..8 {
        assert_eq!(host(&world, on_device(space, number).0), contents(number));
    }
    audit(&world).unwrap();
    world.assert_all_free();
}

/// The lock of the address space was dropped in the middle, and what it protects was not looked at again. Here the areas are held
/// from the first entry to the last, so the range cannot go while a batch is open.
#[test]
fn defect_c_a_range_is_not_unmapped_under_an_open_batch() {
    let world = small().build();
    let space = space_of(&world, 8);
    fill(world.cpu(0), 8);
    let unmapped = AtomicBool::new(false);
    std::thread::scope(|threads| {
        world.cpu(0).run(|| {
            let collected = space.collect(pages(0, 8), DEVICE).unwrap();
            threads.spawn(|| {
                world.cpu(1).run(|| space.unmap(pages(0, 8))).unwrap();
                unmapped.store(true, Ordering::SeqCst);
            });
            for _ in 0..20 {
                std::thread::sleep(std::time::Duration::from_millis(1));
                assert!(!unmapped.load(Ordering::SeqCst), "unmapped under the batch");
                assert!((0..8).all(|number| matches!(space.entry(at(number, 0)).decode(), Entry::Migrating { .. })));
            }
            match collected.unmap() {
                Ok(unmapped) => drop(unmapped.copy().finalize()),
                Err(error) => assert_eq!(error, MigrateError::Again(pages(0, 8))),
            }
        });
    });
    assert!(unmapped.load(Ordering::SeqCst));
    assert!(entries(space, 8).iter().all(|entry| *entry == RawEntry::EMPTY));
    assert_eq!(space.resident(), Residency::default());
    audit(&world).unwrap();
    world.assert_all_free();
}

/// Without memory in the middle, the entries taken before stayed locked for ever.
#[test]
fn defect_d_without_memory_for_a_table_every_entry_taken_comes_back() {
    let world = small().build();
    let space = space_of(&world, 8);
    // Pages 0 to 3 have a table, pages 4 to 7 have none yet.
    fill(world.cpu(0), 4);
    let before = entries(space, 8);
    world.manager().injector().arm(Step::Alloc, 1);
    assert_eq!(space.migrate_to_device(pages(0, 8), DEVICE), Err(MigrateError::NoMemory));
    assert_eq!(entries(space, 8), before);
    audit(&world).unwrap();
    for number in 0..4 {
        assert_eq!(page(world.cpu(1), number), contents(number), "nobody waits for an entry that is nobody's");
    }
    world.assert_all_free();
}

/// The last, incomplete, bunch of frames was never freed.
#[test]
fn defect_e_every_frame_is_free_again_however_many_there_are() {
    for count in 1..=24 {
        let world = small().build();
        let space = space_of(&world, count);
        fill(world.cpu(0), count);
        let free = world.manager().census().free_frames;
        assert_eq!(space.migrate_to_device(pages(0, count), DEVICE).unwrap().moved, count);
        assert_eq!(world.manager().census().free_frames, free + count);
        audit(&world).unwrap();
        world.assert_all_free();
    }
}

/// The end of a migration wrote over entries that had been given back before, and lost the page.
#[test]
fn defect_f_a_page_that_was_given_back_is_not_touched_again() {
    let world = small().build();
    let space = space_of(&world, 8);
    fill(world.cpu(0), 8);
    let pin = space.pin(at(3, 0), Access::Write, Term::Short).unwrap();
    let before = space.entry(at(3, 0));
    let report = space.migrate_to_device(pages(0, 8), DEVICE).unwrap();
    assert_eq!((report.moved, report.stayed.count(Reason::Pinned)), (7, 1));
    assert_eq!(space.entry(at(3, 0)), before);
    audit_with(&world, &Expected { pins: vec![pin.frame()], ..Expected::default() }).unwrap();
    assert_eq!(page(world.cpu(1), 3), contents(3));
    world.cpu(1).store(at(3, 0), &[0x77]).unwrap();
    world.sim().fence(world.cpu(1).id());
    assert_eq!(host(&world, pin.frame())[0], 0x77, "the page is still the pinned frame");
    drop(pin);
    world.assert_all_free();
}

/// The way home forgot the device's addresses of pages that somebody else was bringing home at the time.
#[test]
fn defect_g_two_who_bring_the_same_pages_home_lose_none() {
    let world = small().build();
    let space = space_of(&world, 8);
    fill(world.cpu(0), 8);
    for _ in 0..40 {
        assert_eq!(world.cpu(0).run(|| space.migrate_to_device(pages(0, 8), DEVICE)).unwrap().moved, 8);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                for number in 0..8 {
                    assert_eq!(page(world.cpu(1), number), contents(number));
                }
            });
            let report = world.cpu(0).run(|| space.migrate_to_system(pages(0, 8))).unwrap();
            let others = report.stayed.count(Reason::Busy) + report.stayed.count(Reason::AlreadyThere);
            assert_eq!(report.moved + others, 8, "{report:?}");
        });
        for number in 0..8 {
            assert_eq!(host(&world, present(space, number).0), contents(number));
        }
    }
    audit(&world).unwrap();
    world.assert_all_free();
}

/// Special kinds were looked for in present entries, whose address bits may look like anything.
#[test]
fn defect_h_a_present_entry_is_present_whatever_its_other_bits_say() {
    let world = small().build();
    let space = space_of(&world, 1);
    fill(world.cpu(0), 1);
    let (frame, flags) = present(space, 0);
    let flags = flags & LeafFlags::CARRIED;
    let device = ferry_mm::frame::DeviceFrame::new(DEVICE, 7);
    let special = [
        Entry::Swap { slot: SwapSlot::new(5).unwrap() },
        Entry::Migrating { frame: frame.into(), flags, owner: world.cpu(1).id() },
        Entry::Migrating { frame: device.into(), flags, owner: world.cpu(1).id() },
        Entry::Device { frame: device, writable: true },
        Entry::Exclusive { frame, flags },
        Entry::NoAccess { frame, flags },
        Entry::Poison,
    ];
    for entry in special {
        let raw = entry.encode();
        assert!(raw.is_special() && !raw.is_present());
        assert_eq!(raw.decode(), entry);
        let aliased = RawEntry(raw.0 | 1);
        assert!(!aliased.is_special());
        assert!(matches!(aliased.decode(), Entry::Present { .. }), "{entry:?} with the present bit");
    }
    world.assert_all_free();
}

/// An error in a later directory of the range was charged to the page of the same index in the first.
#[test]
fn defect_i_a_copy_that_fails_beyond_a_border_of_tables_keeps_that_page() {
    for failing in 0..8 {
        let world = small().build();
        let space = space_of(&world, 8);
        fill(world.cpu(0), 8);
        let before = entries(space, 8);
        world.manager().injector().arm(Step::Copy, failing + 1);
        let report = space.migrate_to_device(pages(0, 8), DEVICE).unwrap();
        assert_eq!((report.moved, report.stayed.count(Reason::CopyFailed)), (7, 1));
        for number in 0..8 {
            if number == failing {
                assert_eq!(space.entry(at(number, 0)), before[number as usize]);
            } else {
                assert_eq!(host(&world, on_device(space, number).0), contents(number));
            }
        }
        assert_eq!(page(world.cpu(1), failing), contents(failing));
        audit(&world).unwrap();
        world.assert_all_free();
    }
}

/// A page on the device already was brought home and sent there again; one that another migration held made the call spin, on a
/// single CPU for ever.
#[test]
fn defect_j_pages_on_the_device_are_left_alone_and_held_ones_passed_by() {
    let world = small().build();
    let space = space_of(&world, 8);
    fill(world.cpu(0), 8);
    assert_eq!(space.migrate_to_device(pages(2, 2), DEVICE).unwrap().moved, 2);
    let there = [on_device(space, 2), on_device(space, 3)];
    let open = space.collect(pages(5, 2), DEVICE).unwrap();
    let report = space.migrate_to_device(pages(0, 8), DEVICE).unwrap();
    let stayed = report.stayed;
    assert_eq!((report.moved, stayed.count(Reason::AlreadyThere), stayed.count(Reason::Busy)), (4, 2, 2));
    drop(open);
    assert_eq!([on_device(space, 2), on_device(space, 3)], there);
    let counts = world.manager().statistics().read();
    assert_eq!((counts.returned_by_fault, counts.returned_by_call, counts.special_faults), (0, 0, 0));
    audit(&world).unwrap();
    world.assert_all_free();
}

/// A range that began before its area was accepted.
#[test]
fn defect_k_a_range_is_inside_one_area_at_both_ends_and_in_between() {
    let world = small().build();
    let space = space_of(&world, 8);
    fill(world.cpu(0), 8);
    space.unmap(pages(0, 1)).unwrap();
    space.unmap(pages(4, 1)).unwrap();
    space.protect(pages(6, 1), Protection::READ).unwrap();
    let before = entries(space, 8);
    // Before it, beyond it, over a hole, in a hole, over a border of areas.
    for (first, count) in [(0, 2), (0, 4), (7, 2), (3, 3), (4, 1), (5, 2)] {
        let range = pages(first, count);
        let outside = Err(MigrateError::Invalid(Invalid::OutsideArea(range)));
        assert_eq!(space.migrate_to_device(range, DEVICE), outside, "{range:?}");
        assert_eq!(space.migrate_to_system(range), outside, "{range:?}");
    }
    assert_eq!(entries(space, 8), before);
    // Parts of pages count as whole ones; no page is no range.
    assert_eq!(PageRange::covering(at(1, 4095), 2), Ok(pages(1, 2)));
    assert!(PageRange::covering(at(1, 0), 0).is_err());
    assert_eq!(space.migrate_to_device(PageRange::covering(at(1, 4095), 2).unwrap(), DEVICE).unwrap().moved, 2);
    audit(&world).unwrap();
    world.assert_all_free();
}
