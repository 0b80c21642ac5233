//! Phase four: `Migrating` becomes `Device`, or present in the memory of a coherent device, or again what it was.
use x86_64::structures::paging::Page;

use super::batch::{Batch, Slot, SlotState, Slots};
use super::{Copied, Report};
use crate::frame::{AnyFrame, DeviceFrame};
use crate::machine::Machine;
use crate::page_table::entry::{Entry, LeafFlags, RawEntry};
use crate::page_table::leaf_table::LeafTable;
use crate::space::{Area, Protection, Resident, Space};
use crate::stats::Reason;
use crate::trace::Phase;

pub(super) fn finalize<M: Machine>(copied: Copied<'_, M>) -> Report {
    let Copied { mut batch } = copied;
    batch.tell(Phase::Finalize);
    let area = batch.area;
    give_up_lost(&mut batch);
    finalize_others(&mut batch);
    batch.for_each_in_tables(|space, leaf, page, slot| match slot.state {
        SlotState::Copied(AnyFrame::Device(target)) => commit(space, leaf, page, slot, target, &area),
        SlotState::GivingUp(reason) => Batch::<M, Slots>::give_back(space, leaf, page, slot, reason),
        _ => {}
    });
    let report = batch.report();
    batch.space.manager.statistics.count_migrated(report.moved);
    report
}

/// Gives the pages up whose device died after they were copied: in RAM they are whole.
fn give_up_lost<M: Machine>(batch: &mut Batch<'_, M, Slots>) {
    let manager = batch.space.manager;
    for slot in &mut batch.slots {
        if let SlotState::Copied(target) = slot.state
            && manager.is_lost(target)
        {
            slot.give_up(manager, Reason::DeviceLost);
        }
    }
}

/// Finalizes the entries of other spaces. They come before the own ones, whose commit frees the RAM frame.
fn finalize_others<M: Machine>(batch: &mut Batch<'_, M, Slots>) {
    batch.give_others_back(|state| matches!(state, SlotState::GivingUp(_)));
    if batch.others.is_none() {
        return;
    }
    for slot in &batch.slots {
        if let (SlotState::Copied(AnyFrame::Device(target)), Some(source)) =
            (slot.state, slot.source(batch.space.manager))
            && let Some((others, origin)) = batch.shared(source)
        {
            let manager = batch.space.manager;
            // The descriptor comes before the entries: once one is written, a fault on another CPU may follow it.
            manager.device_descriptor(target).map(origin, manager.any_descriptor(source).mappings());
            others.replace(source, origin, |space, area, flags| {
                space.recharge(Resident::Ram, Resident::Device, 1);
                manager.entry_at_rest(target.into(), flags, area.protection)
            });
        }
    }
}

/// Writes the entry of the page on the device, then lets go of the RAM frame. A page that had none is new to its space, and
/// stays where that would exceed the limit.
fn commit<'m, M: Machine>(
    space: Space<'m, M>,
    leaf: &LeafTable<'m, M>,
    page: Page,
    slot: &mut Slot,
    target: DeviceFrame,
    area: &Area,
) {
    let manager = space.manager;
    let descriptor = manager.device_descriptor(target);
    // It may die at any time. Until the first entry names its frame, the page is whole in RAM.
    if descriptor.mappings() == 0 && manager.is_lost(target.into()) {
        manager.free_any(target.into());
        return Batch::<M, Slots>::give_back(space, leaf, page, slot, Reason::DeviceLost);
    }
    let source = match slot.source(manager) {
        Some(AnyFrame::System(frame)) if frame != manager.zero_frame => Some(frame),
        _ => None,
    };
    if source.is_none() {
        if space.try_charge(Resident::Device, 1).is_err() {
            manager.free_any(target.into());
            return Batch::<M, Slots>::give_back(space, leaf, page, slot, Reason::OverLimit);
        }
        if slot.saved.is_present() {
            space.uncharge(Resident::Zero, 1);
        }
    }
    // The entries of other spaces, where there are some, were written before, and the frame mapped for all of them.
    if descriptor.mappings() == 0 {
        descriptor.map(area.origin_of(page), 1);
    }
    let flags = match source {
        Some(_) => slot.saved.flags(),
        // An empty entry remembers no protection: its page is as writable as its area is now.
        None if area.protection.contains(Protection::WRITE) => area.protection.read_only_flags() | LeafFlags::WRITABLE,
        None => area.protection.read_only_flags(),
    };
    let migrating: RawEntry = leaf.swap(page, manager.entry_at_rest(target.into(), flags, area.protection));
    debug_assert!(matches!(migrating.decode(), Entry::Migrating { .. }), "somebody changed our entry to {migrating:?}");
    slot.state = SlotState::Moved;
    let Some(source) = source else { return };
    space.recharge(Resident::Ram, Resident::Device, 1);
    let descriptor = manager.memory.descriptor(source);
    let mappings = descriptor.mappings();
    descriptor.remove_mappings(mappings);
    descriptor.unlock();
    if descriptor.release(mappings) {
        manager.memory.free_frame(&manager.machine, source);
    }
}
