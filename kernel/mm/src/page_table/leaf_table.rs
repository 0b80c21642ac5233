//! A locked level-1 table: the only way to change a leaf entry.
use x86_64::structures::paging::page_table::PageTableLevel;
use x86_64::structures::paging::{Page, PageTableIndex, PhysFrame};

use super::entry::RawEntry;
use super::slot::EntrySlot;
use crate::address::PageRange;
use crate::frame::{Descriptor, SystemMemory};
use crate::lock::{Held, Level, Taken, WriteGuard};
use crate::machine::Machine;
use crate::trace::{Event, record};

/// A page, and where its entry stands in its table. The page is worked out where it is wanted only: most loops over a table need it
/// only where somebody is told.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    first: Page,
    /// How many pages after the first.
    nth: u64,
    index: PageTableIndex,
}

impl From<Page> for Place {
    #[inline(always)]
    fn from(page: Page) -> Self {
        Self { first: page, nth: 0, index: page.p1_index() }
    }
}

impl Place {
    /// The place of the page `index` pages after the first of `part`, all of which one table maps.
    #[inline(always)]
    pub(crate) fn of(part: PageRange, index: u64) -> Self {
        let first = part.start();
        let at = u64::from(first.p1_index()) + index;
        Self { first, nth: index, index: PageTableIndex::new_truncate(at as u16) }
    }

    /// The page.
    #[inline(always)]
    pub(crate) fn page(self) -> Page {
        self.first + self.nth
    }
}

/// The right to change the entries of one level-1 table, given back on drop.
///
/// The lock is a bit in the descriptor of the table's frame. While it is held, nothing is allocated.
pub(crate) struct LeafTable<'m, M: Machine> {
    machine: &'m M,
    descriptor: &'m Descriptor,
    table: PhysFrame,
    /// Nothing to give back where the areas are held exclusively.
    held: Option<Held<'m, M>>,
}

impl<'m, M: Machine> LeafTable<'m, M> {
    /// Waits for the lock of the level-1 table in `table`. Bounded by the time for which others hold it.
    #[inline(always)]
    pub(crate) fn lock(machine: &'m M, memory: &'m SystemMemory<M::Descriptors>, table: PhysFrame) -> Self {
        let descriptor = memory.descriptor(table);
        let (held, ()) =
            Held::acquire(machine, Level::PageTable, Taken::Exclusive, || descriptor.try_lock().then_some(()));
        Self { machine, descriptor, table, held: Some(held) }
    }

    /// The table of a space whose areas the caller holds exclusively: nobody else looks at its entries.
    pub(crate) fn of_held_space<T>(
        machine: &'m M,
        memory: &'m SystemMemory<M::Descriptors>,
        table: PhysFrame,
        _areas: &WriteGuard<'_, T, M>,
    ) -> Self {
        Self { machine, descriptor: memory.descriptor(table), table, held: None }
    }

    /// The entry of a page that this table maps.
    #[inline(always)]
    pub(crate) fn load(&self, page: impl Into<Place>) -> RawEntry {
        self.machine.load_entry(self.slot(page.into()))
    }

    /// Writes the entry of a page and returns what stood there.
    #[inline(always)]
    pub(crate) fn swap(&self, page: impl Into<Place>, new: RawEntry) -> RawEntry {
        let place = page.into();
        let old = self.machine.swap_entry(self.slot(place), new);
        self.tell(place, old, new);
        old
    }

    /// Replaces the entry of a page by what `change` makes of it, atomically against the bits that a CPU may set
    /// meanwhile; returns the entry that was replaced. `change` may be called more than once.
    #[inline(always)]
    pub(crate) fn update(&self, page: impl Into<Place>, change: impl FnMut(RawEntry) -> RawEntry) -> RawEntry {
        let place = page.into();
        self.update_seen(place, self.load(place), change)
    }

    /// The same, where the entry was just seen to be `current`.
    #[inline(always)]
    pub(crate) fn update_seen(
        &self,
        page: impl Into<Place>,
        mut current: RawEntry,
        mut change: impl FnMut(RawEntry) -> RawEntry,
    ) -> RawEntry {
        let place = page.into();
        let slot = self.slot(place);
        loop {
            let new = change(current);
            match self.machine.compare_exchange_entry(slot, current, new) {
                Ok(()) => {
                    self.tell(place, current, new);
                    return current;
                }
                Err(now) => current = now,
            }
        }
    }

    /// Tells of a change while the lock is held, so that changes of one entry are told in their order.
    #[inline(always)]
    fn tell(&self, place: Place, old: RawEntry, new: RawEntry) {
        if self.machine.is_traced() {
            self.tell_listening(place.first, place.nth, old, new);
        }
    }

    /// Apart, so that loops over a table keep their values in registers.
    #[cold]
    #[inline(never)]
    fn tell_listening(&self, first: Page, nth: u64, old: RawEntry, new: RawEntry) {
        record(self.machine, || Event::Entry {
            space: self.descriptor.table_owner(),
            address: (first + nth).start_address(),
            level: PageTableLevel::One,
            old,
            new,
        });
    }

    #[inline(always)]
    fn slot(&self, place: Place) -> EntrySlot {
        EntrySlot::new(self.table, place.index)
    }
}

/// The entry of `page` in `table`, without a lock: a hint that must be checked again under it.
#[inline(always)]
pub(crate) fn peek<M: Machine>(machine: &M, table: PhysFrame, page: Page) -> RawEntry {
    machine.load_entry(EntrySlot::new(table, page.p1_index()))
}

impl<M: Machine> Drop for LeafTable<'_, M> {
    #[inline]
    fn drop(&mut self) {
        if self.held.is_some() {
            self.descriptor.unlock();
        }
    }
}
