//! The rules of locks, each broken: the assertion says which.
use std::panic::{AssertUnwindSafe, catch_unwind};

use ferry_mm::lock::level::Waits;
use ferry_mm::lock::{Broken, Level, Levels, Lock, Once, Rules, SharedLock, Taken};
use ferry_mm::lock::{assert_may_take_frames, assert_may_wait};
use ferry_mm::machine::{Code, Context};
use ferry_sim::{Sim, World};

use crate::support::*;

/// What `act` says when it panics, on CPU 0 of a machine of its own; empty where it does not.
fn dies(act: impl FnOnce(&World)) -> String {
    let world = small().build();
    let died = catch_unwind(AssertUnwindSafe(|| world.cpu(0).run(|| act(&world))));
    died.err().map(|words| words.downcast_ref::<String>().expect("a formatted text").clone()).unwrap_or_default()
}

fn lock(level: Level) -> Lock<()> {
    Lock::new(level, ())
}

/// Takes the locks of these levels, each inside the one before, as they may be taken.
fn hold(sim: &Sim, levels: &[Level], innermost: impl FnOnce()) {
    match levels {
        [] => innermost(),
        [Level::Page | Level::StrictReader, rest @ ..] => hold(sim, rest, innermost),
        [first, rest @ ..] => {
            let lock = lock(*first);
            let _held = lock.lock(sim);
            hold(sim, rest, innermost);
        }
    }
}

#[test]
fn every_order_that_the_rules_allow_passes_and_every_other_one_dies() {
    let waited_for = |level: &Level| level.rules().taken.contains(&Taken::Exclusive);
    for outer in Level::ALL.into_iter().filter(waited_for) {
        for inner in Level::ALL.into_iter().filter(waited_for) {
            let words = dies(|world| hold(world.sim(), &[outer, inner], || ()));
            if outer.rules().inside.contains(inner) {
                assert_eq!(words, "");
            } else {
                assert!(words.contains(&format!("{inner:?} is wanted while {outer:?} is held")), "{words}");
            }
        }
    }
}

#[test]
fn an_inner_lock_may_be_inside_all_that_are_held_and_not_only_the_last() {
    let words = dies(|world| hold(world.sim(), &[Level::Areas, Level::PageTable, Level::Frames], || ()));
    assert_eq!(words, "");
    // The driver may tell events and the areas may be held before it, but no page table.
    let words = dies(|world| {
        let (table, trace, frames) = (lock(Level::PageTable), lock(Level::Trace), lock(Level::Frames));
        let (_table, _trace) = (table.lock(world.sim()), trace.lock(world.sim()));
        let _frames = frames.lock(world.sim());
    });
    assert!(words.contains("Frames is wanted while Trace is held"), "{words}");
}

