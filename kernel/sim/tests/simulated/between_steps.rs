//! What somebody does between two steps of a call, where one step alone would not be enough: each test here dies with a
//! mutant of `kernel/mutants` that no other test sees.
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use ferry_mm::frame::{AnyFrame, DeviceFrame};
use ferry_mm::inject::Step;
use ferry_mm::machine::Machine;
use ferry_mm::page_table::entry::Entry;
use ferry_mm::space::{Access, Pin, Space, Term};
use ferry_mm::stats::Reason;
use ferry_sim::{Expected, Moment, Sim, World, audit, audit_with};

use crate::support::*;

/// Calls `act` once, at the first moment on CPU 0 for which `when` holds.
fn once_at(
    world: &'static World,
    when: impl Fn(Moment) -> bool + Send + Sync + 'static,
    act: impl Fn() + Send + Sync + 'static,
) {
    let (done, cpu) = (AtomicBool::new(false), world.cpu(0).id());
    world.sim().watch(move |sim, moment| {
        if sim.cpu() == cpu && when(moment) && !done.swap(true, Ordering::SeqCst) {
            act();
        }
    });
}

/// Whether the frame of a page is locked, before an entry is read: who locked it has not looked at the entries yet.
fn has_just_been_locked(world: &'static World, frame: AnyFrame) -> impl Fn(Moment) -> bool + Send + Sync {
    move |moment| moment == Moment::LoadEntry && world.manager().descriptor(frame).unwrap().is_locked()
}

/// Pins page 0 on CPU 1, for stores, and keeps the pin.
fn pin_of(world: &'static World, space: Space<'static, Sim>) -> (Arc<Mutex<Option<Pin<'static, Sim>>>>, impl Fn()) {
    let kept = Arc::new(Mutex::new(None));
    let pin = kept.clone();
    let act = move || {
        let taken = world.cpu(1).run(|| space.pin(at(0, 0), Access::Write, Term::Short).unwrap());
        *pin.lock().unwrap() = Some(taken);
    };
    (kept, act)
}

/// A space with 4 pages in the memory of the coherent device.
fn coherent() -> (&'static World, Space<'static, Sim>) {
    let world = forever(with_coherent());
    let space = space_of(world, 4);
    fill(world.cpu(0), 4);
    assert_eq!(space.migrate_to_device(pages(0, 4), COHERENT).unwrap().moved, 4);
    (world, space)
}

/// A page has one more mapping than an eviction can take, because its space is being changed: it stays, for everybody.
#[test]
fn an_eviction_gives_back_what_it_cannot_take_from_every_space() {
    let world = forever(small());
    let parent = space_of(world, 4);
    fill(world.cpu(0), 4);
    let child = parent.fork().unwrap();
    world.cpu(0).enter(child);
    world.cpu(1).enter(parent);
    assert_eq!(parent.migrate_to_device(pages(0, 3), DEVICE).unwrap().moved, 3);
    let before = [0, 1, 2].map(|number| parent.entry(at(number, 0)));
    let evicted = Arc::new(Mutex::new(None));
    let report = evicted.clone();
    once_at(
        world,
        |moment| moment == Moment::Flush,
        move || *report.lock().unwrap() = world.cpu(1).run(|| world.manager().evict_device(DEVICE)),
    );
    world.cpu(0).run(|| child.unmap(pages(3, 1)).unwrap());
    world.sim().unwatch();
    let evicted = evicted.lock().unwrap().expect("an unmap of a present page flushes");
    assert_eq!((evicted.returned, evicted.busy), (0, 3));
    assert_eq!([0, 1, 2].map(|number| parent.entry(at(number, 0))), before, "bit for bit");
    audit(world).unwrap();
    assert_eq!(world.manager().evict_device(DEVICE).unwrap().returned, 3);
    for number in 0..3 {
        assert_eq!(page(world.cpu(0), number), contents(number));
        assert_eq!(page(world.cpu(1), number), contents(number));
    }
    audit(world).unwrap();
    world.assert_all_free();
}

