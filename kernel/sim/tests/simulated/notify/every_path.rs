//! Every path that weakens an entry tells the listeners before, and flushes before they may look again (R12, R13).
use ferry_mm::machine::CpuSet;
use ferry_mm::notify::InvalidationReason;
use ferry_mm::page_table::flush::{FlushRequest, FlushScope};
use ferry_mm::space::{Access, Leave, Protection, Resolution, Space, Term};
use ferry_mm::stats::Reason;
use ferry_sim::{Sim, World, audit};

use super::watching::*;
use crate::support::*;

/// A world with a space of 8 written pages, which both CPUs have cached, writable.
fn warm() -> (&'static World, Space<'static, Sim>) {
    let world = forever(small());
    let space = space_of(world, 8);
    fill(world.cpu(0), 8);
    for number in 0..8 {
        world.cpu(1).store(at(number, 0), &contents(number)[..8]).unwrap();
    }
    (world, space)
}

/// The same with every page on the device.
fn on_the_device() -> (&'static World, Space<'static, Sim>) {
    let (world, space) = warm();
    assert_eq!(space.migrate_to_device(pages(0, 8), DEVICE).unwrap().moved, 8);
    (world, space)
}

/// The same with every page in the memory of a coherent device, where both CPUs have it cached.
fn in_coherent_memory() -> (&'static World, Space<'static, Sim>) {
    let world = forever(with_coherent());
    let space = space_of(world, 8);
    fill(world.cpu(0), 8);
    assert_eq!(space.migrate_to_device(pages(0, 8), COHERENT).unwrap().moved, 8);
    for number in 0..8 {
        world.cpu(0).store(at(number, 0), &contents(number)[..8]).unwrap();
        world.cpu(1).store(at(number, 8), &contents(number)[8..16]).unwrap();
    }
    (world, space)
}

/// The same with every page shared with a child; CPU 1 is in the child.
fn shared() -> (&'static World, Space<'static, Sim>, Space<'static, Sim>) {
    let (world, space) = warm();
    let child = space.fork().unwrap();
    world.cpu(1).enter(child);
    for number in 0..8 {
        assert_eq!(page(world.cpu(1), number), contents(number));
        assert_eq!(page(world.cpu(0), number), contents(number));
    }
    (world, space, child)
}

#[test]
fn unmap() {
    let (world, space) = warm();
    expect_told(world, space, 2, InvalidationReason::Unmap, || space.unmap(pages(0, 8)).unwrap());
    world.assert_all_free();
}

#[test]
fn partial_unmap() {
    let (world, space) = warm();
    expect_told(world, space, 2, InvalidationReason::Unmap, || space.unmap(pages(2, 1)).unwrap());
    let (beside, _) = Witness::of(world, space, 4, 2);
    space.unmap(pages(3, 1)).unwrap();
    space.unmap(pages(6, 2)).unwrap();
    assert_eq!(beside.reasons(), [], "nothing of what it watches was touched");
    world.assert_all_free();
}

#[test]
fn discard() {
    let (world, space) = warm();
    expect_told(world, space, 2, InvalidationReason::Discard, || space.discard(pages(1, 3)).unwrap());
    world.assert_all_free();
}

#[test]
fn free_lazily() {
    let (world, space) = warm();
    let (witness, _) = Witness::of(world, space, 2, 1);
    expect_flushed_while_told(world, space, 2, || space.free_lazily(pages(0, 8)).unwrap());
    assert_eq!(witness.reasons(), [InvalidationReason::FreeLazily]);
    world.assert_all_free();
}

#[test]
fn protect() {
    for protection in [Protection::READ, Protection::empty()] {
        let (world, space) = warm();
        expect_told(world, space, 2, InvalidationReason::Protect, || space.protect(pages(1, 3), protection).unwrap());
        world.assert_all_free();
    }
}

#[test]
fn relocate() {
    let (world, space) = warm();
    expect_told(world, space, 2, InvalidationReason::Move, || {
        space.relocate(pages(0, 8), at(1000, 0), Leave::Empty).unwrap();
    });
    world.assert_all_free();
}

#[test]
fn fork() {
    let (world, space) = warm();
    expect_told(world, space, 2, InvalidationReason::Fork, || {
        space.fork().unwrap();
    });
    world.assert_all_free();
}

