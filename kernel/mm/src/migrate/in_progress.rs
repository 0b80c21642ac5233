//! The migrations that are open, each with its range: so that one can be asked to give way, and so that a CPU notices
//! that it would wait for itself.
use core::sync::atomic::{AtomicU32, Ordering};

use crate::address::PageRange;
use crate::frame::AnyFrame;
use crate::lock::{Level, Lock};
use crate::machine::{CpuId, Machine};
use crate::manager::MemoryManager;
use crate::page_table::entry::Entry;
use crate::space::{Space, SpaceId};

/// How many migrations to a device may be open at a time.
pub(crate) const MAX_OPEN_BATCHES: usize = 64;

/// What is known about an open migration.
#[derive(Clone, Copy)]
struct Noted {
    space: SpaceId,
    range: PageRange,
    owner: CpuId,
    backs_off: bool,
}

/// The migrations that are open, in all spaces.
pub(crate) struct OpenBatches {
    noted: Lock<[Option<Noted>; MAX_OPEN_BATCHES]>,
    /// How many there are: without any, nobody takes the lock to look.
    count: AtomicU32,
}

impl OpenBatches {
    pub(crate) const fn new() -> Self {
        Self { noted: Lock::new(Level::Migrations, [None; MAX_OPEN_BATCHES]), count: AtomicU32::new(0) }
    }
}

/// A migration's entry in the table, for as long as it is open.
pub(crate) struct OpenBatch<'m, M: Machine> {
    space: Space<'m, M>,
    place: usize,
}

impl<M: Machine> OpenBatch<'_, M> {
    /// Whether somebody waits for the migration to give way (R18).
    pub(crate) fn should_back_off(&self) -> bool {
        let manager = self.space.manager;
        manager.open_batches.noted.lock(&manager.machine)[self.place].is_some_and(|noted| noted.backs_off)
    }
}

impl<M: Machine> Drop for OpenBatch<'_, M> {
    fn drop(&mut self) {
        let MemoryManager { open_batches, machine, .. } = self.space.manager;
        open_batches.noted.lock(machine)[self.place] = None;
        open_batches.count.fetch_sub(1, Ordering::SeqCst);
    }
}

impl<'m, M: Machine> Space<'m, M> {
    /// Notes a migration that is about to begin; `None` where there are [`MAX_OPEN_BATCHES`].
    pub(crate) fn open_batch(self, range: PageRange) -> Option<OpenBatch<'m, M>> {
        let MemoryManager { open_batches, machine, .. } = self.manager;
        let owner = machine.cpu();
        let mut noted = open_batches.noted.lock(machine);
        let place = noted.iter().position(Option::is_none)?;
        noted[place] = Some(Noted { space: self.id(), range, owner, backs_off: false });
        open_batches.count.fetch_add(1, Ordering::SeqCst);
        Some(OpenBatch { space: self, place })
    }

    /// Asks the open migrations that overlap `range` to give way. Without any it costs one load.
    pub(crate) fn make_migrations_back_off(self, range: PageRange) {
        let MemoryManager { open_batches, machine, .. } = self.manager;
        if open_batches.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        for noted in open_batches.noted.lock(machine).iter_mut().flatten() {
            noted.backs_off |= noted.space == self.id() && noted.range.intersection(range).is_some();
        }
    }
}

impl<M: Machine> MemoryManager<M> {
    /// Whether this CPU holds a migration open, in any space. It then waits for no space exclusively: not for its own and those that
    /// share pages with it, whose areas it holds; nor for others, where a CPU may wait for this one in the same way.
    pub(crate) fn holds_migration_open(&self) -> bool {
        self.spaces_of_open_migrations() != 0
    }

    /// Whether a migration that this CPU holds open has locked `frame`, for whose lock it would wait in vain. The caller has no
    /// table locked.
    pub(crate) fn is_locked_by_own_migration(&self, frame: AnyFrame) -> bool {
        let spaces = self.spaces_of_open_migrations();
        let Some(origin) = self.any_descriptor(frame).origin().filter(|_| spaces != 0) else { return false };
        let this_cpu = self.machine.cpu();
        let mut found = false;
        for held in self.try_hold_spaces(None).flatten().filter(|held| spaces & held.space.id().bit() != 0) {
            held.for_each_candidate(origin, |leaf, page, _| {
                found |= matches!(leaf.load(page).decode(),
                    Entry::Migrating { frame: named, owner, .. } if named == frame && owner == this_cpu);
            });
        }
        found
    }

    /// The spaces in which this CPU holds migrations open, one bit each. Without any in the machine it costs one load.
    fn spaces_of_open_migrations(&self) -> u64 {
        if self.open_batches.count.load(Ordering::SeqCst) == 0 {
            return 0;
        }
        let this_cpu = self.machine.cpu();
        let noted = self.open_batches.noted.lock(&self.machine);
        let own = noted.iter().flatten().filter(|noted| noted.owner == this_cpu);
        own.fold(0, |spaces, noted| spaces | noted.space.bit())
    }
}
