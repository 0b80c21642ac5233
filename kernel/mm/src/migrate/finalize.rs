//! Phase four: `Migrating` becomes `Device`, or again what it was.
use x86_64::structures::paging::Page;

use super::batch::{Batch, Slot, SlotState, Slots};
use super::{Copied, Report};
use crate::frame::{AnyFrame, DeviceFrame, DeviceMemory, Mapping};
use crate::machine::Machine;
use crate::page_table::entry::{Entry, LeafFlags, RawEntry};
use crate::page_table::leaf_table::LeafTable;
use crate::space::{Resident, Space};

pub(super) fn finalize<M: Machine>(copied: Copied<'_, M>) -> Report {
    let Copied { mut batch, device } = copied;
    // An empty entry remembers no protection: its page comes home as writable as its area is now.
    let empty_writable = batch.area.protection.contains(crate::space::Protection::WRITE);
    batch.for_each_in_tables(|space, leaf, page, slot| match slot.state {
        SlotState::Copied(AnyFrame::Device(target)) => commit(space, device, leaf, page, slot, target, empty_writable),
        SlotState::GivingUp(reason) => Batch::<M, Slots>::give_back(space, leaf, page, slot, reason),
        _ => {}
    });
    let report = batch.report();
    batch.space.manager.statistics.count_migrated(report.moved);
    report
}

/// Writes the `Device` entry, then lets go of the RAM frame.
fn commit<'m, M: Machine>(
    space: Space<'m, M>,
    device: &DeviceMemory<M::Descriptors>,
    leaf: &LeafTable<'m, M>,
    page: Page,
    slot: &mut Slot,
    target: DeviceFrame,
    empty_writable: bool,
) {
    let manager = space.manager;
    let writable = match slot.source() {
        Some(AnyFrame::System(frame)) if frame != manager.zero_frame => {
            slot.saved.flags().contains(LeafFlags::WRITABLE)
        }
        _ => empty_writable,
    };
    // The descriptor comes first: once the entry is written, a fault on another CPU may follow it.
    device.descriptor(target).map_first(Mapping { space: space.id(), page });
    space.state.charge(Resident::Device, 1);
    let migrating: RawEntry = leaf.swap(page, Entry::Device { frame: target, writable }.encode());
    debug_assert!(matches!(migrating.decode(), Entry::Migrating { .. }), "somebody changed our entry to {migrating:?}");
    slot.state = SlotState::Moved;
    let Some(AnyFrame::System(source)) = slot.source() else { return };
    if source == manager.zero_frame {
        return;
    }
    let descriptor = manager.memory.descriptor(source);
    descriptor.unmap_last();
    descriptor.unlock();
    space.state.uncharge(Resident::System, 1);
    if descriptor.release() {
        manager.memory.free_frame(&manager.machine, source);
    }
}
