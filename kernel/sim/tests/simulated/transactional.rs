//! Pages that are copied while they stay in use (`Mode::Transactional`), and everything that may happen to them meanwhile.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ferry_mm::inject::Step;
use ferry_mm::migrate::{CopiedAhead, MigrateError, MigrateOptions, Mode, Protected, Report};
use ferry_mm::page_table::entry::{Entry, LeafFlags, RawEntry};
use ferry_mm::space::{Access, Protection, Space, Term};
use ferry_mm::stats::Reason;
use ferry_sim::{Expected, Moment, Sim, World, audit, audit_with};

use crate::notify::watching::*;
use crate::support::*;

const PAGES: u64 = 6;

fn options(mode: Mode) -> MigrateOptions {
    MigrateOptions { mode, ..MigrateOptions::default() }
}

fn migrate(space: Space<'_, Sim>, mode: Mode) -> Report {
    space.migrate_to_device_with(pages(0, PAGES), DEVICE, options(mode)).unwrap()
}

fn protect(space: Space<'_, Sim>) -> Protected<'_, Sim> {
    space.protect_for_copy(pages(0, PAGES), DEVICE, options(Mode::Transactional)).unwrap()
}

fn finish(ahead: CopiedAhead<'_, Sim>) -> Result<Report, MigrateError> {
    Ok(ahead.collect()?.unmap()?.copy().finalize())
}

fn filled(world: &World) -> Space<'_, Sim> {
    let space = space_of(world, PAGES);
    fill(world.cpu(0), PAGES);
    world.sim().fence(world.cpu(0).id());
    space
}

fn entries(space: Space<'_, Sim>) -> Vec<RawEntry> {
    (0..PAGES).map(|number| space.entry(at(number, 0))).collect()
}

/// Migrates with `meanwhile` after the pages were protected, and again after they were copied: which of the two says its argument.
fn amid(world: &World, space: Space<'_, Sim>, meanwhile: impl Fn(bool)) -> Report {
    let open = Expected { open_batch: true, ..Expected::default() };
    let protected = protect(space);
    meanwhile(false);
    let ahead = protected.copy();
    meanwhile(true);
    audit_with(world, &open).unwrap();
    finish(ahead).unwrap()
}

