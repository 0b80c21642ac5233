//! Moving an area's pages to other addresses (`mremap`'s role): the entries move, the frames stay.
use x86_64::VirtAddr;
use x86_64::structures::paging::Page;

use super::area::NoRoom;
use super::{Area, AreaKind, MapError, Space, taken_back};
use crate::address::{PageRange, RangeError};
use crate::frame::OutOfFrames;
use crate::machine::Machine;
use crate::notify::InvalidationReason;
use crate::page_table::entry::RawEntry;
use crate::page_table::flush::OwedFlush;
use crate::page_table::leaf_table::LeafTable;
use crate::page_table::walk;

/// Why pages were not moved. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RelocateError {
    /// The source is not mapped throughout, or the target is mapped already.
    Map(MapError),
    /// The target is no place for areas.
    Range(RangeError),
    /// The source is more than one area: each keeps an origin of its own.
    SeveralAreas(PageRange),
    /// Source and target share pages.
    Overlap(PageRange),
    /// No frame for a page table of the target.
    OutOfFrames,
}

impl core::fmt::Display for RelocateError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Map(error) => error.fmt(f),
            Self::Range(error) => error.fmt(f),
            Self::SeveralAreas(range) => {
                write!(
                    f,
                    "v{:#x}..v{:#x} is more than one area; move each by itself",
                    range.start_address(),
                    range.end()
                )
            }
            Self::Overlap(range) => {
                write!(f, "the target overlaps its source v{:#x}..v{:#x}", range.start_address(), range.end())
            }
            Self::OutOfFrames => OutOfFrames.fmt(f),
        }
    }
}

impl core::error::Error for RelocateError {}

impl From<NoRoom> for RelocateError {
    fn from(error: NoRoom) -> Self {
        Self::Map(error.into())
    }
}

/// What becomes of the addresses that the pages leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leave {
    /// They are unmapped.
    Nothing,
    /// They stay an area, empty (`MREMAP_DONTUNMAP`): of anonymous memory only.
    Empty,
}

impl<M: Machine> Space<'_, M> {
    /// Moves the pages of `range` to `target`, which must be free; pages on a device stay there.
    ///
    /// # Errors
    /// See [`RelocateError`].
    pub fn relocate(self, range: PageRange, target: VirtAddr, leave: Leave) -> Result<PageRange, RelocateError> {
        let is_out_of_frames = |error: &RelocateError| *error == RelocateError::OutOfFrames;
        self.manager.with_reclaim(is_out_of_frames, || self.relocate_once(range, target, leave))
    }

    fn relocate_once(self, range: PageRange, target: VirtAddr, leave: Leave) -> Result<PageRange, RelocateError> {
        let manager = self.manager;
        let machine = &manager.machine;
        let new_range = PageRange::covering(target, range.bytes()).map_err(RelocateError::Range)?;
        if new_range.intersection(range).is_some() {
            return Err(RelocateError::Overlap(range));
        }
        let held = self.announce_and_hold(range, InvalidationReason::Move);
        let (_announcement, mut areas) = held.map_err(RelocateError::Map)?;
        if !areas.covers(range) {
            return Err(RelocateError::Map(MapError::NotMapped(range)));
        }
        if let Some(area) = areas.overlapping(new_range) {
            return Err(RelocateError::Map(MapError::Overlaps(area.range)));
        }
        let area = *areas.find(range.start()).expect("covered");
        if !area.range.contains(range) {
            return Err(RelocateError::SeveralAreas(range));
        }
        if leave == Leave::Empty && area.kind != AreaKind::Anonymous {
            return Err(RelocateError::Map(MapError::WrongKind(area.range, area.kind)));
        }
        // What can fail comes first: tables for the target, room for the areas.
        let mut populated = Ok(());
        for part in new_range.by_leaf_table() {
            let allocate = || manager.memory.allocate_zeroed(machine, &manager.injector);
            populated = walk::populate(machine, &manager.memory, self.root(), part.start(), allocate).map(drop);
            if populated.is_err() {
                break;
            }
        }
        let prepared = populated.map_err(|OutOfFrames| RelocateError::OutOfFrames);
        let prepared = prepared.and_then(|()| {
            areas.reserve(4)?;
            Ok(areas.split_around(range)?)
        });
        if let Err(error) = prepared {
            self.free_tables(new_range, areas.gap_around(new_range));
            return Err(error);
        }
        let mut owed = OwedFlush::new();
        for index in 0..range.pages() {
            let (from, to) = (range.page(index), new_range.page(index));
            let entry = self.take_out(from);
            if entry.is_present() {
                owed.owe(PageRange::of_page(from));
            }
            if entry != RawEntry::EMPTY {
                self.put_in(to, taken_back(entry));
            }
        }
        owed.pay(machine, self.state, &manager.statistics);
        let piece = *areas.find(range.start()).expect("split around");
        areas.remove_inside(range);
        areas.insert(piece.moved_to(new_range.start()))?;
        self.tell_areas(new_range, Some(&piece));
        match leave {
            Leave::Nothing => {
                self.tell_areas(range, None);
                self.free_tables(range, areas.gap_around(range));
            }
            // Fresh pages, so an origin of their own: the old one went with the pages.
            Leave::Empty => areas.insert(Area::new(range, piece.protection, piece.kind))?,
        }
        Ok(new_range)
    }

    /// Empties the entry of `page` and returns it. The areas are held exclusively: nobody sees the moment in between.
    fn take_out(self, page: Page) -> RawEntry {
        let manager = self.manager;
        let Some(table) = walk::leaf_table(&manager.machine, self.root(), page) else { return RawEntry::EMPTY };
        LeafTable::lock(&manager.machine, &manager.memory, table).swap(page, RawEntry::EMPTY)
    }

    /// Writes an entry that was taken out elsewhere.
    fn put_in(self, page: Page, entry: RawEntry) {
        let manager = self.manager;
        let table = walk::leaf_table(&manager.machine, self.root(), page).expect("populated");
        LeafTable::lock(&manager.machine, &manager.memory, table).swap(page, entry);
    }
}
