//! A page that came home for an access stays until the access was made, however many want it elsewhere.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ferry_mm::frame::MOST_REFUSALS;
use ferry_mm::machine::Machine;
use ferry_mm::migrate::Report;
use ferry_mm::page_table::entry::{Entry, LeafFlags};
use ferry_mm::space::{Access, Resolution, Space, Term};
use ferry_mm::stats::Reason;
use ferry_sim::{Sim, World, audit};

use crate::notify::watching::*;
use crate::support::*;

/// Has `cpu` try to move page 0 to the device; whether it went.
fn takes(world: &World, space: Space<'_, Sim>, cpu: usize) -> bool {
    let Report { moved, stayed } = world.cpu(cpu).run(|| space.migrate_to_device(pages(0, 1), DEVICE)).unwrap();
    assert_eq!(moved + stayed.count(Reason::JustCameHome), 1);
    moved == 1
}

/// A page of CPU 0's that is on the device, and two CPUs that want it there.
fn on_its_device(world: &World) -> Space<'_, Sim> {
    let space = space_of(world, 1);
    fill(world.cpu(0), 1);
    assert!(takes(world, space, 1));
    space
}

#[test]
fn two_who_want_a_page_elsewhere_do_not_get_it_before_the_access_that_it_came_home_for() {
    let world = small().cpus(3).build();
    let space = on_its_device(&world);
    for round in 0..20_u64 {
        let mut faults = 0;
        while let Err(fault) = world.sim().store(world.cpu(0).id(), at(0, 8), u64::MAX, round) {
            faults += 1;
            assert_eq!(world.cpu(0).run(|| space.fault(fault.address, fault.access)), Ok(Resolution::CameHome));
            for _ in 0..50 {
                assert!(![1, 2].map(|cpu| takes(&world, space, cpu)).contains(&true), "taken before it was used");
            }
            audit(&world).unwrap();
        }
        assert_eq!(faults, 1, "one fault for one access");
        assert!(takes(&world, space, 1), "a page that was used goes at once");
    }
    world.assert_all_free();
}

/// Whether it comes home the straight way or, because somebody listens to the events, the long one.
#[test]
fn an_access_that_never_comes_keeps_a_page_for_a_limited_number_of_attempts() {
    for traced in [false, true] {
        let world = small().cpus(3).build();
        let space = on_its_device(&world);
        if traced {
            world.sim().listen();
        }
        world.cpu(0).run(|| space.fault(at(0, 0), Access::Read)).unwrap();
        assert!(!present(space, 0).1.contains(LeafFlags::ACCESSED));
        let refusals = (0..).take_while(|attempt| !takes(&world, space, 1 + attempt % 2)).count();
        assert_eq!(refusals, MOST_REFUSALS as usize);
        assert_eq!(page(world.cpu(0), 0), contents(0));
        world.assert_all_free();
    }
}

#[test]
fn a_page_that_a_call_brought_home_waits_for_no_access() {
    let world = small().build();
    let space = on_its_device(&world);
    assert_eq!(space.migrate_to_system(pages(0, 1)).unwrap().moved, 1);
    assert!(takes(&world, space, 1));
    world.assert_all_free();
}

#[test]
fn a_pin_that_brought_its_page_home_is_the_access() {
    let world = small().build();
    let space = on_its_device(&world);
    let pin = world.cpu(0).run(|| space.pin(at(0, 0), Access::Write, Term::Short)).unwrap();
    let report = space.migrate_to_device(pages(0, 1), DEVICE).unwrap();
    assert_eq!(report.stayed.count(Reason::Pinned), 1);
    world.cpu(0).run(|| drop(pin));
    assert!(takes(&world, space, 1), "nobody waits for an access any more");
    world.assert_all_free();
}

