//! Phase four: `Migrating` becomes `Device`, or present in the memory of a coherent device, or again what it was.
use x86_64::structures::paging::PhysFrame;

use super::batch::{Batch, Slots};
use super::slot::{Slot, SlotState};
use super::{Copied, Report};
use crate::address::PageRange;
use crate::frame::{DeviceFrame, DeviceId, DeviceMemory, FreedFrames, Origin};
use crate::machine::Machine;
use crate::page_table::entry::{Entry, LeafFlags, RawEntry};
use crate::page_table::leaf_table::{LeafTable, Place};
use crate::space::{Area, Protection, Resident, Space};
use crate::stats::Reason;
use crate::trace::Phase;

pub(super) fn finalize<M: Machine>(copied: Copied<'_, M>) -> Report {
    let Copied { mut batch, device } = copied;
    batch.tell(Phase::Finalize);
    let (area, shared, id) = (batch.area, batch.others.is_some(), device.id());
    // A page whose device died after it was copied is whole in RAM.
    if device.is_lost() {
        batch.give_up(|slot| matches!(slot.state, SlotState::Copied(_)).then_some(Reason::DeviceLost));
    }
    finalize_others(&mut batch, id);
    batch.for_each_table(|space, leaf, part, slots| {
        let origin = area.origin_of(part.start());
        let mut finished =
            Finished { space, leaf, part, origin, device, area: &area, moved: 0, freed: FreedFrames::new() };
        for (index, slot) in (0..).zip(slots) {
            match slot.state {
                SlotState::Copied(target) => {
                    let target = DeviceFrame::new(id, target);
                    if shared {
                        finished.commit_shared(index, slot, target);
                    } else {
                        finished.commit(index, slot, target);
                    }
                }
                SlotState::GivingUp(reason) => {
                    Batch::<M, Slots>::give_back(space, leaf, part.page(index), slot, reason);
                }
                _ => {}
            }
        }
        finished.end();
    });
    let report = batch.report();
    batch.space.manager.statistics.count_migrated(report.moved);
    report
}

/// Finalizes the entries of other spaces. They come before the own ones, whose commit frees the RAM frame.
fn finalize_others<M: Machine>(batch: &mut Batch<'_, M, Slots>, device: DeviceId) {
    batch.give_others_back(|state| matches!(state, SlotState::GivingUp(_)));
    if batch.others.is_none() {
        return;
    }
    for slot in &batch.slots {
        if let (SlotState::Copied(target), Some(source)) = (slot.state, slot.source.any())
            && let Some((others, origin)) = batch.shared(source)
        {
            let (manager, target) = (batch.space.manager, DeviceFrame::new(device, target));
            // The descriptor comes before the entries: once one is written, a fault on another CPU may follow it.
            manager.device_descriptor(target).map(origin, manager.any_descriptor(source).mappings());
            others.replace(source, origin, |space, area, flags| {
                space.recharge(Resident::Ram, Resident::Device, 1);
                manager.entry_at_rest(target.into(), flags, area.protection)
            });
        }
    }
}

/// The pages of one table that have moved, while it is locked.
struct Finished<'m, 'a, M: Machine> {
    space: Space<'m, M>,
    leaf: &'a LeafTable<'m, M>,
    /// Its part of the range, and the origin of the first page of that.
    part: PageRange,
    origin: Origin,
    device: &'m DeviceMemory<M::Descriptors>,
    area: &'a Area,
    /// Pages that were in RAM frames and are not counted as the device's yet.
    moved: u64,
    /// Those frames.
    freed: FreedFrames,
}

impl<M: Machine> Finished<'_, '_, M> {
    /// Writes the entry of a page on the device that only this space maps, then lets go of the RAM frame.
    #[inline(always)]
    fn commit(&mut self, index: u64, slot: &mut Slot, target: DeviceFrame) {
        // It may die at any time. Until the first entry names its frame, the page is whole in RAM.
        if self.device.is_lost() {
            return self.give_up(index, slot, target, Reason::DeviceLost);
        }
        self.device.descriptor(target).map(self.origin.after(index), 1);
        self.replace(index, slot, target);
    }

    /// The same for a page that other spaces may map: their entries were written before, and the frame mapped for all of them.
    fn commit_shared(&mut self, index: u64, slot: &mut Slot, target: DeviceFrame) {
        if self.device.descriptor(target).mappings() == 0 {
            self.commit(index, slot, target)
        } else {
            self.replace(index, slot, target)
        }
    }

    #[inline(always)]
    fn replace(&mut self, index: u64, slot: &mut Slot, target: DeviceFrame) {
        let manager = self.space.manager;
        let Some(source) = slot.source.system().filter(|source| *source != manager.zero_frame) else {
            return self.replace_empty(index, slot, target);
        };
        self.write(index, slot, target, slot.saved.flags());
        self.moved += 1;
        let descriptor = manager.memory.descriptor(source);
        if descriptor.end_mappings() {
            manager.memory.free_later(&manager.machine, &mut self.freed, source, descriptor);
        } else {
            self.let_go_of_used(source);
        }
    }

    /// Lets go of a frame that somebody has got hold of meanwhile by its number.
    #[cold]
    fn let_go_of_used(&self, source: PhysFrame) {
        let manager = self.space.manager;
        let descriptor = manager.memory.descriptor(source);
        let mappings = descriptor.mappings();
        descriptor.remove_mappings(mappings);
        descriptor.unlock();
        if descriptor.release(mappings) {
            manager.memory.free_frame(&manager.machine, source);
        }
    }

    /// A page that had no frame is new to its space, and stays where that would exceed the limit.
    fn replace_empty(&mut self, index: u64, slot: &mut Slot, target: DeviceFrame) {
        if self.space.try_charge(Resident::Device, 1).is_err() {
            self.device.descriptor(target).remove_mappings(1);
            return self.give_up(index, slot, target, Reason::OverLimit);
        }
        if slot.saved.is_present() {
            self.space.uncharge(Resident::Zero, 1);
        }
        // An empty entry remembers no protection: its page is as writable as its area is now.
        let mut flags = self.area.protection.read_only_flags();
        flags.set(LeafFlags::WRITABLE, self.area.protection.contains(Protection::WRITE));
        self.write(index, slot, target, flags);
    }

    #[inline(always)]
    fn write(&self, index: u64, slot: &mut Slot, target: DeviceFrame, flags: LeafFlags) {
        let entry = self.device.entry_at_rest(target, flags, self.area.protection);
        let migrating: RawEntry = self.leaf.swap(Place::of(self.part, index), entry);
        debug_assert!(
            matches!(migrating.decode(), Entry::Migrating { .. }),
            "somebody changed our entry to {migrating:?}"
        );
        slot.state = SlotState::Moved;
    }

    #[cold]
    fn give_up(&self, index: u64, slot: &mut Slot, target: DeviceFrame, reason: Reason) {
        self.space.manager.free_any(target.into());
        Batch::<M, Slots>::give_back(self.space, self.leaf, self.part.page(index), slot, reason);
    }

    /// Counts the pages and frees their frames; the table is still locked.
    #[inline]
    fn end(self) {
        let Self { space, moved, freed, .. } = self;
        if moved > 0 {
            space.recharge(Resident::Ram, Resident::Device, moved);
            space.manager.memory.free_all(&space.manager.machine, freed);
        }
    }
}