#[test]
fn a_store_that_copies() {
    let (world, space, child) = shared();
    expect_told(world, space, 2, InvalidationReason::CopyOnWrite, || world.cpu(0).store(at(2, 0), b"mine").unwrap());
    // The child is the last to map that frame: nothing of its entry gets weaker.
    let (witness, _) = Witness::of(world, child, 2, 1);
    world.cpu(1).store(at(2, 0), b"too").unwrap();
    assert_eq!(witness.reasons(), []);
    world.assert_all_free();
}

#[test]
fn a_store_to_the_zero_page() {
    let (world, space) = warm();
    space.map_anonymous(pages(8, 1), Protection::READ_WRITE).unwrap();
    for cpu in [0, 1] {
        assert_eq!(page(world.cpu(cpu), 8), zeros());
    }
    expect_told(world, space, 8, InvalidationReason::CopyOnWrite, || world.cpu(0).store(at(8, 0), b"mine").unwrap());
    world.assert_all_free();
}

#[test]
fn a_pin_that_copies() {
    let (world, space, _child) = shared();
    expect_told(world, space, 2, InvalidationReason::CopyOnWrite, || {
        drop(space.pin(at(2, 0), Access::Read, Term::Short).unwrap());
    });
    world.assert_all_free();
}

#[test]
fn migration() {
    let (world, space) = warm();
    expect_told(world, space, 2, InvalidationReason::Migrate, || {
        assert_eq!(space.migrate_to_device(pages(0, 8), DEVICE).unwrap().moved, 8);
    });
    world.assert_all_free();
}

#[test]
fn migration_of_a_page_that_another_space_shares() {
    let (world, space, child) = shared();
    expect_told(world, child, 2, InvalidationReason::Migrate, || {
        assert_eq!(space.migrate_to_device(pages(0, 8), DEVICE).unwrap().moved, 8);
    });
    assert_eq!(on_device(child, 2), on_device(space, 2));
    world.assert_all_free();
}

#[test]
fn a_sharer_who_listens_only_since_the_announcement_keeps_his_entry() {
    let (world, space, child) = shared();
    let collected = space.collect(pages(0, 8), DEVICE).unwrap();
    let before = child.entry(at(2, 0));
    let (witness, _) = world.cpu(1).run(|| Witness::of(world, child, 2, 1));
    let report = collected.unmap().unwrap().copy().finalize();
    assert_eq!(
        (report.moved, report.stayed.count(Reason::Busy)),
        (0, 8),
        "a child with a listener is not touched untold"
    );
    assert_eq!(child.entry(at(2, 0)), before);
    assert_eq!(witness.reasons(), []);
    assert_eq!(space.migrate_to_device(pages(0, 8), DEVICE).unwrap().moved, 8, "the next call tells it");
    assert_eq!(witness.reasons(), [InvalidationReason::Migrate]);
    audit(world).unwrap();
    world.assert_all_free();
}

#[test]
fn home_by_fault() {
    let (world, space) = on_the_device();
    expect_told(world, space, 2, InvalidationReason::Migrate, || assert_eq!(page(world.cpu(0), 2), contents(2)));
    world.assert_all_free();
}

#[test]
fn home_by_call() {
    let (world, space) = on_the_device();
    expect_told(world, space, 2, InvalidationReason::Migrate, || {
        assert_eq!(space.migrate_to_system(pages(0, 8)).unwrap().moved, 8);
    });
    world.assert_all_free();
}

#[test]
fn home_by_eviction() {
    let (world, space, child) = shared();
    assert_eq!(space.migrate_to_device(pages(0, 8), DEVICE).unwrap().moved, 8);
    let (both, _) = Witness::of(world, space, 0, 8);
    expect_told(world, child, 2, InvalidationReason::Migrate, || {
        assert_eq!(world.manager().evict_device(DEVICE).unwrap().returned, 8);
    });
    assert_eq!(both.reasons(), [InvalidationReason::Migrate]);
    world.assert_all_free();
}

