//! Pages in the memory of a coherent device: present there, at the price of flushes that private memory does not need.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ferry_mm::inject::Step;
use ferry_mm::page_table::entry::{Entry, LeafFlags};
use ferry_mm::space::{Access, FaultError, Leave, Protection};
use ferry_mm::stats::Reason;
use ferry_sim::{Expected, Moment, World, audit, audit_with};
use x86_64::structures::paging::PhysFrame;

use crate::support::*;

/// A world whose page 0 to `count` are filled and in the memory of the coherent device.
fn moved(world: &World, count: u64) -> ferry_mm::space::Space<'_, ferry_sim::Sim> {
    let space = space_of(world, count);
    fill(world.cpu(0), count);
    assert_eq!(space.migrate_to_device(pages(0, count), COHERENT).unwrap().moved, count);
    space
}

/// Every byte and every permission, there and back, as the host sees them.
#[test]
fn pages_go_there_and_come_home_byte_for_byte() {
    let world = with_coherent().build();
    let free = world.manager().census().free_frames;
    let space = space_of(&world, 6);
    fill(world.cpu(0), 5);
    space.protect(pages(4, 1), Protection::READ).unwrap();
    let report = space.migrate_to_device(pages(0, 4), COHERENT).unwrap();
    assert_eq!((report.moved, report.stayed.total()), (4, 0));
    assert_eq!(space.migrate_to_device(pages(4, 1), COHERENT).unwrap().moved, 1);
    assert_eq!(space.migrate_to_device(pages(5, 1), COHERENT).unwrap().moved, 1, "an empty page");
    audit(&world).unwrap();
    for number in 0..5 {
        let (frame, flags) = in_coherent_memory(&world, space, number);
        assert_eq!(frame.device(), COHERENT);
        assert_eq!(host(&world, frame), contents(number));
        assert_eq!(flags.contains(LeafFlags::WRITABLE), number != 4, "page {number}");
        assert_eq!(page(world.cpu(1), number), contents(number), "a CPU reads it there");
    }
    assert_eq!(host(&world, in_coherent_memory(&world, space, 5).0), zeros());
    assert_eq!(world.manager().statistics().read().returned_by_fault, 0, "no access brought a page home");
    let report = space.migrate_to_system(pages(0, 4)).unwrap();
    assert_eq!((report.moved, report.stayed.total()), (4, 0));
    assert_eq!(space.migrate_to_system(pages(5, 1)).unwrap().moved, 1);
    assert_eq!(space.migrate_to_system(pages(4, 1)).unwrap().moved, 1);
    for number in 0..5 {
        assert!(in_ram(&world, space, number));
        assert_eq!(page(world.cpu(1), number), contents(number));
    }
    assert_eq!(page(world.cpu(0), 5), zeros());
    audit(&world).unwrap();
    space.unmap(pages(0, 6)).unwrap();
    world.assert_all_free();
    assert_eq!(world.free_at_boot(), free);
}

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

/// A CPU with a warm translation stores until it is flushed; the way home loses none of its stores.
#[test]
fn stores_through_warm_translations_come_home() {
    for evict in [false, true] {
        let world = with_coherent().build();
        let space = moved(&world, 8);
        world.cpu(1).store(at(2, 40), &[0; 8]).unwrap();
        let last = keep_writing(&world);
        if evict {
            assert_eq!(world.manager().evict_device(COHERENT).unwrap().returned, 8);
        } else {
            assert_eq!(space.migrate_to_system(pages(0, 8)).unwrap().moved, 8);
        }
        world.sim().unwatch();
        let last = last.load(Ordering::Relaxed);
        assert!(last > 8, "CPU 1 wrote until it was told: {last}");
        world.sim().fence(world.cpu(1).id());
        assert!(in_ram(&world, space, 2));
        assert_eq!(world.cpu(0).read(at(2, 40)).unwrap(), last.to_le_bytes());
        audit(&world).unwrap();
        world.assert_all_free();
    }
}

/// One flush for a call, whatever its size, as on the way to the device.
#[test]
fn the_way_home_flushes_once() {
    let world = with_coherent().build();
    let space = moved(&world, 8);
    world.sim().take_flushes();
    assert_eq!(space.migrate_to_system(pages(0, 8)).unwrap().moved, 8);
    assert_eq!(world.sim().take_flushes().len(), 1);
    assert_eq!(space.migrate_to_device(pages(0, 8), COHERENT).unwrap().moved, 8);
    world.sim().take_flushes();
    assert_eq!(world.manager().evict_device(COHERENT).unwrap().returned, 8);
    assert_eq!(world.sim().take_flushes().len(), 1, "an eviction, too");
    world.assert_all_free();
}

