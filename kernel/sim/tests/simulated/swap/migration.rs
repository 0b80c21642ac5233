//! Migration over swapped pages (R8), and with pages in the swap cache (R15).
use ferry_mm::frame::DeviceId;
use ferry_mm::migrate::{Invalid, MigrateError};
use ferry_mm::page_table::entry::Entry;
use ferry_mm::space::Residency;
use ferry_mm::stats::Reason;
use ferry_sim::{Transfer, World, audit};

use super::{swap_out, swapping};
use crate::support::*;

#[test]
fn swapped_pages_are_swapped_in_and_migrated_with_one_flush() {
    let world = swapping().build();
    let space = space_of(&world, 8);
    fill(world.cpu(0), 6);
    swap_out(space, 1, 4);
    world.sim().take_flushes();
    let report = space.migrate_to_device(pages(0, 8), DEVICE).unwrap();
    assert_eq!((report.moved, report.stayed.total()), (8, 0), "{report:?}");
    assert_eq!(world.sim().take_flushes().len(), 1);
    assert_eq!(space.resident(), Residency { device: 8, ..Residency::default() });
    assert_eq!(world.manager().census().free_slots, world.disk().slots());
    for number in 0..6 {
        assert_eq!(host(&world, on_device(space, number).0), contents(number));
    }
    audit(&world).unwrap();
    for number in 0..6 {
        assert_eq!(page(world.cpu(1), number), contents(number));
    }
    world.assert_all_free();
}

/// df263d9a7dff: a page in the swap cache leaves it, or stays.
#[test]
fn a_page_in_the_swap_cache_is_taken_out_of_it_before_it_migrates() {
    let world = swapping().build();
    let space = space_of(&world, 2);
    fill(world.cpu(0), 2);
    swap_out(space, 0, 2);
    for number in 0..2 {
        assert_eq!(page(world.cpu(0), number), contents(number));
    }
    assert_eq!(space.migrate_to_device(pages(0, 2), DEVICE).unwrap().moved, 2);
    assert_eq!(world.manager().census().free_slots, world.disk().slots(), "no slot remembers the page");
    // The device changes it: what was on the disk is of no meaning any more.
    for number in 0..2 {
        world.sim().poke(on_device(space, number).0.into(), 3, 0x1234);
        assert_eq!(world.cpu(1).read(at(number, 24)).unwrap(), 0x1234_u64.to_le_bytes());
    }
    audit(&world).unwrap();
    swap_out(space, 0, 2);
    assert_eq!(world.cpu(1).read(at(1, 24)).unwrap(), 0x1234_u64.to_le_bytes());
    world.assert_all_free();
}

