//! Before phase one, where the caller asks for it ([`super::Mode::Transactional`]): the copy is made while the page stays in use.
//!
//! ```text
//!              protect                      copy                   collect
//!   Present ─▶ Present, read-only ─ flush ─ device frame, copied ─ read-only as before? ─▶ Migrating ─ flush ─ as in every migration
//!                    │ a load: no fault                            │ no
//!                    └ a store: writable again by its fault ──────▶└─▶ stays (`Written`), the copy is thrown away
//! ```
//!
//! After Nomad (Xiang et al., OSDI '24), "transactional page migration". It costs a second flush.
//!
//! Invariants:
//! 1. From the flush on no CPU stores to the page: its only entry is read-only. A store faults, and its fault makes the entry writable
//!    by the ordinary path (`Space::make_writable`), without waiting for the copy and without knowing of it.
//! 2. While the batch is open, nobody else takes leave to write from an entry: for that one needs the areas exclusively, or the lock of
//!    the frame. So an entry that is read-only and names the same frame was so all along, and the copy holds.
//! 3. The frame is locked from *protect* on, so it stays the page's. Whoever pins it meanwhile is found by the reference check, which
//!    comes after the second flush.
//! 4. Wherever the page stays, its entry is as writable as before, and it comes home as writable as it left.
//! 5. The listeners are told before *protect* and look nothing up before the second flush is paid.
//!
//! Pages that need no copy, and those that several entries map, are left to *collect*. A shared page is read-only anyway, but a store
//! to it needs the frame's lock, and would wait.
use x86_64::structures::paging::Page;

use super::batch::{Batch, Slots};
use super::slot::{Slot, SlotState, Source};
use super::{Collected, MigrateError, MigrateOptions};
use crate::address::PageRange;
use crate::frame::{AnyFrame, DeviceFrame, DeviceId, DeviceMemory, FrameKind};
use crate::machine::Machine;
use crate::page_table::entry::{Entry, LeafFlags, RawEntry};
use crate::page_table::flush::OwedFlush;
use crate::page_table::leaf_table::LeafTable;
use crate::page_table::walk;
use crate::space::Space;
use crate::stats::Reason;
use crate::trace::Phase;

/// A batch whose pages are in use and cannot be written.
#[must_use = "dropping it gives every page back"]
pub struct Protected<'m, M: Machine> {
    batch: Batch<'m, M, Slots>,
    device: &'m DeviceMemory<M::Descriptors>,
}

/// A batch whose pages are in use, with a copy of each on the device, as far as it had room.
#[must_use = "dropping it gives every page back"]
pub struct CopiedAhead<'m, M: Machine> {
    batch: Batch<'m, M, Slots>,
    device: &'m DeviceMemory<M::Descriptors>,
}

