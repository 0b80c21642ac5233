//! What CPUs hold: locks, cached translations and paths, stores on their way.
use std::sync::atomic::Ordering;

use ferry_mm::frame::{Descriptor, FrameKind};
use ferry_mm::page_table::entry::{Entry, LeafFlags, RawEntry};
use x86_64::VirtAddr;
use x86_64::structures::paging::PhysFrame;

use super::frames::{frame_numbered, name};
use super::tables::next_table;
use super::{Expected, Violation};
use crate::memory::FRAME_WORDS;
use crate::tlb::{Translation, span_bits};
use crate::world::World;

/// Every CPU.
pub(super) fn check(world: &World, expected: &Expected, found: &mut Vec<Violation>) {
    let sim = world.sim();
    for cpu in sim.cpus() {
        let count = sim.held_by(cpu).count();
        if count != 0 && !expected.open_batch {
            found.push(Violation::HeldLocks { cpu, count });
        }
        let core = sim.core(cpu);
        let root = core.root;
        if root != world.kernel_root() && !world.manager().spaces().any(|space| space.root() == root) {
            found.push(Violation::UnknownRoot { cpu, root });
            continue;
        }
        for (page, cached) in core.tlb.leaves() {
            let address = page.start_address();
            let entry =
                table_at(world, root, 1, address).map_or(RawEntry::EMPTY, |table| entry_at(world, table, 1, address));
            if !grants(entry, cached) {
                found.push(Violation::StaleTranslation { cpu, page, cached: format!("{cached:x?}"), entry });
            }
        }
        for (level, prefix, cached) in core.tlb.paths() {
            let address = VirtAddr::new_truncate(prefix << span_bits(level));
            let there = table_at(world, root, level, address);
            if there != Some(cached.table) {
                found.push(Violation::StalePath { cpu, level, address, cached: cached.table, found: there });
            }
        }
        for number in core.stores.frames() {
            let frame = sim.frame_at(frame_numbered(number));
            let Some(kind) = world.manager().descriptor(frame).map(Descriptor::kind) else { continue };
            if !matches!(kind, FrameKind::Anonymous | FrameKind::Shared) {
                found.push(Violation::StoreToNobody { cpu, frame: name(frame), kind });
            }
        }
    }
}

/// Whether the leaf allows everything that the cached translation does.
fn grants(entry: RawEntry, cached: Translation) -> bool {
    let Entry::Present { frame, flags } = entry.decode() else { return false };
    frame == cached.frame
        && flags.contains(LeafFlags::ACCESSED)
        && (!cached.writable || flags.contains(LeafFlags::WRITABLE))
        && (!cached.dirty || flags.contains(LeafFlags::DIRTY))
}

/// The table of `level` on the path of `address`.
fn table_at(world: &World, root: PhysFrame, level: u8, address: VirtAddr) -> Option<PhysFrame> {
    (level + 1..=4).rev().try_fold(root, |table, above| next_table(entry_at(world, table, above, address)))
}

fn entry_at(world: &World, table: PhysFrame, level: u8, address: VirtAddr) -> RawEntry {
    let index = (address.as_u64() >> span_bits(level - 1)) as usize % FRAME_WORDS;
    RawEntry(world.sim().memory().frame(table.into())[index].load(Ordering::SeqCst))
}
