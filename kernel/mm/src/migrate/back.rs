//! The way home: `Device`, or present in the memory of a coherent device, becomes `Migrating`, then present in RAM.
//!
//! For a private page nothing is flushed: its entry was not present before, and x86 does not cache what is not present. A coherent page
//! was, and others may use its frame by its address: it is flushed, then checked for other users, as on the way to a device.
//!
//! A page whose copy fails, or whose device is lost, is lost, as in v11: its entry becomes `Poison`. A page for which there is no RAM
//! frame stays on the device.
//!
//! A page that comes home for a fault, or while one waits in its space, is entered as not accessed: the CPU's retried access says so itself, and until then a migration
//! passes by (`JustCameHome`, [`crate::frame::MOST_REFUSALS`] times at most). So an access is not kept from its page by
//! however many who want it elsewhere.
//!
//! A page that other spaces share comes home as a copy of its own: the others keep the device frame. So a fault waits for no other space.
use x86_64::VirtAddr;
use x86_64::structures::paging::{Page, PhysFrame};

use super::batch::Batch;
use super::slot::{Slot, SlotState, Source};
use super::{MigrateError, MigrateOptions, Report, came_home};
use crate::address::PageRange;
use crate::frame::{AnyFrame, CopyFailed, DeviceId, LastDevice, OutOfFrames, number};
use crate::inject::Step;
use crate::machine::Machine;
use crate::page_table::entry::{Entry, LeafFlags, RawEntry};
use crate::page_table::flush::OwedFlush;
use crate::page_table::leaf_table::{LeafTable, Place};
use crate::page_table::walk;
use crate::space::{Area, FaultError, Space};
use crate::stats::{Cause, Reason};
use crate::trace::{Direction, Phase};

/// Why a page did not come home, or why a space got no copy of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BringHomeError {
    /// No RAM frame; the page stays on the device.
    NoMemory,
    /// The copy failed; the page is poisoned now.
    Lost,
    /// The device died, and the page with it; the page is poisoned now.
    DeviceLost(DeviceId),
    /// The page is pinned in the device's memory, for short, and stays there.
    Pinned,
    /// The page's frame is in the hands of a migration of a sharer that this very CPU holds open.
    HeldHere,
}

impl From<OutOfFrames> for BringHomeError {
    fn from(OutOfFrames: OutOfFrames) -> Self {
        Self::NoMemory
    }
}

impl BringHomeError {
    /// The error of the access at `address` that wanted the page.
    pub(crate) fn at(self, address: VirtAddr) -> FaultError {
        match self {
            Self::NoMemory => FaultError::OutOfMemory(address),
            Self::Lost => FaultError::Poisoned(address),
            Self::DeviceLost(device) => FaultError::DeviceLost(address, device),
            Self::Pinned => FaultError::PinnedOnDevice(address),
            Self::HeldHere => FaultError::WaitsForItself(address),
        }
    }
}

