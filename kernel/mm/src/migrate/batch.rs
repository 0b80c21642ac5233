//! A batch: the pages that a migration holds, and how each is given back.
use alloc::vec::Vec;
use x86_64::structures::paging::Page;

use super::others::Others;
use super::{Invalid, MAX_PAGES_PER_CALL, MigrateError, Mode, Report};
use crate::address::PageRange;
use crate::frame::{AnyFrame, Origin};
use crate::lock::ReadGuard;
use crate::machine::Machine;
use crate::manager::MemoryManager;
use crate::migrate::in_progress::OpenBatch;
use crate::notify::{Announcement, SharersToldOf};
use crate::page_table::entry::{Entry, RawEntry};
use crate::page_table::leaf_table::LeafTable;
use crate::page_table::walk;
use crate::space::area::AreaList;
use crate::space::{Area, AreaKind, Space};
use crate::stats::Reason;
use crate::trace::{Direction, Event, Phase, record};

/// What a batch knows about one page of its range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot {
    /// The entry as it was when the batch took it.
    pub(crate) saved: RawEntry,
    pub(crate) state: SlotState,
}

/// How far one page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SlotState {
    /// Not looked at yet.
    Unseen,
    /// The entry is not ours, or not any more.
    Stays(Reason),
    /// The entry is present and cannot be written, and its frame is locked by us; the contents stand in this frame, too, which is
    /// ours, or the page is to stay for this reason.
    Protected(Result<AnyFrame, Reason>),
    /// The entry is `Migrating` and ours.
    Taken,
    /// Ours, and to be given back.
    GivingUp(Reason),
    /// Ours, and its contents stand in this frame, which is ours too.
    Copied(AnyFrame),
    /// Ours, and its contents could not be brought home: to be poisoned.
    Lost,
    /// The new entry is written.
    Moved,
}

/// How one page of a batch stands, for whoever watches the phases.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Held {
    /// The batch holds the page.
    Yes,
    /// The page stays, for this reason.
    No(Reason),
}

impl Slot {
    pub(crate) const UNSEEN: Self = Self { saved: RawEntry::EMPTY, state: SlotState::Unseen };

    pub(crate) const fn stays(reason: Reason) -> Self {
        Self { saved: RawEntry::EMPTY, state: SlotState::Stays(reason) }
    }

    /// The frame that the saved entry named, if it named one.
    #[inline]
    pub(crate) fn source<M: Machine>(&self, manager: &MemoryManager<M>) -> Option<AnyFrame> {
        manager.mapped_frame(self.saved)
    }

    fn is_ours(&self) -> bool {
        !matches!(self.state, SlotState::Unseen | SlotState::Stays(_) | SlotState::Moved)
    }

    /// Whether the entry is `Migrating` and the page may still move.
    #[inline]
    pub(crate) fn is_taken(&self) -> bool {
        matches!(self.state, SlotState::Taken | SlotState::Copied(_))
    }

    /// Gives the page up: its entry is to be given back, and a copy is of no use any more.
    pub(crate) fn give_up<M: Machine>(&mut self, manager: &MemoryManager<M>, reason: Reason) {
        if let SlotState::Copied(target) = self.state {
            manager.free_any(target);
        }
        self.state = SlotState::GivingUp(reason);
    }
}

/// The pages of one call. The slots are a heap array for calls, and one slot on the stack for a fault.
pub(crate) struct Batch<'m, M: Machine, S: AsMut<[Slot]>> {
    pub(crate) space: Space<'m, M>,
    pub(crate) range: PageRange,
    /// The area of the range, as it is for as long as the batch lives.
    pub(crate) area: Area,
    pub(crate) slots: S,
    /// Where its pages go.
    direction: Direction,
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
        let told = Told::default();
        let (mode, others, open, _areas) = (Mode::Stop, None, None, Some(areas));
        let batch = Self { space, range, area, slots, direction, mode, others, told, open, _areas };
        batch.tell(Phase::Collect);
        Ok(batch)
    }
}

impl<'m, M: Machine> Batch<'m, M, [Slot; 1]> {
    /// The batch of one page, for a fault, which holds the areas.
    #[inline]
    pub(crate) fn of_page(space: Space<'m, M>, page: Page, area: Area) -> Self {
        let (range, slots, direction) = (PageRange::of_page(page), [Slot::UNSEEN], Direction::Home);
        let (mode, told) = (Mode::Stop, Told::default());
        Self { space, range, area, slots, direction, mode, others: None, told, open: None, _areas: None }
    }
}

impl<'m, M: Machine, S: AsMut<[Slot]>> Batch<'m, M, S> {
    /// Calls `work` with every page's slot and its locked table, table by table; parts without a table are left out.
    #[inline]
    pub(crate) fn for_each_in_tables(
        &mut self,
        mut work: impl FnMut(Space<'m, M>, &LeafTable<'m, M>, Page, &mut Slot),
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
            let leaf = LeafTable::lock(machine, &space.manager.memory, table);
            for (index, slot) in mine.iter_mut().enumerate() {
                work(space, &leaf, part.page(index as u64), slot);
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
        if let Some(source) = slot.source(space.manager) {
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
            if let Some(source) = slot.source(self.space.manager).filter(|_| which(slot.state))
                && let Some((others, origin)) = self.shared(source)
            {
                others.give_back(source, origin);
            }
        }
    }

    /// How each page stands, in order.
    pub(crate) fn standings(&mut self) -> impl Iterator<Item = Held> {
        self.slots.as_mut().iter().map(|slot| match slot.state {
            SlotState::Stays(reason) | SlotState::GivingUp(reason) => Held::No(reason),
            SlotState::Unseen => Held::No(Reason::Empty),
            SlotState::Protected(_) | SlotState::Taken | SlotState::Copied(_) | SlotState::Lost | SlotState::Moved => {
                Held::Yes
            }
        })
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

    /// Counts how the pages ended.
    pub(crate) fn report(&mut self) -> Report {
        let mut report = Report::default();
        let (space, range) = (self.space, self.range);
        for (index, slot) in (0..).zip(self.slots.as_mut().iter()) {
            match slot.state {
                SlotState::Moved => {
                    report.moved += 1;
                    let page = range.page(index);
                    record(&space.manager.machine, || Event::Moved { space: space.id(), page });
                }
                SlotState::Stays(reason) => {
                    report.stayed.add(reason);
                    let page = range.page(index);
                    record(&space.manager.machine, || Event::Stays { space: space.id(), page, reason });
                }
                state => debug_assert!(false, "a page is left in {state:?}"),
            }
        }
        self.tell(Phase::Done { moved: report.moved, stayed: report.stayed.total() });
        report
    }
}

impl<M: Machine, S: AsMut<[Slot]>> Drop for Batch<'_, M, S> {
    fn drop(&mut self) {
        if self.slots.as_mut().iter().any(Slot::is_ours) {
            self.tell(Phase::GiveBack);
        }
        self.give_others_back(|state| !matches!(state, SlotState::Stays(_) | SlotState::Moved));
        self.for_each_in_tables(|space, leaf, page, slot| {
            if !slot.is_ours() {
                return;
            }
            if let SlotState::Protected(_) = slot.state {
                *slot = space.unprotect(leaf, page, *slot, Reason::Busy);
                return;
            }
            slot.give_up(space.manager, Reason::Busy);
            Self::give_back(space, leaf, page, slot, Reason::Busy);
        });
    }
}