/// A pin that comes after the eviction has looked for pins and before it takes the entry.
#[test]
fn a_pin_taken_while_an_eviction_begins_keeps_the_page_on_its_device() {
    let (world, space) = coherent();
    let frame = AnyFrame::Device(in_coherent_memory(world, space, 0).0);
    let (before, (pin, act)) = (space.entry(at(0, 0)), pin_of(world, space));
    once_at(world, has_just_been_locked(world, frame), act);
    let evicted = world.cpu(0).run(|| world.manager().evict_device(COHERENT).unwrap());
    world.sim().unwatch();
    assert_eq!((evicted.returned, evicted.pinned), (3, 1));
    assert_eq!(space.entry(at(0, 0)), before, "bit for bit");
    audit_with(world, &Expected { pins: vec![frame], ..Expected::default() }).unwrap();
    drop(pin.lock().unwrap().take().expect("the frame was locked"));
    assert_eq!(world.manager().evict_device(COHERENT).unwrap().returned, 1);
    audit(world).unwrap();
    world.assert_all_free();
}

/// The same for a swap-out.
#[test]
fn a_pin_taken_while_a_swap_out_begins_keeps_the_page_in_ram() {
    let world = forever(small().swap(16));
    let space = space_of(world, 2);
    fill(world.cpu(0), 2);
    let frame = AnyFrame::System(present(space, 0).0);
    let (pin, act) = pin_of(world, space);
    once_at(world, has_just_been_locked(world, frame), act);
    let out = world.cpu(0).run(|| space.swap_out(pages(0, 2)).unwrap());
    world.sim().unwatch();
    assert_eq!((out.freed, out.stayed.count(Reason::Referenced)), (1, 1));
    assert_eq!(AnyFrame::System(present(space, 0).0), frame);
    audit_with(world, &Expected { pins: vec![frame], ..Expected::default() }).unwrap();
    drop(pin.lock().unwrap().take().expect("the frame was locked"));
    audit(world).unwrap();
    world.assert_all_free();
}

/// A page that is the only copy of what a sharer has on the disk stays, and can go as soon as it is not.
#[test]
fn a_page_that_could_not_leave_the_swap_cache_can_go_later() {
    let world = forever(small().swap(16));
    let parent = space_of(world, 1);
    fill(world.cpu(0), 1);
    let child = parent.fork().unwrap();
    world.cpu(1).enter(child);
    world.manager().injector().arm(Step::DiskWrite, 1);
    assert_eq!(parent.swap_out(pages(0, 1)).unwrap().stayed.count(Reason::DiskFailed), 1);
    assert_eq!(page(world.cpu(0), 0), contents(0));
    let report = parent.migrate_to_device(pages(0, 1), DEVICE).unwrap();
    assert_eq!((report.moved, report.stayed.count(Reason::Busy)), (0, 1));
    assert_eq!(page(world.cpu(1), 0), contents(0));
    assert_eq!(parent.migrate_to_device(pages(0, 1), DEVICE).unwrap().moved, 1);
    audit(world).unwrap();
    world.assert_all_free();
}

/// A device that dies while a pinned page of it is on its way home: the page is lost, whoever uses it.
#[test]
fn a_pinned_page_on_its_way_home_from_a_device_that_dies_is_lost() {
    let (world, space) = coherent();
    let pin = space.pin(at(0, 0), Access::Read, Term::Short).unwrap();
    once_at(
        world,
        |moment| moment == Moment::Flush,
        move || {
            let _ = world.cpu(1).run(|| world.manager().device_lost(COHERENT).unwrap());
        },
    );
    let report = world.cpu(0).run(|| space.migrate_to_system(pages(0, 1)).unwrap());
    world.sim().unwatch();
    assert_eq!((report.moved, report.stayed.count(Reason::Poisoned)), (0, 1));
    assert_eq!(space.entry(at(0, 0)).decode(), Entry::Poison);
    drop(pin);
    audit(world).unwrap();
}

