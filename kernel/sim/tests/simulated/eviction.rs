//! Eviction: pages come home by device frame, whoever maps them, from several devices, in a bounded number of passes.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ferry_mm::frame::{DeviceFrame, DeviceId, FrameKind};
use ferry_mm::inject::Step;
use ferry_mm::machine::Machine;
use ferry_mm::migrate::Evicted;
use ferry_mm::space::{Access, Protection, Term};
use ferry_mm::stats::Reason;
use ferry_mm::trace::Event;
use ferry_sim::{Moment, World, audit};

use crate::support::*;

const SECOND: DeviceId = DeviceId::new(2).unwrap();
const SECOND_COHERENT: DeviceId = DeviceId::new(3).unwrap();
const DEVICES: [DeviceId; 4] = [DEVICE, COHERENT, SECOND, SECOND_COHERENT];

fn four_devices() -> World {
    World::builder().frames(160).device(24).coherent_device(24).device(24).coherent_device(24).cpus(2).build()
}

#[test]
fn each_of_four_devices_is_evicted_by_itself() {
    let world = four_devices();
    let space = space_of(&world, 16);
    fill(world.cpu(0), 16);
    for (part, device) in (0..).zip(DEVICES) {
        assert_eq!(space.migrate_to_device(pages(part * 4, 4), device).unwrap().moved, 4);
    }
    audit(&world).unwrap();
    for (part, device) in (0..).zip(DEVICES) {
        let evicted = world.manager().evict_device(device).unwrap();
        assert_eq!((evicted.returned, evicted.busy, evicted.no_memory), (4, 0, 0));
        audit(&world).unwrap();
        let left = 4 * (3 - part);
        let on_devices: u64 = world.manager().devices().map(|device| device.frames() - device.free()).sum();
        assert_eq!(on_devices, left, "the other devices keep theirs");
        for number in part * 4..part * 4 + 4 {
            assert!(in_ram(&world, space, number));
        }
    }
    for number in 0..16 {
        assert_eq!(page(world.cpu(1), number), contents(number));
    }
    assert_eq!(world.manager().statistics().read().returned_by_eviction, 16);
    world.assert_all_free();
}

#[test]
fn a_device_that_was_evicted_takes_no_page_until_it_is_reopened() {
    let world = with_coherent().build();
    let space = space_of(&world, 2);
    fill(world.cpu(0), 2);
    for device in [DEVICE, COHERENT] {
        let evicted = world.manager().evict_device(device).unwrap();
        assert_eq!(evicted.returned, 0);
        let report = space.migrate_to_device(pages(0, 2), device).unwrap();
        assert_eq!((report.moved, report.stayed.count(Reason::DeviceFull)), (0, 2));
        world.manager().device(device).unwrap().reopen();
        assert_eq!(space.migrate_to_device(pages(0, 2), device).unwrap().moved, 2);
        let _ = space.migrate_to_system(pages(0, 2)).unwrap();
    }
    world.assert_all_free();
}

/// A page of another device stays where it is, of either type on either type.
#[test]
fn a_page_of_another_device_stays() {
    let world = four_devices();
    let space = space_of(&world, 4);
    fill(world.cpu(0), 4);
    for (number, device) in (0..).zip(DEVICES) {
        assert_eq!(space.migrate_to_device(pages(number, 1), device).unwrap().moved, 1);
    }
    let before = [0, 1, 2, 3].map(|number| space.entry(at(number, 0)));
    for device in DEVICES {
        let report = space.migrate_to_device(pages(0, 4), device).unwrap();
        assert_eq!(report.stayed.count(Reason::AlreadyThere), 1);
        assert_eq!(report.stayed.count(Reason::ForeignDevice), 3);
        audit(&world).unwrap();
    }
    assert_eq!([0, 1, 2, 3].map(|number| space.entry(at(number, 0))), before, "bit for bit");
    world.assert_all_free();
}

/// Lesson of Linux ef233450898f: a free device frame has no reference, so that whoever uses it after it was freed is found.
#[test]
fn ef233450898f_a_free_device_frame_has_no_reference() {
    let world = with_coherent().build();
    let references = |device: DeviceId, kind: FrameKind| -> Vec<u32> {
        let frames = world.manager().device(device).unwrap().descriptors().iter();
        frames.filter(|frame| frame.kind() == kind).map(|frame| frame.references()).collect()
    };
    let space = space_of(&world, 3);
    fill(world.cpu(0), 3);
    for device in [DEVICE, COHERENT] {
        assert_eq!(references(device, FrameKind::Free), [0; 32]);
        assert_eq!(space.migrate_to_device(pages(0, 3), device).unwrap().moved, 3);
        assert_eq!(references(device, FrameKind::Anonymous), [1; 3]);
        assert_eq!(references(device, FrameKind::Free), [0; 29]);
        assert_eq!(space.migrate_to_system(pages(0, 3)).unwrap().moved, 3);
        assert_eq!(references(device, FrameKind::Free), [0; 32]);
    }
    world.assert_all_free();
}

