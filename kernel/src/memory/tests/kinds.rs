//! Entries and areas of every kind, and contents that need not be kept: what the CPU itself does with them.
use super::{Room, WARM_PAGES, device_numbered, first_word, pages_at, pattern, the_device};
use crate::arch::areas::store_bytes;
use crate::arch::machine::Hardware;
use crate::arch::probe;
use crate::harness::{TestFailure, TestResult, check, check_eq, kernel_test};
use crate::memory::fault::Failure;
use crate::memory::{enter, manager};
use alloc::sync::Arc;
use ferry_mm::address::PageRange;
use ferry_mm::frame::AnyFrame;
use ferry_mm::inject::Step;
use ferry_mm::notify::{Invalidation, Listener, ListenerId, Watch};
use ferry_mm::page_table::entry::{Entry, LeafFlags};
use ferry_mm::space::{Access, FaultError, Pin, Protection, Term};

/// What stands behind a page, each in a page of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Written,
    ZeroPage,
    Empty,
    OnDevice,
    InCoherentMemory,
    Lost,
    SharedByFork,
    Pinned,
    Unwanted,
    Exclusive,
}

const KINDS: [Kind; 10] = [
    Kind::Written,
    Kind::ZeroPage,
    Kind::Empty,
    Kind::OnDevice,
    Kind::InCoherentMemory,
    Kind::Lost,
    Kind::SharedByFork,
    Kind::Pinned,
    Kind::Unwanted,
    Kind::Exclusive,
];

/// A device that keeps no translation, so that there is nothing to stop.
struct Idle;

impl Listener for Idle {
    fn invalidate(&self, _: &Invalidation) {}
}

/// A space with a page of each of [`KINDS`], in this order.
struct EveryKind {
    range: PageRange,
    listener: ListenerId,
    pin: Pin<'static, Hardware>,
    child: Room,
    room: Room,
}

impl EveryKind {
    fn new() -> Result<Self, TestFailure> {
        let room = Room::enter()?;
        let range = room.map(KINDS.len() as u64)?;
        let address = |kind| address_of(range, kind);
        let page = |kind| PageRange::covering(address(kind), 1);
        let fill = |kind| store_bytes(address(kind), &pattern(kind as u64));
        fill(Kind::SharedByFork);
        let child = Room { space: room.space.fork()? };
        KINDS
            .into_iter()
            .filter(|kind| ![Kind::SharedByFork, Kind::ZeroPage, Kind::Empty].contains(kind))
            .for_each(fill);
        check_eq!(probe::load(address(Kind::ZeroPage))?, 0);
        let coherent = device_numbered(2)?;
        for (kind, device) in
            [(Kind::OnDevice, the_device()?), (Kind::InCoherentMemory, coherent), (Kind::Lost, the_device()?)]
        {
            check_eq!(room.space.migrate_to_device(page(kind)?, device)?.moved, 1);
        }
        manager().injector().arm(Step::Copy, 1);
        check!(probe::load(address(Kind::Lost)).is_err(), "the page whose copy fails came home")?;
        let pin = room.space.pin(address(Kind::Pinned), Access::Write, Term::Long)?;
        room.space.free_lazily(page(Kind::Unwanted)?)?;
        let listener = room.space.listen(Watch { range, device: None }, Arc::new(Idle))?;
        room.space.make_exclusive(address(Kind::Exclusive), listener)?;
        Ok(Self { range, listener, pin, child, room })
    }

    fn entry(&self, kind: Kind) -> Entry {
        self.room.space.entry(address_of(self.range, kind)).decode()
    }

    fn is_writable(&self, kind: Kind) -> bool {
        // The bit stands at the same place in every kind.
        self.room.space.entry(address_of(self.range, kind)).flags().contains(LeafFlags::WRITABLE)
    }

    /// Whether every page is what [`KINDS`] says.
    fn check_kinds(&self) -> TestResult {
        let zero = AnyFrame::System(manager().zero_frame());
        for kind in KINDS {
            let entry = self.entry(kind);
            let is_right = match kind {
                Kind::Empty => entry == Entry::Empty,
                Kind::ZeroPage => entry.frame() == Some(zero),
                Kind::OnDevice => matches!(entry, Entry::Device { .. }),
                Kind::Lost => entry == Entry::Poison,
                Kind::Exclusive => matches!(entry, Entry::Exclusive { .. }),
                Kind::Pinned => entry.frame() == Some(self.pin.frame()),
                _ => matches!(entry, Entry::Present { .. }) && entry.frame() != Some(zero),
            };
            check!(is_right, "{kind:?} is {entry}")?;
        }
        Ok(())
    }

