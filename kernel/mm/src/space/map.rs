//! Mapping and unmapping of areas.
use x86_64::structures::paging::PhysFrame;

use super::area::{AreaList, NoRoom};
use super::{Area, Protection, Resident, Space};
use crate::address::PageRange;
use crate::frame::{AnyFrame, DeviceFrame};
use crate::machine::Machine;
use crate::page_table::entry::{Entry, RawEntry};
use crate::page_table::flush::OwedFlush;
use crate::page_table::leaf_table::LeafTable;
use crate::page_table::walk;

/// Why an area was not mapped, unmapped or protected. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// The range shares pages with this area.
    Overlaps(PageRange),
    /// Part of the range is in no area.
    NotMapped(PageRange),
    /// The heap has no room for one more area.
    HeapFull,
}

impl From<NoRoom> for MapError {
    fn from(NoRoom: NoRoom) -> Self {
        Self::HeapFull
    }
}

impl core::fmt::Display for MapError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (range, text) = match self {
            Self::Overlaps(area) => (area, "is an area already; unmap it or choose another range"),
            Self::NotMapped(range) => (range, "is not all mapped; map it first"),
            Self::HeapFull => return f.write_str("the heap has no room for one more area; unmap one"),
        };
        write!(f, "v{:#x}..v{:#x} {text}", range.start_address(), range.end())
    }
}

impl core::error::Error for MapError {}

/// A list of RAM frames that nothing maps any more, but that a CPU may still reach through a stale translation.
///
/// They are freed by [`ZappedFrames::free`] only, which wants the flush to be paid first. The list runs through the
/// descriptors' links, so it takes no memory.
struct ZappedFrames {
    head: u32,
}

impl ZappedFrames {
    fn push<M: Machine>(&mut self, space: Space<'_, M>, frame: PhysFrame) {
        space.manager.memory.descriptor(frame).set_link(crate::frame::NO_FRAME, self.head);
        self.head = crate::frame::number(frame);
    }

    /// Pays the flush, then drops the reference of each frame.
    fn free<M: Machine>(mut self, space: Space<'_, M>, owed: OwedFlush) {
        let manager = space.manager;
        owed.pay(&manager.machine, space.state, &manager.statistics);
        while self.head != crate::frame::NO_FRAME {
            let frame = crate::frame::frame_of(self.head);
            let descriptor = manager.memory.descriptor(frame);
            self.head = descriptor.link().1;
            if descriptor.release() {
                manager.memory.free_frame(&manager.machine, frame);
            }
        }
    }
}

impl<M: Machine> Space<'_, M> {
    /// Makes `range` an area of anonymous memory: zeros until written, without a frame until touched.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn map_anonymous(self, range: PageRange, protection: Protection) -> Result<(), MapError> {
        let mut areas = self.state.areas.write(&self.manager.machine);
        if let Some(area) = areas.overlapping(range) {
            return Err(MapError::Overlaps(area.range));
        }
        Ok(areas.insert(Area { range, protection })?)
    }

    /// Removes every page of `range`, in whatever areas, and forgets its contents. Holes are allowed.
    ///
    /// Waits for faults and migrations that are at work in this space; bounded by their work.
    ///
    /// # Errors
    /// [`MapError::HeapFull`] where an area would have to be split and there is no room.
    pub fn unmap(self, range: PageRange) -> Result<(), MapError> {
        let mut areas = self.state.areas.write(&self.manager.machine);
        areas.split_around(range)?;
        self.zap(&areas, range);
        areas.remove_inside(range);
        self.free_tables(areas.gap_around(range));
        Ok(())
    }

    /// Removes every area.
    pub(super) fn unmap_all(self) {
        let mut areas = self.state.areas.write(&self.manager.machine);
        for area in areas.iter() {
            self.zap(&areas, area.range);
        }
        drop(areas.take_all());
        self.free_tables(0..u64::MAX);
    }

    fn free_tables(self, gap: core::ops::Range<u64>) {
        let manager = self.manager;
        // A CPU may have cached the path to a table (Intel SDM 3A 4.10.3), also where it cached no leaf below it.
        let forget_paths = || {
            let mut owed = OwedFlush::new();
            owed.owe_lower_half();
            owed.pay(&manager.machine, self.state, &manager.statistics);
        };
        walk::free_tables(&manager.machine, &manager.memory, self.root(), gap, forget_paths);
    }

    /// Empties the entries of `range`: one flush, then the frames go.
    fn zap(self, areas: &AreaList, range: PageRange) {
        let manager = self.manager;
        let mut owed = OwedFlush::new();
        let mut zapped = ZappedFrames { head: crate::frame::NO_FRAME };
        for part in areas.iter().filter_map(|area| area.range.intersection(range)).flat_map(PageRange::by_leaf_table) {
            let Some(table) = walk::leaf_table(&manager.machine, self.root(), part.start()) else { continue };
            let leaf = LeafTable::lock(&manager.machine, &manager.memory, table);
            for index in 0..part.pages() {
                let page = part.page(index);
                if leaf.load(page) == RawEntry::EMPTY {
                    continue;
                }
                let old = leaf.swap(page, RawEntry::EMPTY);
                if old.is_present() {
                    owed.owe(PageRange::of_page(page));
                }
                self.drop_entry(old, &mut zapped);
            }
        }
        zapped.free(self, owed);
    }

    /// Lets go of what an entry that was just removed named.
    fn drop_entry(self, old: RawEntry, zapped: &mut ZappedFrames) {
        match old.decode() {
            Entry::Present { frame, .. } | Entry::NoAccess { frame, .. } if frame == self.manager.zero_frame => {}
            Entry::Present { frame, .. } | Entry::NoAccess { frame, .. } => {
                self.manager.memory.descriptor(frame).unmap_last();
                self.state.uncharge(Resident::System, 1);
                zapped.push(self, frame);
            }
            Entry::Device { frame, .. } => self.drop_device_mapping(frame),
            Entry::Empty | Entry::Poison => {}
            // A migration holds the areas shared for as long as it owns an entry, and we hold them exclusively.
            Entry::Migrating { frame: AnyFrame::System(_) | AnyFrame::Device(_), .. } => {
                unreachable!("a Migrating entry outlived its migration: {old:?}")
            }
            Entry::Swap { .. } | Entry::Exclusive { .. } | Entry::Unknown(_) => {
                unreachable!("an entry of a kind that nothing makes: {old:?}")
            }
        }
    }

    /// Drops the mapping of a device frame by an entry that is gone, and the frame with it.
    pub(crate) fn drop_device_mapping(self, frame: DeviceFrame) {
        let manager = self.manager;
        let device = manager.device(frame.device()).expect("an entry names a registered device");
        let descriptor = device.descriptor(frame);
        descriptor.unmap_last();
        self.state.uncharge(Resident::Device, 1);
        if descriptor.release() {
            device.free_frame(&manager.machine, frame);
        }
    }
}
