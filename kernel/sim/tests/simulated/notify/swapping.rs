//! Listeners and the swap disk: told before a page leaves RAM, by call or under pressure; exclusive pages that leave and come.
use ferry_mm::frame::AnyFrame;
use ferry_mm::migrate::{Busy, Foreign, Invalid, MigrateError, MigrateOptions};
use ferry_mm::notify::{Invalidation, InvalidationReason, Listener, Watch};
use ferry_mm::page_table::entry::{Entry, LeafFlags};
use ferry_mm::space::{Protection, Space};
use ferry_mm::stats::Reason;
use ferry_sim::{Moment, Sim, Transfer, World, audit};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use super::watching::*;
use crate::support::*;

/// A world with a disk and a space of 8 written pages, which both CPUs have cached, writable.
fn warm(frames: usize) -> (&'static World, Space<'static, Sim>) {
    let world = forever(small().frames(frames).swap(128));
    let space = space_of(world, 8);
    fill(world.cpu(0), 8);
    for number in 0..8 {
        world.cpu(1).store(at(number, 0), &contents(number)[..8]).unwrap();
    }
    (world, space)
}

fn is_swapped(space: Space<'_, Sim>, number: u64) -> bool {
    matches!(space.entry(at(number, 0)).decode(), Entry::Swap { .. })
}

#[test]
fn by_call() {
    let (world, space) = warm(128);
    expect_told(world, space, 2, InvalidationReason::SwapOut, || {
        assert_eq!(space.swap_out(pages(0, 8)).unwrap().freed, 8);
    });
    assert!(is_swapped(space, 2));
    // Coming back, an entry gets stronger.
    let (witness, _) = Witness::of(world, space, 0, 8);
    assert_eq!(page(world.cpu(1), 2), contents(2));
    assert_eq!(witness.reasons(), []);
    world.assert_all_free();
}

#[test]
fn of_a_page_that_another_space_shares() {
    let (world, space) = warm(128);
    let child = space.fork().unwrap();
    world.cpu(1).enter(child);
    assert_eq!(page(world.cpu(1), 2), contents(2));
    expect_told(world, child, 2, InvalidationReason::SwapOut, || {
        assert_eq!(space.swap_out(pages(0, 8)).unwrap().freed, 8);
    });
    assert!(is_swapped(space, 2) && is_swapped(child, 2));
    world.assert_all_free();
}

#[test]
fn under_pressure() {
    const MANY: u64 = 60;
    let (world, space) = warm(36);
    space.map_anonymous(pages(8, MANY), Protection::READ_WRITE).unwrap();
    let (witness, id) = Witness::of(world, space, 2, 1);
    let watching = witness.clone();
    let flushed = Arc::new(AtomicU32::new(0));
    let flushes = flushed.clone();
    let seat = Seat::of(space, 2);
    let told = AtomicU32::new(0);
    world.sim().watch(move |sim, moment| {
        told.fetch_add(watching.take().len() as u32, Ordering::Relaxed);
        let found = seat.read(sim);
        assert!(found.is_present() || told.load(Ordering::Relaxed) > 0, "{found:?}, and nobody was told");
        if moment == Moment::Flush && matches!(found.decode(), Entry::Migrating { .. }) {
            flushes.fetch_add(1, Ordering::Relaxed);
            assert!(world.manager().sequence(id).is_err(), "flushed when the listener may look again");
        }
    });
    let gone = (8..8 + MANY).find(|number| {
        world.cpu(0).store(at(*number, 0), &contents(*number)).unwrap();
        is_swapped(space, 2)
    });
    world.sim().unwatch();
    assert!(gone.is_some(), "there was no pressure");
    assert!(flushed.load(Ordering::Relaxed) > 0, "this test has seen no flush");
    audit(world).unwrap();
    assert_eq!(page(world.cpu(1), 2), contents(2));
    world.assert_all_free();
}

/// Told of a swap-out, has another CPU register a listener in a space that was passed by before: too late for this swap-out to
/// tell it.
struct Latecomer {
    world: &'static World,
    passed: Space<'static, Sim>,
    came: Mutex<Option<Arc<Witness>>>,
}

impl Listener for Latecomer {
    fn invalidate(&self, _: &Invalidation) {
        let mut came = self.came.lock().unwrap();
        if came.is_none() {
            let (witness, _) = self.world.cpu(1).run(|| Witness::of(self.world, self.passed, 2, 1));
            *came = Some(witness);
        }
    }
}

