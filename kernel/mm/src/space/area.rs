//! Areas: which parts of the lower half may be touched, how, and what stands behind them.
use alloc::vec::Vec;
use bitflags::bitflags;
use core::sync::atomic::{AtomicUsize, Ordering};
use x86_64::PhysAddr;
use x86_64::structures::paging::{Page, PhysFrame};

use super::Access;
use super::MapError;
use crate::address::{PAGE_BYTES, PageRange};
use crate::frame::Origin;
use crate::page_table::entry::{Entry, LeafFlags, RawEntry};

bitflags! {
    /// What may be done with the pages of an area. None is ever executable.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Protection: u8 {
        /// Loads are allowed.
        const READ = 1 << 0;
        /// Stores are allowed; loads then are, too, because x86 has no write-only pages.
        const WRITE = 1 << 1;
        /// User mode may touch the pages, too.
        const USER = 1 << 2;
    }
}

impl Protection {
    /// Loads and stores by the kernel.
    pub const READ_WRITE: Self = Self::READ.union(Self::WRITE);

    /// The flags of a leaf under this protection, without leave to write.
    #[inline]
    pub(crate) fn read_only_flags(self) -> LeafFlags {
        if self.contains(Self::USER) { LeafFlags::NO_EXECUTE | LeafFlags::USER } else { LeafFlags::NO_EXECUTE }
    }

    /// Whether this access is allowed.
    #[inline]
    pub(crate) fn allows(self, access: Access) -> bool {
        match access {
            Access::Read => self.is_accessible(),
            Access::Write => self.contains(Self::WRITE),
            Access::Execute => false,
        }
    }

    /// Whether any access is allowed.
    #[inline]
    pub fn is_accessible(self) -> bool {
        self.intersects(Self::READ_WRITE)
    }
}

/// What stands behind the pages of an area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AreaKind {
    /// Memory of its own: zeros until written, copied on write after a fork. The only kind that migrates.
    Anonymous,
    /// Memory that a fork shares for good: present from the start, written in place by everybody who has it.
    Shared,
    /// Physical addresses of a device, such as its control area: neither counted nor freed.
    Device {
        /// The memory type of its leaves.
        memory_type: LeafFlags,
    },
    /// Nothing, on purpose: whoever runs over the end of what is below it faults.
    Guard,
}

impl AreaKind {
    /// Whether entries of the area map frames that are counted, so that a reverse map may find them there.
    pub(crate) const fn has_counted_frames(self) -> bool {
        matches!(self, Self::Anonymous | Self::Shared)
    }
}

/// A range of pages of one kind and one protection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Area {
    /// Where.
    pub range: PageRange,
    /// What is allowed.
    pub protection: Protection,
    /// What stands behind it.
    pub kind: AreaKind,
    /// Where its first page was first mapped, here or in the space that this one was forked from. Of a device area, the
    /// number of its first physical frame.
    pub origin: Origin,
}

impl Area {
    /// An area whose pages were never anywhere else.
    pub(crate) fn new(range: PageRange, protection: Protection, kind: AreaKind) -> Self {
        Self { range, protection, kind, origin: Origin(range.start_address().as_u64() / PAGE_BYTES) }
    }

    /// An area of the physical frames from `first` on.
    pub(crate) fn of_device(
        range: PageRange,
        protection: Protection,
        first: PhysFrame,
        memory_type: LeafFlags,
    ) -> Self {
        let origin = Origin(first.start_address().as_u64() / PAGE_BYTES);
        Self { range, protection, kind: AreaKind::Device { memory_type }, origin }
    }

    /// The leaf of `page` of a device area under `protection`; empty where that allows no access, and in areas of other kinds.
    pub(crate) fn device_leaf(&self, page: Page, protection: Protection) -> RawEntry {
        let AreaKind::Device { memory_type } = self.kind else { return RawEntry::EMPTY };
        if !protection.is_accessible() {
            return RawEntry::EMPTY;
        }
        let frame = PhysFrame::containing_address(PhysAddr::new_truncate(self.origin_of(page).0 * PAGE_BYTES));
        let mut flags = protection.read_only_flags() | memory_type;
        flags.set(LeafFlags::WRITABLE, protection.contains(Protection::WRITE));
        Entry::Present { frame, flags }.encode()
    }

    /// The origin of `page`, which is in the area.
    #[inline(always)]
    pub fn origin_of(&self, page: Page) -> Origin {
        let bytes = page.start_address().as_u64() - self.range.start_address().as_u64();
        Origin(self.origin.0 + bytes / PAGE_BYTES)
    }

    /// The page of this origin, where it would be in the area.
    pub(crate) fn page_of(&self, origin: Origin) -> Option<Page> {
        let index = origin.0.checked_sub(self.origin.0)?;
        (index < self.range.pages()).then(|| self.range.page(index))
    }

