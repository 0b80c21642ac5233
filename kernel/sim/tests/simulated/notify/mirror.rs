//! What a device is told about pages of every kind, against a table of what it must be told.
use ferry_mm::frame::DeviceId;
use ferry_mm::inject::Step;
use ferry_mm::mirror::{MirrorEntry, MirrorError, MirrorRequest, Place, Want};
use ferry_mm::notify::ListenerId;
use ferry_mm::page_table::entry::{Entry, LeafFlags};
use ferry_mm::space::{ExclusiveError, Protection, Space};
use ferry_sim::{AccessError, Sim, World, audit};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use super::watching::*;
use crate::support::*;

const OTHER: DeviceId = DeviceId::new(1).unwrap();

/// What a page is reported as, without its frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Is {
    Nothing,
    Unusable,
    Ram { writable: bool },
    Zero,
    Own { writable: bool },
    Fault,
    NotPermitted,
}

/// The pages, one of each kind, each with what `Look`, `Read` and `Write` must find.
const KINDS: [(&str, [Is; 3]); 10] = [
    ("empty", [Is::Nothing, Is::Zero, Is::Ram { writable: true }]),
    ("zero page", [Is::Zero, Is::Zero, Is::Ram { writable: true }]),
    ("written", [Is::Ram { writable: true }; 3]),
    ("shared", [Is::Ram { writable: false }, Is::Ram { writable: false }, Is::Ram { writable: true }]),
    ("own device", [Is::Own { writable: true }; 3]),
    ("own device, shared", [Is::Own { writable: false }, Is::Own { writable: false }, Is::Ram { writable: true }]),
    ("other device", [Is::Nothing, Is::Ram { writable: true }, Is::Ram { writable: true }]),
    ("read-only area", [Is::Ram { writable: false }, Is::Ram { writable: false }, Is::NotPermitted]),
    ("no access", [Is::Unusable, Is::Fault, Is::Fault]),
    ("poisoned", [Is::Unusable, Is::Fault, Is::Fault]),
];

/// The place after the last page is a hole; the page of exclusive use is checked by itself.
const HOLE: u64 = KINDS.len() as u64;

fn world_of_kinds() -> (&'static World, Space<'static, Sim>, ListenerId) {
    let world = forever(World::builder().frames(160).device(16).device(16).cpus(2));
    let space = space_of(world, HOLE);
    let cpu = world.cpu(0);
    let store = |number| cpu.store(at(number, 0), &contents(number)).unwrap();
    (2..HOLE).for_each(store);
    cpu.read::<1>(at(1, 0)).unwrap();
    let go = |number, device| assert_eq!(space.migrate_to_device(pages(number, 1), device).unwrap().moved, 1);
    go(9, OTHER);
    world.manager().injector().arm(Step::Copy, 1);
    assert!(matches!(cpu.read::<1>(at(9, 0)), Err(AccessError::Refused(_))), "lost on the way home");
    go(5, DEVICE);
    let child = space.fork().unwrap();
    world.cpu(1).enter(child);
    // All but pages 3 and 5 are the parent's alone again.
    for number in [2, 4, 6, 7, 8] {
        cpu.store(at(number, 0), &contents(number)).unwrap();
    }
    go(4, DEVICE);
    go(6, OTHER);
    space.protect(pages(7, 1), Protection::READ).unwrap();
    space.protect(pages(8, 1), Protection::empty()).unwrap();
    let (_, id) = Witness::for_device(world, space, 0, HOLE + 1, Some(DEVICE));
    (world, space, id)
}

/// Asks for one page until nothing changes under the question.
fn ask(
    world: &World,
    space: Space<'_, Sim>,
    listener: ListenerId,
    number: u64,
    want: Want,
) -> Result<MirrorEntry, MirrorError> {
    let mut entries = [MirrorEntry::None];
    for _ in 0..3 {
        let since = world.manager().sequence(listener).unwrap();
        let request = MirrorRequest { listener, since, want };
        match space.range_fault(pages(number, 1), &request, &mut entries) {
            Err(MirrorError::Again) => {}
            result => return result.map(|_| entries[0]),
        }
    }
    panic!("page {number} is never found in place");
}

