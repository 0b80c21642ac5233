//! Fork and swap, in every order; and two CPUs at one page.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ferry_mm::machine::Machine;
use ferry_mm::space::Space;
use ferry_mm::stats::Reason;
use ferry_sim::{Moment, Sim, Transfer, World, audit};

use super::{on_disk, slot, swap_out, swapping};
use crate::support::*;

const PAGES: u64 = 2;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    SwapOut,
    ParentReads,
    ParentStores,
    ChildReads,
    ChildStores,
    ChildMigrates,
    ParentUnmaps,
    ChildExits,
}

const STEPS: [Step; 8] = [
    Step::SwapOut,
    Step::ParentReads,
    Step::ParentStores,
    Step::ChildReads,
    Step::ChildStores,
    Step::ChildMigrates,
    Step::ParentUnmaps,
    Step::ChildExits,
];

/// A parent on CPU 0 and its child on CPU 1, and what each may expect of its pages.
struct Family<'w> {
    world: &'w World,
    parent: Space<'w, Sim>,
    child: Option<Space<'w, Sim>>,
    parent_has: Option<u64>,
    child_has: u64,
}

impl Family<'_> {
    fn take(&mut self, step: Step) {
        let [cpu, child_cpu] = [0, 1].map(|number| self.world.cpu(number));
        match (step, self.child) {
            (Step::SwapOut, _) => {
                let _ = self.parent.swap_out(pages(0, PAGES)).unwrap();
                if let Some(child) = self.child {
                    let _ = child.swap_out(pages(0, PAGES)).unwrap();
                }
            }
            (Step::ParentStores, _) if self.parent_has.is_some() => {
                (0..PAGES).for_each(|number| cpu.store(at(number, 0), &contents(100)).unwrap());
                self.parent_has = Some(100);
            }
            (Step::ParentUnmaps, _) => {
                self.parent.unmap(pages(0, PAGES)).unwrap();
                self.parent_has = None;
            }
            (Step::ChildStores, Some(_)) => {
                (0..PAGES).for_each(|number| child_cpu.store(at(number, 0), &contents(200)).unwrap());
                self.child_has = 200;
            }
            (Step::ChildMigrates, Some(child)) => {
                assert_eq!(child.migrate_to_device(pages(0, PAGES), DEVICE).unwrap().stayed.total(), 0);
            }
            (Step::ChildExits, Some(child)) => {
                child_cpu.leave();
                child.destroy().unwrap();
                self.child = None;
            }
            (Step::ParentReads, _) => self.check_parent(),
            (Step::ChildReads, _) => self.check_child(),
            _ => {}
        }
    }

    fn check_parent(&self) {
        for number in 0..PAGES {
            match self.parent_has {
                Some(seed) => assert_eq!(page(self.world.cpu(0), number), contents(seed)),
                None => assert!(self.world.cpu(0).read::<1>(at(number, 0)).is_err()),
            }
        }
    }

    fn check_child(&self) {
        for number in (0..PAGES).filter(|_| self.child.is_some()) {
            assert_eq!(page(self.world.cpu(1), number), contents(self.child_has));
        }
    }
}

/// Every order of four different steps, with the fork before or after the pages were first swapped out.
#[test]
fn neither_sees_the_others_stores_in_whatever_order_they_swap_store_migrate_and_leave() {
    let mut orders = 0;
    for code in 0..STEPS.len().pow(4) {
        let order: Vec<Step> = (0..4).map(|place| STEPS[code / STEPS.len().pow(place) % STEPS.len()]).collect();
        if !order.contains(&Step::SwapOut) || (1..4).any(|place| order[..place].contains(&order[place])) {
            continue;
        }
        for swapped_before in [false, true] {
            let world = swapping().build();
            let parent = space_of(&world, PAGES);
            (0..PAGES).for_each(|number| world.cpu(0).store(at(number, 0), &contents(50)).unwrap());
            if swapped_before {
                swap_out(parent, 0, PAGES);
                // One page is in the swap cache when the fork comes.
                assert_eq!(page(world.cpu(0), 0), contents(50));
            }
            let child = parent.fork().unwrap();
            world.cpu(1).enter(child);
            let mut family = Family { world: &world, parent, child: Some(child), parent_has: Some(50), child_has: 50 };
            for step in &order {
                family.take(*step);
                audit(&world).unwrap_or_else(|report| panic!("{order:?} at {step:?}: {report}"));
            }
            family.check_parent();
            family.check_child();
            orders += 1;
            world.assert_all_free();
        }
    }
    assert_eq!(orders, 2 * 4 * 7 * 6 * 5);
}

