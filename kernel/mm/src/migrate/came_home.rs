//! The last step of the way home: the new entry is written, or the old one again, and the device frame is cleared and freed.
use x86_64::structures::paging::PhysFrame;

use super::batch::{Batch, Slots};
use super::slot::{Slot, SlotState};
use crate::frame::{DeviceMemory, FreedDeviceFrames, Origin, frame_of};
use crate::machine::Machine;
use crate::page_table::entry::{Entry, LeafFlags, RawEntry};
use crate::page_table::leaf_table::Place;
use crate::space::{Area, Protection, Resident, Space};
use crate::stats::Reason;

/// Writes the new entries, or the old ones again; device frames are cleared and freed.
#[inline]
pub(super) fn finalize<M: Machine, S: AsMut<[Slot]>>(batch: &mut Batch<'_, M, S>) {
    let (area, for_fault) = (batch.area, batch.is_for_fault());
    batch.for_each_table(|space, leaf, part, slots| {
        let mut finished = CameHome { space, moved: 0, device: None };
        let origin = area.origin_of(part.start());
        for (index, slot) in (0..).zip(slots) {
            let place = Place::of(part, index);
            match slot.state {
                SlotState::Copied(target) => {
                    let entry = space.commit_home(origin.after(index), slot, &area, frame_of(target), for_fault);
                    leaf.swap(place, entry);
                    finished.let_go(slot);
                    slot.state = SlotState::Moved;
                }
                SlotState::Lost => {
                    leaf.swap(place, Entry::Poison.encode());
                    space.free_device_source(slot);
                    space.manager.statistics.count_poisoned(1);
                    slot.state = SlotState::Stays(Reason::Poisoned);
                }
                SlotState::GivingUp(reason) => {
                    Batch::<M, Slots>::give_back(space, leaf, place.page(), slot, reason);
                }
                _ => {}
            }
        }
        finished.end();
    });
}

impl<M: Machine> Space<'_, M> {
    /// Makes `target` the frame of the page of `origin`; returns the entry to write.
    #[inline(always)]
    fn commit_home(self, origin: Origin, slot: &Slot, area: &Area, target: PhysFrame, for_fault: bool) -> RawEntry {
        let descriptor = self.manager.memory.descriptor(target);
        descriptor.map(origin, 1);
        // Dirty, because the only other copy is about to be cleared. Writable only where both the entry and the area say so.
        let mut flags = area.protection.read_only_flags() | LeafFlags::DIRTY;
        if for_fault || self.state.has_waiting_faults() {
            descriptor.begin_stay();
        } else {
            flags |= LeafFlags::ACCESSED;
        }
        // W stands at the same place in a `Device` entry and in a present one.
        if slot.saved.flags().contains(LeafFlags::WRITABLE) && area.protection.contains(Protection::WRITE) {
            flags |= LeafFlags::WRITABLE;
        }
        Entry::Present { frame: target, flags }.encode()
    }

    /// Lets go of the device frame that a page came from.
    #[inline]
    fn free_device_source(self, slot: &Slot) {
        if let Some(source) = slot.source.device() {
            self.drop_locked_device_mapping(source);
        }
    }
}

/// The pages of one table that came home, while it is locked.
struct CameHome<'m, M: Machine> {
    space: Space<'m, M>,
    /// Pages that are still counted as the device's.
    moved: u64,
    /// The device frames that are to be freed, of one device.
    device: Option<(&'m DeviceMemory<M::Descriptors>, FreedDeviceFrames)>,
}

impl<M: Machine> CameHome<'_, M> {
    /// Lets go of the device frame that a page came from; cleared where no sharer has it.
    #[inline(always)]
    fn let_go(&mut self, slot: &Slot) {
        let Some(source) = slot.source.device() else { return };
        let manager = self.space.manager;
        self.moved += 1;
        if self.device.as_ref().is_none_or(|(device, _)| device.id() != source.device()) {
            self.free();
        }
        let (device, freed) = self.device.get_or_insert_with(|| (manager.device_of(source), FreedDeviceFrames::new()));
        let descriptor = device.descriptor(source);
        if descriptor.mappings() == 1 && descriptor.end_mappings() {
            device.free_later(&manager.machine, freed, source, descriptor);
        } else {
            self.space.drop_locked_device_frame(source);
        }
    }

    fn free(&mut self) {
        if let Some((device, freed)) = self.device.take() {
            device.free_all(&self.space.manager.machine, freed);
        }
    }

    /// Counts the pages and frees their device frames; the table is still locked.
    #[inline]
    fn end(mut self) {
        if self.moved > 0 {
            self.space.recharge(Resident::Device, Resident::Ram, self.moved);
        }
        self.free();
    }
}
