//! There and back: every byte, every count, whatever is done to the range meanwhile.
use ferry_mm::page_table::entry::{Entry, LeafFlags, RawEntry};
use ferry_mm::space::{Access, Leave, Protection, Residency, Term};
use ferry_mm::stats::Reason;
use ferry_mm::swap::SwapOutError;
use ferry_sim::{Transfer, audit};

use super::{on_disk, slot, swap_out, swapping};
use crate::support::*;

#[test]
fn a_swapped_page_stands_on_the_disk_and_comes_back_by_fault() {
    let world = swapping().build();
    let space = space_of(&world, 6);
    fill(world.cpu(0), 6);
    let free = world.manager().census().free_frames;
    swap_out(space, 0, 6);
    assert_eq!(world.manager().census().free_frames, free + 6);
    assert_eq!(space.resident(), Residency { swap: 6, ..Residency::default() });
    for number in 0..6 {
        assert_eq!(on_disk(&world, space, number), contents(number).to_vec());
    }
    audit(&world).unwrap();
    for number in 0..6 {
        assert_eq!(page(world.cpu(1), number), contents(number));
        audit(&world).unwrap();
    }
    let counts = world.manager().statistics().read();
    assert_eq!((counts.swapped_out, counts.swapped_in), (6, 6));
    assert_eq!((world.disk().asked(Transfer::Write), world.disk().asked(Transfer::Read)), (6, 6));
    world.assert_all_free();
}

#[test]
fn one_flush_takes_a_whole_range() {
    let world = swapping().build();
    let space = space_of(&world, 8);
    fill(world.cpu(0), 8);
    world.sim().take_flushes();
    swap_out(space, 0, 8);
    assert_eq!(world.sim().take_flushes().len(), 1);
    world.assert_all_free();
}