#[test]
fn sharers_that_are_swapped_out_keep_the_slot_when_one_migrates() {
    let world = swapping().build();
    let parent = space_of(&world, 2);
    fill(world.cpu(0), 2);
    let child = parent.fork().unwrap();
    world.cpu(1).enter(child);
    swap_out(parent, 0, 2);
    assert_eq!(parent.migrate_to_device(pages(0, 2), DEVICE).unwrap().moved, 2);
    for number in 0..2 {
        assert!(matches!(child.entry(at(number, 0)).decode(), Entry::Swap { .. }));
    }
    audit(&world).unwrap();
    world.cpu(0).store(at(0, 0), &contents(9)).unwrap();
    for number in 0..2 {
        assert_eq!(page(world.cpu(1), number), contents(number));
    }
    assert_eq!(page(world.cpu(0), 0), contents(9));
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_range_larger_than_ram_goes_to_a_device_and_comes_home() {
    const PAGES: u64 = 60;
    let world = small().frames(40).device(4).device(128).swap(128).build();
    let device = ferry_mm::frame::DeviceId::new(2).unwrap();
    let space = space_of(&world, PAGES);
    fill(world.cpu(0), PAGES);
    assert!(space.resident().swap > 20);
    let report = space.migrate_to_device(pages(0, PAGES), device).unwrap();
    assert_eq!((report.moved, report.stayed.total()), (PAGES, 0), "{report:?}");
    for number in 0..PAGES {
        assert_eq!(host(&world, on_device(space, number).0), contents(number));
    }
    assert_eq!(world.manager().census().free_slots, world.disk().slots());
    audit(&world).unwrap();
    for number in 0..PAGES {
        assert_eq!(page(world.cpu(1), number), contents(number));
    }
    assert!(space.resident().swap > 20, "bringing pages home pushed others out");
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_full_device_leaves_swapped_pages_on_the_disk_unread() {
    let world = small().frames(64).swap(128).build();
    let space = space_of(&world, 48);
    fill(world.cpu(0), 48);
    swap_out(space, 0, 48);
    let report = space.migrate_to_device(pages(0, 48), DEVICE).unwrap();
    assert_eq!(report.moved, 32);
    assert_eq!(report.stayed.count(Reason::SwappedOut) + report.stayed.count(Reason::DeviceFull), 16, "{report:?}");
    assert!(world.disk().asked(Transfer::Read) < 48);
    audit(&world).unwrap();
    for number in 0..48 {
        assert_eq!(page(world.cpu(1), number), contents(number));
    }
    world.assert_all_free();
}

#[test]
fn room_is_made_before_a_batch_or_an_eviction_comes_home() {
    for evict in [false, true] {
        let world = small().frames(48).swap(64).build();
        let space = space_of(&world, 30);
        fill(world.cpu(0), 30);
        assert_eq!(space.migrate_to_device(pages(0, 30), DEVICE).unwrap().moved, 30);
        space.map_anonymous(pages(100, 38), ferry_mm::space::Protection::READ_WRITE).unwrap();
        for number in 100..138 {
            world.cpu(0).store(at(number, 0), &contents(number)).unwrap();
        }
        if evict {
            let evicted = world.manager().evict_device(DEVICE).unwrap();
            assert_eq!((evicted.returned, evicted.no_memory), (30, 0), "{evicted:?}");
        } else {
            let report = space.migrate_to_system(pages(0, 30)).unwrap();
            assert_eq!((report.moved, report.stayed.total()), (30, 0), "{report:?}");
        }
        audit(&world).unwrap();
        for number in (0..30).chain(100..138) {
            assert_eq!(page(world.cpu(1), number), contents(number));
        }
        audit(&world).unwrap();
        world.assert_all_free();
    }
}

#[test]
fn a_request_for_a_device_that_is_not_there_asks_no_disk() {
    let world = swapping().build();
    let space = space_of(&world, 4);
    fill(world.cpu(0), 4);
    swap_out(space, 0, 4);
    let nobody = DeviceId::new(9).unwrap();
    let refused = space.migrate_to_device(pages(0, 4), nobody);
    assert_eq!(refused, Err(MigrateError::Invalid(Invalid::NoDevice(nobody))));
    assert_eq!(world.disk().asked(Transfer::Read), 0);
    world.assert_all_free();
}

/// A window is an eighth of RAM, 16 pages here. The device has room for one and a quarter: what was swapped in for the second
/// and finds no room stays in RAM, and of the third nothing is read.
#[test]
fn pages_on_the_disk_go_in_windows_until_the_device_is_full() {
    let world = World::builder().frames(128).device(20).swap(64).cpus(2).build();
    let space = space_of(&world, 40);
    fill(world.cpu(0), 40);
    swap_out(space, 0, 40);
    let report = space.migrate_to_device(pages(0, 40), DEVICE).unwrap();
    let stayed = [Reason::DeviceFull, Reason::SwappedOut].map(|reason| report.stayed.count(reason));
    assert_eq!((report.moved, stayed, report.stayed.total()), (20, [12, 8], 20));
    assert!(report.stayed.iter().eq(Reason::ALL.into_iter().filter_map(|reason| match reason {
        Reason::DeviceFull => Some((reason, 12)),
        Reason::SwappedOut => Some((reason, 8)),
        _ => None,
    })));
    assert_eq!(world.disk().asked(Transfer::Read), 32);
    assert_eq!(space.resident(), Residency { device: 20, ram: 12, swap: 8, ..Residency::default() });
    (0..40).for_each(|number| assert_eq!(page(world.cpu(1), number), contents(number)));
    audit(&world).unwrap();
    world.assert_all_free();
}

/// Who is alone with a swapped page writes it at once; who is not faults once more, for a copy.
#[test]
fn a_store_to_a_swapped_page_costs_one_fault_where_nobody_shares_it() {
    for (shared, expected) in [(false, 1), (true, 2)] {
        let world = swapping().build();
        let space = space_of(&world, 1);
        fill(world.cpu(0), 1);
        let _child = shared.then(|| space.fork().unwrap());
        swap_out(space, 0, 1);
        let before = world.manager().statistics().read().faults;
        world.cpu(0).store(at(0, 0), &contents(0)[..8]).unwrap();
        assert_eq!(world.manager().statistics().read().faults - before, expected, "shared: {shared}");
        assert_eq!(page(world.cpu(0), 0), contents(0));
        audit(&world).unwrap();
        world.assert_all_free();
    }
}
