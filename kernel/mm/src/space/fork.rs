//! Fork: a second space with the same areas and, at that moment, the same contents.
//!
//! ```text
//!   parent's entry              child's entry               the frame
//!   ──────────────              ─────────────               ─────────
//!   present                     present                     one mapping more; both entries read-only
//!   present, pinned             present, read-only          a copy for the child, in RAM: the pin stays with the parent's page
//!   Device                      Device                      one mapping more on the device; both read-only
//!   Exclusive                   present                     as present: exclusive use ends
//!   Swap                        Swap                        one entry more names the slot
//!   zero page, Poison           the same                    -
//!   empty                       empty                       -
//!   in a shared area            the same, also writable     one mapping more
//!   in a device area            the same                    -
//! ```
//!
//! What can fail (tables, copies of pinned pages) comes first, so that a fork that fails leaves the parent's entries as they were.
use x86_64::VirtAddr;
use x86_64::structures::paging::Page;

use super::area::{Area, AreaKind, AreaList};
use super::{CreateError, Resident, Space, taken_back};
use crate::address::PageRange;
use crate::frame::{AnyFrame, CopyFailed, OutOfFrames};
use crate::lock::WriteGuard;
use crate::machine::Machine;
use crate::notify::InvalidationReason;
use crate::page_table::entry::{Entry, LeafFlags, RawEntry};
use crate::page_table::flush::OwedFlush;
use crate::page_table::leaf_table::LeafTable;
use crate::page_table::walk;
use crate::stats::Cause;
use crate::trace::{Event, record};

/// Why there is no child. The parent is as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ForkError {
    /// No space for it.
    Create(CreateError),
    /// The heap has no room for its areas.
    HeapFull,
    /// No frame for a table or for the copy of a pinned page.
    OutOfFrames,
    /// The page here is pinned in the memory of a coherent device, and its contents did not arrive for the child.
    CopyFailed(VirtAddr),
    /// This CPU holds a migration open, in the parent or in another space, for whose end it might have to wait.
    WouldWaitForItself,
    /// The parent has more pages than its limit, which the child inherits.
    OverLimit,
}

impl core::fmt::Display for ForkError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Create(error) => error.fmt(f),
            Self::HeapFull => f.write_str("the heap has no room for the areas of a child; destroy a space first"),
            Self::OutOfFrames => OutOfFrames.fmt(f),
            Self::CopyFailed(address) => write!(
                f,
                "the page at v{address:#x}, which is pinned on its device, could not be copied for the child; drop the pin first"
            ),
            Self::WouldWaitForItself => {
                f.write_str("this CPU holds a migration open; finish or drop it before forking")
            }
            Self::OverLimit => {
                f.write_str("the child would exceed the limit of its parent; unmap pages or raise the limit")
            }
        }
    }
}

impl core::error::Error for ForkError {}

