//! Before a migration takes its first entry, and with no lock held: faults that wait get their turn, listeners are told, pages
//! that are on their way are waited for, pages of other devices come home.
use super::batch::{Batch, Slots, Told, migratable};
use super::{Busy, Foreign, MigrateError, MigrateOptions};
use crate::address::PageRange;
use crate::frame::{AnyFrame, DeviceId};
use crate::machine::Machine;
use crate::notify::{InvalidationReason, ListenerId, NoRoomForSharers, SharersToldOf};
use crate::page_table::entry::Entry;
use crate::page_table::leaf_table::peek;
use crate::page_table::walk;
use crate::space::Space;
use crate::trace::Direction;
use x86_64::structures::paging::Page;

/// Turns of a wait for pages that somebody else is moving; those that are busy even then stay.
const MOST_TURNS: u32 = 1 << 12;

/// Turns that a migration leaves to faults which wait. They may wait for another CPU's batch, or even for this one's.
const MOST_TURNS_FOR_FAULTS: u32 = 1 << 8;

impl<'m, M: Machine> Batch<'m, M, Slots> {
    /// A batch of pages whose listeners have been told, in this space and, for pages that are shared, in the others.
    pub(super) fn announced(
        space: Space<'m, M>,
        range: PageRange,
        direction: Direction,
        options: MigrateOptions,
    ) -> Result<Self, MigrateError> {
        // First, so that nobody is told of a request that makes no sense.
        migratable(&space.state.areas.read(&space.manager.machine), range)?;
        space.let_faults_look();
        loop {
            let sharers = space.tell_sharers_of(range, options.initiator).map_err(|_| MigrateError::NoMemory)?;
            let own = space.announce(range, InvalidationReason::Migrate, options.initiator);
            let mut batch = Self::new(space, range, direction)?;
            if own.is_current() {
                batch.mode = options.mode;
                batch.told = Told { _own: Some(own), sharers };
                return Ok(batch);
            }
        }
    }
}

impl<'m, M: Machine> Space<'m, M> {
    /// Lets faults look that wait in this space, before pages are taken again that they may wait for: whoever takes pages and gives
    /// them back, again and again, would otherwise keep a fault for ever that looks at the wrong moments.
    fn let_faults_look(self) {
        for _ in 0..MOST_TURNS_FOR_FAULTS {
            if !self.state.has_waiting_faults() {
                return;
            }
            self.manager.machine.relax();
        }
    }

    /// Tells the listeners of other spaces that share RAM pages of `range`.
    fn tell_sharers_of(
        self,
        range: PageRange,
        initiator: Option<ListenerId>,
    ) -> Result<SharersToldOf<'m, M>, NoRoomForSharers> {
        let manager = self.manager;
        manager.tell_sharers(Some(self.id()), InvalidationReason::Migrate, initiator, |sharer| {
            self.for_each_special_or_present(range, |_, entry| {
                if let Entry::Present { frame, .. } = entry
                    && let frame = manager.frame_behind(frame)
                    && manager.any_descriptor(frame).mappings() > 1
                {
                    sharer.look_for(frame);
                }
                true
            });
        })
    }

    /// Does what the options ask for before the pages of `range` are taken.
    pub(super) fn prepare(
        self,
        range: PageRange,
        device: DeviceId,
        options: MigrateOptions,
    ) -> Result<(), MigrateError> {
        if options.busy == Busy::Wait {
            self.wait_for_pages(range);
        }
        if options.foreign == Foreign::ViaRam {
            self.bring_foreign_home(range, device, options)?;
        }
        Ok(())
    }

    /// Waits until no page of `range` is on its way by somebody else's hand, or [`MOST_TURNS`] are over.
    fn wait_for_pages(self, range: PageRange) {
        let machine = &self.manager.machine;
        for _ in 0..MOST_TURNS {
            let mut is_busy = false;
            self.for_each_special_or_present(range, |_, entry| {
                is_busy = match entry {
                    Entry::Migrating { owner, .. } => owner != machine.cpu(),
                    Entry::Present { frame, .. } => {
                        self.manager.any_descriptor(self.manager.frame_behind(frame)).is_locked()
                    }
                    _ => false,
                };
                !is_busy
            });
            if !is_busy {
                return;
            }
            machine.relax();
        }
    }

    /// Brings the pages of `range` home that are on another device than `device`.
    fn bring_foreign_home(
        self,
        range: PageRange,
        device: DeviceId,
        options: MigrateOptions,
    ) -> Result<(), MigrateError> {
        let mut next = 0;
        loop {
            let mut run: Option<(u64, u64)> = None;
            self.for_each_special_or_present(range, |page, entry| {
                let index = page - range.start();
                if index < next {
                    return true;
                }
                match (&mut run, self.is_foreign(entry, device)) {
                    (None, true) => run = Some((index, 1)),
                    (Some((start, pages)), true) if *start + *pages == index => *pages += 1,
                    (None, false) => {}
                    (Some(_), _) => return false,
                }
                true
            });
            let Some((start, pages)) = run else { return Ok(()) };
            let _ = self.migrate_home_for(range.part(start, pages), options)?;
            next = start + pages;
        }
    }

    /// Whether an entry maps a page of another device.
    fn is_foreign(self, entry: Entry, device: DeviceId) -> bool {
        let frame = match entry {
            Entry::Present { frame, .. } => self.manager.frame_behind(frame),
            Entry::Device { frame, .. } => AnyFrame::Device(frame),
            _ => return false,
        };
        matches!(frame, AnyFrame::Device(frame) if frame.device() != device)
    }

    /// Calls `visit` with the entries of `range` that are not empty, as they are now, until it returns `false`; with none where
    /// the range cannot be migrated. The areas are held.
    fn for_each_special_or_present(self, range: PageRange, mut visit: impl FnMut(Page, Entry) -> bool) {
        let machine = &self.manager.machine;
        let areas = self.state.areas.read(machine);
        // Looked at under the same hold: what a device's area maps has no descriptor.
        if migratable(&areas, range).is_err() {
            return;
        }
        for part in range.by_leaf_table() {
            let Some(table) = walk::leaf_table(machine, self.root(), part.start()) else { continue };
            for page in (0..part.pages()).map(|index| part.page(index)) {
                let entry = peek(machine, table, page).decode();
                if entry != Entry::Empty && !visit(page, entry) {
                    return;
                }
            }
        }
    }
}
