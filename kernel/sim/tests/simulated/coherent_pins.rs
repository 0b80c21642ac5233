//! Pins of pages in the memory of a coherent device: in place for short, at home for long (the expectations of the peer
//! test `hmm_gup_test`).
use ferry_mm::frame::AnyFrame;
use ferry_mm::inject::Step;
use ferry_mm::space::{Access, FaultError, ForkError, Space, Term};
use ferry_mm::stats::Reason;
use ferry_sim::{Expected, Sim, World, audit, audit_with};

use crate::support::*;

fn moved(world: &World, count: u64) -> Space<'_, Sim> {
    let space = space_of(world, count);
    fill(world.cpu(0), count);
    assert_eq!(space.migrate_to_device(pages(0, count), COHERENT).unwrap().moved, count);
    space
}

fn pinned(pin: &ferry_mm::space::Pin<'_, Sim>) -> Expected {
    Expected { pins: vec![pin.frame()], ..Expected::default() }
}

#[test]
fn a_short_pin_takes_the_page_where_it_is_and_a_long_one_brings_it_home() {
    let world = with_coherent().build();
    let space = moved(&world, 4);
    let frames = [0, 1].map(|number| in_coherent_memory(&world, space, number).0);
    let pins = [
        space.pin(at(0, 0), Access::Write, Term::Short).unwrap(),
        space.pin(at(1, 0), Access::Read, Term::Short).unwrap(),
        space.pin(at(2, 0), Access::Write, Term::Long).unwrap(),
        space.pin(at(3, 0), Access::Read, Term::Long).unwrap(),
    ];
    let taken = pins.each_ref().map(|pin| pin.frame());
    audit_with(&world, &Expected { pins: taken.to_vec(), ..Expected::default() }).unwrap();
    assert_eq!([taken[0], taken[1]], frames.map(AnyFrame::Device));
    for number in [2, 3] {
        assert!(in_ram(&world, space, number));
        assert_eq!(taken[number as usize], AnyFrame::System(present(space, number).0));
    }
    for number in 0..4 {
        assert_eq!(page(world.cpu(1), number), contents(number));
    }
    let counts = world.manager().statistics().read();
    assert_eq!((counts.returned_by_pin, counts.returned_by_fault), (2, 0));
    drop(pins);
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_page_pinned_in_coherent_memory_stays_there_with_its_reason() {
    let world = with_coherent().build();
    let space = moved(&world, 3);
    let pin = space.pin(at(1, 0), Access::Write, Term::Short).unwrap();
    let before = space.entry(at(1, 0));
    let report = space.migrate_to_system(pages(0, 3)).unwrap();
    assert_eq!((report.moved, report.stayed.count(Reason::Pinned)), (2, 1));
    assert_eq!(space.entry(at(1, 0)), before, "bit for bit");
    let evicted = world.manager().evict_device(COHERENT).unwrap();
    assert_eq!((evicted.returned, evicted.pinned, evicted.busy), (0, 1, 0));
    assert_eq!(space.entry(at(1, 0)), before, "bit for bit");
    audit_with(&world, &pinned(&pin)).unwrap();
    let long = space.pin(at(1, 0), Access::Read, Term::Long).err();
    assert_eq!(long, Some(FaultError::PinnedOnDevice(at(1, 0))), "a long pin cannot bring it home");
    world.sim().poke(pin.frame(), 0, 0x55);
    assert_eq!(world.cpu(1).read(at(1, 0)).unwrap(), 0x55_u64.to_le_bytes(), "what the pin's owner wrote");
    drop(pin);
    assert_eq!(world.manager().evict_device(COHERENT).unwrap().returned, 1, "free to go");
    assert!(in_ram(&world, space, 1));
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_frame_pinned_in_coherent_memory_outlives_its_mapping() {
    let world = with_coherent().build();
    let space = moved(&world, 1);
    let pin = space.pin(at(0, 0), Access::Read, Term::Short).unwrap();
    space.unmap(pages(0, 1)).unwrap();
    audit_with(&world, &pinned(&pin)).unwrap();
    assert_eq!(host(&world, pin.frame()), contents(0));
    let evicted = world.manager().evict_device(COHERENT).unwrap();
    assert_eq!((evicted.returned, evicted.pinned), (0, 1));
    let frame = pin.frame();
    drop(pin);
    assert_eq!(host(&world, frame), zeros());
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_pin_of_a_shared_page_gets_a_copy_in_ram() {
    let world = with_coherent().build();
    let parent = moved(&world, 1);
    let child = parent.fork().unwrap();
    let pin = child.pin(at(0, 0), Access::Read, Term::Short).unwrap();
    assert_eq!(pin.frame(), AnyFrame::System(present(child, 0).0));
    assert_eq!(host(&world, pin.frame()), contents(0));
    in_coherent_memory(&world, parent, 0);
    audit_with(&world, &pinned(&pin)).unwrap();
    drop(pin);
    world.assert_all_free();
}

/// The pin stays with what its owner sees: the child of a fork gets a copy, in RAM.
#[test]
fn a_fork_copies_a_page_that_is_pinned_in_coherent_memory() {
    let world = with_coherent().build();
    let parent = moved(&world, 2);
    let pin = parent.pin(at(0, 0), Access::Write, Term::Short).unwrap();
    let child = parent.fork().unwrap();
    assert!(in_ram(&world, child, 0));
    assert_eq!(host(&world, present(child, 0).0), contents(0));
    assert_eq!(AnyFrame::Device(in_coherent_memory(&world, parent, 0).0), pin.frame());
    assert_eq!(in_coherent_memory(&world, child, 1), in_coherent_memory(&world, parent, 1), "shared");
    audit_with(&world, &pinned(&pin)).unwrap();
    assert_eq!(world.manager().statistics().read().returned_by_fork, 1);
    child.destroy().unwrap();
    // Where the copy does not arrive there is no child.
    world.manager().injector().arm(Step::Copy, 1);
    assert_eq!(parent.fork().err(), Some(ForkError::CopyFailed(at(0, 0))));
    assert_eq!(page(world.cpu(0), 0), contents(0));
    audit_with(&world, &pinned(&pin)).unwrap();
    drop(pin);
    world.assert_all_free();
}

/// A pin brings a private page home as a fault does, but is counted as a pin.
#[test]
fn a_pin_of_a_private_page_is_counted_as_one() {
    let world = small().build();
    let space = space_of(&world, 1);
    fill(world.cpu(0), 1);
    assert_eq!(space.migrate_to_device(pages(0, 1), DEVICE).unwrap().moved, 1);
    drop(space.pin(at(0, 0), Access::Read, Term::Short).unwrap());
    let counts = world.manager().statistics().read();
    assert_eq!((counts.returned_by_pin, counts.returned_by_fault), (1, 0));
    world.assert_all_free();
}
