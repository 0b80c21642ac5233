//! What changes how many pages a space has of each kind, and tells of it. The counts are [`residency`](super::residency)'s.
//!
//! Locks: as there, the lock of the table whose entry changes, or the areas held exclusively. So a page is told to be counted
//! before it is told to be counted no more.
use super::Space;
use super::residency::{OverLimit, Resident};
use crate::machine::Machine;
use crate::trace::{Event, record};

impl<M: Machine> Space<'_, M> {
    /// Counts `pages` more of one kind.
    #[inline(always)]
    pub(crate) fn charge(self, resident: Resident, pages: u64) {
        self.state.charges.add(resident, pages);
        record(&self.manager.machine, || Event::Charged { space: self.id(), resident, pages });
    }

    /// Counts `pages` new ones, all or none, within the limit.
    ///
    /// # Errors
    /// [`OverLimit`]; nothing is counted then.
    #[inline(always)]
    pub(crate) fn try_charge(self, resident: Resident, pages: u64) -> Result<(), OverLimit> {
        self.state.charges.try_add(resident, pages)?;
        record(&self.manager.machine, || Event::Charged { space: self.id(), resident, pages });
        Ok(())
    }

    /// Counts pages as another kind than before; the limit is not asked.
    #[inline(always)]
    pub(crate) fn recharge(self, from: Resident, to: Resident, pages: u64) {
        self.state.charges.change(from, to, pages);
        let machine = &self.manager.machine;
        record(machine, || Event::Charged { space: self.id(), resident: to, pages });
        record(machine, || Event::Uncharged { space: self.id(), resident: from, pages });
    }

    /// Counts `pages` less of one kind.
    #[inline(always)]
    pub(crate) fn uncharge(self, resident: Resident, pages: u64) {
        self.state.charges.remove(resident, pages);
        record(&self.manager.machine, || Event::Uncharged { space: self.id(), resident, pages });
    }
}
