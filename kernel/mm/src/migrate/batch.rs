//! A batch: the pages that a migration holds, and how each is given back.
use alloc::vec::Vec;
use x86_64::structures::paging::Page;

use super::others::Others;
use super::slot::{Held, Slot, SlotState};
use super::{Invalid, MAX_PAGES_PER_CALL, MigrateError, Mode, Report};
use crate::address::PageRange;
use crate::frame::{AnyFrame, DeviceFrame, Origin, frame_of};
use crate::lock::ReadGuard;
use crate::machine::Machine;
use crate::migrate::in_progress::OpenBatch;
use crate::notify::{Announcement, SharersToldOf};
use crate::page_table::entry::Entry;
use crate::page_table::leaf_table::LeafTable;
use crate::page_table::walk;
use crate::space::area::AreaList;
use crate::space::{Area, AreaKind, Space};
use crate::stats::Reason;
use crate::trace::{Direction, Event, Phase, record};

/// The pages of one call. The slots are a heap array for calls, and one slot on the stack for a fault.
pub(crate) struct Batch<'m, M: Machine, S: AsMut<[Slot]>> {
    pub(crate) space: Space<'m, M>,
    pub(crate) range: PageRange,
    /// The area of the range, as it is for as long as the batch lives.
    pub(crate) area: Area,
    pub(crate) slots: S,
    /// Where its pages go.
    direction: Direction,
    /// Whether a page of it stays because it is swapped out.
    pub(crate) met_swapped: bool,
    /// Whether every page has moved or stays: nothing is to be given back.
    is_over: bool,
    /// How they are kept from being written meanwhile.
    pub(crate) mode: Mode,
    /// The other spaces that share pages of the batch; looked for when the first shared page is met.
    pub(crate) others: Option<Others<'m, M>>,
    /// The listeners of the range, and those of the other spaces, until the flush is paid.
    pub(crate) told: Told<'m, M>,
    /// Notes that the migration is open; `None` where it does not leave the call.
    pub(crate) open: Option<OpenBatch<'m, M>>,
    /// Keeps the range mapped; `None` where the caller, a fault, holds the areas.
    _areas: Option<ReadGuard<'m, AreaList, M>>,
}

/// Who has been told that pages of a batch are taken.
pub(crate) struct Told<'m, M: Machine> {
    /// The listeners of its own space; `None` where a fault has told them.
    pub(crate) _own: Option<Announcement<'m, M>>,
    /// Those of the spaces that share pages of it.
    pub(crate) sharers: SharersToldOf<'m, M>,
}

impl<M: Machine> Default for Told<'_, M> {
    fn default() -> Self {
        Self { _own: None, sharers: SharersToldOf::default() }
    }
}

/// The area of a range that may be migrated.
pub(super) fn migratable(areas: &AreaList, range: PageRange) -> Result<Area, MigrateError> {
    if range.pages() > MAX_PAGES_PER_CALL {
        return Err(MigrateError::Invalid(Invalid::TooLong(range)));
    }
    if let Some(guard) = areas.within(range).find(|area| area.kind == AreaKind::Guard) {
        let first = guard.range.start().max(range.start());
        return Err(MigrateError::Fault(first.start_address()));
    }
    let area = match areas.find(range.start()) {
        Some(area) if area.range.contains(range) => *area,
        _ => return Err(MigrateError::Invalid(Invalid::OutsideArea(range))),
    };
    if area.kind != AreaKind::Anonymous {
        return Err(MigrateError::Invalid(Invalid::NotAnonymous(range)));
    }
    if !area.protection.is_accessible() {
        return Err(MigrateError::Invalid(Invalid::NotReadable(range)));
    }
    Ok(area)
}

/// The slots of a call.
pub(crate) type Slots = Vec<Slot>;