#[test]
fn a_store_to_a_swapped_page_keeps_the_rest_of_it() {
    let world = swapping().build();
    let space = space_of(&world, 1);
    fill(world.cpu(0), 1);
    swap_out(space, 0, 1);
    world.cpu(1).store(at(0, 100), &[0xee; 9]).unwrap();
    let mut expected = contents(0).to_vec();
    expected[100..109].fill(0xee);
    assert_eq!(page(world.cpu(1), 0).to_vec(), expected);
    assert!(present(space, 0).1.contains(LeafFlags::WRITABLE), "nobody else has the page: one fault is enough");
    assert_eq!(world.manager().census().free_slots, world.disk().slots(), "the slot is of no use any more");
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_page_that_was_only_read_leaves_again_without_a_write() {
    let world = swapping().build();
    let space = space_of(&world, 2);
    fill(world.cpu(0), 2);
    swap_out(space, 0, 2);
    for number in 0..2 {
        assert_eq!(page(world.cpu(1), number), contents(number));
        assert!(!present(space, number).1.contains(LeafFlags::WRITABLE));
    }
    swap_out(space, 0, 2);
    assert_eq!(world.disk().asked(Transfer::Write), 2);
    assert_eq!(world.manager().statistics().read().swapped_out_clean, 2);
    audit(&world).unwrap();
    for number in 0..2 {
        assert_eq!(page(world.cpu(0), number), contents(number));
    }
    world.assert_all_free();
}

/// fd35ca3d12cc: a lost dirty bit is lost data. Here the swap cache takes its place, and a migration takes the page out of it.
#[test]
fn a_store_between_two_ways_out_is_written_whatever_came_in_between() {
    for (store_first, through_device) in [(true, false), (true, true), (false, true)] {
        let world = swapping().build();
        let space = space_of(&world, 1);
        fill(world.cpu(0), 1);
        swap_out(space, 0, 1);
        assert_eq!(page(world.cpu(0), 0), contents(0));
        let store = || world.cpu(1).store(at(0, 0), &contents(7)).unwrap();
        if store_first {
            store();
        }
        if through_device {
            drop(space.collect(pages(0, 1), DEVICE).unwrap());
            assert_eq!(space.migrate_to_device(pages(0, 1), DEVICE).unwrap().moved, 1);
            assert_eq!(space.migrate_to_system(pages(0, 1)).unwrap().moved, 1);
        }
        if !store_first {
            store();
        }
        swap_out(space, 0, 1);
        assert_eq!(on_disk(&world, space, 0), contents(7).to_vec());
        assert_eq!(page(world.cpu(0), 0), contents(7));
        audit(&world).unwrap();
        world.assert_all_free();
    }
}

/// A batch that is given back leaves the entry as it was, clean, but the page is in no slot any more.
#[test]
fn a_migration_that_gives_a_clean_page_back_does_not_make_it_disappear() {
    let world = swapping().build();
    let space = space_of(&world, 1);
    fill(world.cpu(0), 1);
    swap_out(space, 0, 1);
    assert_eq!(page(world.cpu(0), 0), contents(0));
    let before = space.entry(at(0, 0));
    drop(space.collect(pages(0, 1), DEVICE).unwrap().unmap().unwrap().copy());
    assert_eq!(space.entry(at(0, 0)), before);
    assert_eq!(world.manager().census().free_slots, world.disk().slots());
    swap_out(space, 0, 1);
    assert_eq!(world.disk().asked(Transfer::Write), 2, "no slot had it");
    assert_eq!(page(world.cpu(1), 0), contents(0));
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn what_is_not_in_a_frame_of_its_own_stays() {
    let world = swapping().build();
    let space = space_of(&world, 4);
    world.cpu(0).store(at(0, 0), &contents(0)).unwrap();
    assert_eq!(space.migrate_to_device(pages(0, 1), DEVICE).unwrap().moved, 1);
    world.cpu(0).read::<8>(at(1, 0)).unwrap();
    world.cpu(0).store(at(3, 0), &contents(3)).unwrap();
    let pin = space.pin(at(3, 0), Access::Write, Term::Long).unwrap();
    let entries = || (0..4).map(|number| space.entry(at(number, 0))).collect::<Vec<_>>();
    let before = entries();
    let out = space.swap_out(pages(0, 4)).unwrap();
    assert_eq!((out.freed, out.stayed.count(Reason::Pinned), out.stayed.total()), (0, 1, 1), "{out:?}");
    assert_eq!(entries(), before);
    drop(pin);
    swap_out(space, 3, 1);
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_page_that_is_pinned_after_it_came_back_is_out_of_the_swap_cache() {
    let world = swapping().build();
    let space = space_of(&world, 1);
    fill(world.cpu(0), 1);
    swap_out(space, 0, 1);
    let pin = space.pin(at(0, 0), Access::Read, Term::Long).unwrap();
    assert_eq!(host(&world, pin.frame()), contents(0));
    let expected = ferry_sim::Expected { pins: vec![pin.frame()], ..ferry_sim::Expected::default() };
    ferry_sim::audit_with(&world, &expected).unwrap();
    // A device that reads the frame sees later stores, too.
    world.cpu(1).store(at(0, 8), &[1; 8]).unwrap();
    world.sim().fence(world.cpu(1).id());
    assert_eq!(host(&world, pin.frame())[8..16], [1; 8]);
    drop(pin);
    world.assert_all_free();
}

#[test]
fn without_a_disk_nothing_is_swapped_out() {
    let world = small().build();
    let space = space_of(&world, 1);
    fill(world.cpu(0), 1);
    assert_eq!(space.swap_out(pages(0, 1)), Err(SwapOutError::NoDisk));
    present(space, 0);
    world.assert_all_free();
}

#[test]
fn protection_is_that_of_the_area_when_the_page_comes_back() {
    let world = swapping().build();
    let space = space_of(&world, 3);
    fill(world.cpu(0), 3);
    // One page leaves while nobody may touch it.
    space.protect(pages(2, 1), Protection::empty()).unwrap();
    swap_out(space, 0, 3);
    space.protect(pages(0, 3), Protection::READ).unwrap();
    audit(&world).unwrap();
    for number in 0..3 {
        assert_eq!(page(world.cpu(1), number), contents(number));
        assert!(!present(space, number).1.contains(LeafFlags::WRITABLE));
        assert!(world.cpu(0).store(at(number, 0), &[1]).is_err());
    }
    space.protect(pages(0, 3), Protection::empty()).unwrap();
    assert!(world.cpu(0).read::<1>(at(0, 0)).is_err());
    swap_out(space, 0, 3);
    assert!(world.cpu(0).read::<1>(at(0, 0)).is_err());
    space.protect(pages(0, 3), Protection::READ_WRITE).unwrap();
    world.cpu(0).store(at(0, 0), &contents(9)).unwrap();
    assert_eq!(page(world.cpu(0), 0), contents(9));
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn unmap_discard_and_exit_free_slots_and_what_the_swap_cache_holds() {
    let world = swapping().build();
    let space = space_of(&world, 8);
    fill(world.cpu(0), 8);
    swap_out(space, 0, 8);
    // Every second page is in the swap cache, too.
    for number in [1, 3, 5, 7] {
        assert_eq!(page(world.cpu(0), number), contents(number));
    }
    space.unmap(pages(0, 2)).unwrap();
    audit(&world).unwrap();
    space.discard(pages(2, 2)).unwrap();
    audit(&world).unwrap();
    assert_eq!(world.manager().census().free_slots, world.disk().slots() - 4);
    assert_eq!(page(world.cpu(1), 2), zeros());
    assert_eq!(page(world.cpu(1), 3), zeros());
    assert_eq!(space.entry(at(0, 0)), RawEntry::EMPTY);
    for cpu in [0, 1] {
        world.cpu(cpu).leave();
    }
    space.destroy().unwrap();
    assert_eq!(world.manager().census().free_slots, world.disk().slots());
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn swapped_pages_move_with_their_area() {
    for leave in [Leave::Nothing, Leave::Empty] {
        let world = swapping().build();
        let space = space_of(&world, 4);
        fill(world.cpu(0), 4);
        swap_out(space, 0, 3);
        assert_eq!(page(world.cpu(0), 1), contents(1));
        space.relocate(pages(0, 4), at(100, 0), leave).unwrap();
        audit(&world).unwrap();
        for number in 0..4 {
            assert_eq!(page(world.cpu(1), 100 + number), contents(number));
        }
        // Found there by their origin, too.
        swap_out(space, 100, 4);
        for number in 0..4 {
            assert_eq!(on_disk(&world, space, 100 + number), contents(number).to_vec());
        }
        audit(&world).unwrap();
        world.assert_all_free();
    }
}

/// 242c6e42b678: a stale mapping word after the swap cache was left.
#[test]
fn a_frame_from_the_swap_cache_tells_the_next_owner_nothing() {
    let world = swapping().build();
    let space = space_of(&world, 8);
    fill(world.cpu(0), 4);
    swap_out(space, 0, 4);
    for number in 0..4 {
        assert_eq!(page(world.cpu(0), number), contents(number));
    }
    let frames: Vec<_> = (0..4).map(|number| present(space, number).0).collect();
    space.unmap(pages(0, 4)).unwrap();
    // The same frames, for pages of other origins.
    for number in 4..8 {
        world.cpu(0).store(at(number, 0), &contents(number)).unwrap();
        let frame = present(space, number).0;
        assert!(frames.contains(&frame));
        assert_eq!(world.manager().memory().descriptor(frame).swap_slot(), None);
    }
    audit(&world).unwrap();
    let child = space.fork().unwrap();
    assert_eq!(space.migrate_to_device(pages(4, 4), DEVICE).unwrap().moved, 4);
    for number in 4..8 {
        assert!(matches!(child.entry(at(number, 0)).decode(), Entry::Device { .. }), "found by the new origin");
    }
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_freed_slot_is_used_again_for_another_page() {
    let world = swapping().swap(1).build();
    let space = space_of(&world, 3);
    fill(world.cpu(0), 3);
    for number in 0..3 {
        let out = space.swap_out(pages(0, 3)).unwrap();
        assert_eq!((out.freed, out.stayed.count(Reason::SwapFull)), (1, 2 - number));
        assert_eq!(slot(space, number).number(), 0);
        audit(&world).unwrap();
        space.unmap(pages(number, 1)).unwrap();
    }
    world.assert_all_free();
}