/// A store to a shared page in coherent memory copies it into RAM; the other space keeps the device's frame.
#[test]
fn a_store_to_a_shared_page_gets_a_copy_in_ram() {
    let world = with_coherent().build();
    let parent = moved(&world, 2);
    let child = parent.fork().unwrap();
    audit(&world).unwrap();
    let (frame, flags) = in_coherent_memory(&world, child, 0);
    assert_eq!((frame, flags.contains(LeafFlags::WRITABLE)), (in_coherent_memory(&world, parent, 0).0, false));
    world.cpu(1).enter(child);
    world.cpu(1).store(at(0, 0), &[0xcc; 8]).unwrap();
    audit(&world).unwrap();
    assert!(in_ram(&world, child, 0));
    assert_eq!(host(&world, frame), contents(0), "the parent's bytes on the device");
    world.cpu(0).store(at(0, 8), &[0xdd; 8]).unwrap();
    assert_eq!(in_coherent_memory(&world, parent, 0).0, frame, "the last to map it writes it where it is");
    world.sim().fence(world.cpu(0).id());
    assert_eq!(host(&world, frame)[8..16], [0xdd; 8]);
    assert_eq!(world.cpu(1).read(at(0, 0)).unwrap(), [0xcc; 8]);
    assert_eq!(world.cpu(1).read::<8>(at(0, 8)).unwrap(), contents(0)[8..16]);
    assert_eq!(world.manager().statistics().read().copied_pages_mapped, 1);
    // The way home of a page that is still shared: a copy of its own for the one who asks.
    assert_eq!(parent.migrate_to_system(pages(1, 1)).unwrap().moved, 1);
    assert!(in_ram(&world, parent, 1));
    in_coherent_memory(&world, child, 1);
    audit(&world).unwrap();
    world.assert_all_free();
}

/// A shared RAM page goes to coherent memory for all its spaces at once, read-only in each, and comes home by eviction in the same way.
#[test]
fn a_shared_page_goes_and_comes_for_every_space() {
    let world = with_coherent().build();
    let parent = space_of(&world, 2);
    fill(world.cpu(0), 2);
    let child = parent.fork().unwrap();
    child.protect(pages(1, 1), Protection::empty()).unwrap();
    assert_eq!(parent.migrate_to_device(pages(0, 2), COHERENT).unwrap().moved, 2);
    audit(&world).unwrap();
    let (frame, _) = in_coherent_memory(&world, parent, 0);
    assert_eq!(in_coherent_memory(&world, child, 0).0, frame);
    assert!(matches!(child.entry(at(1, 0)).decode(), Entry::NoAccess { .. }));
    child.protect(pages(1, 1), Protection::READ).unwrap();
    audit(&world).unwrap();
    assert_eq!(in_coherent_memory(&world, child, 1).0, in_coherent_memory(&world, parent, 1).0, "accessible again");
    child.protect(pages(1, 1), Protection::empty()).unwrap();
    let evicted = world.manager().evict_device(COHERENT).unwrap();
    assert_eq!((evicted.returned, evicted.busy), (2, 0));
    audit(&world).unwrap();
    assert!(in_ram(&world, parent, 0) && in_ram(&world, child, 0));
    assert_eq!(page(world.cpu(0), 1), contents(1));
    assert_eq!(world.cpu(0).run(|| child.fault(at(1, 0), Access::Read)), {
        Err(FaultError::Forbidden(at(1, 0), Access::Read, Protection::empty()))
    });
    world.assert_all_free();
}

/// The simulator asserts at every moment that no CPU reaches a free frame; here with translations and stores on their way.
#[test]
fn a_device_frame_is_freed_only_after_the_flush() {
    let world = with_coherent().build();
    let space = moved(&world, 4);
    for number in 0..4 {
        world.cpu(1).store(at(number, 0), &[7; 8]).unwrap();
    }
    let free = world.manager().device(COHERENT).unwrap().free();
    let frames: Vec<_> = (0..4).map(|number| in_coherent_memory(&world, space, number).0).collect();
    let seen_before_flush = Arc::new(AtomicU64::new(0));
    let dirty = seen_before_flush.clone();
    let watched = frames.clone();
    world.sim().watch(move |sim, moment| {
        if moment == Moment::Flush {
            let kept = watched.iter().filter(|frame| sim.bytes((**frame).into()).iter().any(|byte| *byte != 0));
            dirty.fetch_add(kept.count() as u64, Ordering::Relaxed);
        }
    });
    space.discard(pages(0, 1)).unwrap();
    assert_eq!(seen_before_flush.swap(0, Ordering::Relaxed), 4, "not cleared before the flush");
    space.unmap(pages(1, 3)).unwrap();
    world.sim().unwatch();
    assert!(seen_before_flush.load(Ordering::Relaxed) >= 3);
    assert_eq!(world.manager().device(COHERENT).unwrap().free(), free + 4);
    for frame in frames {
        assert_eq!(host(&world, frame), zeros());
    }
    assert_eq!(world.cpu(1).read(at(0, 0)).unwrap(), [0; 8]);
    audit(&world).unwrap();
    assert_eq!(world.manager().statistics().read().dropped_on_device, 4);
    world.assert_all_free();
}