impl<'m, M: Machine> Batch<'m, M, Slots> {
    /// Checks the request, gets the memory for it, and holds the areas.
    pub(crate) fn new(space: Space<'m, M>, range: PageRange, direction: Direction) -> Result<Self, MigrateError> {
        if range.pages() > MAX_PAGES_PER_CALL {
            return Err(MigrateError::Invalid(Invalid::TooLong(range)));
        }
        let pages = range.pages() as usize;
        let mut slots = Vec::new();
        slots.try_reserve_exact(pages).map_err(|_| MigrateError::NoMemory)?;
        slots.resize(pages, Slot::UNSEEN);
        let areas = space.state.areas.read(&space.manager.machine);
        let area = migratable(&areas, range)?;
        let batch = Self::of(space, range, area, slots, direction, Some(areas));
        batch.tell(Phase::Collect);
        Ok(batch)
    }
}

impl<'m, M: Machine> Batch<'m, M, [Slot; 1]> {
    /// The batch of one page, for a fault, which holds the areas.
    #[inline]
    pub(crate) fn of_page(space: Space<'m, M>, page: Page, area: Area) -> Self {
        Self::of(space, PageRange::of_page(page), area, [Slot::UNSEEN], Direction::Home, None)
    }
}

impl<'m, M: Machine, S: AsMut<[Slot]>> Batch<'m, M, S> {
    #[inline(always)]
    fn of(
        space: Space<'m, M>,
        range: PageRange,
        area: Area,
        slots: S,
        direction: Direction,
        areas: Option<ReadGuard<'m, AreaList, M>>,
    ) -> Self {
        Self {
            space,
            range,
            area,
            slots,
            direction,
            met_swapped: false,
            is_over: false,
            mode: Mode::Stop,
            others: None,
            told: Told::default(),
            open: None,
            _areas: areas,
        }
    }

    /// Calls `work` with each locked table, the part of the range that it maps, and the slots of that part. Parts without a page
    /// that is ours are left out.
    #[inline(always)]
    pub(crate) fn for_each_table(
        &mut self,
        mut work: impl FnMut(Space<'m, M>, &LeafTable<'m, M>, PageRange, &mut [Slot]),
    ) {
        let space = self.space;
        let machine = &space.manager.machine;
        let mut slots = self.slots.as_mut();
        for part in self.range.by_leaf_table() {
            let (mine, rest) = slots.split_at_mut(part.pages() as usize);
            slots = rest;
            if !mine.iter().any(Slot::is_ours) {
                continue;
            }
            let table =
                walk::leaf_table(machine, space.root(), part.start()).expect("the table of an entry that is ours");
            work(space, &LeafTable::lock(machine, &space.manager.memory, table), part, mine);
        }
    }

    /// Frees the copy of a page that stays, where there is one.
    fn free_copy(&self, slot: Slot) {
        let (SlotState::Copied(copy) | SlotState::CopiedAhead(copy)) = slot.state else { return };
        self.space.manager.free_any(match self.direction {
            Direction::ToDevice(device) => DeviceFrame::new(device, copy).into(),
            Direction::Home => frame_of(copy).into(),
        });
    }

    /// Gives pages up for which `reason` says why: their entries are to be given back, and a copy is of no use any more.
    #[cold]
    pub(crate) fn give_up(&mut self, reason: impl Fn(&Slot) -> Option<Reason>) {
        for index in 0..self.slots.as_mut().len() {
            let slot = self.slots.as_mut()[index];
            if let Some(reason) = reason(&slot) {
                self.free_copy(slot);
                self.slots.as_mut()[index].state = SlotState::GivingUp(reason);
            }
        }
    }

    /// Writes the saved entry back, bit for bit, and unlocks its frame. Nothing to flush: the entry was not present.
    pub(crate) fn give_back(space: Space<'m, M>, leaf: &LeafTable<'m, M>, page: Page, slot: &mut Slot, reason: Reason) {
        let migrating = leaf.swap(page, slot.saved);
        debug_assert!(
            matches!(migrating.decode(), Entry::Migrating { .. }),
            "somebody changed our entry to {migrating:?}"
        );
        if let Some(source) = slot.source.any() {
            space.manager.unlock_frame(source);
        }
        slot.state = SlotState::Stays(reason);
    }