#[test]
fn loads_go_on_while_pages_are_copied_and_only_then() {
    for mode in [Mode::Stop, Mode::Transactional] {
        let world = small().build();
        let space = filled(&world);
        (0..PAGES).for_each(|number| assert_eq!(page(world.cpu(1), number), contents(number)));
        let (loads, faults) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (loaded, faulted, cpu) = (loads.clone(), faults.clone(), world.cpu(1).id());
        world.sim().watch(move |sim, moment| {
            if moment == Moment::Copy {
                for number in 0..PAGES {
                    match sim.load(cpu, at(number, 64)) {
                        Ok(value) => {
                            assert_eq!(value.to_le_bytes(), contents(number)[64..72]);
                            loaded.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(_) => _ = faulted.fetch_add(1, Ordering::SeqCst),
                    }
                }
            }
        });
        assert_eq!(migrate(space, mode).moved, PAGES);
        world.sim().unwatch();
        let copies = PAGES * PAGES * 8;
        let expected = if mode == Mode::Stop { (0, copies) } else { (copies, 0) };
        assert_eq!((loads.load(Ordering::SeqCst), faults.load(Ordering::SeqCst)), expected, "{mode:?}");
        for number in 0..PAGES {
            let (frame, writable) = on_device(space, number);
            assert_eq!((host(&world, frame), writable), (contents(number), true));
            world.cpu(1).store(at(number, 0), &[1]).unwrap();
        }
        audit(&world).unwrap();
        world.assert_all_free();
    }
}

#[test]
fn a_store_keeps_its_page_and_the_others_move() {
    for when in [false, true] {
        let world = small().build();
        let space = filled(&world);
        let faults = || world.manager().statistics().read().faults;
        let before = faults();
        let report = amid(&world, space, |copied| {
            if copied == when {
                world.cpu(1).store(at(2, 0), &[9; 8]).unwrap();
            }
        });
        assert_eq!((report.moved, report.stayed.count(Reason::Written)), (PAGES - 1, 1));
        assert_eq!(faults() - before, 1, "the ordinary fault of a store to a read-only page");
        assert!(in_ram(&world, space, 2) && present(space, 2).1.contains(LeafFlags::WRITABLE));
        assert_eq!(world.manager().device(DEVICE).unwrap().free(), 32 - (PAGES - 1), "the copy was thrown away");
        let mut written = contents(2);
        written.splice_front(&[9; 8]);
        assert_eq!(page(world.cpu(0), 2), written);
        audit(&world).unwrap();
        assert_eq!(migrate(space, Mode::Transactional).moved, 1, "the next attempt takes it");
        world.assert_all_free();
    }
}

/// A store in the middle of the copy of its page, at each of its parts.
#[test]
fn a_store_in_the_middle_of_a_copy_keeps_its_page() {
    for part in 0..8 {
        let world = forever(small());
        let space = filled(world);
        let parts = AtomicU64::new(0);
        let cpu = world.cpu(1);
        world.sim().watch(move |_, moment| {
            // Page 2 is copied third.
            if moment == Moment::Copy && parts.fetch_add(1, Ordering::SeqCst) == 2 * 8 + part {
                cpu.store(at(2, 512 * part + 8), &[9; 8]).unwrap();
            }
        });
        let report = migrate(space, Mode::Transactional);
        world.sim().unwatch();
        assert_eq!((report.moved, report.stayed.count(Reason::Written)), (PAGES - 1, 1));
        assert_eq!(world.cpu(0).read(at(2, 512 * part + 8)).unwrap(), [9; 8]);
        audit(world).unwrap();
        world.assert_all_free();
    }
}

/// CPU 1 stores through its translation for as long as hardware lets it: what it stored last is what moves.
#[test]
fn no_store_is_lost_that_was_made_before_the_page_was_protected() {
    let world = small().build();
    let space = filled(&world);
    world.cpu(1).store(at(2, 40), &[0; 8]).unwrap();
    let (last, cpu) = (Arc::new(AtomicU64::new(0)), world.cpu(1).id());
    let stored = last.clone();
    world.sim().watch(move |sim, _| {
        let next = stored.load(Ordering::SeqCst) + 1;
        if sim.store(cpu, at(2, 40), u64::MAX, next).is_ok() {
            stored.store(next, Ordering::SeqCst);
        }
    });
    assert_eq!(migrate(space, Mode::Transactional).moved, PAGES);
    world.sim().unwatch();
    world.sim().fence(cpu);
    let last = last.load(Ordering::SeqCst).to_le_bytes();
    assert_ne!(last, [0; 8]);
    assert_eq!(host(&world, on_device(space, 2).0)[40..48], last);
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_batch_that_is_dropped_gives_every_entry_back_bit_for_bit() {
    type TakeAndDrop = fn(Space<'_, Sim>);
    let drops: [(&str, TakeAndDrop); 5] = [
        ("protected", |space| drop(protect(space))),
        ("copied ahead", |space| drop(protect(space).copy())),
        ("collected", |space| drop(protect(space).copy().collect().unwrap())),
        ("unmapped", |space| drop(protect(space).copy().collect().unwrap().unmap().unwrap())),
        ("copied", |space| drop(protect(space).copy().collect().unwrap().unmap().unwrap().copy())),
    ];
    for (phase, take_and_drop) in drops {
        let world = small().build();
        let space = space_of(&world, PAGES);
        // Page 4 is the zero page, 5 is empty; 1 is read-only.
        fill(world.cpu(0), 4);
        world.cpu(0).read::<1>(at(4, 0)).unwrap();
        space.protect(pages(1, 1), Protection::READ).unwrap();
        space.protect(pages(1, 1), Protection::READ_WRITE).unwrap();
        let (before, census) = (entries(space), world.manager().census());
        take_and_drop(space);
        assert_eq!((entries(space), world.manager().census()), (before, census), "{phase}");
        audit(&world).unwrap();
        (0..4).for_each(|number| assert_eq!(page(world.cpu(1), number), contents(number), "{phase}"));
        world.assert_all_free();
    }
}

#[test]
fn what_was_read_only_stays_so_and_is_not_flushed_for_it() {
    let world = small().build();
    let space = filled(&world);
    space.protect(pages(0, PAGES), Protection::READ).unwrap();
    world.sim().take_flushes();
    let ahead = protect(space).copy();
    assert_eq!(world.sim().take_flushes(), []);
    assert_eq!(finish(ahead).unwrap().moved, PAGES);
    assert_eq!(world.sim().take_flushes().len(), 1);
    (0..PAGES).for_each(|number| assert!(!on_device(space, number).1));
    space.protect(pages(0, PAGES), Protection::READ_WRITE).unwrap();
    let _ = space.migrate_to_system(pages(0, PAGES)).unwrap();
    (0..PAGES).for_each(|number| world.cpu(0).store(at(number, 0), &[1]).unwrap());
    world.sim().take_flushes();
    assert_eq!(migrate(space, Mode::Transactional).moved, PAGES);
    assert_eq!(world.sim().take_flushes().len(), 2, "one that protects, one that takes");
    world.assert_all_free();
}

#[test]
fn a_pin_that_is_taken_meanwhile_keeps_its_page() {
    for (access, reason) in [(Access::Read, Reason::Pinned), (Access::Write, Reason::Written)] {
        let world = small().build();
        let space = filled(&world);
        let protected = protect(space);
        let pin = world.cpu(1).run(|| space.pin(at(3, 0), access, Term::Long)).unwrap();
        let report = finish(protected.copy()).unwrap();
        assert_eq!((report.moved, report.stayed.count(reason)), (PAGES - 1, 1));
        assert!(present(space, 3).1.contains(LeafFlags::WRITABLE), "as writable as before");
        audit_with(&world, &Expected { pins: vec![pin.frame()], ..Expected::default() }).unwrap();
        // Pinned before, it is not even copied.
        let copies = Arc::new(AtomicU64::new(0));
        let count = copies.clone();
        world.sim().watch(move |_, moment| _ = count.fetch_add((moment == Moment::Copy).into(), Ordering::SeqCst));
        assert_eq!(migrate(space, Mode::Transactional).stayed.count(Reason::Pinned), 1);
        world.sim().unwatch();
        assert_eq!(copies.load(Ordering::SeqCst), 0);
        world.cpu(1).run(|| drop(pin));
        audit(&world).unwrap();
        world.assert_all_free();
    }
}

#[test]
fn a_pin_that_comes_and_goes_meanwhile_keeps_nothing() {
    let world = small().build();
    let space = filled(&world);
    let report = amid(&world, space, |_| {
        world.cpu(1).run(|| drop(space.pin(at(3, 0), Access::Read, Term::Long).unwrap()));
    });
    assert_eq!(report.moved, PAGES);
    audit(&world).unwrap();
    world.assert_all_free();
}

/// Lets CPU 1 make `change` in a thread of its own between the copy and the rest; what became of the migration.
fn interrupted(change: impl FnOnce(Space<'static, Sim>) + Send) -> Result<Report, MigrateError> {
    let world = forever(small());
    let space = filled(world);
    let ahead = protect(space).copy();
    let waits = Arc::new(AtomicBool::new(false));
    let seen = waits.clone();
    world.sim().watch(move |_, moment| _ = seen.fetch_or(moment == Moment::Relax, Ordering::SeqCst));
    let ended = std::thread::scope(|scope| {
        let done = scope.spawn(|| world.cpu(1).run(move || change(space)));
        while !waits.load(Ordering::SeqCst) && !done.is_finished() {
            std::thread::yield_now();
        }
        let ended = finish(ahead);
        done.join().unwrap();
        ended
    });
    world.sim().unwatch();
    audit(world).unwrap();
    for number in 1..PAGES {
        assert_eq!(page(world.cpu(0), number), contents(number));
    }
    world.assert_all_free();
    ended
}

#[test]
fn whoever_changes_the_range_is_given_way_to() {
    let again = Err(MigrateError::Again(pages(0, PAGES)));
    assert_eq!(interrupted(|space| space.unmap(pages(0, 1)).unwrap()), again);
    assert_eq!(interrupted(|space| space.discard(pages(0, 1)).unwrap()), again);
    assert_eq!(interrupted(|space| _ = space.fork().unwrap()), again);
    let protect = |space: Space<'_, Sim>| space.protect(pages(0, PAGES), Protection::READ).unwrap();
    assert_eq!(interrupted(protect), again);
}

#[test]
fn others_who_move_pages_pass_by() {
    for mode in [Mode::Stop, Mode::Transactional] {
        let world = small().swap(32).build();
        let space = filled(&world);
        let report = amid(&world, space, |_| {
            let beside = world.cpu(1).run(|| migrate(space, mode));
            assert_eq!((beside.moved, beside.stayed.count(Reason::Busy)), (0, PAGES));
            let out = world.cpu(1).run(|| space.swap_out(pages(0, PAGES))).unwrap();
            assert_eq!((out.freed, out.stayed.count(Reason::Busy)), (0, PAGES));
        });
        assert_eq!(report.moved, PAGES);
        audit(&world).unwrap();
        world.assert_all_free();
    }
}

#[test]
fn contents_that_need_not_be_kept_move_like_others() {
    let world = small().build();
    let space = filled(&world);
    let report = amid(&world, space, |_| world.cpu(1).run(|| space.free_lazily(pages(0, 2))).unwrap());
    assert_eq!(report.moved, PAGES);
    assert_eq!(page(world.cpu(1), 0), contents(0));
    audit(&world).unwrap();
    world.assert_all_free();
}

/// Another device waits until the pages are taken: it has been told that they go.
#[test]
fn a_device_that_migrates_pages_and_takes_one_for_itself_meanwhile_keeps_that_in_ram() {
    let world = forever(small());
    let space = filled(world);
    let (_, id) = Witness::of(world, space, 0, PAGES);
    let initiated = MigrateOptions { initiator: Some(id), ..options(Mode::Transactional) };
    let ahead = space.protect_for_copy(pages(0, PAGES), DEVICE, initiated).unwrap().copy();
    world.cpu(1).run(|| space.make_exclusive(at(2, 0), id)).unwrap();
    let report = finish(ahead).unwrap();
    assert_eq!((report.moved, report.stayed.count(Reason::Written)), (PAGES - 1, 1));
    assert!(matches!(space.entry(at(2, 0)).decode(), Entry::Exclusive { .. }));
    assert_eq!(migrate(space, Mode::Transactional).moved, 1, "as in the other mode");
    audit(world).unwrap();
    world.assert_all_free();
}

#[test]
fn listeners_are_told_before_the_pages_are_protected_and_look_nothing_up_before_they_are_taken() {
    let world = forever(small());
    let space = filled(world);
    let (witness, id) = Witness::of(world, space, 0, PAGES);
    let protected = protect(space);
    let told = witness.take();
    assert_eq!(told.len(), 1);
    assert!(told[0].entry.flags().contains(LeafFlags::WRITABLE) && told[0].locks_held == 0);
    assert!(world.manager().sequence(id).is_err());
    let ahead = protected.copy();
    assert!(world.manager().sequence(id).is_err());
    let unmapped = ahead.collect().unwrap().unmap().unwrap();
    assert!(world.manager().sequence(id).is_ok());
    assert_eq!(unmapped.copy().finalize().moved, PAGES);
    assert_eq!(witness.take(), []);
    world.assert_all_free();
}

#[test]
fn pages_that_several_spaces_share_move_for_all_of_them() {
    let world = small().build();
    let parent = filled(&world);
    let child = parent.fork().unwrap();
    world.cpu(1).enter(child);
    world.cpu(0).store(at(0, 0), &[7]).unwrap();
    let report = migrate(parent, Mode::Transactional);
    assert_eq!(report.moved, PAGES);
    assert_eq!(world.manager().device(DEVICE).unwrap().free(), 32 - PAGES);
    audit(&world).unwrap();
    assert_eq!((world.cpu(0).read(at(0, 0)).unwrap(), page(world.cpu(1), 0)), ([7], contents(0)));
    for number in 1..PAGES {
        assert_eq!((page(world.cpu(0), number), page(world.cpu(1), number)), (contents(number), contents(number)));
    }
    world.assert_all_free();
}

#[test]
fn pages_in_the_swap_cache_leave_it_so_that_a_store_waits_for_nobody() {
    let world = small().swap(32).build();
    let space = filled(&world);
    assert_eq!(space.swap_out(pages(0, PAGES)).unwrap().freed, PAGES);
    (0..PAGES).for_each(|number| assert_eq!(page(world.cpu(0), number), contents(number)));
    let report = amid(&world, space, |copied| {
        if copied {
            world.cpu(1).store(at(2, 0), &[9]).unwrap();
        }
    });
    assert_eq!((report.moved, report.stayed.count(Reason::Written)), (PAGES - 1, 1));
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn who_migrates_a_page_may_use_it_meanwhile() {
    let world = small().build();
    let space = filled(&world);
    let report = amid(&world, space, |copied| {
        assert_eq!(page(world.cpu(0), 1), contents(1));
        if copied {
            world.cpu(0).store(at(2, 0), &[9]).unwrap();
        }
    });
    assert_eq!((report.moved, report.stayed.count(Reason::Written)), (PAGES - 1, 1));
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_page_that_gets_a_frame_meanwhile_stays() {
    let world = small().build();
    let space = space_of(&world, PAGES);
    let report = amid(&world, space, |copied| {
        if copied {
            world.cpu(1).store(at(2, 0), &[9]).unwrap();
        }
    });
    assert_eq!((report.moved, report.stayed.count(Reason::Written)), (PAGES - 1, 1));
    assert_eq!(world.cpu(1).read(at(2, 0)).unwrap(), [9]);
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn what_finds_no_room_or_fails_stays_as_writable_as_before() {
    let room = World::builder().frames(128).device(2).cpus(2).build();
    let space = filled(&room);
    let before = entries(space);
    let report = migrate(space, Mode::Transactional);
    assert_eq!((report.moved, report.stayed.count(Reason::DeviceFull)), (2, PAGES - 2));
    assert_eq!(entries(space)[2..], before[2..]);
    audit(&room).unwrap();
    for (step, reason) in [(Step::Copy, Reason::CopyFailed), (Step::DeviceAlloc, Reason::DeviceFull)] {
        let world = small().build();
        let space = filled(&world);
        let before = entries(space);
        world.manager().injector().arm(step, 3);
        let report = migrate(space, Mode::Transactional);
        assert_eq!((report.moved, report.stayed.count(reason)), (PAGES - 1, 1));
        assert_eq!(entries(space)[2], before[2]);
        audit(&world).unwrap();
        world.assert_all_free();
    }
}

#[test]
fn a_device_that_dies_meanwhile_costs_no_page() {
    for when in [false, true] {
        let world = small().build();
        let space = filled(&world);
        let before = entries(space);
        let report = amid(&world, space, |copied| {
            if copied == when {
                assert!(world.manager().device_lost(DEVICE).is_some());
            }
        });
        assert_eq!(report.moved, 0);
        assert_eq!(entries(space), before);
        (0..PAGES).for_each(|number| assert_eq!(page(world.cpu(1), number), contents(number)));
    }
}

#[test]
fn a_page_that_came_home_for_an_access_is_not_protected_before_that() {
    let world = small().build();
    let space = filled(&world);
    assert_eq!(migrate(space, Mode::Transactional).moved, PAGES);
    world.cpu(0).run(|| space.fault(at(1, 0), Access::Write)).unwrap();
    let report = migrate(space, Mode::Transactional);
    assert_eq!((report.moved, report.stayed.count(Reason::JustCameHome)), (0, 1));
    assert!(world.sim().store(world.cpu(0).id(), at(1, 0), u64::MAX, 9).is_ok());
    assert_eq!(migrate(space, Mode::Transactional).moved, 1);
    world.assert_all_free();
}
