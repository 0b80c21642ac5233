//! A listener that looks, with the eyes of the hardware, at what its invalidation finds and what it leaves.
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use ferry_mm::frame::{AnyFrame, DeviceId};
use ferry_mm::notify::{Invalidation, InvalidationReason, Listener, ListenerId, Watch};
use ferry_mm::page_table::entry::{LeafFlags, RawEntry};
use ferry_mm::space::Space;
use ferry_sim::{Moment, Sim, World, audit};

use crate::support::*;

/// What a listener was told, and how the page that it watches stood at that moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Told {
    pub event: Invalidation,
    /// The entry of the first page of the range.
    pub entry: RawEntry,
    /// The locks that the telling CPU held.
    pub locks_held: u32,
}

/// Notes what it is told.
pub struct Witness {
    world: &'static World,
    space: Space<'static, Sim>,
    told: Mutex<Vec<Told>>,
}

impl Listener for Witness {
    fn invalidate(&self, event: &Invalidation) {
        let machine = self.world.sim();
        let entry = self.space.entry(event.range.start_address());
        let locks_held = machine.held_by(ferry_mm::machine::Machine::cpu(machine)).count();
        self.told.lock().unwrap().push(Told { event: *event, entry, locks_held });
    }
}

impl Witness {
    /// Watches `count` pages from `first` in `space`.
    pub fn of(world: &'static World, space: Space<'static, Sim>, first: u64, count: u64) -> (Arc<Self>, ListenerId) {
        Self::for_device(world, space, first, count, None)
    }

    pub fn for_device(
        world: &'static World,
        space: Space<'static, Sim>,
        first: u64,
        count: u64,
        device: Option<DeviceId>,
    ) -> (Arc<Self>, ListenerId) {
        let witness = Arc::new(Self { world, space, told: Mutex::new(Vec::new()) });
        let id = space.listen(Watch { range: pages(first, count), device }, witness.clone()).unwrap();
        (witness, id)
    }

    /// What it was told since the last call of this.
    pub fn take(&self) -> Vec<Told> {
        std::mem::take(&mut self.told.lock().unwrap())
    }

    /// Whether it was told anything since.
    pub fn was_told(&self) -> bool {
        !self.told.lock().unwrap().is_empty()
    }

    /// The reasons, in order.
    pub fn reasons(&self) -> Vec<InvalidationReason> {
        self.take().iter().map(|told| told.event.reason).collect()
    }
}

/// The entry of a page as it stands in its table, read past everybody.
pub struct Seat {
    table: AnyFrame,
    offset: usize,
}

impl Seat {
    pub fn of(space: Space<'_, Sim>, page: u64) -> Self {
        let slot = space.path(at(page, 0)).leaf().expect("a page whose table is there").slot;
        Self { table: slot.table().into(), offset: usize::from(slot.index()) * 8 }
    }

    pub fn read(&self, sim: &Sim) -> RawEntry {
        let bytes = sim.bytes(self.table);
        let word = u64::from_le_bytes(bytes[self.offset..self.offset + 8].try_into().unwrap());
        // A CPU may set these at any time; they are no change of ours.
        RawEntry(if word & 1 != 0 { word & !(LeafFlags::ACCESSED | LeafFlags::DIRTY).bits() } else { word })
    }
}

/// Runs `act`, which makes an entry clean: that changes no right, but a flush outside of an announcement is none all the same.
pub fn expect_flushed_while_told(world: &'static World, space: Space<'static, Sim>, page: u64, act: impl FnOnce()) {
    let (witness, id) = Witness::of(world, space, page, 1);
    let flushed = Arc::new(AtomicU32::new(0));
    let flushes = flushed.clone();
    world.sim().watch(move |_, moment| {
        if moment == Moment::Flush {
            flushes.fetch_add(1, Ordering::Relaxed);
            assert!(world.manager().sequence(id).is_err(), "flushed when the listener may look again");
        }
    });
    act();
    world.sim().unwatch();
    assert!(flushed.load(Ordering::Relaxed) > 0);
    let told = witness.take();
    assert!(!told.is_empty() && told[0].entry.flags().contains(LeafFlags::DIRTY), "told too late: {told:?}");
    world.manager().unlisten(id);
    audit(world).unwrap();
}

/// Runs `act`, which weakens the entry of `page` for `reason`, and checks at every moment that the listener was told before the
/// entry changed, and that nothing is flushed but while it is being told.
pub fn expect_told(
    world: &'static World,
    space: Space<'static, Sim>,
    page: u64,
    reason: InvalidationReason,
    act: impl FnOnce(),
) {
    let (witness, id) = Witness::of(world, space, page, 1);
    let seat = Seat::of(space, page);
    let before = seat.read(world.sim());
    let watching = witness.clone();
    let flushed = Arc::new(AtomicU32::new(0));
    let flushes = flushed.clone();
    world.sim().watch(move |sim, moment| {
        if seat.read(sim) != before {
            assert!(watching.was_told(), "{reason:?}: the entry changed and nobody was told");
        }
        if moment == Moment::Flush {
            flushes.fetch_add(1, Ordering::Relaxed);
            assert!(world.manager().sequence(id).is_err(), "{reason:?}: flushed when the listener may look again");
        }
    });
    act();
    world.sim().unwatch();
    let told = witness.take();
    assert!(!told.is_empty(), "{reason:?}: the listener was forgotten");
    for told in &told {
        assert_eq!((told.event.space, told.event.range, told.event.reason), (space.id(), pages(page, 1), reason));
        assert_eq!(told.locks_held, 0, "{reason:?}: told with a lock held");
    }
    let used = (LeafFlags::ACCESSED | LeafFlags::DIRTY).bits();
    let found = told[0].entry;
    let found = if found.is_present() { RawEntry(found.0 & !used) } else { found };
    assert_eq!(found, before, "{reason:?}: told too late");
    if before.is_present() && reason != InvalidationReason::Release {
        assert!(flushed.load(Ordering::Relaxed) > 0, "{reason:?}: this test has seen no flush");
    }
    world.manager().unlisten(id);
    audit(world).unwrap();
}
