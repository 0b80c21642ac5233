//! Pages in flight: nobody else takes them, and nobody finds them before they have arrived (R23, R25, R26, R30).
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use ferry_mm::frame::DeviceId;
use ferry_mm::machine::Machine;
use ferry_mm::migrate::Report;
use ferry_mm::page_table::entry::LeafFlags;
use ferry_mm::space::{Protection, Space};
use ferry_mm::stats::Reason;
use ferry_sim::{Moment, Sim, World, audit};

use crate::support::*;

/// A space of 4 written pages with CPU 0 in it, and its child with CPU 1.
fn shared() -> (&'static World, Space<'static, Sim>, Space<'static, Sim>) {
    let world = forever(with_coherent());
    let parent = space_of(world, 4);
    fill(world.cpu(0), 4);
    let child = parent.fork().unwrap();
    world.cpu(1).enter(child);
    (world, parent, child)
}

/// Runs `act`; while CPU `copying` copies its first page, the other one makes `call`, whose report is returned.
fn amid_a_copy(
    world: &'static World,
    copying: usize,
    call: impl Fn() -> Report + Send + Sync + 'static,
    act: impl FnOnce(),
) -> Report {
    let (report, place) = (Arc::new(Mutex::new(None)), AtomicBool::new(false));
    let (made, cpu) = (report.clone(), world.cpu(copying).id());
    world.sim().watch(move |sim, moment| {
        if moment == Moment::Copy && sim.cpu() == cpu && !place.swap(true, Ordering::SeqCst) {
            *made.lock().unwrap() = Some(world.cpu(1 - copying).run(&call));
        }
    });
    world.cpu(copying).run(act);
    world.sim().unwatch();
    audit(world).unwrap();
    report.lock().unwrap().take().expect("a page was copied")
}

#[test]
fn a_page_that_is_being_copied_for_a_store_does_not_migrate() {
    let (world, parent, child) = shared();
    let migrate = move || parent.migrate_to_device(pages(0, 4), DEVICE).unwrap();
    let report = amid_a_copy(world, 1, migrate, || world.cpu(1).store(at(2, 0), &[7]).unwrap());
    assert_eq!((report.moved, report.stayed.count(Reason::Busy)), (3, 1));
    assert_eq!((page(world.cpu(0), 2), world.cpu(1).read(at(2, 0)).unwrap()), (contents(2), [7]));
    assert!(in_ram(world, parent, 2) && in_ram(world, child, 2));
    world.assert_all_free();
}

#[test]
fn a_page_that_comes_home_for_one_space_is_busy_for_the_others() {
    for device in [DEVICE, COHERENT] {
        let (world, parent, child) = shared();
        assert_eq!(parent.migrate_to_device(pages(0, 4), device).unwrap().moved, 4);
        let home = move || child.migrate_to_system(pages(2, 1)).unwrap();
        let report = amid_a_copy(world, 0, home, || {
            assert_eq!(parent.migrate_to_system(pages(2, 1)).unwrap().moved, 1);
        });
        assert_eq!((report.moved, report.stayed.count(Reason::Busy)), (0, 1));
        for cpu in [0, 1] {
            assert_eq!(page(world.cpu(cpu), 2), contents(2));
        }
        world.assert_all_free();
    }
}