#[test]
fn who_listens_only_since_the_announcement_keeps_his_entries() {
    let (world, space) = warm(128);
    let child = space.fork().unwrap();
    let latecomer = Arc::new(Latecomer { world, passed: space, came: Mutex::new(None) });
    child.listen(Watch { range: pages(0, 8), device: None }, latecomer.clone()).unwrap();
    let before = [space, child].map(|space| space.entry(at(2, 0)));
    let out = space.swap_out(pages(0, 8)).unwrap();
    assert_eq!((out.freed, out.stayed.count(Reason::Busy)), (0, 8), "a space with a listener is not touched untold");
    assert_eq!([space, child].map(|space| space.entry(at(2, 0))), before, "bit for bit");
    let witness = latecomer.came.lock().unwrap().clone().unwrap();
    assert_eq!(witness.reasons(), []);
    audit(world).unwrap();
    assert_eq!(space.swap_out(pages(0, 8)).unwrap().freed, 8, "the next call tells it");
    assert_eq!(witness.reasons(), [InvalidationReason::SwapOut]);
    world.assert_all_free();
}

/// The word that the device stores to while it has the page, by the frame's address.
const WORD: usize = 5;
const STORED: u64 = 0x5eed_0000_0000_5eed;

fn as_stored(number: u64) -> Vec<u8> {
    let mut bytes = contents(number).to_vec();
    bytes[WORD * 8..WORD * 8 + 8].copy_from_slice(&STORED.to_le_bytes());
    bytes
}

/// Page 2 is in exclusive use, and its device has stored to it.
fn exclusive(frames: usize) -> (&'static World, Space<'static, Sim>, Arc<Witness>) {
    let (world, space) = warm(frames);
    let (owner, id) = Witness::for_device(world, space, 0, 8, Some(DEVICE));
    let frame = space.make_exclusive(at(2, 0), id).unwrap().frame;
    world.sim().poke(frame.into(), WORD, STORED);
    (world, space, owner)
}

#[test]
fn an_exclusive_page_leaves_with_what_the_device_stored() {
    let (world, space, owner) = exclusive(128);
    expect_told(world, space, 2, InvalidationReason::SwapOut, || {
        assert_eq!(space.swap_out(pages(2, 1)).unwrap().freed, 1);
    });
    assert_eq!(owner.reasons(), [InvalidationReason::SwapOut]);
    let Entry::Swap { slot } = space.entry(at(2, 0)).decode() else { panic!("page 2 stayed") };
    assert_eq!(world.disk().bytes(slot), as_stored(2));
    assert_eq!(page(world.cpu(0), 2)[..], as_stored(2)[..]);
    world.assert_all_free();
}

#[test]
fn an_exclusive_page_that_finds_no_slot_stays_with_leave_to_write() {
    let world = forever(small().swap(1));
    let space = space_of(world, 3);
    fill(world.cpu(0), 3);
    let (owner, id) = Witness::for_device(world, space, 0, 3, Some(DEVICE));
    let frame = space.make_exclusive(at(2, 0), id).unwrap().frame;
    world.sim().poke(frame.into(), WORD, STORED);
    assert_eq!(space.swap_out(pages(0, 1)).unwrap().freed, 1);
    assert_eq!(space.swap_out(pages(2, 1)).unwrap().stayed.count(Reason::SwapFull), 1);
    assert_eq!(owner.reasons(), [InvalidationReason::SwapOut; 2]);
    audit(world).unwrap();
    let (there, flags) = present(space, 2);
    assert_eq!(there, frame, "the owner has been told: it is taken back");
    assert!(flags.contains(LeafFlags::WRITABLE | LeafFlags::DIRTY), "{flags:?}");
    assert_eq!(page(world.cpu(1), 2)[..], as_stored(2)[..]);
    world.assert_all_free();
}

#[test]
fn an_exclusive_page_under_pressure_keeps_what_the_device_stored() {
    let (world, space, owner) = exclusive(36);
    // What is not wanted, and written by its device since, is kept, too.
    space.free_lazily(pages(2, 1)).unwrap();
    space.map_anonymous(pages(8, 60), Protection::READ_WRITE).unwrap();
    fill(world.cpu(1), 68);
    audit(world).unwrap();
    assert!(owner.reasons().contains(&InvalidationReason::FreeLazily));
    world.cpu(0).store(at(2, 0), &contents(2)[..8]).unwrap();
    world.assert_all_free();
}

