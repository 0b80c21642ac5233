//! The swap map and the swap cache, against the tables, the descriptors and the disk's own bytes.
use ferry_mm::frame::AnyFrame;
use ferry_mm::page_table::entry::SwapSlot;
use x86_64::structures::paging::PhysFrame;

use super::Violation;
use super::frames::{frame_numbered, name};
use super::tables::Uses;
use crate::world::World;

/// Every slot of the disk, and every frame that names one.
pub(super) fn check(world: &World, uses: &Uses, found: &mut Vec<Violation>) {
    let memory = world.manager().memory();
    let Some(swap) = world.manager().swap() else {
        found.extend(uses.slots.iter().map(|(slot, found)| Violation::FreeSlotNamed { slot: *slot, found: *found }));
        return;
    };
    let mut free = 0;
    for number in 0..world.disk().slots() {
        let slot = SwapSlot::new(number).expect("a slot of the disk");
        let entries = uses.slots.get(&number).copied().unwrap_or(0);
        let Some(slot_use) = swap.slot_use(world.sim(), slot) else {
            free += 1;
            if entries > 0 {
                found.push(Violation::FreeSlotNamed { slot: number, found: entries });
            }
            continue;
        };
        if slot_use.entries != entries {
            found.push(Violation::SlotEntries { slot: number, counted: slot_use.entries, found: entries });
        }
        let is_mapped = |frame: PhysFrame| uses.mappings.contains_key(&AnyFrame::System(frame));
        if entries == 0 && !slot_use.frame.is_some_and(is_mapped) {
            found.push(Violation::UselessSlot { slot: number, frame: slot_use.frame.map(|frame| name(frame.into())) });
        }
        match slot_use.frame {
            Some(frame) => check_holder(world, slot, frame, slot_use.written, found),
            None if !slot_use.written => found.push(Violation::LostSlot { slot: number }),
            None => {}
        }
    }
    if swap.free(world.sim()) != free {
        found.push(Violation::FreeSlotCount { counted: swap.free(world.sim()), found: free });
    }
    for (number, descriptor) in memory.descriptors().iter().enumerate() {
        let frame = frame_numbered(number);
        if let Some(slot) = descriptor.swap_slot()
            && swap.slot_use(world.sim(), slot).and_then(|slot| slot.frame) != Some(frame)
        {
            found.push(Violation::NamesNoSlot { frame: name(frame.into()), slot });
        }
    }
    for (frame, page) in &uses.writable {
        if let AnyFrame::System(system) = frame
            && memory.descriptor(*system).swap_slot().is_some()
        {
            found.push(Violation::CachedAndWritable { page: *page, frame: name(*frame) });
        }
    }
}

/// The frame that holds a slot's page.
fn check_holder(world: &World, slot: SwapSlot, frame: PhysFrame, written: bool, found: &mut Vec<Violation>) {
    let descriptor = world.manager().memory().descriptor(frame);
    if descriptor.swap_slot() != Some(slot) {
        let names = descriptor.swap_slot();
        found.push(Violation::SlotHolder { slot: slot.number(), frame: name(frame.into()), names });
    }
    if descriptor.pins() > 0 {
        found.push(Violation::CachedAndPinned { frame: name(frame.into()) });
    }
    let (held, stands) = (world.sim().bytes(frame.into()), world.disk().bytes(slot));
    let differs = held.iter().zip(&stands).position(|(held, stands)| held != stands);
    if let Some(byte) = differs.filter(|_| written) {
        found.push(Violation::DiffersFromSlot { slot: slot.number(), frame: name(frame.into()), byte });
    }
}
