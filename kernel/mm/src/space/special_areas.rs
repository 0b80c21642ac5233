//! Areas that are not anonymous: shared memory, addresses of a device, guards.
//!
//! ```text
//!             entries                      fork                       migration, pin, discard
//!   ───────   ─────────────────────────    ────────────────────────   ─────────────────────────────────
//!   Shared    present from the start       the same frames, as        stays; may be pinned; not discarded
//!                                          writable as before
//!   Device    present from the start       the same leaves            refused
//!   Guard     none                         a guard                    refused
//! ```
//!
//! Invariants:
//! 1. An entry of a shared area is `Present` or `NoAccess` and names a frame of kind [`FrameKind::Shared`]; such a frame is mapped by
//!    shared areas only, is written through any of its mappings, and is never locked, so neither migration nor reclaim takes it.
//! 2. An entry of a device area is what [`Area::device_leaf`] says. Its frame has no descriptor that anybody may change.
//! 3. A guard has no entry.
//!
//! Locks: the areas are held exclusively while entries are made, each table for its entry.
use x86_64::structures::paging::{Page, PhysFrame};

use super::{Area, AreaKind, MapError, Protection, Resident, Space};
use crate::address::PageRange;
use crate::frame::{FrameKind, OutOfFrames};
use crate::machine::Machine;
use crate::page_table::entry::LeafFlags;
use crate::page_table::leaf_table::LeafTable;
use crate::page_table::walk;

impl<M: Machine> Space<'_, M> {
    /// Makes `range` an area of memory that forks share: every page is there from the start, full of zeros, stays in its
    /// frame, and what one sharer stores the others see.
    ///
    /// # Errors
    /// See [`MapError`]; what was taken for it is free again.
    pub fn map_shared(self, range: PageRange, protection: Protection) -> Result<(), MapError> {
        let area = Area::new(range, protection, AreaKind::Shared);
        let mut flags = protection.read_only_flags() | LeafFlags::ACCESSED | LeafFlags::DIRTY;
        flags.set(LeafFlags::WRITABLE, protection.contains(Protection::WRITE));
        self.map_with_room(area, || {
            let manager = self.manager;
            for page in (0..range.pages()).map(|index| range.page(index)) {
                let table = self.table_for(page)?;
                let fresh = manager.memory.allocate_zeroed(&manager.machine, &manager.injector)?;
                self.try_charge(Resident::Ram, 1)?;
                manager.machine.complete_copies();
                let frame = fresh.into_frame();
                manager.memory.descriptor(frame).map_as(FrameKind::Shared, area.origin_of(page), 1);
                let entry = manager.entry_at_rest(frame.into(), flags, protection);
                LeafTable::lock(&manager.machine, &manager.memory, table).swap(page, entry);
            }
            Ok(())
        })
    }

    /// Makes `range` an area of the physical frames from `first` on, such as the control area of a device: present from the
    /// start, with this memory type, neither counted nor freed.
    ///
    /// The frames must be no RAM and no device memory that migrations use: whoever maps them vouches for that.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn map_device(
        self,
        range: PageRange,
        first: PhysFrame,
        memory_type: LeafFlags,
        protection: Protection,
    ) -> Result<(), MapError> {
        let area = Area::of_device(range, protection, first, memory_type);
        self.map_with_room(area, || {
            for page in (0..range.pages()).map(|index| range.page(index)) {
                let table = self.table_for(page)?;
                let leaf = LeafTable::lock(&self.manager.machine, &self.manager.memory, table);
                leaf.swap(page, area.device_leaf(page, protection));
            }
            Ok(())
        })
    }

    /// Makes `range` a guard: every access to it fails, until it is unmapped.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn map_guard(self, range: PageRange) -> Result<(), MapError> {
        self.map(Area::new(range, Protection::empty(), AreaKind::Guard), || Ok(()))
    }

    /// Adds `area` with the entries that `fill` makes; where no frame is left for them, after room was made.
    fn map_with_room(self, area: Area, mut fill: impl FnMut() -> Result<(), MapError>) -> Result<(), MapError> {
        self.manager.with_reclaim(|error| *error == MapError::OutOfFrames, || self.map(area, &mut fill))
    }

    /// The level-1 table of `page`, made where it is missing. The areas are held.
    fn table_for(self, page: Page) -> Result<PhysFrame, OutOfFrames> {
        let manager = self.manager;
        let allocate = || manager.memory.allocate_zeroed(&manager.machine, &manager.injector);
        walk::populate(&manager.machine, &manager.memory, self.root(), page, allocate)
    }
}