#[test]
fn pages_on_the_disk_and_in_the_swap_cache_become_exclusive() {
    for (cached, is_shared) in [(false, false), (true, false), (false, true), (true, true)] {
        let (world, space) = warm(128);
        let child = is_shared.then(|| space.fork().unwrap());
        assert_eq!(space.swap_out(pages(2, 1)).unwrap().freed, 1);
        if cached {
            world.cpu(0).read::<1>(at(2, 0)).unwrap();
        }
        let (_, id) = Witness::for_device(world, space, 0, 8, Some(DEVICE));
        let frame = space.make_exclusive(at(2, 0), id).unwrap().frame;
        audit(world).unwrap();
        assert_eq!(host(world, frame), contents(2));
        world.sim().poke(frame.into(), WORD, STORED);
        // Out again: the slot that it came from has the older contents.
        assert_eq!(space.swap_out(pages(2, 1)).unwrap().freed, 1);
        audit(world).unwrap();
        assert_eq!(page(world.cpu(0), 2)[..], as_stored(2)[..], "cached: {cached}, shared: {is_shared}");
        if let Some(child) = child {
            world.cpu(1).enter(child);
            assert_eq!(page(world.cpu(1), 2), contents(2), "the child does not see the device's store");
        }
        world.assert_all_free();
    }
}

#[test]
fn an_exclusive_page_that_is_the_only_copy_of_its_slot_is_copied() {
    let (world, space) = warm(128);
    let child = space.fork().unwrap();
    world.cpu(1).enter(child);
    world.disk().fail(Transfer::Write, 1);
    assert_eq!(space.swap_out(pages(2, 1)).unwrap().freed, 0);
    let (_, id) = Witness::for_device(world, space, 0, 8, Some(DEVICE));
    let frame = space.make_exclusive(at(2, 0), id).unwrap().frame;
    audit(world).unwrap();
    world.sim().poke(frame.into(), WORD, STORED);
    assert_eq!(page(world.cpu(1), 2), contents(2), "the child still finds the only copy");
    assert_eq!(page(world.cpu(0), 2)[..], as_stored(2)[..]);
    world.assert_all_free();
}

#[test]
fn a_child_of_an_exclusive_page_shares_its_slot() {
    let (world, space, owner) = exclusive(128);
    let child = space.fork().unwrap();
    assert_eq!(owner.reasons(), [InvalidationReason::Fork]);
    world.cpu(1).enter(child);
    assert_eq!(space.swap_out(pages(2, 1)).unwrap().freed, 1);
    assert_eq!(space.entry(at(2, 0)), child.entry(at(2, 0)), "one slot for both");
    audit(world).unwrap();
    assert_eq!(page(world.cpu(1), 2)[..], as_stored(2)[..]);
    world.cpu(1).store(at(2, 0), &[0xee; 8]).unwrap();
    assert_eq!(page(world.cpu(0), 2)[..], as_stored(2)[..]);
    world.assert_all_free();
}

/// Shared memory, addresses of a device and guards stay what they are, whatever is asked for over them.
#[test]
fn areas_without_pages_of_their_own_are_passed_by() {
    let world = forever(small().registers(3).swap(16));
    let space = space_of(world, 2);
    space.map_shared(pages(2, 2), Protection::READ_WRITE).unwrap();
    let registers = ferry_mm::frame::DeviceFrame::new(COHERENT, 0);
    let first = world.sim().coherent_frame(registers);
    space.map_device(pages(4, 3), first, LeafFlags::CACHE_DISABLE, Protection::READ_WRITE).unwrap();
    space.map_guard(pages(7, 1)).unwrap();
    fill(world.cpu(0), 4);
    let entries = || (2..8).map(|number| space.entry(at(number, 0))).collect::<Vec<_>>();
    let before = entries();
    let out = space.swap_out(pages(0, 8)).unwrap();
    assert_eq!((out.freed, out.stayed.total()), (2, 0), "{out:?}");
    let options = MigrateOptions { busy: Busy::Wait, foreign: Foreign::ViaRam, ..MigrateOptions::default() };
    let refused = Err(MigrateError::Invalid(Invalid::NotAnonymous(pages(4, 3))));
    assert_eq!(space.migrate_to_device_with(pages(4, 3), DEVICE, options), refused);
    assert_eq!(entries(), before);
    audit(world).unwrap();
    for number in 0..4 {
        assert_eq!(page(world.cpu(1), number), contents(number));
    }
    assert!(matches!(world.sim().frame_at(present(space, 2).0), AnyFrame::System(_)));
    world.assert_all_free();
}