#[test]
fn moving_and_protecting_keep_a_page_in_coherent_memory() {
    let world = with_coherent().build();
    let space = moved(&world, 2);
    let frames = [0, 1].map(|number| in_coherent_memory(&world, space, number).0);
    space.protect(pages(0, 2), Protection::READ).unwrap();
    audit(&world).unwrap();
    space.relocate(pages(0, 2), at(8, 0), Leave::Nothing).unwrap();
    audit(&world).unwrap();
    assert_eq!([8, 9].map(|number| in_coherent_memory(&world, space, number).0), frames);
    space.protect(pages(8, 2), Protection::READ_WRITE).unwrap();
    world.cpu(0).store(at(8, 0), &[9; 8]).unwrap();
    world.sim().fence(world.cpu(0).id());
    assert_eq!(host(&world, frames[0])[..8], [9; 8], "written in place");
    assert_eq!(page(world.cpu(1), 9), contents(1));
    audit(&world).unwrap();
    world.assert_all_free();
}

/// Dropping a batch, or failing to copy, leaves present entries as they were.
#[test]
fn a_batch_that_is_given_up_restores_entries_bit_for_bit() {
    let world = with_coherent().build();
    let space = moved(&world, 2);
    let before = [0, 1].map(|number| space.entry(at(number, 0)));
    world.manager().injector().arm(Step::Alloc, 1);
    let report = space.migrate_to_system(pages(0, 2)).unwrap();
    assert_eq!((report.moved, report.stayed.count(Reason::NoMemory)), (1, 1));
    assert_eq!(space.entry(at(0, 0)), before[0], "no RAM: it stays where it is");
    audit(&world).unwrap();
    let report = space.migrate_to_device(pages(0, 2), COHERENT).unwrap();
    assert_eq!((report.moved, report.stayed.count(Reason::AlreadyThere)), (1, 1));
    let collected = space.migrate_to_device(pages(0, 2), DEVICE).unwrap();
    assert_eq!(collected.stayed.count(Reason::ForeignDevice), 2);
    audit(&world).unwrap();
    world.manager().injector().arm(Step::Copy, 1);
    let report = space.migrate_to_system(pages(0, 2)).unwrap();
    assert_eq!((report.moved, report.stayed.count(Reason::Poisoned)), (1, 1));
    audit(&world).unwrap();
    let error = world.cpu(0).run(|| space.fault(at(0, 0), Access::Read));
    assert_eq!(error, Err(FaultError::Poisoned(at(0, 0))));
    world.assert_all_free();
}

/// While a page is on its way home, a CPU that wants it waits, and afterwards finds the copy.
#[test]
fn an_open_batch_towards_coherent_memory_is_restored_on_drop() {
    let world = with_coherent().build();
    let space = space_of(&world, 3);
    fill(world.cpu(0), 2);
    let before: Vec<_> = (0..3).map(|number| space.entry(at(number, 0))).collect();
    let open = Expected { open_batch: true, ..Expected::default() };
    let copied = space.collect(pages(0, 3), COHERENT).unwrap().unmap().unwrap().copy();
    audit_with(&world, &open).unwrap();
    assert_eq!(world.sim().load(world.cpu(1).id(), at(0, 0)).ok(), None);
    drop(copied);
    assert_eq!((0..3).map(|number| space.entry(at(number, 0))).collect::<Vec<_>>(), before);
    audit(&world).unwrap();
    world.assert_all_free();
}

/// What is neither RAM nor a coherent device's counts as RAM without a descriptor: the registers of some device.
#[test]
fn frames_behind_present_entries_are_told_apart_by_address() {
    let world = with_coherent().build();
    let manager = world.manager();
    let device = manager.device(COHERENT).unwrap();
    let window = device.window().unwrap();
    let last = device.frames() as u32 - 1;
    let inside = ferry_mm::frame::DeviceFrame::new(COHERENT, last);
    assert_eq!(manager.frame_behind(window.frame(last)), inside.into());
    let behind = window.frame(last + 1);
    assert_eq!((manager.frame_behind(behind), manager.descriptor(behind.into()).is_none()), (behind.into(), true));
    let ram = PhysFrame::containing_address(x86_64::PhysAddr::new(0x3000));
    assert_eq!(manager.frame_behind(ram), ram.into());
    assert!(manager.device(DEVICE).unwrap().window().is_none());
}