impl<'m, M: Machine> Space<'m, M> {
    /// Brings the pages of `range` home that are on a device; the others stay as they are, with their reasons.
    ///
    /// # Errors
    /// See [`MigrateError`].
    ///
    /// # Examples
    /// ```
    /// # use ferry_mm::address::PageRange;
    /// # use ferry_mm::frame::DeviceId;
    /// # use ferry_mm::space::Protection;
    /// # use ferry_sim::World;
    /// # use x86_64::VirtAddr;
    /// # let world = World::builder().device(8).swap(8).build();
    /// # let space = world.manager().create_space()?;
    /// # let range = PageRange::covering(VirtAddr::new(0x4000_0000), 4 * 4096)?;
    /// # space.map_anonymous(range, Protection::READ_WRITE)?;
    /// # let cpu = world.cpu(0);
    /// # cpu.enter(space);
    /// # let device = DeviceId::new(0).expect("a number of a device");
    /// # let first = range.start_address();
    /// cpu.store(first, b"there and back")?;
    /// assert_eq!(space.migrate_to_device(range, device)?.moved, 4);
    ///
    /// let faults = world.manager().statistics().read().special_faults;
    /// assert_eq!(space.migrate_to_system(range)?.moved, 4);
    /// assert_eq!(&cpu.read(first)?, b"there and back");
    /// assert_eq!(world.manager().statistics().read().special_faults, faults, "nobody had to fault");
    /// # world.assert_all_free();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn migrate_to_system(self, range: PageRange) -> Result<Report, MigrateError> {
        self.migrate_home_for(range, MigrateOptions::default())
    }

    /// The same, on behalf of whoever the options name.
    pub(super) fn migrate_home_for(self, range: PageRange, options: MigrateOptions) -> Result<Report, MigrateError> {
        let manager = self.manager;
        let machine = &manager.machine;
        // Beforehand: nothing can be swapped out for a batch that holds entries.
        manager.make_room(self.resident().device.min(range.pages()));
        let mut batch = Batch::announced(self, range, Direction::Home, options)?;
        let (mut owed, mut devices) = (OwedFlush::new(), LastDevice::new(manager));
        let mut slots = batch.slots.iter_mut();
        for part in range.by_leaf_table() {
            let Some(table) = walk::leaf_table(machine, self.root(), part.start()) else {
                for slot in slots.by_ref().take(part.pages() as usize) {
                    *slot = Slot::stays(Reason::Empty);
                }
                continue;
            };
            let leaf = LeafTable::lock(machine, &manager.memory, table);
            for (index, slot) in (0..part.pages()).zip(&mut slots) {
                *slot = self.take_home(&leaf, Place::of(part, index), &mut devices, &mut owed);
            }
        }
        owed.pay(machine, self.state, &manager.statistics);
        drop(core::mem::take(&mut batch.told));
        Self::carry_home(&mut batch);
        let report = batch.report();
        manager.statistics.count_returned(report.moved, Cause::Call);
        Ok(report)
    }

    /// Brings one page home; `false` where it is on no device any more or its frame is in other hands.
    #[inline]
    pub(crate) fn bring_home(
        self,
        table: PhysFrame,
        page: Page,
        area: &Area,
        cause: Cause,
    ) -> Result<bool, BringHomeError> {
        let manager = self.manager;
        let mut batch = Batch::of_page(self, page, *area);
        let mut owed = OwedFlush::new();
        batch.slots[0] = {
            let leaf = LeafTable::lock(&manager.machine, &manager.memory, table);
            self.take_home(&leaf, page.into(), &mut LastDevice::new(manager), &mut owed)
        };
        owed.pay(&manager.machine, self.state, &manager.statistics);
        Self::carry_home(&mut batch);
        batch.end();
        let slot = batch.slots[0];
        match slot.state {
            SlotState::Moved => {
                manager.statistics.count_returned(1, cause);
                Ok(true)
            }
            SlotState::Stays(Reason::NoMemory) => Err(BringHomeError::NoMemory),
            SlotState::Stays(Reason::Pinned) => Err(BringHomeError::Pinned),
            // Poisoned by us, where an entry was taken; by somebody else before, where the next look will find it.
            SlotState::Stays(Reason::Poisoned) => match slot.source.any() {
                Some(source) => Err(manager.why_lost(source)),
                None => Ok(false),
            },
            _ => Ok(false),
        }
    }

    /// Takes one entry of a page that is on a device, or says why it stays.
    #[inline(always)]
    fn take_home(
        self,
        leaf: &LeafTable<'m, M>,
        place: Place,
        devices: &mut LastDevice<'m, M>,
        owed: &mut OwedFlush,
    ) -> Slot {
        let seen = leaf.load(place);
        // Most pages that come home: on a private device.
        if let Some(frame) = seen.device_frame() {
            if !devices.of(frame).descriptor(frame).try_lock_page() {
                return Slot::stays(Reason::Busy);
            }
            let (owner, flags) = (self.manager.machine.cpu(), LeafFlags::empty());
            let saved = leaf.swap(place, Entry::Migrating { frame: frame.into(), flags, owner }.encode());
            return Slot { saved, source: Source::of(frame.into()), state: SlotState::Taken };
        }
        self.take_coherent_home(leaf, place.page(), seen, owed)
    }

    /// The same for a page that is on no private device.
    #[inline(never)]
    fn take_coherent_home(self, leaf: &LeafTable<'m, M>, page: Page, seen: RawEntry, owed: &mut OwedFlush) -> Slot {
        match seen.decode() {
            Entry::Present { frame, .. } => match self.manager.frame_behind(frame) {
                AnyFrame::Device(frame) => {
                    if !self.manager.device_descriptor(frame).try_lock_page() {
                        return Slot::stays(Reason::Busy);
                    }
                    owed.owe(PageRange::of_page(page));
                    self.take_entry(leaf, page, frame.into())
                }
                AnyFrame::System(_) => Slot::stays(Reason::AlreadyThere),
            },
            Entry::NoAccess { .. } | Entry::Exclusive { .. } => Slot::stays(Reason::AlreadyThere),
            Entry::Empty => Slot::stays(Reason::Empty),
            Entry::Poison => Slot::stays(Reason::Poisoned),
            Entry::Swap { .. } => Slot::stays(Reason::SwappedOut),
            Entry::Device { .. } | Entry::Migrating { .. } | Entry::Unknown(_) => Slot::stays(Reason::Busy),
        }
    }

    /// What follows once the entries are `Migrating` and flushed.
    #[inline]
    fn carry_home<S: AsMut<[Slot]>>(batch: &mut Batch<'m, M, S>) {
        Self::check_home(batch);
        batch.tell(Phase::Copy);
        Self::copy_home(batch);
        batch.tell(Phase::Finalize);
        came_home::finalize(batch);
    }

    /// Gives the coherent pages up that somebody uses by their address. Nobody can do so with a private page.
    #[inline]
    fn check_home<S: AsMut<[Slot]>>(batch: &mut Batch<'m, M, S>) {
        let manager = batch.space.manager;
        let was_present = |slot: &&mut Slot| slot.state == SlotState::Taken && slot.saved.is_present();
        for slot in batch.slots.as_mut().iter_mut().filter(was_present) {
            let Some(source) = slot.source.any() else { continue };
            // A page of a device that died is lost, whoever uses it.
            if !manager.is_lost(source)
                && let Some(reason) = manager.any_descriptor(source).other_user()
            {
                slot.state = SlotState::GivingUp(reason);
            }
        }
    }

    /// A RAM frame for each page, and its contents.
    #[inline]
    fn copy_home<S: AsMut<[Slot]>>(batch: &mut Batch<'m, M, S>) {
        let manager = batch.space.manager;
        let machine = &manager.machine;
        let is_taken = |slot: &&mut Slot| slot.state == SlotState::Taken;
        let count = batch.slots.as_mut().iter_mut().filter(is_taken).count();
        let mut frames = manager.memory.take_many(machine, count as u64);
        let mut devices = LastDevice::new(manager);
        for slot in batch.slots.as_mut().iter_mut().filter(is_taken) {
            let Some(source) = slot.source.device() else { continue };
            let device = devices.of(source);
            if device.is_lost() {
                slot.state = SlotState::Lost;
                continue;
            }
            let target = if manager.injector.fails(Step::Alloc) { None } else { frames.next() };
            slot.state = match target {
                None => SlotState::GivingUp(Reason::NoMemory),
                Some(target) => match manager.copy_with(device, source.into(), target.frame().into()) {
                    Ok(()) => SlotState::Copied(number(target.into_frame())),
                    Err(CopyFailed) => SlotState::Lost,
                },
            };
        }
        drop(frames);
        machine.complete_copies();
    }
}