/// Brings page 2 home for the parent on CPU 0; meanwhile CPU 1 begins `waiting`, which must not end before the copy has.
fn expect_waits(
    (world, parent, child): (&'static World, Space<'static, Sim>, Space<'static, Sim>),
    waiting: impl FnOnce(Space<'static, Sim>) + Send,
) {
    assert_eq!(parent.migrate_to_device(pages(0, 4), DEVICE).unwrap().moved, 4);
    let (began, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (copying, has_ended, cpu) = (began.clone(), ended.clone(), world.cpu(0).id());
    world.sim().watch(move |sim, moment| {
        if moment == Moment::Copy && sim.cpu() == cpu && !copying.swap(true, Ordering::SeqCst) {
            for _ in 0..20 {
                std::thread::sleep(std::time::Duration::from_millis(1));
                assert!(!has_ended.load(Ordering::SeqCst), "nobody waited for the copy");
            }
        }
    });
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            while !began.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            world.cpu(1).run(|| waiting(child));
            ended.store(true, Ordering::SeqCst);
        });
        assert_eq!(world.cpu(0).run(|| parent.migrate_to_system(pages(2, 1))).unwrap().moved, 1);
        other.join().unwrap();
    });
    world.sim().unwatch();
    assert_eq!(page(world.cpu(0), 2), contents(2));
    audit(world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_fault_waits_for_who_brings_the_page_home_for_another_space() {
    let scene = shared();
    expect_waits(scene, |_| assert_eq!(page(scene.0.cpu(1), 2), contents(2)));
}

#[test]
fn an_unmap_waits_for_who_brings_the_page_home() {
    expect_waits(shared(), |child| child.unmap(pages(2, 1)).unwrap());
}

/// How pages come home.
type Way = fn(&World, Space<'_, Sim>);

const WAYS: [Way; 3] = [
    |world, _| (0..4).for_each(|number| assert_eq!(page(world.cpu(0), number), contents(number))),
    |_, space| (0..4).for_each(|number| assert_eq!(space.migrate_to_system(pages(number, 1)).unwrap().moved, 1)),
    |world, _| assert_eq!(world.manager().evict_device(DEVICE).unwrap().returned, 4),
];

#[test]
fn what_comes_home_is_dirty_and_as_writable_as_entry_and_area_allow() {
    for way in WAYS {
        let world = small().build();
        let space = space_of(&world, 4);
        fill(world.cpu(0), 4);
        // Page 1: the entry is read-only and the area is not. Page 2: the area is, too. Page 3: the area since the page left.
        space.protect(pages(1, 1), Protection::READ).unwrap();
        space.protect(pages(1, 1), Protection::READ_WRITE).unwrap();
        space.protect(pages(2, 1), Protection::READ).unwrap();
        for number in 0..4 {
            assert_eq!(space.migrate_to_device(pages(number, 1), DEVICE).unwrap().moved, 1);
        }
        space.protect(pages(3, 1), Protection::READ).unwrap();
        way(&world, space);
        let flags = |number| present(space, number).1;
        assert!((0..4).all(|number| flags(number).contains(LeafFlags::DIRTY)), "the device may have stored");
        assert_eq!([0, 1, 2, 3].map(|number| flags(number).contains(LeafFlags::WRITABLE)), [true, false, false, false]);
        world.cpu(1).store(at(1, 0), &[1]).unwrap();
        audit(&world).unwrap();
        world.assert_all_free();
    }
}

/// R23: an entry that names a frame is written when the frame's contents are there.
#[test]
fn copies_are_complete_before_an_entry_names_them() {
    let there: Way =
        |_, space| assert_eq!(space.migrate_to_device(pages(0, 1), DeviceId::new(1).unwrap()).unwrap().moved, 1);
    for (is_home, way) in WAYS.map(|way| (true, way)).into_iter().chain([(false, there)]) {
        let world = with_coherent().build();
        let space = space_of(&world, 4);
        fill(world.cpu(0), 4);
        if is_home {
            assert_eq!(space.migrate_to_device(pages(0, 4), DEVICE).unwrap().moved, 4);
        }
        let moments = Arc::new(Mutex::new(Vec::new()));
        let seen = moments.clone();
        world.sim().watch(move |_, moment| seen.lock().unwrap().push(moment));
        way(&world, space);
        world.sim().unwatch();
        let moments = moments.lock().unwrap();
        let matters = |moment: &&Moment| {
            matches!(moment, Moment::Copy | Moment::CompleteCopies | Moment::SwapEntry | Moment::CompareExchangeEntry)
        };
        let order: Vec<&Moment> = moments.iter().filter(matters).collect();
        let after = order.windows(2).filter(|pair| *pair[0] == Moment::Copy && *pair[1] != Moment::Copy);
        let after: Vec<_> = after.map(|pair| *pair[1]).collect();
        assert!(!after.is_empty() && after.iter().all(|moment| *moment == Moment::CompleteCopies), "{after:?}");
        world.assert_all_free();
    }
}