fn kind_of(result: Result<MirrorEntry, MirrorError>, number: u64) -> Is {
    match result {
        Ok(MirrorEntry::None) => Is::Nothing,
        Ok(MirrorEntry::Error) => Is::Unusable,
        Ok(MirrorEntry::Ram { zero: true, writable: false, .. }) => Is::Zero,
        Ok(MirrorEntry::Ram { writable, zero: false, .. }) => Is::Ram { writable },
        Ok(MirrorEntry::Device { writable, place: Place::Local, .. }) => Is::Own { writable },
        Err(MirrorError::Fault(address)) if address == at(number, 0) => Is::Fault,
        Err(MirrorError::NotPermitted(address)) if address == at(number, 0) => Is::NotPermitted,
        other => panic!("page {number}: {other:?}"),
    }
}

#[test]
fn every_kind_of_page_is_reported_and_faulted_in_as_the_table_says() {
    for (want_index, want) in [Want::Look, Want::Read, Want::Write].into_iter().enumerate() {
        let (world, space, id) = world_of_kinds();
        let before: Vec<_> = (0..HOLE).map(|number| space.entry(at(number, 0))).collect();
        for (number, (kind, expected)) in (0..).zip(KINDS) {
            let result = ask(world, space, id, number, want);
            assert_eq!(kind_of(result, number), expected[want_index], "{kind}, {want:?}");
            // The frame, and through it the bytes, are the page's.
            let entry = space.entry(at(number, 0));
            let frame = match result {
                Ok(MirrorEntry::Ram { frame, .. }) => Some(frame.into()),
                Ok(MirrorEntry::Device { frame, .. }) => Some(frame.into()),
                _ => None,
            };
            if let Some(frame) = frame {
                assert_eq!(world.manager().mapped_frame(entry), Some(frame), "{kind}, {want:?}");
                let expected = if number < 2 { zeros() } else { contents(number) };
                assert_eq!(host(world, frame), expected, "{kind}, {want:?}");
            }
            if let (Ok(MirrorEntry::Ram { writable: true, .. }), Entry::Present { flags, .. }) =
                (result, entry.decode())
                && want != Want::Look
            {
                assert!(flags.contains(LeafFlags::WRITABLE | LeafFlags::DIRTY), "{kind}, {want:?}: {flags:?}");
            }
        }
        if want == Want::Look {
            let after: Vec<_> = (0..HOLE).map(|number| space.entry(at(number, 0))).collect();
            assert_eq!(after, before, "a look changes nothing");
        }
        let hole = ask(world, space, id, HOLE, want);
        assert_eq!(kind_of(hole, HOLE), if want == Want::Look { Is::Unusable } else { Is::Fault });
        audit(world).unwrap();
        world.assert_all_free();
    }
}

#[test]
fn a_write_to_a_shared_page_leaves_the_other_space_as_it_was() {
    let (world, space, id) = world_of_kinds();
    for number in [3, 5] {
        let Ok(MirrorEntry::Ram { frame, .. }) = ask(world, space, id, number, Want::Write) else { panic!() };
        world.sim().poke(frame.into(), 0, u64::MAX);
        assert_eq!(page(world.cpu(1), number), contents(number), "the child, page {number}");
        assert_eq!(world.cpu(0).read(at(number, 0)).unwrap(), [0xff; 8]);
    }
    audit(world).unwrap();
    world.assert_all_free();
}

