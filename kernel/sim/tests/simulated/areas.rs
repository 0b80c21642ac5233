//! Unmapping and protecting, whole and in part.
use ferry_mm::machine::CpuSet;
use ferry_mm::page_table::entry::{LeafFlags, RawEntry};
use ferry_mm::page_table::flush::{FlushScope, PAGE_BY_PAGE_LIMIT};
use ferry_mm::space::{Access, DestroyError, FaultError, MapError, Protection, Residency};
use ferry_sim::{AccessError, World, audit};

use crate::support::*;

/// A world whose two CPUs have every page of the space cached, writable and dirty.
fn warm(count: u64) -> World {
    let world = small().build();
    space_of(&world, count);
    fill(world.cpu(0), count);
    for number in 0..count {
        world.cpu(1).store(at(number, 0), &contents(number)[..8]).unwrap();
    }
    world.sim().take_flushes();
    world
}

#[test]
fn after_unmap_no_cpu_reaches_the_page() {
    let world = warm(2);
    let space = world.cpu(0).space().unwrap();
    world.cpu(0).run(|| space.unmap(pages(0, 1))).unwrap();
    for cpu in [0, 1] {
        let id = world.cpu(cpu).id();
        assert!(world.sim().load(id, at(0, 0)).is_err(), "CPU {cpu} reads an unmapped page");
        assert!(world.sim().store(id, at(0, 0), u64::MAX, 1).is_err(), "CPU {cpu} writes an unmapped page");
        assert_eq!(world.cpu(cpu).store(at(0, 0), &[1]), Err(AccessError::Refused(FaultError::NoArea(at(0, 0)))));
        assert_eq!(page(world.cpu(cpu), 1), contents(1), "the neighbour stays");
    }
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn frames_are_freed_only_after_the_flush() {
    let world = warm(2);
    let space = world.cpu(0).space().unwrap();
    let frame = present(space, 0).0;
    // Touched once, so that its table is there and the freed frame becomes a page.
    space.map_anonymous(pages(8, 128), Protection::READ_WRITE).unwrap();
    world.cpu(0).store(at(8, 0), &[1]).unwrap();
    let cpu = world.cpu(1).id();
    // CPU 1 goes on writing for as long as it can; whatever it hits must still be the page's frame.
    world.sim().watch(move |sim, _| {
        let _ = sim.store(cpu, at(0, 16), u64::MAX, 0xdead);
    });
    space.unmap(pages(0, 1)).unwrap();
    world.sim().unwatch();
    world.sim().fence(cpu);
    let stored = (9..).take_while(|number| world.cpu(0).store(at(*number, 0), &[1]).is_ok());
    let users = stored.filter(|number| {
        assert_eq!(page(world.cpu(0), *number)[16..24], [0; 8], "a store from before the unmap came through");
        present(space, *number).0 == frame
    });
    assert_eq!(users.count(), 1, "every frame was used again, so this test has looked at the right one");
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn unmapping_the_middle_leaves_both_ends() {
    let world = warm(8);
    let space = world.cpu(0).space().unwrap();
    // Pages 2 to 5 lie on both sides of a border between level-1 tables.
    space.unmap(pages(2, 4)).unwrap();
    audit(&world).unwrap();
    for number in [0, 1, 6, 7] {
        assert_eq!(page(world.cpu(1), number), contents(number));
    }
    for number in 2..6 {
        assert!(world.cpu(1).read::<1>(at(number, 0)).is_err());
    }
    assert_eq!(space.resident(), Residency { ram: 4, ..Residency::default() });
    space.map_anonymous(pages(2, 4), Protection::READ_WRITE).unwrap();
    assert_eq!(page(world.cpu(1), 3), zeros(), "its old contents are gone");
    world.assert_all_free();
}

#[test]
fn unmapping_pays_one_flush_for_the_range_and_one_for_its_tables() {
    let world = warm(8);
    let space = world.cpu(0).space().unwrap();
    space.unmap(pages(0, 2)).unwrap();
    assert_eq!(world.sim().take_flushes().len(), 1, "both tables are still in use");
    space.unmap(pages(2, 6)).unwrap();
    assert_eq!(world.sim().take_flushes().len(), 2, "the tables go, too");
    assert_eq!(world.manager().census().table_frames, 1, "the root");
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn tables_are_freed_only_when_no_cpu_has_a_path_to_them() {
    let world = small().build();
    let space = space_of(&world, 2);
    fill(world.cpu(0), 2);
    assert_eq!(space.migrate_to_device(pages(0, 2), DEVICE).unwrap().moved, 2);
    // Nothing is present there any more, so that unmapping flushes no page; the path to the table is cached all the same.
    let cpu = world.cpu(1).id();
    world.sim().prefetch(cpu, at(0, 0));
    world.sim().watch(move |sim, _| sim.prefetch(cpu, at(1, 0)));
    space.unmap(pages(0, 2)).unwrap();
    world.sim().unwatch();
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn unmapping_pages_on_the_device_frees_and_clears_them() {
    let world = warm(4);
    let space = world.cpu(0).space().unwrap();
    assert_eq!(space.migrate_to_device(pages(0, 4), DEVICE).unwrap().moved, 4);
    let frame = on_device(space, 1).0;
    assert_eq!(host(&world, frame), contents(1));
    space.unmap(pages(0, 3)).unwrap();
    assert_eq!(space.resident(), Residency { device: 1, ..Residency::default() });
    assert!(host(&world, frame).iter().all(|byte| *byte == 0), "nothing of a former owner is left on the device");
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_page_made_read_only_is_read_only_on_every_cpu() {
    let world = warm(2);
    let space = world.cpu(0).space().unwrap();
    space.protect(pages(0, 1), Protection::READ).unwrap();
    assert_eq!(world.sim().take_flushes().len(), 1);
    for cpu in [0, 1] {
        assert!(world.sim().store(world.cpu(cpu).id(), at(0, 0), u64::MAX, 1).is_err(), "CPU {cpu} still writes");
        let error = FaultError::Forbidden(at(0, 0), Access::Write, Protection::READ);
        assert_eq!(world.cpu(cpu).store(at(0, 0), &[1]), Err(AccessError::Refused(error)));
        world.cpu(cpu).store(at(1, 0), &contents(1)[..1]).unwrap();
        assert_eq!(page(world.cpu(cpu), 0), contents(0));
    }
    audit(&world).unwrap();
    space.protect(pages(0, 1), Protection::READ_WRITE).unwrap();
    world.cpu(1).store(at(0, 0), &[9]).unwrap();
    assert_eq!(world.cpu(1).read(at(0, 0)).unwrap(), [9]);
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_page_without_access_keeps_its_contents_and_its_dirty_bit() {
    let world = warm(2);
    let space = world.cpu(0).space().unwrap();
    let before = present(space, 0);
    space.protect(pages(0, 2), Protection::empty()).unwrap();
    for cpu in [0, 1] {
        assert!(world.sim().load(world.cpu(cpu).id(), at(0, 0)).is_err(), "CPU {cpu} still reads");
    }
    audit(&world).unwrap();
    assert!(space.migrate_to_device(pages(0, 1), DEVICE).is_err());
    space.protect(pages(0, 2), Protection::READ).unwrap();
    assert_eq!(present(space, 0), (before.0, before.1 - LeafFlags::WRITABLE));
    assert_eq!(page(world.cpu(1), 0), contents(0));
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_page_protected_on_the_device_comes_home_read_only() {
    let world = warm(2);
    let space = world.cpu(0).space().unwrap();
    assert_eq!(space.migrate_to_device(pages(0, 2), DEVICE).unwrap().moved, 2);
    space.protect(pages(0, 2), Protection::READ).unwrap();
    assert!(!on_device(space, 0).1);
    assert_eq!(page(world.cpu(0), 0), contents(0));
    assert!(!present(space, 0).1.contains(LeafFlags::WRITABLE));
    assert!(world.cpu(0).store(at(0, 0), &[1]).is_err());
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn ranges_that_cannot_be_are_refused_and_change_nothing() {
    let world = warm(4);
    let space = world.cpu(0).space().unwrap();
    let entries: Vec<RawEntry> = (0..4).map(|number| space.entry(at(number, 0))).collect();
    assert_eq!(space.map_anonymous(pages(3, 2), Protection::READ), Err(MapError::Overlaps(pages(0, 4))));
    assert_eq!(space.protect(pages(2, 4), Protection::READ), Err(MapError::NotMapped(pages(2, 4))));
    assert_eq!(entries, (0..4).map(|number| space.entry(at(number, 0))).collect::<Vec<_>>());
    space.unmap(pages(100, 5)).expect("holes are allowed");
    assert!(world.sim().take_flushes().is_empty(), "nothing present was changed");
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_space_that_a_cpu_is_in_is_not_destroyed() {
    let world = warm(1);
    let space = world.cpu(0).space().unwrap();
    world.cpu(0).leave();
    let error = space.destroy().unwrap_err();
    assert_eq!(error, DestroyError::StillEntered(CpuSet::from_bits(0b10)));
    assert_eq!(page(world.cpu(1), 0), contents(0));
    world.assert_all_free();
}

#[test]
fn an_unmap_pays_one_flush_whoever_else_has_the_pages() {
    for shared in [false, true] {
        let world = World::builder().frames(256).cpus(2).build();
        let space = space_of(&world, 60);
        fill(world.cpu(0), 60);
        if shared {
            space.fork().unwrap();
        }
        world.sim().take_flushes();
        let count = if shared { 20 } else { 40 };
        // Inside a table, so that none is freed.
        space.unmap(pages(10, count)).unwrap();
        assert_eq!(world.sim().take_flushes().len(), 1, "{count} pages, shared: {shared}");
        audit(&world).unwrap();
        world.assert_all_free();
    }
}

#[test]
fn a_flush_goes_page_by_page_up_to_a_limit() {
    let world = warm(50);
    let space = world.cpu(0).space().unwrap();
    for (count, expected) in [
        (PAGE_BY_PAGE_LIMIT, FlushScope::Pages(pages(10, PAGE_BY_PAGE_LIMIT))),
        (PAGE_BY_PAGE_LIMIT + 1, FlushScope::LowerHalf),
    ] {
        space.protect(pages(10, count), Protection::READ).unwrap();
        let scopes: Vec<_> = world.sim().take_flushes().into_iter().map(|request| request.scope).collect();
        assert_eq!(scopes, [expected], "{count} pages");
        for number in 10..10 + count {
            assert!(world.sim().store(world.cpu(1).id(), at(number, 0), u64::MAX, 1).is_err(), "page {number}");
        }
        space.protect(pages(10, count), Protection::READ_WRITE).unwrap();
        for number in 10..10 + count {
            world.cpu(1).store(at(number, 0), &contents(number)[..8]).unwrap();
        }
        world.sim().take_flushes();
    }
    world.assert_all_free();
}