#[test]
fn home_from_coherent_memory() {
    let (world, space) = in_coherent_memory();
    expect_told(world, space, 2, InvalidationReason::Migrate, || {
        assert_eq!(space.migrate_to_system(pages(0, 8)).unwrap().moved, 8);
    });
    world.assert_all_free();
    let (world, space) = in_coherent_memory();
    expect_told(world, space, 2, InvalidationReason::Migrate, || {
        assert_eq!(world.manager().evict_device(COHERENT).unwrap().returned, 8);
    });
    world.assert_all_free();
    let (world, space) = in_coherent_memory();
    expect_told(world, space, 2, InvalidationReason::Migrate, || {
        drop(space.pin(at(2, 0), Access::Write, Term::Long).unwrap());
    });
    world.assert_all_free();
}

#[test]
fn exit() {
    let (world, space) = warm();
    for cpu in [0, 1] {
        world.cpu(cpu).leave();
    }
    expect_told(world, space, 2, InvalidationReason::Release, || space.destroy().unwrap());
    let next = space_of(world, 8);
    assert_eq!(next.id(), space.id(), "the number is used again");
    let (witness, _) = Witness::of(world, next, 0, 8);
    next.discard(pages(0, 1)).unwrap();
    assert_eq!(witness.reasons(), [InvalidationReason::Discard], "and its listeners are its own");
    world.assert_all_free();
}

#[test]
fn what_gets_stronger_is_not_told() {
    let (world, space) = warm();
    space.map_anonymous(pages(8, 4), Protection::READ_WRITE).unwrap();
    space.protect(pages(0, 1), Protection::READ).unwrap();
    space.protect(pages(0, 1), Protection::READ_WRITE).unwrap();
    let (witness, _) = Witness::of(world, space, 0, 12);
    world.cpu(0).store(at(8, 0), b"fresh").unwrap();
    world.cpu(0).read::<1>(at(9, 0)).unwrap();
    world.cpu(0).store(at(0, 0), b"writable again").unwrap();
    assert_eq!(witness.reasons(), []);
    assert_eq!(world.manager().statistics().read().announcements, 0);
    world.assert_all_free();
}

/// A fault that finds its access allowed, because its CPU had an older translation: nothing changes, and nobody is told.
#[test]
fn a_fault_that_comes_too_late_only_makes_its_cpu_forget() {
    let world = forever(small());
    let space = space_of(world, 4);
    fill(world.cpu(0), 4);
    let _child = space.fork().unwrap();
    world.cpu(0).store(at(2, 0), &contents(2)).unwrap();
    space.protect(pages(3, 1), Protection::READ).unwrap();
    let (witness, _) = Witness::of(world, space, 0, 4);
    for (number, access) in [(0, Access::Read), (2, Access::Read), (2, Access::Write), (3, Access::Read)] {
        let before = (space.entry(at(number, 0)), space.resident(), world.manager().census().free_frames);
        world.sim().take_flushes();
        let resolution = world.cpu(1).run(|| space.fault(at(number, 0), access));
        assert_eq!(resolution, Ok(Resolution::Stale), "page {number}, {access:?}");
        assert_eq!((space.entry(at(number, 0)), space.resident(), world.manager().census().free_frames), before);
        let request = FlushRequest { cpus: CpuSet::of(world.cpu(1).id()), scope: FlushScope::Pages(pages(number, 1)) };
        assert_eq!(world.sim().take_flushes(), [request]);
        assert_eq!(witness.reasons(), []);
    }
    audit(world).unwrap();
    world.assert_all_free();
}

/// Whoever follows one of the spaces that share a page is told once.
#[test]
fn both_who_follow_a_shared_page_are_told_once_when_it_moves() {
    let world = forever(small());
    let parent = space_of(world, 2);
    fill(world.cpu(0), 2);
    let child = parent.fork().unwrap();
    let (of_parent, _) = Witness::of(world, parent, 0, 2);
    let (of_child, _) = Witness::of(world, child, 0, 2);
    assert_eq!(parent.migrate_to_device(pages(0, 1), DEVICE).unwrap().moved, 1);
    assert_eq!(of_parent.reasons(), [InvalidationReason::Migrate]);
    assert_eq!(of_child.reasons(), [InvalidationReason::Migrate]);
    audit(world).unwrap();
    world.assert_all_free();
}
