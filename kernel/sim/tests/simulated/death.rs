//! A device that dies with pages on it: each way to meet such a page ends in poison, nothing is read from the device any
//! more, and every count is right afterwards.
use ferry_mm::frame::{AnyFrame, DeviceId};
use ferry_mm::inject::Step;
use ferry_mm::machine::Machine;
use ferry_mm::migrate::{Invalid, MigrateError};
use ferry_mm::page_table::entry::Entry;
use ferry_mm::space::{Access, FaultError, Leave, Protection, Space, Term};
use ferry_mm::stats::Reason;
use ferry_sim::{Expected, Moment, Sim, World, audit, audit_with};

use crate::support::*;

const BOTH: [DeviceId; 2] = [DEVICE, COHERENT];

/// A world whose pages 0 and 1 are in RAM and 2 to 5 on `device`, which dies.
fn after_death(world: &World, device: DeviceId) -> Space<'_, Sim> {
    let space = space_of(world, 6);
    fill(world.cpu(0), 6);
    assert_eq!(space.migrate_to_device(pages(2, 4), device).unwrap().moved, 4);
    let lost = world.manager().device_lost(device).unwrap();
    // What CPUs could reach is poisoned at once; what they cannot waits until somebody wants it.
    assert_eq!((lost.lost, lost.busy), (if device == COHERENT { 4 } else { 0 }, 0));
    audit(world).unwrap();
    space
}

fn is_poison(space: Space<'_, Sim>, page: u64) -> bool {
    matches!(space.entry(at(page, 0)).decode(), Entry::Poison)
}

/// Every page can be met again and is poison by now; the two in RAM are whole. Then the space goes, and nothing is missing.
fn end(world: &World, space: Space<'_, Sim>) {
    audit(world).unwrap();
    for number in 0..2 {
        assert_eq!(page(world.cpu(0), number), contents(number), "the pages in RAM are whole");
    }
    for number in 2..6 {
        assert!(world.cpu(0).run(|| space.fault(at(number, 0), Access::Read)).is_err(), "page {number}");
        assert!(is_poison(space, number));
    }
    audit(world).unwrap();
    assert_eq!(world.manager().statistics().read().poisoned, 4);
    for device in world.manager().devices().filter(|device| device.is_lost()) {
        assert_eq!(device.free(), device.frames(), "no frame of it is in use");
        device.readmit(world.sim()).unwrap();
    }
    // Readmitted, it is as good as new.
    for device in BOTH {
        assert_eq!(space.migrate_to_device(pages(0, 2), device).unwrap().moved, 2);
        audit(world).unwrap();
        assert_eq!(space.migrate_to_system(pages(0, 2)).unwrap().moved, 2);
        assert_eq!(page(world.cpu(1), 1), contents(1));
    }
    world.assert_all_free();
}

#[test]
fn an_access_is_a_bus_error_that_names_the_device() {
    let world = with_coherent().build();
    let space = after_death(&world, DEVICE);
    for access in [Access::Read, Access::Write] {
        let number = 2 + access as u64;
        let error = world.cpu(0).run(|| space.fault(at(number, 0), access)).unwrap_err();
        assert_eq!(error, FaultError::DeviceLost(at(number, 0), DEVICE));
        assert!(error.to_string().contains("on device 0, which died"), "{error}");
        assert_eq!(space.fault(at(number, 0), access), Err(FaultError::Poisoned(at(number, 0))), "from then on");
    }
    end(&world, space);
    let world = with_coherent().build();
    let space = after_death(&world, COHERENT);
    assert!((2..6).all(|number| is_poison(space, number)));
    end(&world, space);
}

/// No byte of a dead device is read or written, in whatever way its pages are met.
#[test]
fn nothing_is_copied_from_a_device_that_died() {
    for device in BOTH {
        let world = with_coherent().build();
        let space = space_of(&world, 6);
        fill(world.cpu(0), 6);
        assert_eq!(space.migrate_to_device(pages(2, 4), device).unwrap().moved, 4);
        let child = space.fork().unwrap();
        // A copy in progress is a copy too many.
        world.sim().watch(|_, moment| assert!(!matches!(moment, Moment::Copy | Moment::Clear), "{moment:?}"));
        let _ = world.manager().device_lost(device).unwrap();
        let _ = child.fault(at(2, 0), Access::Write).unwrap_err();
        let report = child.migrate_to_system(pages(0, 6)).unwrap();
        assert_eq!((report.moved, report.stayed.count(Reason::Poisoned)), (0, 4));
        let _ = space.pin(at(3, 0), Access::Read, Term::Long).err().unwrap();
        let evicted = world.manager().evict_device(device).unwrap();
        assert_eq!((evicted.returned, evicted.busy), (0, 0));
        world.sim().unwatch();
        audit(&world).unwrap();
        child.destroy().unwrap();
        for number in 2..6 {
            assert!(is_poison(space, number));
        }
        world.assert_all_free();
    }
}

