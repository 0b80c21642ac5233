//! Pinned pages stay in their frame.
use ferry_mm::frame::AnyFrame;
use ferry_mm::inject::Step;
use ferry_mm::space::{Access, FaultError, Protection, Term};
use ferry_mm::stats::Reason;
use ferry_sim::{Expected, audit, audit_with};

use crate::support::*;

#[test]
fn a_pinned_page_stays_exactly_as_it_is_and_the_rest_moves() {
    let world = small().build();
    let space = space_of(&world, 6);
    fill(world.cpu(0), 4);
    // The zero page, whose frame has many users, and nothing at all.
    assert_eq!(world.cpu(0).read(at(4, 0)).unwrap(), [0; 8]);
    let pin = space.pin(at(2, 0), Access::Write, Term::Long).unwrap();
    let before = space.entry(at(2, 0));
    let report = space.migrate_to_device(pages(0, 6), DEVICE).unwrap();
    assert_eq!((report.moved, report.stayed.count(Reason::Pinned)), (5, 1));
    assert_eq!(space.entry(at(2, 0)), before, "bit for bit");
    audit_with(&world, &Expected { pins: vec![pin.frame()], ..Expected::default() }).unwrap();
    world.sim().poke(pin.frame(), 0, 0x55);
    assert_eq!(world.cpu(1).read(at(2, 0)).unwrap(), 0x55_u64.to_le_bytes(), "a device's write to the pinned frame");
    drop(pin);
    audit(&world).unwrap();
    assert_eq!(space.migrate_to_device(pages(2, 1), DEVICE).unwrap().moved, 1, "free to go");
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_page_pinned_several_times_stays_until_the_last_pin_is_dropped() {
    let world = small().build();
    let space = space_of(&world, 1);
    fill(world.cpu(0), 1);
    let mut pins: Vec<_> = (0..3).map(|_| space.pin(at(0, 0), Access::Read, Term::Long).unwrap()).collect();
    while !pins.is_empty() {
        let frames = pins.iter().map(|pin| pin.frame()).collect();
        let report = space.migrate_to_device(pages(0, 1), DEVICE).unwrap();
        assert_eq!(report.stayed.count(Reason::Pinned), 1);
        audit_with(&world, &Expected { pins: frames, ..Expected::default() }).unwrap();
        pins.pop();
    }
    assert_eq!(space.migrate_to_device(pages(0, 1), DEVICE).unwrap().moved, 1);
    let home = space.pin(at(0, 0), Access::Write, Term::Long).unwrap();
    assert_eq!(AnyFrame::System(present(space, 0).0), home.frame(), "a pin brings the page home first");
    assert_eq!(host(&world, home.frame()), contents(0));
    drop(home);
    world.assert_all_free();
}

#[test]
fn a_pin_that_is_forbidden_copies_nothing() {
    let world = small().build();
    let space = space_of(&world, 1);
    fill(world.cpu(0), 1);
    let child = space.fork().unwrap();
    space.protect(pages(0, 1), Protection::READ).unwrap();
    let shared = space.entry(at(0, 0));
    world.manager().injector().arm(Step::Alloc, 1);
    let refused = space.pin(at(0, 0), Access::Write, Term::Long).map(drop);
    assert_eq!(refused, Err(FaultError::Forbidden(at(0, 0), Access::Write, Protection::READ)));
    assert!(world.manager().injector().is_armed(Step::Alloc), "no frame was asked for");
    assert_eq!((space.entry(at(0, 0)), child.entry(at(0, 0))), (shared, shared));
    world.manager().injector().arm(Step::Alloc, 0);
    world.assert_all_free();
}

#[test]
fn a_pinned_frame_outlives_its_mapping() {
    let world = small().build();
    let space = space_of(&world, 2);
    fill(world.cpu(0), 2);
    let pin = space.pin(at(0, 0), Access::Read, Term::Long).unwrap();
    let free = world.manager().census().free_frames;
    space.unmap(pages(0, 1)).unwrap();
    assert_eq!(world.manager().census().free_frames, free);
    audit_with(&world, &Expected { pins: vec![pin.frame()], ..Expected::default() }).unwrap();
    space.map_anonymous(pages(0, 1), Protection::READ_WRITE).unwrap();
    world.cpu(0).store(at(0, 0), &contents(9)).unwrap();
    assert_ne!(AnyFrame::System(present(space, 0).0), pin.frame());
    assert_eq!(host(&world, pin.frame()), contents(0));
    drop(pin);
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_pin_for_stores_gets_a_frame_of_its_own() {
    let world = small().build();
    let space = space_of(&world, 1);
    world.cpu(0).read::<1>(at(0, 0)).unwrap();
    let pin = space.pin(at(0, 0), Access::Write, Term::Long).unwrap();
    assert_ne!(pin.frame(), world.manager().zero_frame().into());
    assert_eq!(AnyFrame::System(present(space, 0).0), pin.frame());
    drop(pin);
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_pin_asks_for_what_the_area_allows() {
    let world = small().build();
    let space = space_of(&world, 1);
    space.map_anonymous(pages(4, 1), Protection::READ).unwrap();
    let refused = FaultError::Forbidden(at(4, 0), Access::Write, Protection::READ);
    assert_eq!(space.pin(at(4, 0), Access::Write, Term::Long).err(), Some(refused));
    assert_eq!(space.pin(at(9, 0), Access::Read, Term::Long).err(), Some(FaultError::NoArea(at(9, 0))));
    audit(&world).unwrap();
    world.assert_all_free();
}
