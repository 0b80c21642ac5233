//! Exclusive access by a device, in every order with whatever else can happen to the page.
use ferry_mm::frame::AnyFrame;
use ferry_mm::inject::Step;
use ferry_mm::notify::{InvalidationReason, ListenerId};
use ferry_mm::page_table::entry::{Entry, LeafFlags};
use ferry_mm::space::{Access, ExclusiveError, ExclusivePage, FaultError, Leave, Protection, Space, Term};
use ferry_mm::stats::Reason;
use ferry_sim::{Sim, World, audit};
use std::sync::Arc;

use super::watching::*;
use crate::support::*;

/// The word that the device stores to while it has the page, by the frame's address.
const WORD: usize = 5;
const STORED: u64 = 0x5eed_0000_0000_5eed;

struct Taken {
    world: &'static World,
    space: Space<'static, Sim>,
    owner: Arc<Witness>,
    id: ListenerId,
}

/// Page 2 of 8 is in exclusive use, and its device has stored to it.
fn taken() -> Taken {
    taken_after(|_| ())
}

/// The same, where its owner has done something before.
fn taken_after(act: impl Fn(Space<'static, Sim>)) -> Taken {
    let world = forever(small().swap(16));
    let space = space_of(world, 8);
    fill(world.cpu(0), 8);
    for number in 0..8 {
        world.cpu(1).store(at(number, 0), &contents(number)[..8]).unwrap();
    }
    act(space);
    let (owner, id) = Witness::for_device(world, space, 0, 8, Some(DEVICE));
    take(world, space, id);
    Taken { world, space, owner, id }
}

fn take(world: &World, space: Space<'_, Sim>, id: ListenerId) {
    let frame = space.make_exclusive(at(2, 0), id).unwrap().frame;
    let Entry::Exclusive { frame: named, flags } = space.entry(at(2, 0)).decode() else {
        panic!("page 2 is {:?}", space.entry(at(2, 0)).decode());
    };
    assert_eq!(named, frame);
    assert!(flags.contains(LeafFlags::WRITABLE | LeafFlags::DIRTY));
    for cpu in [0, 1] {
        let id = world.cpu(cpu).id();
        assert!(world.sim().load(id, at(2, 0)).is_err(), "CPU {cpu} still reads");
        assert!(world.sim().store(id, at(2, 0), u64::MAX, 1).is_err(), "CPU {cpu} still writes");
    }
    audit(world).unwrap();
    world.sim().poke(frame.into(), WORD, STORED);
}

impl Taken {
    /// The page as CPU 0 finds it.
    fn expect_stored(&self) {
        let mut expected = contents(2).to_vec();
        expected[WORD * 8..WORD * 8 + 8].copy_from_slice(&STORED.to_le_bytes());
        assert_eq!(page(self.world.cpu(0), 2)[..], expected[..]);
    }

    fn end(self) {
        audit(self.world).unwrap();
        self.world.assert_all_free();
    }
}

#[test]
fn everybody_but_the_owner_is_told_first() {
    let world = forever(small());
    let space = space_of(world, 8);
    fill(world.cpu(0), 8);
    let (owner, id) = Witness::for_device(world, space, 0, 8, Some(DEVICE));
    expect_told(world, space, 2, InvalidationReason::Exclusive, || take(world, space, id));
    assert_eq!(owner.reasons(), []);
    world.assert_all_free();
}

#[test]
fn a_load_and_a_store_take_it_back_and_tell_the_owner() {
    for access in [Access::Read, Access::Write] {
        let taken = taken();
        assert_eq!(taken.owner.reasons(), []);
        taken.world.sim().take_flushes();
        expect_told(taken.world, taken.space, 2, InvalidationReason::Exclusive, || match access {
            Access::Write => taken.world.cpu(1).store(at(2, 0), &contents(2)[..8]).unwrap(),
            _ => assert_eq!(taken.world.cpu(1).read::<8>(at(2, 0)).unwrap()[..], contents(2)[..8]),
        });
        assert_eq!(taken.owner.reasons(), [InvalidationReason::Exclusive]);
        assert_eq!(taken.world.sim().take_flushes(), [], "no CPU had it");
        let flags = present(taken.space, 2).1;
        assert!(flags.contains(LeafFlags::WRITABLE | LeafFlags::DIRTY), "the device may have stored: {flags:?}");
        taken.expect_stored();
        taken.end();
    }
}

#[test]
fn what_else_ends_it_tells_the_owner() {
    type Act = fn(&Taken);
    let acts: [(Act, InvalidationReason); 6] = [
        (|it| it.space.protect(pages(2, 1), Protection::READ).unwrap(), InvalidationReason::Protect),
        (|it| it.space.protect(pages(2, 1), Protection::empty()).unwrap(), InvalidationReason::Protect),
        (|it| _ = it.space.fork().unwrap(), InvalidationReason::Fork),
        (|it| drop(it.space.pin(at(2, 0), Access::Read, Term::Long).unwrap()), InvalidationReason::Exclusive),
        (|it| drop(it.space.pin(at(2, 0), Access::Write, Term::Long).unwrap()), InvalidationReason::Exclusive),
        (
            |it| assert_eq!(it.space.migrate_to_device(pages(0, 8), DEVICE).unwrap().moved, 8),
            InvalidationReason::Migrate,
        ),
    ];
    for (act, reason) in acts {
        let taken = taken();
        expect_told(taken.world, taken.space, 2, reason, || act(&taken));
        assert!(!matches!(taken.space.entry(at(2, 0)).decode(), Entry::Exclusive { .. }), "{reason:?}");
        assert_eq!(taken.owner.reasons(), [reason]);
        let protection = taken.space.area(pages(2, 1).start()).unwrap().protection;
        if !protection.contains(Protection::WRITE) {
            assert!(taken.world.cpu(0).store(at(2, 0), &[1]).is_err(), "no right is given by the way");
            taken.space.protect(pages(2, 1), Protection::READ_WRITE).unwrap();
        }
        taken.expect_stored();
        taken.end();
    }
}

/// What the device stores makes a page wanted again, though no CPU sets a dirty bit for it.
#[test]
fn a_page_that_was_not_needed_is_kept_with_what_the_device_stored() {
    let taken = taken_after(|space| space.free_lazily(pages(2, 1)).unwrap());
    assert_eq!(taken.world.cpu(1).read::<8>(at(2, 0)).unwrap()[..], contents(2)[..8]);
    assert_eq!(taken.space.swap_out(pages(2, 1)).unwrap().freed, 1);
    taken.expect_stored();
    taken.end();
}

#[test]
fn what_removes_the_page_frees_its_frame() {
    let unmapped = taken();
    expect_told(unmapped.world, unmapped.space, 2, InvalidationReason::Unmap, || {
        unmapped.space.unmap(pages(1, 3)).unwrap();
    });
    unmapped.end();
    let discarded = taken();
    discarded.space.discard(pages(2, 1)).unwrap();
    assert_eq!(discarded.owner.reasons(), [InvalidationReason::Discard]);
    assert_eq!(page(discarded.world.cpu(0), 2), zeros());
    discarded.end();
    let left = taken();
    left.end();
}

#[test]
fn a_moved_page_is_taken_back_on_the_way() {
    let taken = taken();
    taken.space.relocate(pages(0, 8), at(1000, 0), Leave::Nothing).unwrap();
    assert_eq!(taken.owner.reasons(), [InvalidationReason::Move]);
    assert_eq!(taken.world.cpu(0).read(at(1002, WORD as u64 * 8)).unwrap(), STORED.to_le_bytes());
    taken.end();
}

#[test]
fn a_migration_that_is_dropped_leaves_it_exclusive() {
    let taken = taken();
    let before = taken.space.entry(at(2, 0));
    drop(taken.space.collect(pages(0, 8), DEVICE).unwrap().unmap().unwrap().copy());
    assert_eq!(taken.space.entry(at(2, 0)), before, "bit for bit");
    taken.expect_stored();
    taken.end();
}

#[test]
fn on_the_way_home_it_is_at_home() {
    let taken = taken();
    let report = taken.space.migrate_to_system(pages(0, 8)).unwrap();
    assert_eq!(report.stayed.count(Reason::AlreadyThere), 8);
    taken.expect_stored();
    taken.end();
}

#[test]
fn a_child_and_its_parent_see_what_the_device_stored_and_not_each_other() {
    let taken = taken();
    let child = taken.space.fork().unwrap();
    taken.world.cpu(1).enter(child);
    audit(taken.world).unwrap();
    assert_eq!(taken.world.cpu(1).read(at(2, WORD as u64 * 8)).unwrap(), STORED.to_le_bytes());
    taken.world.cpu(1).store(at(2, WORD as u64 * 8), &[9; 8]).unwrap();
    taken.expect_stored();
    // Exclusive again, of a page that is shared: the parent gets a copy of its own first.
    let parents = present(child, 3).0;
    let own = taken.space.make_exclusive(at(3, 0), taken.id).unwrap().frame;
    assert_ne!(own, parents);
    taken.world.sim().poke(own.into(), 0, 0);
    assert_eq!(page(taken.world.cpu(1), 3), contents(3), "the child does not see the device's store");
    taken.end();
}

#[test]
fn pages_wherever_they_are_become_exclusive() {
    let taken = taken();
    assert_eq!(taken.space.migrate_to_device(pages(0, 8), DEVICE).unwrap().moved, 8);
    taken.space.map_anonymous(pages(8, 2), Protection::READ_WRITE).unwrap();
    let (_, id) = Witness::of(taken.world, taken.space, 0, 10);
    taken.world.cpu(0).read::<1>(at(8, 0)).unwrap();
    for (number, expected) in [(1, contents(1)), (8, zeros()), (9, zeros())] {
        let frame = taken.space.make_exclusive(at(number, 0), id).unwrap().frame;
        assert_eq!(host(taken.world, frame), expected);
        assert_ne!(frame, taken.world.manager().zero_frame());
        audit(taken.world).unwrap();
    }
    taken.end();
}

#[test]
fn the_moment_that_comes_with_the_page_holds_whatever_had_to_be_done_first() {
    let taken = taken();
    let manager = taken.world.manager();
    let move_away = |number| assert_eq!(taken.space.migrate_to_device(pages(number, 1), DEVICE).unwrap().moved, 1);
    move_away(3);
    // On a device, never touched, in RAM, and already its own: only what comes afterwards moves the sequence.
    for number in [3, 6, 4, 2, 3] {
        let ExclusivePage { since, .. } = taken.space.make_exclusive(at(number, 0), taken.id).unwrap();
        assert!(!manager.has_moved(taken.id, since), "page {number}");
        assert!(taken.world.cpu(1).read::<8>(at(number, 0)).is_ok());
        assert!(manager.has_moved(taken.id, since), "a CPU has taken page {number} back");
    }
    taken.end();
}

#[test]
fn what_cannot_be_exclusive_is_refused_and_stays() {
    let taken = taken();
    let pin = taken.space.pin(at(4, 0), Access::Write, Term::Long).unwrap();
    let before = taken.space.entry(at(4, 0));
    assert_eq!(taken.space.make_exclusive(at(4, 0), taken.id), Err(ExclusiveError::Pinned(at(4, 0))));
    assert_eq!(taken.space.entry(at(4, 0)), before);
    drop(pin);
    taken.space.protect(pages(5, 1), Protection::READ).unwrap();
    let forbidden = FaultError::Forbidden(at(5, 0), Access::Write, Protection::READ);
    assert_eq!(taken.space.make_exclusive(at(5, 0), taken.id), Err(ExclusiveError::Fault(forbidden)));
    let (_, beside) = Witness::of(taken.world, taken.space, 0, 4);
    assert_eq!(taken.space.make_exclusive(at(4, 0), beside), Err(ExclusiveError::NotWatched(beside)));
    taken.world.manager().unlisten(beside);
    assert_eq!(taken.space.make_exclusive(at(2, 0), beside), Err(ExclusiveError::NotWatched(beside)));
    assert_eq!(
        taken.space.make_exclusive(at(4, 8), taken.id).map(|taken| taken.frame.into()),
        Ok(present_or_exclusive(&taken, 4))
    );
    taken.end();
}

#[test]
fn who_holds_a_migration_open_of_which_the_owner_was_told_is_refused() {
    let taken = taken();
    let batch = taken.space.collect(pages(6, 2), DEVICE).unwrap();
    let refused = Err(ExclusiveError::WouldWaitForItself(at(4, 0)));
    assert_eq!(taken.space.make_exclusive(at(4, 0), taken.id), refused);
    drop(batch);
    assert!(taken.space.make_exclusive(at(4, 0), taken.id).is_ok());
    taken.end();
}

#[test]
fn an_owner_that_is_removed_meanwhile_gets_no_page() {
    let taken = taken();
    let (space, id) = (taken.space, taken.id);
    let manager = taken.world.manager();
    let batch = taken.space.collect(pages(6, 2), DEVICE).unwrap();
    std::thread::scope(|scope| {
        let asks = scope.spawn(move || taken.world.cpu(1).run(|| space.make_exclusive(at(4, 0), id)));
        std::thread::sleep(std::time::Duration::from_millis(20));
        manager.unlisten(id).unwrap();
        assert_eq!(asks.join().unwrap(), Err(ExclusiveError::NotWatched(id)));
    });
    drop(batch);
    taken.end();
}

fn present_or_exclusive(taken: &Taken, number: u64) -> ferry_mm::frame::AnyFrame {
    taken.world.manager().mapped_frame(taken.space.entry(at(number, 0))).unwrap()
}

/// A page that a coherent device has comes home first; where something keeps it there, it stays.
#[test]
fn a_page_in_coherent_memory_comes_home_before_a_device_has_it_alone() {
    let world = forever(with_coherent());
    let space = space_of(world, 4);
    fill(world.cpu(0), 4);
    assert_eq!(space.migrate_to_device(pages(0, 4), COHERENT).unwrap().moved, 4);
    let (_, id) = Witness::for_device(world, space, 0, 4, Some(DEVICE));
    let taken = space.make_exclusive(at(0, 0), id).unwrap();
    assert_eq!(world.manager().statistics().read().made_exclusive, 1);
    assert!(matches!(space.entry(at(0, 0)).decode(), Entry::Exclusive { frame, .. } if frame == taken.frame));
    assert_eq!(host(world, AnyFrame::System(taken.frame)), contents(0));
    let before = [1, 2].map(|number| space.entry(at(number, 0)));
    let pin = space.pin(at(1, 0), Access::Write, Term::Short).unwrap();
    assert_eq!(space.make_exclusive(at(1, 0), id), Err(ExclusiveError::Pinned(at(1, 0))));
    drop(pin);
    world.manager().injector().arm(Step::Alloc, 1);
    let no_memory = ExclusiveError::Fault(FaultError::OutOfMemory(at(2, 0)));
    assert_eq!(space.make_exclusive(at(2, 0), id), Err(no_memory));
    assert_eq!([1, 2].map(|number| space.entry(at(number, 0))), before);
    audit(world).unwrap();
    world.assert_all_free();
}