#[test]
fn a_call_that_wants_the_pages_home_poisons_them() {
    for device in BOTH {
        let world = with_coherent().build();
        let space = after_death(&world, device);
        let report = space.migrate_to_system(pages(0, 6)).unwrap();
        assert_eq!((report.moved, report.stayed.count(Reason::Poisoned)), (0, 4));
        assert_eq!(report.stayed.count(Reason::AlreadyThere), 2);
        assert!((2..6).all(|number| is_poison(space, number)));
        end(&world, space);
    }
}

#[test]
fn an_eviction_poisons_for_every_space() {
    let world = with_coherent().build();
    let space = space_of(&world, 6);
    fill(world.cpu(0), 6);
    assert_eq!(space.migrate_to_device(pages(2, 4), DEVICE).unwrap().moved, 4);
    let child = space.fork().unwrap();
    let _ = world.manager().device_lost(DEVICE).unwrap();
    let evicted = world.manager().evict_device(DEVICE).unwrap();
    assert_eq!((evicted.returned, evicted.lost, evicted.busy), (0, 4, 0));
    audit(&world).unwrap();
    assert!((2..6).all(|number| is_poison(space, number) && is_poison(child, number)));
    child.destroy().unwrap();
    end(&world, space);
}

#[test]
fn a_fork_shares_what_is_lost() {
    for device in BOTH {
        let world = with_coherent().build();
        let space = after_death(&world, device);
        let child = space.fork().unwrap();
        audit(&world).unwrap();
        assert_eq!(child.entry(at(2, 0)), space.entry(at(2, 0)), "on the dead device, or poison, in both");
        let error = child.fault(at(2, 0), Access::Write).unwrap_err();
        assert!(matches!(error, FaultError::DeviceLost(..) | FaultError::Poisoned(_)), "{error}");
        assert!(is_poison(child, 2));
        audit(&world).unwrap();
        let poisoned_for_the_child = u64::from(device == DEVICE);
        assert_eq!(world.manager().statistics().read().poisoned, if device == DEVICE { 1 } else { 4 });
        world.cpu(0).leave();
        world.cpu(0).enter(child);
        assert_eq!(page(world.cpu(0), 1), contents(1));
        world.cpu(0).leave();
        child.destroy().unwrap();
        audit(&world).unwrap();
        assert_eq!((2..6).filter(|number| is_poison(space, *number)).count(), if device == DEVICE { 0 } else { 4 });
        assert_eq!(poisoned_for_the_child, u64::from(!is_poison(space, 2)));
        world.assert_all_free();
    }
}

#[test]
fn unmap_discard_and_exit_let_go_of_what_is_lost() {
    for device in BOTH {
        let world = with_coherent().build();
        let space = after_death(&world, device);
        space.unmap(pages(2, 1)).unwrap();
        space.discard(pages(3, 1)).unwrap();
        audit(&world).unwrap();
        assert_eq!(world.cpu(0).read(at(3, 0)).unwrap(), [0; 8], "a discarded page begins anew");
        space.protect(pages(4, 1), Protection::empty()).unwrap();
        space.relocate(pages(5, 1), at(9, 0), Leave::Nothing).unwrap();
        audit(&world).unwrap();
        assert_eq!(world.manager().device(device).unwrap().free(), if device == DEVICE { 30 } else { 32 });
        assert_eq!(world.manager().device(device).unwrap().readmit(world.sim()).is_err(), device == DEVICE);
        assert!(space.fault(at(9, 0), Access::Read).is_err());
        world.assert_all_free();
        assert_eq!(world.manager().device(device).unwrap().free(), 32);
    }
}

#[test]
fn a_device_that_died_gets_no_page() {
    for device in BOTH {
        let world = with_coherent().build();
        let space = after_death(&world, device);
        let refused = space.migrate_to_device(pages(0, 2), device).unwrap_err();
        assert_eq!(refused, MigrateError::Invalid(Invalid::DeviceLost(device)));
        assert!(refused.to_string().contains(&format!("device {} died", device.number())), "{refused}");
        world.manager().device(device).unwrap().reopen();
        assert!(world.manager().device(device).unwrap().is_lost(), "dead stays dead");
        end(&world, space);
    }
}