    /// The area as it is after its pages moved to `start`.
    pub(crate) fn moved_to(self, start: Page) -> Self {
        Self { range: self.range.moved_to(start), ..self }
    }
}

/// The areas of a space: sorted, disjoint.
#[derive(Debug)]
pub struct AreaList {
    areas: Vec<Area>,
    /// Where [`Self::find`] found the last area: most likely the next one, too.
    last_found: AtomicUsize,
}

/// There is no room for one more area in the heap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NoRoom;

impl AreaList {
    pub(crate) const fn new() -> Self {
        Self { areas: Vec::new(), last_found: AtomicUsize::new(0) }
    }

    /// The area that holds `page`.
    #[inline(always)]
    pub(crate) fn find(&self, page: Page) -> Option<&Area> {
        match self.areas.get(self.last_found.load(Ordering::Relaxed)) {
            Some(last) if last.range.contains_page(page) => Some(last),
            _ => self.search(page),
        }
    }

    #[cold]
    #[inline(never)]
    fn search(&self, page: Page) -> Option<&Area> {
        let index = self.first_from(page);
        let found = self.areas.get(index).filter(|candidate| candidate.range.contains_page(page))?;
        self.last_found.store(index, Ordering::Relaxed);
        Some(found)
    }

    /// Index of the first area that ends after `page`.
    #[inline(always)]
    fn first_from(&self, page: Page) -> usize {
        self.areas.partition_point(|area| area.range.end() <= page.start_address().as_u64())
    }

    /// The first area that shares a page with `range`.
    pub(crate) fn overlapping(&self, range: PageRange) -> Option<&Area> {
        let candidate = self.areas.get(self.first_from(range.start()))?;
        candidate.range.intersection(range).is_some().then_some(candidate)
    }

    /// Refuses a range that is not anonymous throughout.
    pub(crate) fn require_anonymous(&self, range: PageRange) -> Result<(), MapError> {
        match self.within(range).find(|area| area.kind != AreaKind::Anonymous) {
            Some(area) => Err(MapError::WrongKind(area.range, area.kind)),
            None => Ok(()),
        }
    }

    /// Every area that shares a page with `range`, ascending.
    pub(crate) fn within(&self, range: PageRange) -> impl Iterator<Item = &Area> {
        self.areas[self.first_from(range.start())..]
            .iter()
            .take_while(move |area| area.range.start_address().as_u64() < range.end())
    }

    /// Whether there is no area.
    pub(crate) fn is_empty(&self) -> bool {
        self.areas.is_empty()
    }

    /// Every area, ascending.
    pub fn iter(&self) -> impl Iterator<Item = &Area> {
        self.areas.iter()
    }

    /// Whether every page of `range` is in some area.
    pub(crate) fn covers(&self, range: PageRange) -> bool {
        let mut next = range.start_address().as_u64();
        for area in &self.areas[self.first_from(range.start())..] {
            if area.range.start_address().as_u64() > next {
                break;
            }
            next = area.range.end();
        }
        next >= range.end()
    }

    /// Adds an area that overlaps no other, and joins it with neighbours of the same protection.
    pub(crate) fn insert(&mut self, area: Area) -> Result<(), NoRoom> {
        self.areas.try_reserve(1).map_err(|_| NoRoom)?;
        let index = self.first_from(area.range.start());
        self.areas.insert(index, area);
        self.join(index);
        if index > 0 {
            self.join(index - 1);
        }
        Ok(())
    }

    /// Joins the area at `index` with the next where they touch and agree.
    fn join(&mut self, index: usize) {
        if let (Some(first), Some(second)) = (self.areas.get(index), self.areas.get(index + 1))
            && first.range.end() == second.range.start_address().as_u64()
            && first.protection == second.protection
            && first.kind == second.kind
            && first.origin.0 + first.range.pages() == second.origin.0
        {
            self.areas[index].range = first.range.hull(second.range);
            self.areas.remove(index + 1);
        }
    }

    /// Makes borders of areas at both ends of `range`, so that every area lies inside or outside of it.
    pub(crate) fn split_around(&mut self, range: PageRange) -> Result<(), NoRoom> {
        self.areas.try_reserve(2).map_err(|_| NoRoom)?;
        for border in [range.start_address().as_u64(), range.end()] {
            let Some(index) = self
                .areas
                .iter()
                .position(|area| area.range.start_address().as_u64() < border && border < area.range.end())
            else {
                continue;
            };
            let area = self.areas[index];
            if let (Some(low), Some(high)) = area.range.split_at(border) {
                self.areas[index].range = low;
                self.areas.insert(index + 1, Area { range: high, origin: area.origin_of(high.start()), ..area });
            }
        }
        Ok(())
    }

    /// Removes the areas inside `range`; [`Self::split_around`] came before.
    pub(crate) fn remove_inside(&mut self, range: PageRange) {
        self.areas.retain(|area| !range.contains(area.range));
    }