/// Lesson of Linux e778406b40db: an eviction needs no area. It finds pages of spaces that nobody is in, shared and without access.
#[test]
fn e778406b40db_pages_of_spaces_that_nobody_is_in_come_home_by_device_frame() {
    for device in [DEVICE, COHERENT] {
        let world = with_coherent().build();
        let parent = space_of(&world, 4);
        fill(world.cpu(0), 4);
        assert_eq!(parent.migrate_to_device(pages(0, 4), device).unwrap().moved, 4);
        let child = parent.fork().unwrap();
        parent.unmap(pages(0, 2)).unwrap();
        child.protect(pages(1, 1), Protection::empty()).unwrap();
        world.cpu(0).leave();
        world.cpu(1).leave();
        let evicted = world.manager().evict_device(device).unwrap();
        assert_eq!((evicted.returned, evicted.busy), (4, 0));
        audit(&world).unwrap();
        assert_eq!(present(parent, 2).0, present(child, 2).0, "shared as before");
        child.protect(pages(1, 1), Protection::READ).unwrap();
        world.cpu(0).enter(child);
        for number in 0..4 {
            assert_eq!(page(world.cpu(0), number), contents(number));
        }
        world.assert_all_free();
    }
}

/// Lesson of Linux 744dd97752ef: a space that goes takes its pages on every device with it; nothing on a device names it afterwards.
#[test]
fn n744dd97752ef_nothing_on_a_device_outlives_its_space() {
    let world = four_devices();
    let space = space_of(&world, 8);
    fill(world.cpu(0), 8);
    for (part, device) in (0..).zip(DEVICES) {
        assert_eq!(space.migrate_to_device(pages(part * 2, 2), device).unwrap().moved, 2);
    }
    let frames: Vec<DeviceFrame> = DEVICES
        .into_iter()
        .flat_map(|device| {
            let descriptors = world.manager().device(device).unwrap().descriptors();
            (0..).zip(descriptors).map(move |(index, descriptor)| (DeviceFrame::new(device, index), descriptor))
        })
        .filter(|(_, descriptor)| descriptor.kind() == FrameKind::Anonymous)
        .map(|(frame, _)| frame)
        .collect();
    assert_eq!(frames.len(), 8);
    world.cpu(0).leave();
    world.cpu(1).leave();
    space.destroy().unwrap();
    for frame in frames {
        let descriptor = world.manager().descriptor(frame.into()).unwrap();
        assert_eq!((descriptor.kind(), descriptor.origin(), descriptor.references()), (FrameKind::Free, None, 0));
        assert_eq!(host(&world, frame), zeros());
    }
    assert_eq!(world.manager().statistics().read().dropped_on_device, 8);
    for device in DEVICES {
        let evicted = world.manager().evict_device(device).unwrap();
        assert_eq!(evicted, Default::default());
    }
    world.assert_all_free();
}

/// Lesson of Linux 9be9236e9c27: frames at the end of a device whose size is no multiple of any step of the eviction.
#[test]
fn n9be9236e9c27_the_last_frames_of_a_device_are_evicted() {
    for frames in [1, 63, 64, 65, 127, 513, 577] {
        for coherent in [false, true] {
            let builder = World::builder().frames(1400).cpus(1);
            let builder = if coherent { builder.coherent_device(frames) } else { builder.device(frames) };
            let world = builder.build();
            let count = frames as u64;
            let space = space_of(&world, count);
            for number in 0..count {
                world.cpu(0).store(at(number, 8), &number.to_le_bytes()).unwrap();
            }
            assert_eq!(space.migrate_to_device(pages(0, count), DEVICE).unwrap().moved, count);
            assert_eq!(world.manager().device(DEVICE).unwrap().free(), 0, "all of them are used");
            let evicted = world.manager().evict_device(DEVICE).unwrap();
            assert_eq!((evicted.returned, evicted.busy, evicted.no_memory), (count, 0, 0), "{frames} frames");
            for number in 0..count {
                assert_eq!(world.cpu(0).read(at(number, 8)).unwrap(), number.to_le_bytes());
            }
            world.assert_all_free();
        }
    }
}

/// Pages for which there is no RAM stay, the others come; a later eviction brings the rest.
#[test]
fn an_eviction_without_ram_brings_home_what_it_can() {
    for device in [DEVICE, COHERENT] {
        let world = with_coherent().build();
        let space = space_of(&world, 4);
        fill(world.cpu(0), 4);
        assert_eq!(space.migrate_to_device(pages(0, 4), device).unwrap().moved, 4);
        world.manager().injector().arm(Step::Alloc, 2);
        let evicted = world.manager().evict_device(device).unwrap();
        assert_eq!((evicted.returned, evicted.no_memory), (3, 1));
        audit(&world).unwrap();
        world.manager().injector().arm(Step::Copy, 1);
        let evicted = world.manager().evict_device(device).unwrap();
        assert_eq!((evicted.returned, evicted.lost), (0, 1));
        audit(&world).unwrap();
        let lost = (0..4).filter(|number| space.fault(at(*number, 0), Access::Read).is_err()).count();
        assert_eq!(lost, 1);
        world.assert_all_free();
    }
}

