//! To the device and home, with everything that may stay.
use ferry_mm::frame::DeviceId;
use ferry_mm::machine::CpuSet;
use ferry_mm::migrate::{Invalid, MAX_PAGES_PER_CALL, MigrateError};
use ferry_mm::page_table::entry::{LeafFlags, RawEntry};
use ferry_mm::page_table::flush::FlushScope;
use ferry_mm::space::{Protection, Residency};
use ferry_mm::stats::Reason;
use ferry_sim::{Moment, audit};

use crate::support::*;

#[test]
fn pages_go_to_the_device_and_come_home_by_fault() {
    let world = small().build();
    let space = space_of(&world, 8);
    fill(world.cpu(0), 8);
    let report = world.cpu(1).run(|| space.migrate_to_device(pages(0, 8), DEVICE)).unwrap();
    assert_eq!((report.moved, report.stayed.total()), (8, 0));
    assert_eq!(space.resident(), Residency { device: 8, ..Residency::default() });
    audit(&world).unwrap();
    for number in 0..8 {
        let (frame, writable) = on_device(space, number);
        assert_eq!(host(&world, frame), contents(number), "page {number} as the host sees it");
        assert!(writable);
        world.sim().poke(frame.into(), 3, 0x0123_4567_89ab_cdef);
    }
    for number in 0..8 {
        let mut expected = contents(number).to_vec();
        expected[24..32].copy_from_slice(&0x0123_4567_89ab_cdef_u64.to_le_bytes());
        let found = page(world.cpu(number as usize % 2), number);
        assert!(found[..] == expected, "what the device made of page {number}: {found:?}");
        audit(&world).unwrap();
    }
    let counts = world.manager().statistics().read();
    assert_eq!((counts.migrated, counts.returned_by_fault, counts.special_faults), (8, 8, 8));
    assert_eq!(space.resident(), Residency { ram: 8, ..Residency::default() });
    world.assert_all_free();
}