    /// Sets the protection of the areas inside `range`; [`Self::split_around`] came before.
    pub(crate) fn protect_inside(&mut self, range: PageRange, protection: Protection) {
        for area in self.areas.iter_mut().filter(|area| range.contains(area.range)) {
            area.protection = protection;
        }
        for index in (0..self.areas.len()).rev() {
            self.join(index);
        }
    }

    /// The addresses around `range` that belong to no other area: from the end of the area before to the start of the one after.
    pub(crate) fn gap_around(&self, range: PageRange) -> core::ops::Range<u64> {
        let index = self.first_from(range.start());
        let floor = if index == 0 { 0 } else { self.areas[index - 1].range.end() };
        let ceiling = self.areas.get(index).map_or(u64::MAX, |area| area.range.start_address().as_u64());
        floor..ceiling
    }

    /// Makes room for `more` areas, so that as many insertions and splits cannot fail.
    pub(crate) fn reserve(&mut self, more: usize) -> Result<(), NoRoom> {
        self.areas.try_reserve(more).map_err(|_| NoRoom)
    }

    /// A copy of the list, for a fork.
    pub(crate) fn try_clone(&self) -> Result<Self, NoRoom> {
        let mut areas = Vec::new();
        areas.try_reserve_exact(self.areas.len()).map_err(|_| NoRoom)?;
        areas.extend_from_slice(&self.areas);
        Ok(Self { areas, last_found: AtomicUsize::new(0) })
    }

    /// Takes every area out.
    pub(crate) fn take_all(&mut self) -> Vec<Area> {
        core::mem::take(&mut self.areas)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use x86_64::VirtAddr;

    const BASE: u64 = 0x20_0000;
    const PAGES: usize = 32;

    fn range(first: usize, pages: usize) -> PageRange {
        PageRange::covering(VirtAddr::new(BASE + first as u64 * 4096), pages as u64 * 4096).unwrap()
    }

    proptest! {
        /// Against a model with one protection per page.
        #[test]
        fn areas_say_what_a_table_of_pages_says(
            steps in prop::collection::vec((0u8..3, 0..PAGES, 1usize..8, 0u8..4), 1..60)
        ) {
            let mut areas = AreaList::new();
            let mut model = [None; PAGES];
            for (step, first, pages, bits) in steps {
                let pages = pages.min(PAGES - first);
                let part = range(first, pages);
                let protection = Protection::from_bits_truncate(bits);
                let model_part = &mut model[first..first + pages];
                match step {
                    0 => {
                        let free = model_part.iter().all(Option::is_none);
                        prop_assert_eq!(areas.overlapping(part).is_none(), free);
                        if free {
                            areas.insert(Area::new(part, protection, AreaKind::Anonymous)).unwrap();
                            model_part.fill(Some(protection));
                        }
                    }
                    1 => {
                        areas.split_around(part).unwrap();
                        areas.remove_inside(part);
                        model_part.fill(None);
                    }
                    _ => {
                        let covered = model_part.iter().all(Option::is_some);
                        prop_assert_eq!(areas.covers(part), covered);
                        areas.split_around(part).unwrap();
                        areas.protect_inside(part, protection);
                        for page in model_part.iter_mut().flatten() {
                            *page = protection;
                        }
                    }
                }
                for (index, expected) in model.iter().enumerate() {
                    let found = areas.find(range(index, 1).start()).map(|area| area.protection);
                    prop_assert_eq!(found, *expected, "page {}", index);
                }
                for pair in areas.areas.windows(2) {
                    prop_assert!(pair[0].range.end() <= pair[1].range.start_address().as_u64(), "sorted and disjoint");
                }
            }
        }
    }

    #[test]
    fn neighbours_of_different_kinds_stay_apart() {
        let mut areas = AreaList::new();
        for (first, kind) in [(0, AreaKind::Anonymous), (1, AreaKind::Shared), (2, AreaKind::Guard)] {
            areas.insert(Area::new(range(first, 1), Protection::empty(), kind)).unwrap();
        }
        let kinds: Vec<AreaKind> = areas.within(range(1, 4)).map(|area| area.kind).collect();
        assert_eq!(kinds, [AreaKind::Shared, AreaKind::Guard]);
    }

    #[test]
    fn neighbours_of_one_protection_are_one_area() {
        let mut areas = AreaList::new();
        for first in [0, 2, 1] {
            areas.insert(Area::new(range(first, 1), Protection::READ, AreaKind::Anonymous)).unwrap();
        }
        assert_eq!(areas.iter().count(), 1);
        assert_eq!(areas.gap_around(range(1, 1)), 0..BASE, "an area is no gap");
        areas.split_around(range(1, 1)).unwrap();
        areas.remove_inside(range(1, 1));
        assert_eq!(areas.gap_around(range(1, 1)), BASE + 4096..BASE + 8192);
    }
}