/// It dies between the phases of a migration: what was under way stays in RAM, whole, for everybody who shares it.
#[test]
fn a_device_that_dies_during_a_migration_costs_no_page() {
    for device in BOTH {
        for (phase, shared) in [(0, false), (1, false), (1, true)] {
            let world = with_coherent().build();
            let space = space_of(&world, 3);
            fill(world.cpu(0), 3);
            let child = shared.then(|| space.fork().unwrap());
            let unmapped = space.collect(pages(0, 3), device).unwrap().unmap().unwrap();
            let report = if phase == 0 {
                let _ = world.manager().device_lost(device);
                unmapped.copy().finalize()
            } else {
                let copied = unmapped.copy();
                let _ = world.manager().device_lost(device);
                copied.finalize()
            };
            assert_eq!((report.moved, report.stayed.count(Reason::DeviceLost)), (0, 3), "phase {phase}");
            audit(&world).unwrap();
            if let Some(child) = child {
                world.cpu(0).leave();
                world.cpu(0).enter(child);
            }
            for number in 0..3 {
                assert_eq!(page(world.cpu(0), number), contents(number));
                assert_eq!(page(world.cpu(1), number), contents(number));
            }
            world.assert_all_free();
        }
    }
}

/// It dies while a page is copied home: half a copy is no page.
#[test]
fn a_device_that_dies_during_the_copy_home_loses_the_page() {
    let ways: [fn(&World, Space<'_, Sim>); 3] = [
        |world, space| {
            let error = world.cpu(0).run(|| space.fault(at(0, 0), Access::Read));
            assert_eq!(error, Err(FaultError::DeviceLost(at(0, 0), DEVICE)));
        },
        |world, space| {
            let report = world.cpu(0).run(|| space.migrate_to_system(pages(0, 1))).unwrap();
            assert_eq!((report.moved, report.stayed.count(Reason::Poisoned)), (0, 1));
        },
        |world, _| assert_eq!(world.cpu(0).run(|| world.manager().evict_device(DEVICE)).unwrap().lost, 1),
    ];
    for way in ways {
        let world = std::sync::Arc::new(with_coherent().build());
        let space = space_of(&world, 1);
        fill(world.cpu(0), 1);
        assert_eq!(space.migrate_to_device(pages(0, 1), DEVICE).unwrap().moved, 1);
        let (other, watched) = (world.cpu(1).id(), std::sync::Arc::downgrade(&world));
        world.sim().watch(move |sim, moment| {
            if moment == Moment::Copy
                && sim.cpu() != other
                && let Some(world) = watched.upgrade()
                && !world.manager().device(DEVICE).unwrap().is_lost()
            {
                let _ = sim.on(other, || world.manager().device_lost(DEVICE));
            }
        });
        way(&world, space);
        world.sim().unwatch();
        assert!(is_poison(space, 0));
        audit(&world).unwrap();
        world.assert_all_free();
    }
}

/// A pin keeps the frame, not the page: the page is lost, the frame goes with the pin.
#[test]
fn a_page_pinned_on_a_device_that_died_is_lost_and_its_frame_waits_for_the_pin() {
    let world = with_coherent().build();
    let space = space_of(&world, 6);
    fill(world.cpu(0), 6);
    assert_eq!(space.migrate_to_device(pages(2, 4), COHERENT).unwrap().moved, 4);
    let pin = space.pin(at(2, 0), Access::Write, Term::Short).unwrap();
    let lost = world.manager().device_lost(COHERENT).unwrap();
    assert_eq!((lost.lost, lost.busy), (4, 0));
    assert!(is_poison(space, 2));
    audit_with(&world, &Expected { pins: vec![pin.frame()], ..Expected::default() }).unwrap();
    assert!(matches!(pin.frame(), AnyFrame::Device(_)));
    let used = world.manager().device(COHERENT).unwrap().readmit(world.sim()).unwrap_err();
    assert_eq!(used.frames, 1);
    let again = world.manager().evict_device(COHERENT).unwrap();
    assert_eq!((again.lost, again.pinned, again.busy), (0, 1, 0), "nobody is at work on it");
    drop(pin);
    end(&world, space);
}

/// A store to a page that is shared on a device that dies meanwhile: poison for the one who stored.
#[test]
fn a_copy_on_write_that_does_not_arrive_poisons_one_space() {
    let world = with_coherent().build();
    let space = space_of(&world, 1);
    fill(world.cpu(0), 1);
    assert_eq!(space.migrate_to_device(pages(0, 1), COHERENT).unwrap().moved, 1);
    let child = space.fork().unwrap();
    world.manager().injector().arm(Step::Copy, 1);
    assert_eq!(child.fault(at(0, 0), Access::Write), Err(FaultError::Poisoned(at(0, 0))));
    assert!(is_poison(child, 0));
    audit(&world).unwrap();
    assert_eq!(page(world.cpu(0), 0), contents(0), "the other sharer keeps the page");
    world.assert_all_free();
}