    /// Loads from every page and stores to it: what `protection` allows, and what was in it.
    fn check_accesses(&self, protection: Protection) -> TestResult {
        for kind in KINDS {
            let address = address_of(self.range, kind);
            let word = if matches!(kind, Kind::ZeroPage | Kind::Empty) { 0 } else { first_word(kind as u64) };
            let expected = |access, allowed| match (allowed, kind) {
                (false, _) => Err(Some(Failure::Access(FaultError::Forbidden(address, access, protection)))),
                (true, Kind::Lost) => Err(Some(Failure::Access(FaultError::Poisoned(address)))),
                (true, _) => Ok(()),
            };
            let loaded = probe::load(address).map_err(|error| error.failure);
            check_eq!(loaded, expected(Access::Read, protection.is_accessible()).map(|()| word));
            let stored = probe::store(address, !word).map_err(|error| error.failure);
            check_eq!(stored, expected(Access::Write, protection.contains(Protection::WRITE)));
            if stored.is_ok() {
                check_eq!(probe::load(address)?, !word);
            }
        }
        Ok(())
    }
}

impl Drop for EveryKind {
    fn drop(&mut self) {
        manager().unlisten(self.listener);
    }
}

fn address_of(range: PageRange, kind: Kind) -> x86_64::VirtAddr {
    range.page(kind as u64).start_address()
}

kernel_test! {
    fn protection_holds_for_a_page_of_every_kind() -> TestResult {
        let (none, read, write) = (Protection::empty(), Protection::READ, Protection::READ_WRITE);
        for steps in [&[none][..], &[read], &[write], &[none, read], &[none, write], &[read, none, write]] {
            let pages = EveryKind::new()?;
            pages.check_kinds()?;
            let mut last = write;
            for protection in steps {
                let writable = KINDS.map(|kind| pages.is_writable(kind));
                pages.room.space.protect(pages.range, *protection)?;
                for (kind, was) in KINDS.into_iter().zip(writable) {
                    let allowed = was && protection.contains(Protection::WRITE);
                    check!(allowed || !pages.is_writable(kind), "{kind:?} may be written under {protection:?}")?;
                }
                last = *protection;
            }
            pages.check_accesses(last)?;
            check_eq!(pages.entry(Kind::Pinned).frame(), Some(pages.pin.frame()));
            enter(pages.child.space);
            check_eq!(probe::load(address_of(pages.range, Kind::SharedByFork))?, first_word(Kind::SharedByFork as u64));
            enter(pages.room.space);
        }
        Ok(())
    }

    fn a_store_to_an_unwanted_page_sets_the_dirty_bit_again_and_a_load_does_not() -> TestResult {
        let room = Room::enter()?;
        // Every page is dirty in the CPU's translation cache, too: without a flush the bit would not be set again.
        let range = room.map_filled(WARM_PAGES)?;
        room.space.free_lazily(range)?;
        // From the last on, so that what is looked at first does not push out what the cache still holds of the others.
        for index in (0..WARM_PAGES).rev() {
            let address = range.page(index).start_address();
            check_eq!(probe::load(address)?, first_word(index));
            if index % 2 == 0 {
                probe::store(address, index)?;
            }
            let dirty = room.space.entry(address).flags().contains(LeafFlags::DIRTY);
            check!(dirty == (index % 2 == 0), "page {index}: dirty is {dirty}")?;
        }
        Ok(())
    }

    fn a_range_on_the_device_can_be_unmapped_and_protected_in_part() -> TestResult {
        let device = the_device()?;
        let room = Room::enter()?;
        let range = room.map_filled(64)?;
        check_eq!(room.space.migrate_to_device(range, device)?.moved, 64);
        room.space.unmap(pages_at(16, 16)?)?;
        room.space.protect(pages_at(32, 16)?, Protection::READ)?;
        for index in 0..64 {
            let address = range.page(index).start_address();
            if (16..32).contains(&index) {
                let failure = probe::load(address).err().and_then(|error| error.failure);
                check_eq!(failure, Some(Failure::Access(FaultError::NoArea(address))));
                continue;
            }
            check_eq!(probe::store(address, first_word(index)).is_ok(), !(32..48).contains(&index));
            check_eq!(probe::load(address)?, first_word(index));
        }
        Ok(())
    }

    fn an_access_to_a_guard_says_so() -> TestResult {
        let room = Room::enter()?;
        room.map_filled(1)?;
        let guard = pages_at(1, 1)?;
        room.space.map_guard(guard)?;
        let address = guard.start_address();
        let failure = probe::load(address).err().and_then(|error| error.failure);
        check_eq!(failure, Some(Failure::Access(FaultError::Guard(address))));
        Ok(())
    }

    fn shared_memory_is_there_without_a_fault() -> TestResult {
        let room = Room::enter()?;
        let range = pages_at(0, 16)?;
        room.space.map_shared(range, Protection::READ_WRITE)?;
        let faults = manager().statistics().read().faults;
        for index in 0..16 {
            let address = range.page(index).start_address();
            check_eq!(probe::load(address)?, 0);
            probe::store(address, index)?;
            check_eq!(probe::load(address)?, index);
        }
        check_eq!(manager().statistics().read().faults, faults);
        Ok(())
    }
}
