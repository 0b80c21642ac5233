//! Phase one: entries become `Migrating`, then one flush.
use x86_64::structures::paging::{Page, PhysFrame};

use super::batch::{Batch, Slots};
use super::in_progress::OpenBatch;
use super::slot::{Held, Slot, SlotState, Source};
use super::{Invalid, MigrateError, MigrateOptions, Mode, Unmapped};
use crate::address::PageRange;
use crate::frame::{AnyFrame, DeviceFrame, DeviceId, DeviceMemory, FrameKind, OutOfFrames};
use crate::machine::{CpuId, Machine};
use crate::page_table::entry::{Entry, LeafFlags, RawEntry};
use crate::page_table::flush::{OwedFlush, Weakened};
use crate::page_table::leaf_table::{LeafTable, Place};
use crate::page_table::walk;
use crate::space::{Space, taken_back};
use crate::stats::Reason;
use crate::trace::Direction;

/// A batch whose entries are `Migrating` and flushed everywhere.
#[must_use = "dropping it gives every page back"]
pub struct Collected<'m, M: Machine> {
    pub(super) batch: Batch<'m, M, Slots>,
    pub(super) device: &'m DeviceMemory<M::Descriptors>,
}

impl<'m, M: Machine> Space<'m, M> {
    /// Takes the pages of `range` for a migration to `device`.
    ///
    /// Missing tables are made, as v11 did: an empty page moves, too, as a cleared device frame.
    ///
    /// # Errors
    /// See [`MigrateError`]; every entry taken so far is as it was.
    pub fn collect(self, range: PageRange, device: DeviceId) -> Result<Collected<'m, M>, MigrateError> {
        self.collect_with(range, device, MigrateOptions::default())
    }

    /// The same, as `options` say. Makes room where there is no frame for a table.
    ///
    /// # Errors
    /// See [`MigrateError`].
    pub fn collect_with(
        self,
        range: PageRange,
        device: DeviceId,
        options: MigrateOptions,
    ) -> Result<Collected<'m, M>, MigrateError> {
        let is_no_memory = |error: &MigrateError| *error == MigrateError::NoMemory;
        self.manager.with_reclaim(is_no_memory, || self.collect_once(range, device, options))
    }

    fn collect_once(
        self,
        range: PageRange,
        device: DeviceId,
        options: MigrateOptions,
    ) -> Result<Collected<'m, M>, MigrateError> {
        if options.mode == Mode::Transactional {
            return self.protect_for_copy(range, device, options)?.copy().collect();
        }
        let device = self.target(device)?;
        Collected::take(self.open_migration(range, device.id(), options)?, device)
    }

    /// The device of a request, if pages can go there.
    pub(super) fn target(self, device: DeviceId) -> Result<&'m DeviceMemory<M::Descriptors>, MigrateError> {
        let device = self.manager.device(device).ok_or(MigrateError::Invalid(Invalid::NoDevice(device)))?;
        if device.is_lost() {
            return Err(MigrateError::Invalid(Invalid::DeviceLost(device.id())));
        }
        Ok(device)
    }

    /// Checks a request, does what its options ask for first, and tells the listeners: a batch that has not looked at its pages.
    pub(super) fn open_migration(
        self,
        range: PageRange,
        device: DeviceId,
        options: MigrateOptions,
    ) -> Result<Batch<'m, M, Slots>, MigrateError> {
        self.prepare(range, device, options)?;
        let open = self.open_batch(range).ok_or(MigrateError::Again(range))?;
        let mut batch = Batch::announced(self, range, Direction::ToDevice(device), options)?;
        batch.open = Some(open);
        Ok(batch)
    }

    fn take_all(
        self,
        batch: &mut Batch<'m, M, Slots>,
        device: DeviceId,
        owed: &mut OwedFlush,
    ) -> Result<(), MigrateError> {
        let manager = self.manager;
        let machine = &manager.machine;
        let (mode, owner) = (batch.mode, machine.cpu());
        let mut slots = &mut batch.slots[..];
        for part in batch.range.by_leaf_table() {
            let (mine, rest) = slots.split_at_mut(part.pages() as usize);
            slots = rest;
            let allocate = || manager.memory.allocate_zeroed(machine, &manager.injector);
            let table = walk::populate(machine, &manager.memory, self.root(), part.start(), allocate)
                .map_err(|OutOfFrames| MigrateError::NoMemory)?;
            let leaf = LeafTable::lock(machine, &manager.memory, table);
            let mut weakened = Weakened::NONE;
            for (index, slot) in (0..).zip(mine) {
                if mode == Mode::Stop
                    && let Some(taken) = self.take_plain(&leaf, Place::of(part, index), owner)
                {
                    *slot = taken;
                    weakened.note(index);
                    continue;
                }
                let page = part.page(index);
                let taken = match slot.state {
                    SlotState::Unseen => self.take(&leaf, page, device, mode),
                    _ => Ok(self.take_protected(&leaf, page, *slot, device)),
                };
                // What was taken so far is owed for also where this one ends the call.
                *slot = taken.inspect_err(|_| weakened.owe(part, owed))?;
                if slot.is_taken() && slot.saved.is_present() {
                    weakened.note(index);
                }
                batch.met_swapped |= slot.state == SlotState::Stays(Reason::SwappedOut);
            }
            weakened.owe(part, owed);
        }
        Ok(())
    }

    /// Takes what most entries are: present, of a page in RAM that nobody else works on, that need not stay and is not in the swap
    /// cache. `None`, and nothing has changed, where it is anything else.
    #[inline(always)]
    fn take_plain(self, leaf: &LeafTable<'m, M>, place: Place, owner: CpuId) -> Option<Slot> {
        let seen = leaf.load(place);
        let Entry::Present { frame, flags } = seen.decode() else { return None };
        let descriptor = self.manager.memory.descriptor_of(frame)?;
        if !flags.contains(LeafFlags::ACCESSED) && descriptor.stays() || !descriptor.try_lock_page() {
            return None;
        }
        if descriptor.is_swap_cached() {
            descriptor.unlock();
            return None;
        }
        let saved = leaf.update_seen(place, seen, |raw| {
            Entry::Migrating { frame: frame.into(), flags: raw.flags() & LeafFlags::CARRIED, owner }.encode()
        });
        Some(Slot { saved, source: Source::of(frame.into()), state: SlotState::Taken })
    }

    /// Takes one entry, or says why it stays.
    #[inline(never)]
    fn take(self, leaf: &LeafTable<'m, M>, page: Page, device: DeviceId, mode: Mode) -> Result<Slot, MigrateError> {
        let manager = self.manager;
        let zero_frame = manager.zero_frame;
        let stays = |reason| Ok(Slot::stays(reason));
        let raw = leaf.load(page);
        // Exclusive use ends with the migration: its owner has been told, or has stopped it and asked for this.
        match taken_back(raw).decode() {
            // An empty page is taken as if the zero page stood there: both read as zeros.
            Entry::Empty => Ok(self.take_entry(leaf, page, zero_frame.into())),
            Entry::Present { frame, .. } if frame == zero_frame => Ok(self.take_entry(leaf, page, frame.into())),
            Entry::Present { frame, flags } => match manager.frame_behind(frame) {
                AnyFrame::System(frame) => {
                    let descriptor = manager.memory.descriptor(frame);
                    if descriptor.kind() != FrameKind::Anonymous {
                        return Err(MigrateError::Fault(page.start_address()));
                    }
                    // Nothing was here that could be copied while it was in use, and now there is.
                    if mode == Mode::Transactional && raw.is_present() && descriptor.mappings() == 1 {
                        return stays(Reason::Written);
                    }
                    if let Err(reason) = self.lock_to_leave(frame, flags) {
                        return stays(reason);
                    }
                    Ok(self.take_entry(leaf, page, frame.into()))
                }
                AnyFrame::Device(frame) => stays(on_device(frame, device)),
            },
            Entry::Device { frame, .. } => stays(on_device(frame, device)),
            Entry::Migrating { .. } => stays(Reason::Busy),
            Entry::Swap { .. } => stays(Reason::SwappedOut),
            Entry::NoAccess { .. } | Entry::Exclusive { .. } | Entry::Poison | Entry::Unknown(_) => {
                Err(MigrateError::Fault(page.start_address()))
            }
        }
    }

    /// Locks the frame of a page whose entry has these flags, and takes it out of the swap cache; or says why the page stays.
    pub(super) fn lock_to_leave(self, frame: PhysFrame, flags: LeafFlags) -> Result<(), Reason> {
        let descriptor = self.manager.memory.descriptor(frame);
        // The CPU sets the bit with the access that the page came home for, so no clock is needed.
        if !flags.contains(LeafFlags::ACCESSED) && descriptor.refuses_to_leave() {
            return Err(Reason::JustCameHome);
        }
        if !descriptor.try_lock_page() {
            return Err(Reason::Busy);
        }
        // R15: out of the swap cache, or it is the only copy of what other entries name by their slot.
        if !self.manager.leave_swap_cache(frame) {
            self.manager.unlock_page(frame);
            return Err(Reason::Busy);
        }
        Ok(())
    }

    /// Writes `Migrating` with the flags that the entry has at that very moment, accessed and dirty bits included.
    #[inline(always)]
    pub(super) fn take_entry(self, leaf: &LeafTable<'m, M>, page: Page, frame: AnyFrame) -> Slot {
        let owner = self.manager.machine.cpu();
        let saved = leaf.update(page, |raw: RawEntry| {
            let raw = taken_back(raw);
            let flags = if raw.is_present() { raw.flags() & LeafFlags::CARRIED } else { LeafFlags::empty() };
            Entry::Migrating { frame, flags, owner }.encode()
        });
        let source = if saved == RawEntry::EMPTY { Source::NONE } else { Source::of(frame) };
        Slot { saved, source, state: SlotState::Taken }
    }
}

