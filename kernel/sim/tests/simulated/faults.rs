//! First touch, the zero page, and what a fault refuses.
use ferry_mm::page_table::entry::LeafFlags;
use ferry_mm::space::{Access, FaultError, Protection, Residency};
use ferry_sim::{AccessError, audit};

use crate::support::*;

#[test]
fn a_first_load_maps_the_zero_page_read_only() {
    let world = small().build();
    let space = space_of(&world, 1);
    let free = world.manager().census();
    assert_eq!(page(world.cpu(0), 0), zeros());
    let (frame, flags) = present(space, 0);
    assert_eq!(frame, world.manager().zero_frame());
    assert!(!flags.contains(LeafFlags::WRITABLE));
    assert_eq!(space.resident(), Residency { zero: 1, ..Residency::default() }, "the zero page is charged to nobody");
    let tables = world.manager().census().table_frames - free.table_frames;
    assert_eq!(world.manager().census().free_frames + tables, free.free_frames, "nothing but tables was taken");
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_first_store_maps_a_fresh_zeroed_frame() {
    let world = small().build();
    let space = space_of(&world, 1);
    world.cpu(0).store(at(0, 100), &[7]).unwrap();
    let mut expected = [0; 4096];
    expected[100] = 7;
    assert!(page(world.cpu(0), 0)[..] == expected, "zero but for the byte that was stored");
    assert_eq!(space.resident(), Residency { ram: 1, ..Residency::default() });
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_frame_that_was_somebody_elses_is_zero_for_the_next() {
    let world = small().frames(16).build();
    let space = space_of(&world, 4);
    fill(world.cpu(0), 4);
    space.unmap(pages(0, 4)).unwrap();
    space.map_anonymous(pages(0, 4), Protection::READ_WRITE).unwrap();
    for number in 0..4 {
        world.cpu(0).store(at(number, 8), &[1]).unwrap();
        assert!(page(world.cpu(0), number).iter().enumerate().all(|(place, byte)| *byte == u8::from(place == 8)));
    }
    world.assert_all_free();
}

#[test]
fn every_cpu_sees_the_store_that_replaces_the_zero_page() {
    let world = small().build();
    let space = space_of(&world, 1);
    for cpu in [0, 1] {
        assert_eq!(world.cpu(cpu).read(at(0, 0)).unwrap(), [0; 8]);
    }
    world.cpu(0).store(at(0, 0), &[5; 8]).unwrap();
    world.sim().fence(world.cpu(0).id());
    assert_eq!(world.cpu(1).read(at(0, 0)).unwrap(), [5; 8], "CPU 1 had the zero page cached");
    assert_ne!(present(space, 0).0, world.manager().zero_frame());
    assert!(host(&world, world.manager().zero_frame()).iter().all(|byte| *byte == 0));
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_store_that_replaces_the_zero_page_flushes_once_and_a_first_store_never() {
    let world = small().build();
    space_of(&world, 2);
    world.cpu(1).read::<1>(at(0, 0)).unwrap();
    world.sim().take_flushes();
    let flushes = world.manager().statistics().read().flushes;
    world.cpu(0).store(at(0, 0), &[1]).unwrap();
    assert_eq!(world.manager().statistics().read().flushes - flushes, 1);
    world.cpu(0).store(at(1, 0), &[1]).unwrap();
    assert_eq!(world.manager().statistics().read().flushes - flushes, 1);
}

#[test]
fn accesses_that_cannot_be_allowed_say_why() {
    let world = small().build();
    let space = space_of(&world, 1);
    space.map_anonymous(pages(1, 1), Protection::READ).unwrap();
    space.map_anonymous(pages(2, 1), Protection::empty()).unwrap();
    let cpu = world.cpu(0);
    let refused = |error| Err(AccessError::Refused(error));
    assert_eq!(cpu.store(at(1, 0), &[1]), refused(FaultError::Forbidden(at(1, 0), Access::Write, Protection::READ)));
    let nothing = Protection::empty();
    assert_eq!(cpu.read::<1>(at(2, 8)), refused(FaultError::Forbidden(at(2, 8), Access::Read, nothing)).map(|()| [0]));
    assert_eq!(cpu.store(at(9, 0), &[1]), refused(FaultError::NoArea(at(9, 0))));
    let fetch = cpu.run(|| space.fault(at(0, 0), Access::Execute));
    assert_eq!(fetch, Err(FaultError::Forbidden(at(0, 0), Access::Execute, Protection::READ_WRITE)));
    cpu.leave();
    assert_eq!(cpu.store(at(0, 0), &[1]), Err(AccessError::NoSpace(cpu.id())));
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn without_memory_an_access_fails_and_nothing_is_lost() {
    let world = small().frames(12).build();
    let space = space_of(&world, 12);
    let mut stored = 0;
    let error = loop {
        match world.cpu(0).store(at(stored, 0), &contents(stored)) {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error, AccessError::Refused(FaultError::OutOfMemory(at(stored, 0))));
    audit(&world).unwrap();
    for number in 0..stored {
        assert_eq!(page(world.cpu(1), number), contents(number));
    }
    space.unmap(pages(0, 1)).unwrap();
    world.cpu(0).store(at(stored, 0), &[1]).expect("the frame that was given back");
    world.assert_all_free();
}

#[test]
fn what_faults_do_is_counted() {
    let world = small().build();
    let space = space_of(&world, 4);
    let counted = |act: &dyn Fn()| {
        let count = || world.manager().statistics().read();
        let before = count();
        act();
        let after = count();
        [
            after.faults - before.faults,
            after.special_faults - before.special_faults,
            after.zero_pages_mapped - before.zero_pages_mapped,
            after.fresh_pages_mapped - before.fresh_pages_mapped,
            after.copied_pages_mapped - before.copied_pages_mapped,
        ]
    };
    let (load, store) = (
        |number| _ = world.cpu(0).read::<1>(at(number, 0)).unwrap(),
        |number| world.cpu(0).store(at(number, 0), &[1]).unwrap(),
    );
    assert_eq!(counted(&|| load(0)), [1, 0, 1, 0, 0]);
    assert_eq!(counted(&|| store(0)), [1, 0, 0, 1, 0], "the zero page gives way to a fresh frame");
    assert_eq!(counted(&|| store(1)), [1, 0, 0, 1, 0]);
    let special = |expected| assert_eq!(world.manager().census().special_entries, expected);
    special(0);
    assert_eq!(space.migrate_to_device(pages(0, 4), DEVICE).unwrap().moved, 4);
    special(4);
    assert_eq!(counted(&|| load(0)), [1, 1, 0, 0, 0]);
    special(3);
    let child = space.fork().unwrap();
    special(6);
    assert_eq!(counted(&|| store(0)), [1, 0, 0, 0, 1]);
    assert_eq!(world.manager().census().spaces, 2);
    child.destroy().unwrap();
    special(3);
    audit(&world).unwrap();
    world.assert_all_free();
}

/// The straight way of a copy on write pays its flush: another CPU of the space reads the copy, not what it has cached.
#[test]
fn a_shared_page_that_is_stored_to_is_read_by_every_cpu_of_its_space() {
    let world = small().build();
    let space = space_of(&world, 2);
    fill(world.cpu(0), 2);
    let child = space.fork().unwrap();
    // A fault on the same table, so that the next one finds it without a walk.
    world.cpu(0).store(at(1, 0), &[1]).unwrap();
    assert_eq!(page(world.cpu(1), 0), contents(0));
    world.cpu(0).store(at(0, 0), &[7; 8]).unwrap();
    world.sim().fence(world.cpu(0).id());
    assert_eq!(world.cpu(1).read(at(0, 0)).unwrap(), [7; 8]);
    for cpu in [0, 1] {
        world.cpu(cpu).leave();
        world.cpu(cpu).enter(child);
        assert_eq!(page(world.cpu(cpu), 0), contents(0));
    }
    audit(&world).unwrap();
    world.assert_all_free();
}

/// Pages are never code, and user mode reaches those that it may, whatever becomes of them.
#[test]
fn entries_say_what_their_area_says_of_users_and_code() {
    let world = small().build();
    let space = space_of(&world, 2);
    space.map_anonymous(pages(2, 2), Protection::READ_WRITE | Protection::USER).unwrap();
    let expect = |number, when: &str| {
        let flags = present(space, number).1;
        assert!(flags.contains(LeafFlags::NO_EXECUTE), "page {number} {when}");
        assert_eq!(flags.contains(LeafFlags::USER), number >= 2, "page {number} {when}");
    };
    for number in 0..4 {
        world.cpu(0).read::<1>(at(number, 0)).unwrap();
        expect(number, "of zeros");
        world.cpu(0).store(at(number, 0), &contents(number)).unwrap();
        expect(number, "written");
    }
    for part in [pages(0, 2), pages(2, 2)] {
        assert_eq!(space.migrate_to_device(part, DEVICE).unwrap().moved, 2);
    }
    for number in 0..4 {
        assert_eq!(page(world.cpu(1), number), contents(number));
        expect(number, "come home");
    }
    audit(&world).unwrap();
    world.assert_all_free();
}
