//! Stores to pages that several entries name: written in place by the last one, copied by everybody else.
//!
//! ```text
//!   frame of the entry                                   a store
//!   ──────────────────                                   ───────
//!   one mapping, not in the swap cache                   writable in place
//!   one mapping, cached, no other entry names the slot   out of the swap cache, then writable in place
//!   several mappings, or other entries name the slot     a copy of its own, in RAM
//!   any, in a shared area                                writable in place: everybody shall see the store
//! ```
//!
//! Invariants:
//! 1. A frame that another entry maps, or that another entry's slot stands for, is never written through this one.
//! 2. A mapping is dropped only when no CPU of the space can reach the frame through it.
//!
//! The caller holds the areas of the space, shared.
use x86_64::structures::paging::{Page, PhysFrame};

use super::fault::{Attempt, without_accessed};
use super::{Area, AreaKind, Resident, Resolution, Space};
use crate::address::PageRange;
use crate::frame::{AnyFrame, CopyFailed};
use crate::machine::Machine;
use crate::migrate::BringHomeError;
use crate::page_table::entry::{Entry, LeafFlags, RawEntry};
use crate::page_table::flush::OwedFlush;
use crate::page_table::leaf_table::{LeafTable, peek};

impl<M: Machine> Space<'_, M> {
    /// Whether somebody else may read the frame: through another entry, or by the slot of its page, of which it is the only
    /// copy. A hint, until it is looked at under the table's lock.
    pub(super) fn must_copy(self, frame: AnyFrame) -> bool {
        self.manager.any_descriptor(frame).mappings() > 1 || self.manager.is_only_copy(frame)
    }

    /// Makes the frame of an entry, whose table the caller has locked, this space's alone: no other entry maps it, and none can
    /// find it in the swap cache. `false` where it must be copied, or somebody is at work on it.
    ///
    /// It stays so until a fork of this space, which needs the areas for itself, or a swap-out, which needs the entry.
    pub(super) fn make_sole(self, frame: AnyFrame) -> bool {
        let manager = self.manager;
        let descriptor = manager.any_descriptor(frame);
        if !manager.is_swap_cached(frame) {
            return descriptor.mappings() <= 1;
        }
        let AnyFrame::System(frame) = frame else { return false };
        if !descriptor.try_lock_page() {
            return false;
        }
        let sole = descriptor.mappings() == 1 && manager.leave_swap_cache(frame);
        manager.unlock_page(frame);
        sole
    }

    /// Lets a page that is ours alone, or that a shared area maps, be written where it is. Others that still have the older
    /// translation fault and find it stale.
    pub(super) fn make_writable(self, table: PhysFrame, page: Page, area: &Area, seen: RawEntry) -> Attempt {
        let manager = self.manager;
        let leaf = LeafTable::lock(&manager.machine, &manager.memory, table);
        let now = leaf.load(page);
        let sole = |frame| self.make_sole(manager.frame_behind(frame));
        if without_accessed(now) != without_accessed(seen) {
            return Attempt::LookAgain;
        }
        if area.kind != AreaKind::Shared && !now.named_frame().is_some_and(sole) {
            return Attempt::LookAgain;
        }
        leaf.update(page, |raw| match raw.decode() {
            Entry::Present { frame, flags } => {
                Entry::Present { frame, flags: flags | LeafFlags::WRITABLE | LeafFlags::ACCESSED | LeafFlags::DIRTY }
                    .encode()
            }
            _ => raw,
        });
        drop(leaf);
        self.forget_here(page);
        Attempt::Done(Resolution::Writable)
    }

    /// Gives this space a copy of its own of a page that it shares, with `more` flags than a read-only page has.
    ///
    /// The frame's lock keeps a migration from taking the shared frame while it is copied; its contents stand still, because
    /// nobody writes a shared frame. Bounded: whoever holds the lock is at work on this page. Where the shared frame is a coherent
    /// device's and its contents do not arrive, this space's page is poisoned; the other sharers keep theirs.
    pub(super) fn copy_on_write(
        self,
        table: PhysFrame,
        page: Page,
        area: &Area,
        seen: RawEntry,
        more: LeafFlags,
    ) -> Result<Attempt, BringHomeError> {
        let manager = self.manager;
        let machine = &manager.machine;
        let Some(shared) = seen.named_frame().map(|frame| manager.frame_behind(frame)) else {
            return Ok(Attempt::LookAgain);
        };
        let fresh = manager.memory.allocate(machine, &manager.injector)?;
        let Some(locked) = manager.try_lock_frame(shared) else {
            let is_in_vain = manager.is_locked_by_own_migration(shared);
            return if is_in_vain { Err(BringHomeError::HeldHere) } else { Ok(Attempt::LookAgain) };
        };
        // Looked at again now that nobody can take it away.
        if without_accessed(peek(machine, table, page)) != without_accessed(seen) {
            return Ok(Attempt::LookAgain);
        }
        let copied = manager.copy_page(shared, fresh.frame().into());
        machine.complete_copies();
        {
            let leaf = LeafTable::lock(machine, &manager.memory, table);
            if without_accessed(leaf.load(page)) != without_accessed(seen) {
                return Ok(Attempt::LookAgain);
            }
            let entry = match copied {
                Ok(()) => {
                    let frame = fresh.into_frame();
                    manager.memory.descriptor(frame).map(area.origin_of(page), 1);
                    self.charge(Resident::Ram, 1);
                    let flags = area.protection.read_only_flags() | LeafFlags::ACCESSED | more;
                    Entry::Present { frame, flags }
                }
                Err(CopyFailed) => Entry::Poison,
            };
            leaf.swap(page, entry.encode());
            // Other CPUs in this space must not read the shared frame any more once this CPU has stored to its copy; and the
            // mapping keeps its reference until none can.
            let mut owed = OwedFlush::new();
            owed.owe(PageRange::of_page(page));
            owed.pay(machine, self.state, &manager.statistics);
        }
        locked.descriptor().remove_mappings(1);
        drop(locked);
        self.uncharge(Resident::of(shared), 1);
        let why = manager.why_lost(shared);
        manager.release_frame(shared, 1);
        match copied {
            Ok(()) => {
                manager.statistics.count_copied_page();
                Ok(Attempt::Done(Resolution::Copied))
            }
            Err(CopyFailed) => {
                manager.statistics.count_poisoned(1);
                Err(why)
            }
        }
    }
}
