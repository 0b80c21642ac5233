//! Contents that would be lost.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ferry_mm::inject::Step;
use ferry_mm::space::{Access, ForkError, Term};
use ferry_mm::stats::Reason;
use ferry_sim::{Expected, Moment, audit, audit_with};

use crate::support::*;

/// At each exchange of an entry in the fork, CPU 1 may store to a page that need not be kept: from then on it must be, also in
/// the child, whose entry alone maps it in the end.
#[test]
fn a_store_that_a_fork_just_let_through_is_kept_in_the_child() {
    const STORED: u64 = 0x5eed;
    let mut stored_in = 0;
    for exchange in 0.. {
        let world = small().swap(64).build();
        let space = space_of(&world, 1);
        fill(world.cpu(0), 1);
        space.free_lazily(pages(0, 1)).unwrap();
        let (cpu, seen, stored) = (world.cpu(1).id(), AtomicUsize::new(0), Arc::new(AtomicBool::new(false)));
        let success = stored.clone();
        world.sim().watch(move |sim, moment| {
            if moment == Moment::CompareExchangeEntry && seen.fetch_add(1, Ordering::Relaxed) == exchange {
                success.store(sim.store(cpu, at(0, 0), u64::MAX, STORED).is_ok(), Ordering::Relaxed);
                sim.fence(cpu);
            }
        });
        let child = space.fork().unwrap();
        world.sim().unwatch();
        if !stored.load(Ordering::Relaxed) {
            break;
        }
        stored_in += 1;
        space.unmap(pages(0, 1)).unwrap();
        assert_eq!(child.swap_out(pages(0, 1)).unwrap().freed, 1);
        world.cpu(1).enter(child);
        assert_eq!(world.cpu(1).read(at(0, 0)).unwrap(), STORED.to_le_bytes(), "exchange {exchange}");
        audit(&world).unwrap();
        world.assert_all_free();
    }
    assert!(stored_in > 0);
}

/// The device dies while the new entries are written: what is not on it by then is whole in RAM, and stays.
#[test]
fn a_device_that_dies_in_the_last_phase_takes_no_page_that_was_not_there_yet() {
    let world = forever(small());
    let space = space_of(world, 8);
    fill(world.cpu(0), 8);
    let copied = space.collect(pages(0, 8), DEVICE).unwrap().unmap().unwrap().copy();
    let entries = AtomicUsize::new(0);
    world.sim().watch(move |_, moment| {
        if moment == Moment::SwapEntry && entries.fetch_add(1, Ordering::Relaxed) == 2 {
            let _ = world.manager().device_lost(DEVICE).unwrap();
        }
    });
    let report = copied.finalize();
    world.sim().unwatch();
    assert_eq!(report.moved + report.stayed.count(Reason::DeviceLost), 8);
    assert!(report.moved <= 3, "{report:?}");
    for number in report.moved..8 {
        assert_eq!(page(world.cpu(1), number), contents(number));
    }
    audit(world).unwrap();
    world.assert_all_free();
}

/// A page that is pinned in coherent memory cannot be shared, and its copy may fail: then there is no child.
#[test]
fn a_fork_that_cannot_copy_a_pinned_page_leaves_the_parent_alone() {
    let world = with_coherent().build();
    let space = space_of(&world, 4);
    fill(world.cpu(0), 4);
    assert_eq!(space.migrate_to_device(pages(1, 1), COHERENT).unwrap().moved, 1);
    let pin = space.pin(at(1, 0), Access::Write, Term::Short).unwrap();
    let entries: Vec<_> = (0..4).map(|number| space.entry(at(number, 0))).collect();
    world.manager().injector().arm(Step::Copy, 1);
    assert_eq!(space.fork().err(), Some(ForkError::CopyFailed(at(1, 0))));
    assert!(!world.manager().injector().is_armed(Step::Copy));
    assert_eq!((0..4).map(|number| space.entry(at(number, 0))).collect::<Vec<_>>(), entries);
    let pins = vec![pin.frame()];
    audit_with(&world, &Expected { open_batch: false, pins: pins.clone() }).unwrap();
    let child = space.fork().unwrap();
    world.cpu(1).enter(child);
    (0..4).for_each(|number| assert_eq!(page(world.cpu(1), number), contents(number)));
    audit_with(&world, &Expected { open_batch: false, pins }).unwrap();
    drop(pin);
    world.assert_all_free();
}