/// Why a page that is on a device stays there when it shall go to `target`.
fn on_device(frame: DeviceFrame, target: DeviceId) -> Reason {
    if frame.device() == target { Reason::AlreadyThere } else { Reason::ForeignDevice }
}

impl<'m, M: Machine> Collected<'m, M> {
    /// Takes the pages of a batch, then flushes.
    pub(super) fn take(
        mut batch: Batch<'m, M, Slots>,
        device: &'m DeviceMemory<M::Descriptors>,
    ) -> Result<Self, MigrateError> {
        let space = batch.space;
        let mut owed = OwedFlush::new();
        let taken = space.take_all(&mut batch, device.id(), &mut owed);
        // Paid also where the taking failed half-way, before the batch gives back what it took.
        owed.pay(&space.manager.machine, space.state, &space.manager.statistics);
        taken?;
        Ok(Self { batch, device })
    }

    /// How each page of the range stands, in order.
    pub fn standings(&mut self) -> impl Iterator<Item = Held> {
        self.batch.standings()
    }

    /// Phase two: see [`Unmapped`].
    ///
    /// # Errors
    /// [`MigrateError::Again`] where somebody waits who would change the range (R18); every page is given back.
    pub fn unmap(self) -> Result<Unmapped<'m, M>, MigrateError> {
        if self.batch.open.as_ref().is_some_and(OpenBatch::should_back_off) {
            return Err(MigrateError::Again(self.batch.range));
        }
        Ok(Unmapped::check(self))
    }
}