/// A device's stores set no bit: a page that it may write is dirty from then on, and kept.
#[test]
fn a_page_that_a_device_may_write_is_dirty() {
    let world = forever(small().swap(16));
    let space = space_of(world, 4);
    fill(world.cpu(0), 4);
    let (_, id) = Witness::of(world, space, 0, 4);
    space.free_lazily(pages(0, 4)).unwrap();
    let Ok(MirrorEntry::Ram { writable: true, .. }) = ask(world, space, id, 1, Want::Look) else { panic!() };
    let Ok(MirrorEntry::Ram { frame, .. }) = ask(world, space, id, 2, Want::Write) else { panic!() };
    assert_eq!([1, 2].map(|number| present(space, number).1.contains(LeafFlags::DIRTY)), [false, true]);
    world.sim().poke(frame.into(), 0, u64::MAX);
    assert_eq!(space.swap_out(pages(1, 2)).unwrap().freed, 2);
    assert_eq!(page(world.cpu(0), 1), zeros(), "it was only looked at, and need not be kept");
    assert_eq!(world.cpu(0).read(at(2, 0)).unwrap(), [0xff; 8]);
    audit(world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_page_in_exclusive_use_is_nothing_to_a_look_and_taken_back_by_a_fault() {
    let (world, space, id) = world_of_kinds();
    let frame = space.make_exclusive(at(2, 0), id).unwrap().frame;
    assert_eq!(ask(world, space, id, 2, Want::Look), Ok(MirrorEntry::None));
    let writable = MirrorEntry::Ram { frame, writable: true, zero: false };
    assert_eq!(ask(world, space, id, 2, Want::Read), Ok(writable));
    audit(world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_page_on_its_way_is_nothing_to_a_look_and_not_waited_for_by_its_own_cpu() {
    let (world, space, id) = world_of_kinds();
    let since = world.manager().sequence(id).unwrap();
    let collected = space.collect(pages(2, 1), DEVICE).unwrap();
    let ask_now = |want| {
        let mut entries = [MirrorEntry::None];
        space.range_fault(pages(2, 1), &MirrorRequest { listener: id, since, want }, &mut entries)
    };
    assert!(world.manager().sequence(id).is_err(), "until it is known that nobody uses the page, nothing is looked up");
    assert_eq!(ask_now(Want::Look), Err(MirrorError::Again));
    assert_eq!(ask_now(Want::Read), Err(MirrorError::WaitsForItself(at(2, 0))));
    let unmapped = collected.unmap().unwrap();
    assert_eq!(ask(world, space, id, 2, Want::Look), Ok(MirrorEntry::None));
    drop(unmapped);
    audit(world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_range_is_faulted_in_by_one_request_and_its_length_is_checked() {
    let world = forever(small());
    let space = space_of(world, 8);
    let (_, id) = Witness::of(world, space, 0, 8);
    let request = |want| MirrorRequest { listener: id, since: world.manager().sequence(id).unwrap(), want };
    let mut entries = [MirrorEntry::None; 8];
    let faulted = space.range_fault(pages(0, 8), &request(Want::Write), &mut entries).unwrap();
    assert_eq!(faulted.faults, 8);
    for (number, entry) in (0..).zip(entries) {
        assert_eq!(entry, MirrorEntry::Ram { frame: present(space, number).0, writable: true, zero: false });
    }
    assert_eq!(space.range_fault(pages(0, 8), &request(Want::Read), &mut entries).unwrap().faults, 0);
    let wrong = MirrorError::WrongLength { pages: 7, entries: 8 };
    assert_eq!(space.range_fault(pages(0, 7), &request(Want::Read), &mut entries), Err(wrong));
    let beyond = MirrorError::NotWatched(pages(1, 8));
    assert_eq!(space.range_fault(pages(1, 8), &request(Want::Read), &mut entries), Err(beyond));
    let old = request(Want::Read);
    space.discard(pages(7, 1)).unwrap();
    assert_eq!(space.range_fault(pages(0, 8), &old, &mut entries), Err(MirrorError::Again), "the sequence moved");
    audit(world).unwrap();
    world.assert_all_free();
}

#[test]
fn areas_that_are_not_anonymous_are_reported_as_what_they_are() {
    let world = forever(small());
    let space = space_of(world, 1);
    space.map_shared(pages(8, 1), Protection::READ_WRITE).unwrap();
    let registers = PhysFrame::containing_address(PhysAddr::new(0xfee0_0000));
    space.map_device(pages(9, 1), registers, LeafFlags::CACHE_DISABLE, Protection::READ_WRITE).unwrap();
    space.map_guard(pages(10, 1)).unwrap();
    let (_, id) = Witness::for_device(world, space, 0, 16, Some(DEVICE));
    for (index, want) in [Want::Look, Want::Read, Want::Write].into_iter().enumerate() {
        assert_eq!(kind_of(ask(world, space, id, 8, want), 8), Is::Ram { writable: true });
        for number in [9, 10] {
            let expected = [Is::Unusable, Is::Fault, Is::Fault][index];
            assert_eq!(kind_of(ask(world, space, id, number, want), number), expected);
        }
    }
    for number in [8, 9, 10] {
        assert_eq!(space.make_exclusive(at(number, 0), id), Err(ExclusiveError::NotAnonymous(at(number, 0))));
    }
    audit(world).unwrap();
    world.assert_all_free();
}

#[test]
fn without_memory_the_request_says_so_and_can_be_repeated() {
    let world = forever(small());
    let space = space_of(world, 2);
    let (_, id) = Witness::of(world, space, 0, 2);
    world.cpu(0).read::<1>(at(0, 0)).unwrap();
    world.manager().injector().arm(Step::Alloc, 1);
    assert_eq!(ask(world, space, id, 1, Want::Write), Err(MirrorError::NoMemory(at(1, 0))));
    assert_eq!(kind_of(ask(world, space, id, 1, Want::Write), 1), Is::Ram { writable: true });
    audit(world).unwrap();
    world.assert_all_free();
}

#[test]
fn coherent_pages_are_reported_where_they_are() {
    let world = forever(World::builder().frames(128).device(8).coherent_device(8).cpus(2));
    let space = space_of(world, 1);
    fill(world.cpu(0), 1);
    let on_device = ferry_mm::frame::DeviceFrame::new(OTHER, 3);
    let behind_bar = world.sim().coherent_frame(on_device);
    let step = *space.path(at(0, 0)).leaf().unwrap();
    let Entry::Present { flags, .. } = step.entry.decode() else { panic!() };
    use ferry_mm::machine::Machine;
    world.sim().swap_entry(step.slot, Entry::Present { frame: behind_bar, flags }.encode());
    for (device, place) in [(DEVICE, Place::Remote), (OTHER, Place::Local)] {
        let (_, id) = Witness::for_device(world, space, 0, 1, Some(device));
        let expected = MirrorEntry::Device { frame: on_device, writable: true, place };
        for want in [Want::Look, Want::Read, Want::Write] {
            assert_eq!(ask(world, space, id, 0, want), Ok(expected));
        }
    }
    world.sim().swap_entry(step.slot, step.entry);
    world.assert_all_free();
}

/// What was never touched has no entry that could tell; then the area decides.
#[test]
fn an_untouched_page_is_refused_as_its_area_says() {
    let (world, space, id) = world_of_kinds();
    space.unmap(pages(0, 2)).unwrap();
    space.map_anonymous(pages(0, 1), Protection::READ).unwrap();
    space.map_anonymous(pages(1, 1), Protection::empty()).unwrap();
    for (number, expected) in [(0, [Is::Zero, Is::NotPermitted]), (1, [Is::Fault, Is::Fault])] {
        // The store first: what was read is there, and would tell by itself.
        for (want, expected) in [Want::Write, Want::Read].into_iter().zip(expected.into_iter().rev()) {
            assert_eq!(kind_of(ask(world, space, id, number, want), number), expected, "page {number}, {want:?}");
        }
    }
    world.assert_all_free();
}
