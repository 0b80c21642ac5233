//! Exclusive access: a device gets one page for itself, for atomic operations (`make_device_exclusive`'s role in Linux).
//!
//! ```text
//!   Present, writable ── everybody but the owner told, entry exchanged, flush ──▶ Exclusive, same frame
//!   Exclusive ── a CPU's access, or a pin: everybody told, the owner, too ──────▶ Present, as writable as before
//!   Exclusive ── protect, fork, relocate ───────────────────────────────────────▶ Present under the new rules
//!   Exclusive ── migration, swap-out ───────────────────────────────────────────▶ Migrating, like a present entry
//!   Exclusive ── unmap, discard, exit ──────────────────────────────────────────▶ nothing
//! ```
//!
//! Invariants:
//! 1. An `Exclusive` entry maps its frame and counts as a mapping, the only one: a page that is shared is copied first.
//! 2. No CPU has a translation of it. Whoever ends it has told the owner before, so the owner has none then, either.
//! 3. It is dirty: nobody sees what the device stores.
//! 4. A CPU that took the page back uses it before a device gets it again, unless that asks [`crate::frame::MOST_REFUSALS`] times.
use x86_64::VirtAddr;
use x86_64::structures::paging::{Page, PhysFrame};

use super::fault::Attempt;
use super::{Access, AreaKind, FaultError, Resolution, Space};
use crate::address::PageRange;
use crate::frame::AnyFrame;
use crate::machine::Machine;
use crate::notify::{Announcement, InvalidationReason, ListenerId, Sequence};
use crate::page_table::entry::{Entry, LeafFlags, RawEntry};
use crate::page_table::flush::OwedFlush;
use crate::page_table::leaf_table::LeafTable;
use crate::page_table::walk;
use crate::stats::Reason;

/// Why a device did not get a page for itself. The page can be used as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExclusiveError {
    /// The page cannot be written.
    Fault(FaultError),
    /// Somebody uses the frame by its address.
    Pinned(VirtAddr),
    /// The page is in no anonymous area, so it may have other users.
    NotAnonymous(VirtAddr),
    /// The owner is no listener that watches the page, so it could not be told when its access ends.
    NotWatched(ListenerId),
    /// The owner is being told of something, by this CPU's own open migration or by somebody who may wait for that.
    WouldWaitForItself(VirtAddr),
}

impl core::fmt::Display for ExclusiveError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Fault(error) => error.fmt(f),
            Self::Pinned(address) => write!(f, "the page at v{address:#x} is in use by its frame; drop the pin first"),
            Self::NotAnonymous(address) => {
                write!(f, "the page at v{address:#x} is not anonymous memory; only such a page can be exclusive")
            }
            Self::NotWatched(_) => f.write_str("the owner does not watch the page; let it listen there first"),
            Self::WouldWaitForItself(address) => write!(
                f,
                "this CPU holds a migration open, of which the owner may have been told; finish or drop it before the page at v{address:#x} can be exclusive"
            ),
        }
    }
}

impl core::error::Error for ExclusiveError {}

/// A page that a device has for itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExclusivePage {
    /// Its frame, which stays the page's until the owner is told.
    pub frame: PhysFrame,
    /// A moment before the device got it; whatever ended its use since has moved the owner's sequence.
    pub since: Sequence,
}

/// How one attempt ended.
enum Attempted {
    Taken(PhysFrame),
    /// The page is on a coherent device.
    BringHome,
    /// The page is not there to be written.
    MustFault,
    /// A CPU has taken the page back and has not used it yet.
    LookAgain,
}

impl<'m, M: Machine> Space<'m, M> {
    /// Gives the page at `address` to the device behind `owner` alone, until a CPU touches it or somebody changes it; `owner` is
    /// told then.
    ///
    /// The caller compares the sequence that it gets with `owner`'s before it lets the device use the frame. It is read here,
    /// not by the caller before: what must be done to the page first (bring it home, take it back from a device) is announced to
    /// `owner`, too, and would move any earlier one.
    /// Waits like a fault, and for the end of what the owner is being told of. Each further attempt means that somebody else changed the page in between.
    ///
    /// # Errors
    /// See [`ExclusiveError`].
    pub fn make_exclusive(self, address: VirtAddr, owner: ListenerId) -> Result<ExclusivePage, ExclusiveError> {
        let range = PageRange::of_page(Page::containing_address(address));
        let manager = self.manager;
        // What this call brings home itself waits for no access of a CPU.
        let mut is_home_for_us = false;
        loop {
            // In each attempt: who is removed meanwhile has no sequence any more.
            if !manager.watches(owner, self.id(), range) {
                return Err(ExclusiveError::NotWatched(owner));
            }
            let Ok(since) = manager.sequence(owner) else {
                if manager.holds_migration_open() {
                    return Err(ExclusiveError::WouldWaitForItself(address));
                }
                manager.machine.relax();
                continue;
            };
            let announcement = self.announce(range, InvalidationReason::Exclusive, Some(owner));
            match self.try_make_exclusive(address, &announcement, is_home_for_us)? {
                Attempted::Taken(frame) => return Ok(ExclusivePage { frame, since }),
                Attempted::MustFault => {
                    drop(announcement);
                    self.fault(address, Access::Write).map_err(ExclusiveError::Fault)?;
                    is_home_for_us = true;
                }
                Attempted::LookAgain => {
                    drop(announcement);
                    manager.machine.relax();
                }
                Attempted::BringHome => {
                    drop(announcement);
                    self.bring_home_for_exclusive(address)?;
                    manager.machine.relax();
                }
            }
        }
    }