#[test]
fn sharers_of_a_slot_read_it_once() {
    let world = swapping().build();
    let parent = space_of(&world, 1);
    fill(world.cpu(0), 1);
    let child = parent.fork().unwrap();
    world.cpu(1).enter(child);
    swap_out(parent, 0, 1);
    assert_eq!(slot(parent, 0), slot(child, 0));
    assert_eq!(on_disk(&world, child, 0), contents(0).to_vec());
    assert_eq!(page(world.cpu(0), 0), contents(0));
    assert_eq!(page(world.cpu(1), 0), contents(0));
    assert_eq!(present(parent, 0).0, present(child, 0).0);
    assert_eq!(world.disk().asked(Transfer::Read), 1);
    assert_eq!(world.manager().statistics().read().swap_cache_hits, 1);
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_store_while_others_name_the_slot_does_not_reach_them() {
    let world = swapping().build();
    let parent = space_of(&world, 1);
    fill(world.cpu(0), 1);
    let child = parent.fork().unwrap();
    world.cpu(1).enter(child);
    swap_out(parent, 0, 1);
    world.cpu(0).store(at(0, 0), &[0xff; 16]).unwrap();
    assert_eq!(on_disk(&world, child, 0), contents(0).to_vec());
    audit(&world).unwrap();
    assert_eq!(page(world.cpu(1), 0), contents(0));
    world.assert_all_free();
}

/// The write failed, so the frame in the swap cache is the only copy of what both name by its slot.
#[test]
fn a_store_to_the_only_copy_goes_to_a_copy_of_its_own() {
    let world = swapping().build();
    let parent = space_of(&world, 1);
    fill(world.cpu(0), 1);
    let child = parent.fork().unwrap();
    world.cpu(1).enter(child);
    world.disk().fail(Transfer::Write, 1);
    assert_eq!(parent.swap_out(pages(0, 1)).unwrap().freed, 0);
    audit(&world).unwrap();
    world.cpu(0).store(at(0, 0), &contents(9)).unwrap();
    audit(&world).unwrap();
    assert_eq!(page(world.cpu(1), 0), contents(0));
    assert_eq!(page(world.cpu(0), 0), contents(9));
    assert_eq!(world.disk().asked(Transfer::Read), 0);
    audit(&world).unwrap();
    world.assert_all_free();
}

/// A store that finds the page in the swap cache, alone, gives the slot back before it writes the entry. A fault on another CPU that
/// looks in between finds an entry whose slot nobody has: it waits, and serves others meanwhile.
#[test]
fn a_fault_between_the_slot_and_the_entry_waits() {
    const MANY: usize = 10_000;
    let world = forever(swapping());
    let space = space_of(world, 1);
    fill(world.cpu(0), 1);
    swap_out(space, 0, 1);
    let [storing, faulting] = [0, 1].map(|number| world.cpu(number).id());
    let [is_between, has_waited] = [const { AtomicBool::new(false) }; 2].map(Arc::new);
    let looks = Arc::new(AtomicUsize::new(0));
    let (between, waited, looked) = (is_between.clone(), has_waited.clone(), looks.clone());
    world.sim().watch(move |sim, moment| {
        if sim.cpu() == storing && moment == Moment::SwapEntry {
            between.store(true, Ordering::SeqCst);
            while !waited.load(Ordering::SeqCst) && looked.load(Ordering::SeqCst) < MANY {
                std::thread::yield_now();
            }
        }
        if sim.cpu() == faulting && !waited.load(Ordering::SeqCst) {
            looked.fetch_add(1, Ordering::SeqCst);
            waited.store(moment == Moment::Relax, Ordering::SeqCst);
        }
    });
    std::thread::scope(|scope| {
        scope.spawn(|| world.cpu(0).store(at(0, 0), &[7]).unwrap());
        scope.spawn(|| {
            while !is_between.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            // Before the store or after it.
            assert!(matches!(world.cpu(1).read(at(0, 0)).unwrap(), [1 | 7]));
        });
    });
    world.sim().unwatch();
    assert!(looks.load(Ordering::SeqCst) < MANY, "CPU 1 looked {MANY} times without a pause");
    world.sim().fence(storing);
    assert_eq!(world.cpu(1).read(at(0, 0)).unwrap(), [7]);
    audit(world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_hit_in_the_swap_cache_is_counted_where_no_disk_was_asked() {
    let world = swapping().build();
    let parent = space_of(&world, 2);
    fill(world.cpu(0), 1);
    let child = parent.fork().unwrap();
    world.cpu(1).enter(child);
    swap_out(parent, 0, 1);
    let hits = || world.manager().statistics().read().swap_cache_hits;
    for (cpu, number, expected) in [(0, 0, 0), (1, 0, 1), (0, 1, 1)] {
        let asked = world.disk().asked(Transfer::Read);
        page(world.cpu(cpu), number);
        let read = world.disk().asked(Transfer::Read) - asked;
        assert_eq!((hits(), read), (expected, u64::from((cpu, number) == (0, 0))), "CPU {cpu}, page {number}");
    }
    world.assert_all_free();
}

/// A page in the swap cache whose writing failed has no other user: it is written where it is.
#[test]
fn a_page_that_nobody_else_names_is_written_in_place_though_the_disk_has_it_not() {
    let world = swapping().build();
    let space = space_of(&world, 1);
    fill(world.cpu(0), 1);
    world.disk().fail(Transfer::Write, 1);
    assert_eq!(space.swap_out(pages(0, 1)).unwrap().stayed.count(Reason::DiskFailed), 1);
    assert_eq!(page(world.cpu(0), 0), contents(0));
    let frame = present(space, 0).0;
    world.cpu(0).store(at(0, 0), &[9]).unwrap();
    assert_eq!(present(space, 0).0, frame);
    assert_eq!(world.manager().statistics().read().copied_pages_mapped, 0);
    audit(&world).unwrap();
    world.assert_all_free();
}