/// Evicts while CPU 1 stands in the middle of bringing page 0 home, until the eviction has waited `patience` times; returns what
/// the eviction did and how often it waited.
fn evict_around_a_busy_page(device: DeviceId, patience: u64) -> (Evicted, u64) {
    let world = with_coherent().build();
    let space = space_of(&world, 3);
    fill(world.cpu(0), 3);
    assert_eq!(space.migrate_to_device(pages(0, 3), device).unwrap().moved, 3);
    let (evictor, other) = (world.cpu(0).id(), world.cpu(1).id());
    let (turns, is_copying) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (counted, copying) = (turns.clone(), is_copying.clone());
    let is_home = Arc::new(AtomicBool::new(false));
    let home = is_home.clone();
    world.sim().watch(move |sim, moment| {
        if sim.cpu() == evictor && moment == Moment::Relax && counted.fetch_add(1, Ordering::SeqCst) + 1 == patience {
            // Patient enough: from here on the page's way home is as fast as it gets, however busy the host is.
            while !home.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        }
        if sim.cpu() == other && moment == Moment::Copy {
            copying.store(true, Ordering::SeqCst);
            while counted.load(Ordering::SeqCst) < patience {
                std::thread::yield_now();
            }
        }
    });
    let evicted = std::thread::scope(|scope| {
        let call = scope.spawn(|| {
            let call = world.sim().on(other, || space.migrate_to_system(pages(0, 1)));
            is_home.store(true, Ordering::SeqCst);
            call
        });
        while !is_copying.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let evicted = world.sim().on(evictor, || world.manager().evict_device(device)).unwrap();
        turns.fetch_max(patience, Ordering::SeqCst);
        assert_eq!(call.join().unwrap().unwrap().moved, 1);
        evicted
    });
    world.sim().unwatch();
    audit(&world).unwrap();
    for number in 0..3 {
        assert_eq!(page(world.cpu(0), number), contents(number));
    }
    world.assert_all_free();
    (evicted, turns.load(Ordering::SeqCst))
}

#[test]
fn a_busy_page_is_tried_again() {
    for device in [DEVICE, COHERENT] {
        let (evicted, turns) = evict_around_a_busy_page(device, 3);
        assert_eq!((evicted.returned, evicted.busy), (2, 0));
        assert!((3..16).contains(&turns), "waited {turns} times");
    }
}

#[test]
fn an_eviction_around_a_page_that_stays_busy_comes_to_an_end() {
    for device in [DEVICE, COHERENT] {
        let (evicted, _) = evict_around_a_busy_page(device, 1000);
        assert_eq!((evicted.returned, evicted.busy), (2, 1));
    }
}

/// A frame that a migration has taken and not mapped yet will hold a page: it counts as busy, not as unused.
#[test]
fn an_eviction_sees_the_frames_of_a_migration_under_way() {
    for device in [DEVICE, COHERENT] {
        let world = with_coherent().build();
        let space = space_of(&world, 2);
        fill(world.cpu(0), 2);
        let copied = space.collect(pages(0, 2), device).unwrap().unmap().unwrap().copy();
        let evicted = world.manager().evict_device(device).unwrap();
        assert_eq!((evicted.returned, evicted.busy), (0, 2));
        assert_eq!(copied.finalize().moved, 2);
        assert_eq!(world.manager().evict_device(device).unwrap().returned, 2);
        world.assert_all_free();
    }
}

#[test]
fn the_end_of_an_eviction_says_how_many_pages_did_not_come_home() {
    let told = |dies: bool| {
        let world = with_coherent().build();
        let space = space_of(&world, 4);
        fill(world.cpu(0), 4);
        assert_eq!(space.migrate_to_device(pages(0, 4), COHERENT).unwrap().moved, 4);
        let pin = (!dies).then(|| space.pin(at(1, 0), Access::Write, Term::Short).unwrap());
        world.sim().listen();
        let manager = world.manager();
        let _ = if dies { manager.device_lost(COHERENT) } else { manager.evict_device(COHERENT) }.unwrap();
        drop(pin);
        let events = world.sim().take_events().into_iter();
        let ends: Vec<_> = events
            .filter_map(|(_, event)| match event {
                Event::EvictionEnds { device, returned, failed } => Some((device, returned, failed)),
                _ => None,
            })
            .collect();
        world.assert_all_free();
        ends
    };
    assert_eq!(told(false), [(COHERENT, 3, 1)]);
    assert_eq!(told(true), [(COHERENT, 0, 4)]);
}