    /// The other spaces' entries and the origin of a page, where the page is shared.
    pub(crate) fn shared(&self, source: AnyFrame) -> Option<(&Others<'m, M>, Origin)> {
        let origin = self.space.manager.any_descriptor(source).origin()?;
        self.others.as_ref().map(|others| (others, origin))
    }

    /// Gives the entries of other spaces back for every page that `which` selects.
    pub(crate) fn give_others_back(&mut self, which: impl Fn(SlotState) -> bool) {
        if self.others.is_none() {
            return;
        }
        for index in 0..self.slots.as_mut().len() {
            let slot = self.slots.as_mut()[index];
            if let Some(source) = slot.source.any().filter(|_| which(slot.state))
                && let Some((others, origin)) = self.shared(source)
            {
                others.give_back(source, origin);
            }
        }
    }

    /// How each page stands, in order.
    pub(crate) fn standings(&mut self) -> impl Iterator<Item = Held> {
        self.slots.as_mut().iter().map(Slot::standing)
    }

    /// Whether its one page comes home for a fault: for an access, a pin or a device that looks for it.
    #[inline]
    pub(crate) fn is_for_fault(&self) -> bool {
        self._areas.is_none()
    }

    /// Tells that a phase begins, or that the migration is over. A fault's one page is not told of: the fault is.
    #[inline]
    pub(crate) fn tell(&self, phase: Phase) {
        if self.is_for_fault() {
            return;
        }
        let (space, range, direction) = (self.space.id(), self.range, self.direction);
        record(&self.space.manager.machine, || Event::Migration { space, range, direction, phase });
    }

    /// Notes that every page has moved or stays.
    #[inline(always)]
    pub(crate) fn end(&mut self) {
        debug_assert!(!self.slots.as_mut().iter().any(Slot::is_ours), "a page is left");
        self.is_over = true;
    }

    /// Counts how the pages ended.
    pub(crate) fn report(&mut self) -> Report {
        let mut report = Report::default();
        for slot in self.slots.as_mut() {
            match slot.state {
                SlotState::Moved => report.moved += 1,
                SlotState::Stays(reason) => report.stayed.add(reason),
                state => debug_assert!(false, "a page is left in {state:?}"),
            }
        }
        self.tell_ends();
        self.end();
        self.tell(Phase::Done { moved: report.moved, stayed: report.stayed.total() });
        report
    }

    /// Tells how each page ended.
    fn tell_ends(&mut self) {
        let (machine, space, range) = (&self.space.manager.machine, self.space.id(), self.range);
        if !machine.is_traced() {
            return;
        }
        for (page, slot) in (0..).map(|index| range.page(index)).zip(self.slots.as_mut()) {
            match slot.state {
                SlotState::Moved => record(machine, || Event::Moved { space, page }),
                SlotState::Stays(reason) => record(machine, || Event::Stays { space, page, reason }),
                _ => {}
            }
        }
    }

    #[cold]
    fn give_everything_back(&mut self) {
        if self.slots.as_mut().iter().any(Slot::is_ours) {
            self.tell(Phase::GiveBack);
        }
        self.give_others_back(|state| !matches!(state, SlotState::Stays(_) | SlotState::Moved));
        for index in 0..self.slots.as_mut().len() {
            let slot = self.slots.as_mut()[index];
            self.free_copy(slot);
        }
        self.for_each_table(|space, leaf, part, slots| {
            for (index, slot) in (0..).zip(slots).filter(|(_, slot)| slot.is_ours()) {
                let page = part.page(index);
                if let SlotState::Protected(_) | SlotState::CopiedAhead(_) = slot.state {
                    *slot = space.unprotect(leaf, page, *slot, Reason::Busy);
                } else {
                    Self::give_back(space, leaf, page, slot, Reason::Busy);
                }
            }
        });
    }
}

impl<M: Machine, S: AsMut<[Slot]>> Drop for Batch<'_, M, S> {
    #[inline]
    fn drop(&mut self) {
        if !self.is_over {
            self.give_everything_back();
        }
    }
}
