//! Areas that are not anonymous, the limit of a space, and contents that need not be kept.
use ferry_mm::frame::{DeviceFrame, DeviceId};
use ferry_mm::inject::Step;
use ferry_mm::migrate::{Invalid, MigrateError};
use ferry_mm::page_table::entry::{Entry, LeafFlags};
use ferry_mm::space::{
    Access, AreaKind, FaultError, ForkError, Leave, MapError, Protection, RelocateError, Residency, Term,
};
use ferry_mm::stats::Reason;
use ferry_sim::{AccessError, Expected, audit, audit_with};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use crate::support::*;

fn refused(error: FaultError) -> Result<(), AccessError> {
    Err(AccessError::Refused(error))
}

#[test]
fn shared_memory_is_there_from_the_start_and_forks_write_the_same_frames() {
    let world = small().build();
    let parent = space_of(&world, 1);
    parent.map_shared(pages(2, 3), Protection::READ_WRITE).unwrap();
    assert_eq!(parent.resident(), Residency { ram: 3, ..Residency::default() });
    assert_eq!(page(world.cpu(0), 2), zeros());
    world.cpu(0).store(at(2, 0), &contents(2)).unwrap();
    let child = parent.fork().unwrap();
    audit(&world).unwrap();
    for space in [parent, child] {
        assert!(present(space, 2).1.contains(LeafFlags::WRITABLE), "a fork takes no leave to write");
    }
    assert_eq!(child.resident(), Residency { ram: 3, ..Residency::default() });
    world.cpu(1).leave();
    world.cpu(1).enter(child);
    assert_eq!(page(world.cpu(1), 2), contents(2));
    for number in 2..5 {
        world.cpu(1).store(at(number, 0), &contents(number + 10)).unwrap();
        world.sim().fence(world.cpu(1).id());
        assert_eq!(page(world.cpu(0), number), contents(number + 10), "the parent sees what its child stores");
        assert_eq!(present(parent, number).0, present(child, number).0);
    }
    assert_eq!(world.manager().statistics().read().copied_pages_mapped, 0);
    audit(&world).unwrap();
    // Read-only and writable again: the store that finds it so writes in place, although two spaces map the frame.
    let frame = present(child, 3).0;
    child.protect(pages(2, 3), Protection::READ).unwrap();
    assert!(world.cpu(1).store(at(3, 0), &[1]).is_err());
    child.protect(pages(2, 3), Protection::READ_WRITE).unwrap();
    world.cpu(1).store(at(3, 0), &[1]).unwrap();
    world.sim().fence(world.cpu(1).id());
    assert_eq!((world.cpu(0).read(at(3, 0)).unwrap(), present(child, 3).0), ([1], frame));
    // The frames live as long as one of the two.
    parent.unmap(pages(0, 5)).unwrap();
    audit(&world).unwrap();
    assert_eq!(page(world.cpu(1), 2), contents(12));
    world.assert_all_free();
}