/// Memory pressure does not take a page between its fault and its access, wherever the hands of the clock stand.
#[test]
fn a_page_that_waits_for_its_access_counts_as_used() {
    let world = small().frames(40).swap(64).build();
    let space = space_of(&world, 60);
    (0..60).for_each(|number| world.cpu(0).store(at(number, 0), &contents(number)).unwrap());
    assert_eq!(page(world.cpu(0), 0), contents(0));
    for round in 0..60 {
        assert!(takes(&world, space, 1));
        world.cpu(0).run(|| space.fault(at(0, 0), Access::Read)).unwrap();
        // Which is on the disk, mostly, so that room is made for it.
        assert_eq!(page(world.cpu(0), 1 + round % 59), contents(1 + round % 59));
        assert!(in_ram(&world, space, 0), "round {round}: taken before it was used");
        assert_eq!(page(world.cpu(0), 0), contents(0));
    }
    assert!(world.manager().statistics().read().swapped_out > 60);
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_device_gets_a_page_for_itself_again_after_the_cpu_that_took_it_back_has_used_it() {
    for uses_it in [true, false] {
        let world = forever(small().cpus(3));
        let space = space_of(world, 1);
        fill(world.cpu(0), 1);
        let (_, id) = Witness::of(world, space, 0, 1);
        space.make_exclusive(at(0, 0), id).unwrap();
        assert_eq!(world.cpu(0).run(|| space.fault(at(0, 0), Access::Write)), Ok(Resolution::TakenBack));
        let turns = Arc::new(AtomicU64::new(0));
        let (count, cpu) = (turns.clone(), world.cpu(0).id());
        world.sim().watch(move |sim, moment| {
            if moment == ferry_sim::Moment::Relax && count.fetch_add(1, Ordering::SeqCst) == 9 && uses_it {
                sim.store(cpu, at(0, 8), u64::MAX, 7).expect("the page is still the CPU's");
            }
        });
        world.cpu(1).run(|| space.make_exclusive(at(0, 0), id)).unwrap();
        world.sim().unwatch();
        assert_eq!(turns.load(Ordering::SeqCst), if uses_it { 10 } else { MOST_REFUSALS.into() });
        audit(world).unwrap();
        world.assert_all_free();
    }
}

#[test]
fn a_device_that_brought_the_page_home_itself_waits_for_nobody() {
    let world = forever(small());
    let space = on_its_device(world);
    let (_, id) = Witness::of(world, space, 0, 1);
    world.sim().watch(|_, moment| assert!(moment != ferry_sim::Moment::Relax, "there is nobody to wait for"));
    world.cpu(1).run(|| space.make_exclusive(at(0, 0), id)).unwrap();
    world.sim().unwatch();
    audit(world).unwrap();
    world.assert_all_free();
}

/// A fault that waits, and looks only when its page is on its way, while others move it to and fro.
#[test]
fn a_page_that_comes_home_by_a_call_stays_for_a_fault_that_waits() {
    let world = forever(small().cpus(3));
    let space = space_of(world, 1);
    fill(world.cpu(0), 1);
    let (waits, hold) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
    let (seen, held, cpu) = (waits.clone(), hold.clone(), world.cpu(0).id());
    world.sim().watch(move |sim, moment| {
        if moment == ferry_sim::Moment::Relax && sim.cpu() == cpu {
            seen.store(true, Ordering::SeqCst);
            while held.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        }
    });
    let collected = world.cpu(1).run(|| space.collect(pages(0, 1), DEVICE)).unwrap();
    std::thread::scope(|scope| {
        let access = scope.spawn(|| world.cpu(0).store(at(0, 8), &[7; 8]).unwrap());
        while !waits.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        world.cpu(1).run(|| {
            assert_eq!(collected.unmap().unwrap().copy().finalize().moved, 1);
            assert_eq!(space.migrate_to_system(pages(0, 1)).unwrap().moved, 1);
        });
        assert!((0..20).all(|_| !takes(world, space, 1)), "taken from who waits for it");
        hold.store(false, Ordering::SeqCst);
        access.join().unwrap();
    });
    world.sim().unwatch();
    assert!(takes(world, space, 1), "nobody waits any more");
    assert_eq!(space.migrate_to_system(pages(0, 1)).unwrap().moved, 1);
    assert!(takes(world, space, 1), "so what a call brings home stays for nobody");
    audit(world).unwrap();
    world.assert_all_free();
}

/// A fault that looks only while its page is in somebody's hands, or while that one waits.
#[test]
fn a_page_that_is_taken_and_given_back_again_and_again_is_left_to_a_fault_that_waits() {
    const ROUNDS: usize = 100;
    let world = forever(small().cpus(2));
    let space = space_of(world, 1);
    fill(world.cpu(0), 1);
    let (looks, may_look) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (looked, allowed, waits) = (looks.clone(), may_look.clone(), world.cpu(0).id());
    world.sim().watch(move |sim, moment| {
        if moment != ferry_sim::Moment::Relax {
            return;
        }
        if sim.cpu() != waits {
            allowed.store(true, Ordering::SeqCst);
            std::thread::sleep(std::time::Duration::from_millis(1));
            return;
        }
        looked.fetch_add(1, Ordering::SeqCst);
        while !allowed.swap(false, Ordering::SeqCst) {
            std::thread::yield_now();
        }
    });
    let mut batch = Some(world.cpu(1).run(|| space.collect(pages(0, 1), DEVICE)).unwrap());
    let rounds = std::thread::scope(|scope| {
        let access = scope.spawn(|| world.cpu(0).store(at(0, 8), &[7; 8]).unwrap());
        let rounds = (0..ROUNDS).take_while(|_| {
            let seen = looks.load(Ordering::SeqCst);
            may_look.store(true, Ordering::SeqCst);
            while looks.load(Ordering::SeqCst) == seen && !access.is_finished() {
                std::thread::yield_now();
            }
            world.cpu(1).run(|| {
                drop(batch.take());
                batch = space.collect(pages(0, 1), DEVICE).ok();
            });
            !access.is_finished()
        });
        let rounds = rounds.count();
        may_look.store(true, Ordering::SeqCst);
        world.cpu(1).run(|| drop(batch.take()));
        rounds
    });
    assert!(rounds < ROUNDS, "the fault was kept for {ROUNDS} rounds");
    world.sim().unwatch();
    world.assert_all_free();
}

/// However the threads run: each fault but the first of an access has cost the others their whole patience.
#[test]
fn faults_of_one_cpu_are_bounded_while_two_others_want_its_page() {
    const ACCESSES: u64 = 300;
    let world = small().cpus(3).build();
    let space = on_its_device(&world);
    let (over, refused) = (AtomicBool::new(false), AtomicU64::new(0));
    let before = world.manager().statistics().read().special_faults;
    std::thread::scope(|scope| {
        for cpu in [1, 2] {
            let (world, over, refused) = (&world, &over, &refused);
            scope.spawn(move || {
                world.cpu(cpu).run(|| {
                    while !over.load(Ordering::SeqCst) {
                        let report = space.migrate_to_device(pages(0, 1), DEVICE).unwrap();
                        refused.fetch_add(report.stayed.count(Reason::JustCameHome), Ordering::SeqCst);
                        std::thread::yield_now();
                    }
                });
            });
        }
        for round in 0..ACCESSES {
            while !matches!(space.entry(at(0, 0)).decode(), Entry::Device { .. }) {
                std::thread::yield_now();
            }
            world.cpu(0).store(at(0, 8), &round.to_le_bytes()).unwrap();
        }
        over.store(true, Ordering::SeqCst);
    });
    let faults = world.manager().statistics().read().special_faults - before;
    let bound = ACCESSES + refused.load(Ordering::SeqCst) / u64::from(MOST_REFUSALS);
    assert!((ACCESSES..=bound).contains(&faults), "{faults} faults for {ACCESSES} accesses, at most {bound}");
    assert_eq!(world.cpu(0).read(at(0, 8)).unwrap(), (ACCESSES - 1).to_le_bytes());
    audit(&world).unwrap();
    world.assert_all_free();
}