    /// Brings a page home from a coherent device, if nothing keeps it there. Whatever else became of it the next look finds.
    fn bring_home_for_exclusive(self, address: VirtAddr) -> Result<(), ExclusiveError> {
        let range = PageRange::of_page(Page::containing_address(address));
        let out_of_memory = ExclusiveError::Fault(FaultError::OutOfMemory(address));
        self.manager.with_reclaim(
            |error| *error == out_of_memory,
            || match self.migrate_to_system(range) {
                Ok(report) if report.stayed.count(Reason::Pinned) > 0 => Err(ExclusiveError::Pinned(address)),
                Ok(report) if report.stayed.count(Reason::NoMemory) > 0 => Err(out_of_memory),
                Ok(_) | Err(_) => Ok(()),
            },
        )
    }

    fn try_make_exclusive(
        self,
        address: VirtAddr,
        announcement: &Announcement<'m, M>,
        is_home_for_us: bool,
    ) -> Result<Attempted, ExclusiveError> {
        let manager = self.manager;
        let machine = &manager.machine;
        let page = Page::containing_address(address);
        let areas = self.state.areas.read(machine);
        if areas.find(page).is_some_and(|area| area.kind != AreaKind::Anonymous) {
            return Err(ExclusiveError::NotAnonymous(address));
        }
        let Some(table) = walk::leaf_table(machine, self.root(), page) else { return Ok(Attempted::MustFault) };
        let leaf = LeafTable::lock(machine, &manager.memory, table);
        let (frame, is_used) = match leaf.load(page).decode() {
            Entry::Present { frame, flags } if flags.contains(LeafFlags::WRITABLE) && announcement.is_current() => {
                (frame, is_home_for_us || flags.contains(LeafFlags::ACCESSED))
            }
            _ => return Ok(Attempted::MustFault),
        };
        if let AnyFrame::Device(_) = manager.frame_behind(frame) {
            return Ok(Attempted::BringHome);
        }
        // Under the table's lock: a pin takes its reference under it, and finds the entry gone afterwards.
        let descriptor = manager.memory.descriptor(frame);
        debug_assert_eq!(descriptor.mappings(), 1, "a writable private page is mapped once");
        if !is_used && descriptor.refuses_to_leave() {
            return Ok(Attempted::LookAgain);
        }
        if descriptor.references() != 1 {
            return Err(ExclusiveError::Pinned(address));
        }
        leaf.update(page, |raw| {
            let flags = raw.flags() & LeafFlags::CARRIED | LeafFlags::ACCESSED | LeafFlags::DIRTY;
            Entry::Exclusive { frame, flags }.encode()
        });
        let mut owed = OwedFlush::new();
        owed.owe(PageRange::of_page(page));
        owed.pay(machine, self.state, &manager.statistics);
        manager.statistics.count_made_exclusive();
        Ok(Attempted::Taken(frame))
    }

    /// Ends the exclusive use of a page for a CPU that touches it; its owner has been told. Nothing to flush: no CPU had it.
    pub(super) fn take_back(self, table: PhysFrame, page: Page, seen: RawEntry) -> Attempt {
        let manager = self.manager;
        let leaf = LeafTable::lock(&manager.machine, &manager.memory, table);
        if leaf.load(page) != seen {
            return Attempt::LookAgain;
        }
        if let Entry::Exclusive { frame, flags } = seen.decode() {
            // Not accessed until the CPU that asks for it has used it, see invariant 4.
            manager.memory.descriptor(frame).begin_stay();
            leaf.swap(page, Entry::Present { frame, flags: flags - LeafFlags::ACCESSED }.encode());
        }
        Attempt::Done(Resolution::TakenBack)
    }
}

/// What an entry is once no device has its page for itself: present again where it was exclusive, otherwise as it is.
#[inline(always)]
pub(crate) fn taken_back(raw: RawEntry) -> RawEntry {
    match raw.decode() {
        Entry::Exclusive { frame, flags } => Entry::Present { frame, flags }.encode(),
        _ => raw,
    }
}