#[test]
fn shared_memory_stays_where_it_is() {
    let world = small().build();
    let space = space_of(&world, 2);
    space.map_shared(pages(2, 2), Protection::READ_WRITE).unwrap();
    fill(world.cpu(0), 4);
    let error = MigrateError::Invalid(Invalid::NotAnonymous(pages(2, 2)));
    assert_eq!(space.migrate_to_device(pages(2, 2), DEVICE), Err(error));
    assert_eq!(space.migrate_to_system(pages(2, 2)), Err(error));
    let shared = MapError::WrongKind(pages(2, 2), AreaKind::Shared);
    assert_eq!(space.discard(pages(0, 4)), Err(shared));
    assert_eq!(space.free_lazily(pages(0, 4)), Err(shared));
    assert_eq!(space.relocate(pages(2, 2), at(16, 0), Leave::Empty), Err(RelocateError::Map(shared)));
    let frame = present(space, 2).0;
    let pin = space.pin(at(2, 0), Access::Write, Term::Short).unwrap();
    assert_eq!(pin.frame(), frame.into());
    let child = space.fork().unwrap();
    assert_eq!(present(child, 2).0, frame, "also a pinned page is shared, not copied");
    audit_with(&world, &Expected { pins: vec![frame.into()], ..Expected::default() }).unwrap();
    drop(pin);
    space.relocate(pages(2, 2), at(16, 0), Leave::Nothing).unwrap();
    assert_eq!((present(space, 16).0, page(world.cpu(0), 16)), (frame, contents(2)));
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_shared_mapping_that_fails_leaves_nothing() {
    for failing in 1..9 {
        let world = small().build();
        let space = space_of(&world, 1);
        world.cpu(0).store(at(0, 0), &[1]).unwrap();
        let before = world.manager().census();
        world.manager().injector().arm(Step::Alloc, failing);
        let mapped = space.map_shared(pages(1, 6), Protection::READ_WRITE);
        // Six pages on both sides of a border between tables: one table more is needed.
        assert_eq!(mapped.is_err(), failing <= 7, "{mapped:?} where allocation {failing} fails");
        if mapped.is_err() {
            assert_eq!((mapped, world.manager().census()), (Err(MapError::OutOfFrames), before));
            assert_eq!(space.area(pages(1, 1).start()), None);
        }
        audit(&world).unwrap();
        world.assert_all_free();
    }
}

#[test]
fn addresses_of_a_device_are_mapped_as_they_are() {
    let world = small().registers(3).build();
    let registers = DeviceFrame::new(DeviceId::new(1).unwrap(), 0);
    let first = world.sim().coherent_frame(registers);
    let space = space_of(&world, 1);
    let uncached = LeafFlags::CACHE_DISABLE | LeafFlags::WRITE_THROUGH;
    space.map_device(pages(2, 3), first, uncached, Protection::READ_WRITE).unwrap();
    assert_eq!(space.resident(), Residency::default());
    world.sim().poke(DeviceFrame::new(registers.device(), 1).into(), 5, 0x1234);
    assert_eq!(world.cpu(0).read(at(3, 40)).unwrap(), 0x1234_u64.to_le_bytes());
    world.cpu(0).store(at(4, 8), &[0xaa; 8]).unwrap();
    world.sim().fence(world.cpu(0).id());
    let third = DeviceFrame::new(registers.device(), 2);
    assert_eq!(world.sim().bytes(third.into())[8..16], [0xaa; 8]);
    audit(&world).unwrap();

    assert_eq!(
        space.migrate_to_device(pages(2, 1), DEVICE),
        Err(MigrateError::Invalid(Invalid::NotAnonymous(pages(2, 1))))
    );
    assert_eq!(space.pin(at(2, 0), Access::Read, Term::Short).err(), Some(FaultError::NotMemory(at(2, 0))));
    assert!(matches!(space.discard(pages(2, 3)), Err(MapError::WrongKind(_, AreaKind::Device { .. }))));
    let child = space.fork().unwrap();
    assert_eq!(child.entry(at(3, 0)), space.entry(at(3, 0)));
    audit(&world).unwrap();
    child.destroy().unwrap();

    // Protected in the middle, moved, made accessible again: always the same frames with the same memory type.
    space.protect(pages(3, 1), Protection::empty()).unwrap();
    assert!(world.cpu(1).read::<1>(at(3, 0)).is_err());
    audit(&world).unwrap();
    space.protect(pages(3, 1), Protection::READ).unwrap();
    assert_eq!(
        world.cpu(1).store(at(3, 0), &[1]),
        refused(FaultError::Forbidden(at(3, 0), Access::Write, Protection::READ))
    );
    space.protect(pages(2, 3), Protection::READ_WRITE).unwrap();
    space.relocate(pages(3, 2), at(20, 0), Leave::Nothing).unwrap();
    let leaf = |number| (first + number, uncached | LeafFlags::WRITABLE | LeafFlags::NO_EXECUTE);
    for (number, index) in [(2, 0), (20, 1), (21, 2)] {
        let (frame, flags) = present(space, number);
        assert_eq!((frame, flags - LeafFlags::ACCESSED - LeafFlags::DIRTY), leaf(index));
    }
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_guard_refuses_every_access_and_every_migration_that_touches_it() {
    let world = small().build();
    let space = space_of(&world, 4);
    fill(world.cpu(0), 4);
    space.map_guard(pages(4, 2)).unwrap();
    assert_eq!(world.cpu(0).read::<1>(at(4, 0)), Err(AccessError::Refused(FaultError::Guard(at(4, 0)))));
    assert_eq!(world.cpu(0).store(at(5, 0), &[1]), refused(FaultError::Guard(at(5, 0))));
    assert_eq!(space.migrate_to_device(pages(2, 3), DEVICE), Err(MigrateError::Fault(at(4, 0))));
    assert_eq!(space.migrate_to_device(pages(5, 1), DEVICE), Err(MigrateError::Fault(at(5, 0))));
    let guard = MapError::WrongKind(pages(4, 2), AreaKind::Guard);
    assert_eq!(space.protect(pages(3, 3), Protection::READ_WRITE), Err(guard));
    assert!(present(space, 3).1.contains(LeafFlags::WRITABLE), "refused, so nothing was changed");
    let child = space.fork().unwrap();
    assert_eq!(child.area(pages(4, 1).start()).map(|area| area.kind), Some(AreaKind::Guard));
    audit(&world).unwrap();
    space.unmap(pages(4, 2)).unwrap();
    assert_eq!(space.migrate_to_device(pages(0, 4), DEVICE).unwrap().moved, 4);
    world.assert_all_free();
}

#[test]
fn a_new_page_over_the_limit_is_refused_and_one_that_comes_home_is_not() {
    let world = small().build();
    let space = space_of(&world, 8);
    space.set_limit(3);
    fill(world.cpu(0), 3);
    assert_eq!(world.cpu(0).store(at(3, 0), &[1]), refused(FaultError::OverLimit(at(3, 0))));
    // Loads need no page of their own.
    assert_eq!(page(world.cpu(0), 3), zeros());
    assert_eq!(world.cpu(0).store(at(3, 0), &[1]), refused(FaultError::OverLimit(at(3, 0))));
    assert_eq!(space.resident(), Residency { ram: 3, zero: 1, ..Residency::default() });
    // Pages that have a frame move; those that have none would be new.
    let report = space.migrate_to_device(pages(0, 5), DEVICE).unwrap();
    assert_eq!((report.moved, report.stayed.count(Reason::OverLimit)), (3, 2));
    assert_eq!(space.resident(), Residency { device: 3, zero: 1, ..Residency::default() });
    audit(&world).unwrap();
    assert_eq!(world.cpu(0).store(at(4, 0), &[1]), refused(FaultError::OverLimit(at(4, 0))));
    space.set_limit(0);
    for number in 0..3 {
        assert_eq!(page(world.cpu(1), number), contents(number), "home, whatever the limit");
    }
    assert_eq!(space.resident(), Residency { ram: 3, zero: 1, ..Residency::default() });
    assert_eq!(space.fork().err(), Some(ForkError::OverLimit));
    assert_eq!(space.map_shared(pages(10, 1), Protection::READ), Err(MapError::OverLimit));
    audit(&world).unwrap();
    space.set_limit(4);
    let child = space.fork().unwrap();
    assert_eq!(child.limit(), 4);
    // A copy of a shared page is no new page: it was charged already.
    for number in 0..3 {
        world.cpu(0).store(at(number, 0), &[9]).unwrap();
    }
    audit(&world).unwrap();
    space.unmap(pages(0, 1)).unwrap();
    space.set_limit(3);
    world.cpu(0).store(at(5, 0), &[1]).unwrap();
    assert_eq!(world.cpu(0).store(at(6, 0), &[1]), refused(FaultError::OverLimit(at(6, 0))));
    audit(&world).unwrap();
    world.assert_all_free();
    assert_eq!(world.manager().create_space().unwrap().limit(), u64::MAX, "a limit goes with its space");
}

#[test]
fn unwanted_pages_are_clean_on_every_cpu_until_they_are_written() {
    let world = small().build();
    let space = space_of(&world, 6);
    fill(world.cpu(0), 4);
    for number in 0..4 {
        // Both CPUs remember the pages as dirty.
        world.cpu(1).store(at(number, 0), &contents(number)[..8]).unwrap();
    }
    assert_eq!(page(world.cpu(0), 4), zeros());
    let pin = space.pin(at(3, 0), Access::Write, Term::Short).unwrap();
    world.sim().take_flushes();
    space.free_lazily(pages(0, 6)).unwrap();
    // Pages 0 to 3 are below a border between tables, and nothing beyond it is dirty.
    assert_eq!(world.sim().take_flushes().len(), 1);
    let unwanted = |number| {
        let (frame, flags) = present(space, number);
        let marked = world.manager().descriptor(frame.into()).unwrap().is_unwanted();
        (marked, flags.contains(LeafFlags::DIRTY))
    };
    audit_with(&world, &Expected { pins: vec![pin.frame()], ..Expected::default() }).unwrap();
    assert_eq!((0..4).map(unwanted).collect::<Vec<_>>(), [(true, false), (true, false), (true, false), (false, true)]);
    // A store by a CPU that had the page dirty sets the bit again; a load does not.
    assert_eq!(page(world.cpu(1), 0), contents(0), "nothing was dropped yet");
    world.cpu(1).store(at(1, 0), &[7]).unwrap();
    world.sim().fence(world.cpu(1).id());
    assert_eq!((unwanted(0), unwanted(1)), ((true, false), (true, true)));
    drop(pin);
    // Who pins a page for a device's stores wants it: those set no bit.
    drop(space.pin(at(2, 0), Access::Write, Term::Short).unwrap());
    assert!(!unwanted(2).0);
    // Going to a device and home ends it, too: what comes home is dirty.
    assert_eq!(space.migrate_to_device(pages(0, 1), DEVICE).unwrap().moved, 1);
    space.free_lazily(pages(0, 1)).unwrap();
    assert!(matches!(space.entry(at(0, 0)).decode(), Entry::Device { .. }), "on a device nothing changes");
    assert_eq!(page(world.cpu(0), 0), contents(0));
    assert_eq!(unwanted(0), (false, true));
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_page_that_others_share_is_never_unwanted() {
    let world = small().build();
    let parent = space_of(&world, 2);
    fill(world.cpu(0), 2);
    let child = parent.fork().unwrap();
    parent.free_lazily(pages(0, 2)).unwrap();
    for number in 0..2 {
        let (frame, flags) = present(parent, number);
        assert!(!world.manager().descriptor(frame.into()).unwrap().is_unwanted() && flags.contains(LeafFlags::DIRTY));
    }
    assert_eq!(child.free_lazily(pages(0, 4)), Err(MapError::NotMapped(pages(0, 4))));
    audit(&world).unwrap();
    world.assert_all_free();
}

/// RAM in a device area would have two masters; the audit sees it.
#[test]
fn the_audit_finds_ram_in_a_device_area() {
    let world = small().build();
    let space = space_of(&world, 1);
    let ram = PhysFrame::containing_address(PhysAddr::new(0x5000));
    space.map_device(pages(2, 1), ram, LeafFlags::empty(), Protection::READ).unwrap();
    assert!(audit(&world).is_err());
    space.unmap(pages(2, 1)).unwrap();
    audit(&world).unwrap();
    world.assert_all_free();
}