impl<'m, M: Machine> Space<'m, M> {
    /// Takes leave to write from the pages of `range`, for a migration to `device` that copies them before it takes them.
    ///
    /// # Errors
    /// See [`MigrateError`].
    pub fn protect_for_copy(
        self,
        range: PageRange,
        device: DeviceId,
        options: MigrateOptions,
    ) -> Result<Protected<'m, M>, MigrateError> {
        let manager = self.manager;
        let device = self.target(device)?;
        let mut batch = self.open_migration(range, device.id(), options)?;
        let mut owed = OwedFlush::new();
        let mut slots = batch.slots.iter_mut();
        for part in range.by_leaf_table() {
            let slots = slots.by_ref().take(part.pages() as usize);
            // Without a table there is nothing to copy.
            let Some(table) = walk::leaf_table(&manager.machine, self.root(), part.start()) else {
                slots.for_each(drop);
                continue;
            };
            let leaf = LeafTable::lock(&manager.machine, &manager.memory, table);
            for (index, slot) in (0..).zip(slots) {
                *slot = self.protect_page(&leaf, part.page(index), &mut owed);
            }
        }
        owed.pay(&manager.machine, self.state, &manager.statistics);
        Ok(Protected { batch, device })
    }

    /// Locks the frame of a page and takes leave to write from its entry, where there is something to copy.
    fn protect_page(self, leaf: &LeafTable<'m, M>, page: Page, owed: &mut OwedFlush) -> Slot {
        let manager = self.manager;
        let Entry::Present { frame, flags } = leaf.load(page).decode() else { return Slot::UNSEEN };
        let AnyFrame::System(frame) = manager.frame_behind(frame) else { return Slot::UNSEEN };
        let descriptor = manager.memory.descriptor(frame);
        if descriptor.kind() != FrameKind::Anonymous || descriptor.mappings() > 1 {
            return Slot::UNSEEN;
        }
        // A hint, to save the copy: what counts is the reference check.
        if descriptor.pins() > 0 {
            return Slot::stays(Reason::Pinned);
        }
        if let Err(reason) = self.lock_to_leave(frame, flags) {
            return Slot::stays(reason);
        }
        let saved = leaf.update(page, |raw| RawEntry(raw.0 & !LeafFlags::WRITABLE.bits()));
        if saved.flags().contains(LeafFlags::WRITABLE) {
            owed.owe(PageRange::of_page(page));
        }
        Slot { saved, source: Source::of(frame.into()), state: SlotState::Protected(Reason::Busy) }
    }

    /// Takes a page that was copied ahead to `device`, unless somebody has stored to it: then it stays as that store left it.
    pub(super) fn take_protected(self, leaf: &LeafTable<'m, M>, page: Page, slot: Slot, device: DeviceId) -> Slot {
        let copy = match slot.state {
            SlotState::CopiedAhead(copy) => copy,
            SlotState::Protected(reason) => return self.unprotect(leaf, page, slot, reason),
            _ => return slot,
        };
        let Some(source) = slot.source.any().filter(|_| self.is_still_protected(leaf, page, slot)) else {
            self.manager.free_any(DeviceFrame::new(device, copy).into());
            return self.unprotect(leaf, page, slot, Reason::Written);
        };
        let taken = self.take_entry(leaf, page, source);
        // With leave to write as before; accessed and dirty as of now.
        let saved = RawEntry(taken.saved.0 | slot.saved.0 & LeafFlags::WRITABLE.bits());
        Slot { saved, source: slot.source, state: SlotState::Copied(copy) }
    }

    /// Whether the entry is what *protect* made of it, but for its accessed bit.
    fn is_still_protected(self, leaf: &LeafTable<'m, M>, page: Page, slot: Slot) -> bool {
        let now = leaf.load(page);
        let is_as_it_was = now.is_present() && !now.flags().contains(LeafFlags::WRITABLE);
        debug_assert!(!is_as_it_was || self.manager.mapped_frame(now) == slot.source.any(), "invariant 2: {now:?}");
        is_as_it_was
    }

    /// Gives leave to write and the frame's lock back. Nothing to flush: the entry becomes stronger.
    pub(super) fn unprotect(self, leaf: &LeafTable<'m, M>, page: Page, slot: Slot, reason: Reason) -> Slot {
        if self.is_still_protected(leaf, page, slot) {
            leaf.update(page, |raw| RawEntry(raw.0 | slot.saved.0 & LeafFlags::WRITABLE.bits()));
        }
        if let Some(source) = slot.source.any() {
            self.manager.unlock_frame(source);
        }
        Slot::stays(reason)
    }
}

impl<'m, M: Machine> Protected<'m, M> {
    /// Copies the pages, which may be read meanwhile. One that is written is copied, too, in vain.
    pub fn copy(self) -> CopiedAhead<'m, M> {
        let Self { mut batch, device } = self;
        batch.tell(Phase::Copy);
        let is_protected = |slot: &Slot| matches!(slot.state, SlotState::Protected(_));
        batch.copy_to_device(device, is_protected, SlotState::CopiedAhead, SlotState::Protected);
        // Waited for with the copies of the other pages, before any entry names them: see `Copied`.
        CopiedAhead { batch, device }
    }
}

impl<'m, M: Machine> CopiedAhead<'m, M> {
    /// Phase one: see [`Collected`]. Its copies are kept for the pages that nobody has written.
    ///
    /// # Errors
    /// See [`MigrateError`].
    pub fn collect(self) -> Result<Collected<'m, M>, MigrateError> {
        Collected::take(self.batch, self.device)
    }
}