#[test]
fn shared_areas_nest_and_exclusive_ones_do_not() {
    let areas = || SharedLock::new(Level::Areas, ());
    let (one, other) = (areas(), areas());
    type Attempt<'a> = &'a dyn Fn(&Sim);
    let attempts: [(&str, Attempt<'_>); 4] = [
        ("", &|sim| drop((one.read(sim), one.read(sim), other.read(sim)))),
        ("", &|sim| drop((one.write(sim), other.write_beside(sim), other.try_read(sim)))),
        ("Areas is wanted while Areas is held", &|sim| drop((one.read(sim), other.write(sim)))),
        ("Areas is wanted while Areas is held", &|sim| drop((one.write(sim), other.read(sim)))),
    ];
    for (expected, attempt) in attempts {
        let words = dies(|world| attempt(world.sim()));
        assert!(words.contains(expected) && words.is_empty() == expected.is_empty(), "{words}");
    }
}

#[test]
fn a_lock_that_is_only_tried_is_not_waited_for() {
    let words = dies(|world| drop(lock(Level::StrictReader).lock(world.sim())));
    assert!(words.contains("StrictReader is waited for (Exclusive)"), "{words}");
    let words = dies(|world| assert!(lock(Level::StrictReader).try_lock(world.sim()).is_some()));
    assert_eq!(words, "");
}

#[test]
fn code_that_interrupts_others_takes_fewer_locks() {
    for level in Level::ALL.into_iter().filter(|level| level.rules().taken.contains(&Taken::Exclusive)) {
        for code in [Code::Ordinary, Code::Fault, Code::Interrupt] {
            let words = dies(|world| {
                world.sim().set_context(world.cpu(0).id(), Context { code, interrupts_on: code == Code::Ordinary });
                drop(lock(level).lock(world.sim()));
            });
            assert_eq!(words.is_empty(), code <= level.rules().innermost, "{level:?} in {code:?}: {words}");
        }
    }
    let fault = |world: &World| {
        world.sim().set_context(world.cpu(0).id(), Context { code: Code::Fault, interrupts_on: false });
        drop(lock(Level::Heap).lock(world.sim()));
    };
    assert!(dies(fault).contains("Heap is wanted in a page fault"), "{}", dies(fault));
}

/// No lock of today is taken by interrupt handlers, so the rules are made here.
#[test]
fn what_interrupt_handlers_take_is_taken_elsewhere_only_with_interrupts_off() {
    let world = small().build();
    let held = world.sim().held_by(world.cpu(0).id());
    let rules = Rules {
        protects: "",
        taken: &[Taken::Exclusive],
        inside: Levels::NONE,
        frames: false,
        waits: Waits::Never,
        innermost: Code::Interrupt,
    };
    for code in [Code::Ordinary, Code::Fault, Code::Interrupt] {
        let may =
            |interrupts_on| held.may_take(Level::Timer, &rules, Taken::Exclusive, Context { code, interrupts_on });
        assert_eq!(may(false), Ok(()));
        assert_eq!(may(true), Err(Broken::Interrupts(Level::Timer)));
    }
    assert!(Broken::Interrupts(Level::Timer).to_string().contains("Timer is wanted with interrupts on"));
}

#[test]
fn frames_and_waits_have_rules_of_their_own() {
    for level in Level::ALL.into_iter().filter(|level| level.rules().taken.contains(&Taken::Exclusive)) {
        let words = dies(|world| hold(world.sim(), &[level], || assert_may_take_frames(world.sim())));
        let forbidden = format!("a frame is wanted while {level:?} is held");
        assert_eq!(words.contains(&forbidden), !level.rules().frames, "{words}");
        let words = dies(|world| hold(world.sim(), &[level], || assert_may_wait(world.sim())));
        let forbidden = format!("a disk or a device is waited for while {level:?} is held");
        assert_eq!(words.contains(&forbidden), level.rules().waits != Waits::Always, "{words}");
    }
    let shared = SharedLock::new(Level::Areas, ());
    assert_eq!(
        dies(|world| {
            let _areas = shared.read(world.sim());
            assert_may_wait(world.sim())
        }),
        ""
    );
}

#[test]
fn a_lock_left_behind_is_counted() {
    let world = small().build();
    let held = world.sim().held_by(world.cpu(0).id());
    world.cpu(0).run(|| {
        let lock = lock(Level::Frames);
        let guard = lock.lock(world.sim());
        assert_eq!(held.count(), 1);
        drop(guard);
        assert_eq!(held.count(), 0);
    });
}

#[test]
fn a_value_is_set_once_and_made_once() {
    let world = small().build();
    world.cpu(0).run(|| {
        let once = Once::new(Level::Stored);
        assert_eq!((once.get(), once.set(world.sim(), 1), once.set(world.sim(), 2)), (None, Ok(()), Err(2)));
        assert_eq!((once.get(), *once.get_or_init(world.sim(), || 3)), (Some(&1), 1));
        let made = Once::new(Level::Setup);
        // What is made may need locks.
        let make = || drop(lock(Level::Frames).lock(world.sim()));
        made.get_or_init(world.sim(), make);
        assert!(made.get().is_some());
    });
}