/// Nobody reads from a device that died, also where the copy was about to begin.
#[test]
fn nothing_is_copied_from_a_device_that_died_before_the_copy() {
    let world = forever(with_coherent());
    let parent = space_of(world, 4);
    fill(world.cpu(0), 4);
    assert_eq!(parent.migrate_to_device(pages(0, 4), COHERENT).unwrap().moved, 4);
    let child = parent.fork().unwrap();
    world.cpu(0).enter(child);
    let frame = AnyFrame::Device(in_coherent_memory(world, child, 0).0);
    let (dead, copies) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let (died, copied, cpu) = (dead.clone(), copies.clone(), world.cpu(0).id());
    let is_locked = has_just_been_locked(world, frame);
    world.sim().watch(move |sim, moment| {
        if sim.cpu() == cpu && is_locked(moment) && !died.swap(true, Ordering::SeqCst) {
            let _ = world.cpu(1).run(|| world.manager().device_lost(COHERENT).unwrap());
        } else if moment == Moment::Copy && died.load(Ordering::SeqCst) {
            copied.fetch_add(1, Ordering::SeqCst);
        }
    });
    world.cpu(0).store(at(0, 0), &[1]).expect_err("the contents are lost");
    world.sim().unwatch();
    assert!(dead.load(Ordering::SeqCst), "a store to a shared page locks its frame");
    assert_eq!(copies.load(Ordering::SeqCst), 0, "parts of a copy from a dead device");
    audit(world).unwrap();
}

/// A device frame whose lock is given back is at rest, or free: nobody finds one that has lost its entry and not yet its mapping.
#[test]
fn a_device_frame_is_unlocked_only_when_entries_and_mappings_agree() {
    let ways: [fn(&'static World, Space<'static, Sim>); 2] = [
        |world, _| assert_eq!(page(world.cpu(0), 0), contents(0)),
        |world, _| assert_eq!(world.manager().evict_device(DEVICE).unwrap().returned, 1),
    ];
    for way in ways {
        let world = forever(small());
        let space = space_of(world, 1);
        fill(world.cpu(0), 1);
        assert_eq!(space.migrate_to_device(pages(0, 1), DEVICE).unwrap().moved, 1);
        let frame: DeviceFrame = on_device(space, 0).0;
        let (busy, seen) = (AtomicBool::new(false), Arc::new(AtomicU32::new(0)));
        let looks = seen.clone();
        world.sim().watch(move |_, _| {
            // Looking reads entries, which is a moment again.
            if busy.swap(true, Ordering::SeqCst) {
                return;
            }
            let descriptor = world.manager().descriptor(frame.into()).unwrap();
            let named = matches!(space.entry(at(0, 0)).decode(), Entry::Device { frame: named, .. } if named == frame);
            assert!(
                descriptor.is_locked() || named == (descriptor.mappings() > 0),
                "{} mappings",
                descriptor.mappings()
            );
            looks.fetch_add(1, Ordering::SeqCst);
            busy.store(false, Ordering::SeqCst);
        });
        world.cpu(0).run(|| way(world, space));
        world.sim().unwatch();
        assert!(seen.load(Ordering::SeqCst) > 10, "there are moments to look at");
        audit(world).unwrap();
        world.assert_all_free();
    }
}

/// A device frame is cleared, and the clearing complete, before its allocator's lock is taken to free it.
#[test]
fn a_device_frame_is_all_zero_before_it_is_free() {
    let ways: [fn(&World, Space<'_, Sim>); 3] = [
        |_, space| assert_eq!(space.migrate_to_system(pages(0, 1)).unwrap().moved, 1),
        |world, _| assert_eq!(page(world.cpu(0), 0), contents(0)),
        |_, space| space.unmap(pages(0, 1)).unwrap(),
    ];
    for way in ways {
        let world = forever(small());
        let space = space_of(world, 1);
        fill(world.cpu(0), 1);
        assert_eq!(space.migrate_to_device(pages(0, 1), DEVICE).unwrap().moved, 1);
        let moments = Arc::new(Mutex::new(Vec::new()));
        let seen = moments.clone();
        world.sim().watch(move |_, moment| seen.lock().unwrap().push(moment));
        way(world, space);
        world.sim().unwatch();
        let moments = moments.lock().unwrap();
        let last = moments.iter().rposition(|moment| *moment == Moment::Clear).expect("the device frame was cleared");
        assert_eq!(moments.get(last + 1), Some(&Moment::CompleteCopies));
        world.assert_all_free();
    }
}