impl<'m, M: Machine> Space<'m, M> {
    /// Makes a child that shares every page until one of the two stores to it.
    ///
    /// Waits for listeners, and for faults and migrations that are at work in this space; bounded by their work.
    ///
    /// # Errors
    /// See [`ForkError`].
    ///
    /// # Examples
    /// ```
    /// # use ferry_mm::address::PageRange;
    /// # use ferry_mm::frame::DeviceId;
    /// # use ferry_mm::space::Protection;
    /// # use ferry_sim::World;
    /// # use x86_64::VirtAddr;
    /// # let world = World::builder().device(8).swap(8).build();
    /// # let space = world.manager().create_space()?;
    /// # let range = PageRange::covering(VirtAddr::new(0x4000_0000), 4 * 4096)?;
    /// # space.map_anonymous(range, Protection::READ_WRITE)?;
    /// # let cpu = world.cpu(0);
    /// # cpu.enter(space);
    /// # let device = DeviceId::new(0).expect("a number of a device");
    /// # let first = range.start_address();
    /// cpu.store(first, b"parent")?;
    /// let child = space.fork()?;
    /// assert_eq!(space.entry(first), child.entry(first), "one frame, read-only in both");
    ///
    /// cpu.store(first, b"PARENT")?;
    /// cpu.enter(child);
    /// assert_eq!(&cpu.read(first)?, b"parent");
    /// # world.assert_all_free();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn fork(self) -> Result<Self, ForkError> {
        let is_out_of_frames =
            |error: &ForkError| matches!(error, ForkError::OutOfFrames | ForkError::Create(CreateError::OutOfFrames));
        self.manager.with_reclaim(is_out_of_frames, || self.fork_once())
    }

    fn fork_once(self) -> Result<Self, ForkError> {
        let manager = self.manager;
        if self.manager.holds_migration_open() {
            return Err(ForkError::WouldWaitForItself);
        }
        let child = manager.create_space().map_err(ForkError::Create)?;
        let held = self.announce_and_hold(PageRange::everything(), InvalidationReason::Fork);
        let (_announcement, mut areas) = held.expect("this CPU holds no migration open");
        // Until the end, so that nobody holds them who would keep us waiting: as long as they are empty, nobody does.
        let mut child_areas = child.state.areas.write_beside(&manager.machine);
        let prepared = self.prepare_child(child, &mut areas, &mut child_areas);
        if prepared.is_ok() {
            let mut owed = OwedFlush::new();
            for (area, part) in areas.iter().flat_map(|area| area.range.by_leaf_table().map(move |part| (area, part))) {
                self.share_part(child, area, part, &mut child_areas, &mut owed);
            }
            // Before the areas are given back: no CPU may store through a writable translation of a page that is shared now.
            owed.pay(&manager.machine, self.state, &manager.statistics);
        }
        drop(child_areas);
        drop(areas);
        if let Err(error) = prepared {
            child.destroy().expect("nobody has entered a child that was never handed out");
            return Err(error);
        }
        Ok(child)
    }

    /// Gives the child its areas, its tables, and copies of the pages that cannot be shared.
    fn prepare_child(
        self,
        child: Self,
        areas: &mut WriteGuard<'_, AreaList, M>,
        child_areas: &mut WriteGuard<'_, AreaList, M>,
    ) -> Result<(), ForkError> {
        let manager = self.manager;
        let machine = &manager.machine;
        // The areas are ours, so nothing becomes new to the parent until the child has it, too.
        if self.resident().charged() > self.limit() {
            return Err(ForkError::OverLimit);
        }
        child.set_limit(self.limit());
        **child_areas = areas.try_clone().map_err(|_| ForkError::HeapFull)?;
        record(machine, || Event::Forked { parent: self.id(), child: child.id() });
        for area in areas.iter() {
            for part in area.range.by_leaf_table() {
                let Some(table) = walk::leaf_table(machine, self.root(), part.start()) else { continue };
                let allocate = || manager.memory.allocate_zeroed(machine, &manager.injector);
                let child_table = walk::populate(machine, &manager.memory, child.root(), part.start(), allocate)
                    .map_err(|OutOfFrames| ForkError::OutOfFrames)?;
                let leaf = LeafTable::of_held_space(machine, &manager.memory, table, areas);
                let child_leaf = LeafTable::of_held_space(machine, &manager.memory, child_table, child_areas);
                for page in (0..part.pages()).map(|index| part.page(index)) {
                    if area.kind == AreaKind::Anonymous
                        && let Entry::Present { frame, .. } | Entry::NoAccess { frame, .. } = leaf.load(page).decode()
                        && frame != manager.zero_frame
                        && let frame = manager.frame_behind(frame)
                        && manager.any_descriptor(frame).pins() > 0
                    {
                        child.copy_for_child(area, &child_leaf, page, frame)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Maps a copy of `source` into the child that `self` is.
    fn copy_for_child(
        self,
        area: &Area,
        leaf: &LeafTable<'m, M>,
        page: Page,
        source: AnyFrame,
    ) -> Result<(), ForkError> {
        let manager = self.manager;
        let fresh = manager
            .memory
            .allocate(&manager.machine, &manager.injector)
            .map_err(|OutOfFrames| ForkError::OutOfFrames)?;
        manager
            .copy_page(source, fresh.frame().into())
            .map_err(|CopyFailed| ForkError::CopyFailed(page.start_address()))?;
        manager.machine.complete_copies();
        if let AnyFrame::Device(_) = source {
            manager.statistics.count_returned(1, Cause::Fork);
        }
        let frame = fresh.into_frame();
        manager.memory.descriptor(frame).map(area.origin_of(page), 1);
        self.charge(Resident::Ram, 1);
        let flags = area.protection.read_only_flags() | LeafFlags::ACCESSED | LeafFlags::DIRTY;
        leaf.swap(page, manager.entry_at_rest(frame.into(), flags, area.protection));
        Ok(())
    }

    /// Makes the child's entries of one table, and takes leave to write from the parent's.
    fn share_part(
        self,
        child: Self,
        area: &Area,
        part: PageRange,
        child_areas: &mut WriteGuard<'_, AreaList, M>,
        owed: &mut OwedFlush,
    ) {
        let manager = self.manager;
        let machine = &manager.machine;
        let Some(table) = walk::leaf_table(machine, self.root(), part.start()) else { return };
        let child_table = walk::leaf_table(machine, child.root(), part.start()).expect("prepared");
        let leaf = LeafTable::lock(machine, &manager.memory, table);
        let child_leaf = LeafTable::of_held_space(machine, &manager.memory, child_table, child_areas);
        for page in (0..part.pages()).map(|index| part.page(index)) {
            let raw = leaf.load(page);
            let mut entry = taken_back(raw);
            // A page that was copied for the child is not shared.
            if entry == RawEntry::EMPTY || child_leaf.load(page) != RawEntry::EMPTY {
                continue;
            }
            if let AreaKind::Device { .. } = area.kind {
                child_leaf.swap(page, entry);
                continue;
            }
            let as_shared = |entry| if area.kind == AreaKind::Shared { entry } else { read_only(entry) };
            if as_shared(raw) != raw {
                let before = leaf.update(page, as_shared);
                if before.is_present() {
                    owed.owe(PageRange::of_page(page));
                }
                // As it was when the store was made that set its dirty bit last: that store is the child's, too.
                entry = taken_back(before);
            }
            match entry.decode() {
                Entry::Present { frame, .. } | Entry::NoAccess { frame, .. } if frame == manager.zero_frame => {
                    child.charge(Resident::Zero, 1);
                }
                Entry::Present { frame, .. } | Entry::NoAccess { frame, .. } => {
                    let frame = manager.frame_behind(frame);
                    manager.any_descriptor(frame).add_mapping();
                    child.charge(Resident::of(frame), 1);
                }
                Entry::Device { frame, .. } => {
                    manager.device_descriptor(frame).add_mapping();
                    child.charge(Resident::Device, 1);
                }
                Entry::Empty | Entry::Poison => {}
                Entry::Swap { slot } => {
                    manager.slots().add_entries(machine, slot, 1);
                    child.charge(Resident::Swap, 1);
                }
                Entry::Migrating { .. } | Entry::Exclusive { .. } | Entry::Unknown(_) => {
                    unreachable!("an entry that cannot be in a space whose areas are held: {entry:?}")
                }
            }
            child_leaf.swap(page, as_shared(entry));
        }
    }
}

/// The entry without leave to write.
fn read_only(raw: RawEntry) -> RawEntry {
    match taken_back(raw).decode() {
        Entry::Present { frame, flags } => Entry::Present { frame, flags: flags - LeafFlags::WRITABLE },
        Entry::NoAccess { frame, flags } => Entry::NoAccess { frame, flags: flags - LeafFlags::WRITABLE },
        Entry::Device { frame, .. } => Entry::Device { frame, writable: false },
        other => other,
    }
    .encode()
}