#[test]
fn pages_come_home_by_call_writable_and_dirty_without_a_flush() {
    let world = small().build();
    let space = space_of(&world, 8);
    fill(world.cpu(0), 6);
    assert_eq!(space.migrate_to_device(pages(0, 6), DEVICE).unwrap().moved, 6);
    assert_eq!(page(world.cpu(1), 2), contents(2));
    world.sim().take_flushes();
    let report = space.migrate_to_system(pages(0, 8)).unwrap();
    assert_eq!(report.moved, 5);
    assert_eq!((report.stayed.count(Reason::AlreadyThere), report.stayed.count(Reason::Empty)), (1, 2));
    assert!(world.sim().take_flushes().is_empty(), "a non-present entry is cached by nobody");
    for number in 0..6 {
        let home = LeafFlags::WRITABLE | LeafFlags::DIRTY;
        assert!(present(space, number).1.contains(home), "page {number}");
        assert_eq!(page(world.cpu(1), number), contents(number));
    }
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn one_flush_per_call_names_the_cpus_of_the_space() {
    let world = small().cpus(3).build();
    let space = space_of(&world, 8);
    world.cpu(2).leave();
    fill(world.cpu(0), 8);
    world.sim().take_flushes();
    assert_eq!(space.migrate_to_device(pages(1, 6), DEVICE).unwrap().moved, 6);
    let flushes = world.sim().take_flushes();
    assert_eq!(flushes.len(), 1, "{flushes:?}");
    assert_eq!(flushes[0].cpus, CpuSet::from_bits(0b011));
    assert_eq!(flushes[0].scope, FlushScope::Pages(pages(1, 6)));
    world.assert_all_free();
}

/// R14: no CPU caches what is not present, so going from one such kind to another, or becoming present, owes nothing.
#[test]
fn what_was_not_present_is_not_flushed() {
    let world = small().build();
    let space = space_of(&world, 8);
    let flushes = || world.sim().take_flushes().len();
    drop(space.collect(pages(0, 8), DEVICE).unwrap());
    assert_eq!(flushes(), 0, "empty pages were taken and given back");
    assert_eq!(space.migrate_to_device(pages(0, 8), DEVICE).unwrap().moved, 8);
    assert_eq!(flushes(), 0, "empty pages went to the device");
    assert_eq!(page(world.cpu(1), 0), zeros());
    assert_eq!(flushes(), 0, "a page came home by fault");
    assert_eq!(space.migrate_to_system(pages(1, 5)).unwrap().moved, 5);
    assert_eq!(flushes(), 0, "pages came home by call");
    let child = space.fork().unwrap();
    flushes();
    assert_eq!(world.manager().evict_device(DEVICE).unwrap().returned, 2);
    assert_eq!(flushes(), 0, "pages came home for two spaces");
    assert_eq!(present(child, 7).0, present(space, 7).0);
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_long_range_is_flushed_as_a_whole() {
    let world = small().frames(256).device(0).build();
    let space = space_of(&world, 40);
    fill(world.cpu(0), 40);
    world.sim().take_flushes();
    assert_eq!(space.migrate_to_device(pages(0, 40), DEVICE).unwrap().moved, 32);
    assert_eq!(world.sim().take_flushes().iter().map(|flush| flush.scope).collect::<Vec<_>>(), [FlushScope::LowerHalf]);
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_full_device_takes_what_it_can() {
    let world = small().build();
    let space = space_of(&world, 40);
    fill(world.cpu(0), 40);
    let report = space.migrate_to_device(pages(0, 40), DEVICE).unwrap();
    assert_eq!((report.moved, report.stayed.count(Reason::DeviceFull)), (32, 8));
    audit(&world).unwrap();
    for number in 32..40 {
        assert_eq!(page(world.cpu(1), number), contents(number));
    }
    assert_eq!(space.migrate_to_system(pages(0, 8)).unwrap().moved, 8);
    let report = space.migrate_to_device(pages(32, 8), DEVICE).unwrap();
    assert_eq!(report.moved, 8, "the next round finds room");
    for number in 0..40 {
        assert_eq!(page(world.cpu(0), number), contents(number));
    }
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn empty_and_zero_pages_move_without_a_frame_or_a_copy() {
    let world = small().build();
    let space = space_of(&world, 3);
    world.cpu(0).read::<1>(at(1, 0)).unwrap();
    world.cpu(0).store(at(2, 0), &[1]).unwrap();
    let free = world.manager().census().free_frames;
    world.sim().watch(|_, moment| assert_ne!(moment, Moment::Copy, "zeros are not copied"));
    assert_eq!(space.migrate_to_device(pages(0, 2), DEVICE).unwrap().moved, 2);
    world.sim().unwatch();
    assert!(world.manager().census().free_frames >= free - 1, "at most a table was needed");
    assert_eq!(space.resident(), Residency { ram: 1, device: 2, ..Residency::default() });
    audit(&world).unwrap();
    for number in 0..2 {
        assert!(host(&world, on_device(space, number).0).iter().all(|byte| *byte == 0));
        world.cpu(1).store(at(number, 9), &[4]).unwrap();
        assert_eq!(page(world.cpu(1), number).iter().map(|byte| usize::from(*byte)).sum::<usize>(), 4);
    }
    audit(&world).unwrap();
    world.assert_all_free();
}

/// An empty page has no leave of its own to keep: it comes home with that of its area.
#[test]
fn an_untouched_page_comes_home_as_writable_as_its_area() {
    for (protection, writable) in [(Protection::READ_WRITE, true), (Protection::READ, false)] {
        let world = small().build();
        let space = space_of(&world, 4);
        space.protect(pages(0, 4), protection).unwrap();
        // Page 0 is the zero page, page 1 is empty.
        assert_eq!(page(world.cpu(0), 0), zeros());
        assert_eq!(space.migrate_to_device(pages(0, 4), DEVICE).unwrap().moved, 4);
        for number in [0, 1] {
            assert_eq!(on_device(space, number).1, writable);
            assert_eq!(page(world.cpu(1), number), zeros());
            assert_eq!(present(space, number).1.contains(LeafFlags::WRITABLE), writable);
        }
        audit(&world).unwrap();
        world.assert_all_free();
    }
}

#[test]
fn a_read_only_page_comes_home_read_only() {
    let world = small().build();
    let space = space_of(&world, 2);
    fill(world.cpu(0), 2);
    space.protect(pages(0, 2), Protection::READ).unwrap();
    assert_eq!(space.migrate_to_device(pages(0, 2), DEVICE).unwrap().moved, 2);
    assert_eq!(space.migrate_to_system(pages(0, 1)).unwrap().moved, 1);
    assert_eq!(page(world.cpu(0), 1), contents(1));
    for number in 0..2 {
        assert!(!present(space, number).1.contains(LeafFlags::WRITABLE));
        assert!(world.cpu(0).store(at(number, 0), &[1]).is_err());
    }
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn pages_of_this_and_of_another_device_stay() {
    let world = small().device(8).build();
    let second = DeviceId::new(1).unwrap();
    let space = space_of(&world, 3);
    fill(world.cpu(0), 3);
    assert_eq!(space.migrate_to_device(pages(0, 1), DEVICE).unwrap().moved, 1);
    assert_eq!(space.migrate_to_device(pages(1, 1), second).unwrap().moved, 1);
    let report = space.migrate_to_device(pages(0, 3), second).unwrap();
    assert_eq!(report.moved, 1);
    assert_eq!((report.stayed.count(Reason::AlreadyThere), report.stayed.count(Reason::ForeignDevice)), (1, 1));
    audit(&world).unwrap();
    for number in 0..3 {
        assert_eq!(page(world.cpu(1), number), contents(number));
    }
    world.assert_all_free();
}

#[test]
fn requests_that_make_no_sense_change_nothing() {
    let world = small().build();
    let space = space_of(&world, 2);
    space.map_anonymous(pages(8, 1), Protection::empty()).unwrap();
    let nobody = DeviceId::new(5).unwrap();
    let refused = |range, device| space.migrate_to_device(range, device).unwrap_err();
    let before = world.manager().census();
    assert_eq!(refused(pages(0, 3), DEVICE), MigrateError::Invalid(Invalid::OutsideArea(pages(0, 3))));
    assert_eq!(refused(pages(4, 1), DEVICE), MigrateError::Invalid(Invalid::OutsideArea(pages(4, 1))));
    assert_eq!(refused(pages(8, 1), DEVICE), MigrateError::Invalid(Invalid::NotReadable(pages(8, 1))));
    assert_eq!(refused(pages(0, 1), nobody), MigrateError::Invalid(Invalid::NoDevice(nobody)));
    let endless = pages(0, 1 << 19);
    assert_eq!(refused(endless, DEVICE), MigrateError::Invalid(Invalid::TooLong(endless)));
    assert_eq!(world.manager().census(), before);
    assert_eq!(space.entry(at(0, 0)), RawEntry::EMPTY);
    assert!(world.sim().take_flushes().is_empty());
    world.assert_all_free();
}

#[test]
fn without_ram_a_page_stays_on_the_device_and_comes_home_later() {
    let world = small().frames(16).build();
    let space = space_of(&world, 3);
    space.map_anonymous(pages(512, 16), Protection::READ_WRITE).unwrap();
    fill(world.cpu(0), 3);
    assert_eq!(space.migrate_to_device(pages(0, 3), DEVICE).unwrap().moved, 3);
    let mut taken = 0;
    while world.cpu(0).store(at(512 + taken, 0), &[1]).is_ok() {
        taken += 1;
    }
    assert!(world.cpu(0).read::<1>(at(0, 0)).is_err());
    let report = space.migrate_to_system(pages(0, 3)).unwrap();
    assert_eq!((report.moved, report.stayed.count(Reason::NoMemory)), (0, 3));
    audit(&world).unwrap();
    space.unmap(pages(512, taken)).unwrap();
    for number in 0..3 {
        assert_eq!(page(world.cpu(0), number), contents(number));
    }
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn two_spaces_do_not_see_each_other() {
    let world = small().build();
    let first = space_of(&world, 2);
    fill(world.cpu(0), 2);
    let second = world.manager().create_space().unwrap();
    second.map_anonymous(pages(0, 2), Protection::READ_WRITE).unwrap();
    world.cpu(1).enter(second);
    world.cpu(1).store(at(0, 0), &contents(50)).unwrap();
    assert_eq!(first.migrate_to_device(pages(0, 2), DEVICE).unwrap().moved, 2);
    assert_eq!(second.migrate_to_device(pages(0, 2), DEVICE).unwrap().moved, 2);
    audit(&world).unwrap();
    assert_eq!(page(world.cpu(0), 0), contents(0));
    assert_eq!(page(world.cpu(1), 0), contents(50));
    assert_eq!(page(world.cpu(1), 1), zeros());
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_call_takes_so_many_pages_and_not_one_more() {
    let world = small().build();
    let space = space_of(&world, 1);
    let most = pages(0, MAX_PAGES_PER_CALL);
    assert_eq!(space.migrate_to_device(most, DEVICE), Err(MigrateError::Invalid(Invalid::OutsideArea(most))));
    let more = pages(0, MAX_PAGES_PER_CALL + 1);
    assert_eq!(space.migrate_to_device(more, DEVICE), Err(MigrateError::Invalid(Invalid::TooLong(more))));
    world.assert_all_free();
}
