//! The migrations that are open, each with its range: so that one can be asked to give way, and so that a CPU notices
//! that it would wait for itself.
use core::sync::atomic::{AtomicU32, Ordering};

use crate::address::PageRange;
use crate::lock::{Level, Lock};
use crate::machine::{CpuId, Machine};
use crate::manager::MemoryManager;
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
}

impl OpenBatches {
    pub(crate) const fn new() -> Self {
        Self { noted: Lock::new(Level::Listeners, [None; MAX_OPEN_BATCHES]) }
    }
}

/// The number of migrations that are open in one space.
#[derive(Default)]
pub(crate) struct OpenCount(AtomicU32);

impl OpenCount {
    pub(crate) const fn new() -> Self {
        Self(AtomicU32::new(0))
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
        self.space.state.open_batches.0.fetch_sub(1, Ordering::SeqCst);
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
        self.state.open_batches.0.fetch_add(1, Ordering::SeqCst);
        Some(OpenBatch { space: self, place })
    }

    /// Asks the open migrations that overlap `range` to give way. Without any in this space it costs one load.
    pub(crate) fn make_migrations_back_off(self, range: PageRange) {
        if self.state.open_batches.0.load(Ordering::SeqCst) == 0 {
            return;
        }
        let MemoryManager { open_batches, machine, .. } = self.manager;
        for noted in open_batches.noted.lock(machine).iter_mut().flatten() {
            noted.backs_off |= noted.space == self.id() && noted.range.intersection(range).is_some();
        }
    }

    /// Whether this CPU holds a migration open in this space, whose end it would wait for in vain.
    pub(crate) fn is_held_open_here(self) -> bool {
        if self.state.open_batches.0.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let MemoryManager { open_batches, machine, .. } = self.manager;
        let this_cpu = machine.cpu();
        let noted = open_batches.noted.lock(machine);
        noted.iter().flatten().any(|noted| noted.space == self.id() && noted.owner == this_cpu)
    }
}
