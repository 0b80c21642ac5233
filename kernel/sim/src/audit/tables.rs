//! The audit's own walk over every table, and what it says about the entries.
use std::collections::HashMap;
use std::sync::atomic::Ordering;

use ferry_mm::frame::{AnyFrame, Descriptor, FrameKind, Origin};
use ferry_mm::page_table::entry::{Entry, LeafFlags, RawEntry};
use ferry_mm::space::{AreaKind, Protection, Residency, Space};
use x86_64::VirtAddr;
use x86_64::structures::paging::{Page, PhysFrame};

use super::{Expected, Violation};
use crate::hardware::LOWER_HALF_ENTRIES;
use crate::machine::Sim;
use crate::memory::{COHERENT_TYPE, FRAME_WORDS};
use crate::tlb::span_bits;
use crate::world::World;

/// Who uses which frame, according to the tables.
#[derive(Default)]
pub(super) struct Uses {
    /// The table frames that were seen, with the number of times.
    pub(super) tables: HashMap<PhysFrame, usize>,
    /// The mappings of each frame: the origin of each page that names it.
    pub(super) mappings: HashMap<AnyFrame, Vec<Origin>>,
    /// Frames that an entry gives leave to write, and the page of that entry.
    pub(super) writable: Vec<(AnyFrame, Page)>,
    /// Entries that name each slot of the swap disk.
    pub(super) slots: HashMap<u64, u32>,
    /// Frames that a `Migrating` entry names.
    pub(super) migrating: Vec<AnyFrame>,
}

/// The entries of a table, as they stand in RAM.
pub(super) fn entries(sim: &Sim, table: PhysFrame) -> impl Iterator<Item = (usize, RawEntry)> {
    let words = sim.memory().frame(table.into()).iter().enumerate();
    words
        .map(|(index, word)| (index, RawEntry(word.load(Ordering::SeqCst))))
        .filter(|(_, entry)| *entry != RawEntry::EMPTY)
}

/// The table that an upper entry names.
pub(super) fn next_table(entry: RawEntry) -> Option<PhysFrame> {
    match entry.decode() {
        Entry::Present { frame, flags } if !flags.contains(LeafFlags::HUGE) => Some(frame),
        _ => None,
    }
}

/// Walks every space and the kernel's half.
pub(super) fn check(world: &World, expected: &Expected, found: &mut Vec<Violation>) -> Uses {
    let sim = world.sim();
    let mut uses = Uses::default();
    for (index, entry) in entries(sim, world.kernel_root()) {
        if let Some(table) = next_table(entry) {
            assert!(index >= LOWER_HALF_ENTRIES, "the kernel's own tables have a lower half");
            walk(
                world,
                table,
                3,
                VirtAddr::new_truncate((index as u64) << span_bits(3)),
                &mut uses,
                found,
                &mut |_, _, _, _| {},
            );
        }
    }
    for space in world.manager().spaces() {
        check_space(world, space, expected, &mut uses, found);
    }
    for (frame, page) in &uses.writable {
        let may_be_shared = world.manager().descriptor(*frame).is_some_and(|there| there.kind() == FrameKind::Shared);
        if uses.mappings[frame].len() > 1 && !may_be_shared {
            found.push(Violation::SharedAndWritable { page: *page, frame: super::frames::name(*frame) });
        }
    }
    let tables = uses.tables.len() as u64;
    if tables != world.manager().memory().tables() {
        found.push(Violation::TableCount { counted: world.manager().memory().tables(), found: tables });
    }
    uses
}

fn check_space(world: &World, space: Space<'_, Sim>, expected: &Expected, uses: &mut Uses, found: &mut Vec<Violation>) {
    let sim = world.sim();
    let mut resident = Residency::default();
    uses.tables.insert(space.root(), 1);
    for index in LOWER_HALF_ENTRIES..FRAME_WORDS {
        let word = |root: PhysFrame| sim.memory().frame(root.into())[index].load(Ordering::SeqCst);
        if next_table(RawEntry(word(space.root()))) != next_table(RawEntry(word(world.kernel_root()))) {
            found.push(Violation::UpperHalfDiffers { space: space.id().number(), index });
        }
    }
    let lower = entries(sim, space.root()).filter(|(index, _)| *index < LOWER_HALF_ENTRIES);
    for (index, entry) in lower {
        let base = VirtAddr::new_truncate((index as u64) << span_bits(3));
        match next_table(entry) {
            Some(table) => walk(world, table, 3, base, uses, found, &mut |page, entry, uses, found| {
                check_leaf(world, space, expected, page, entry, &mut resident, uses, found);
            }),
            None => found.push(Violation::UnknownEntry { page: Page::containing_address(base), entry }),
        }
    }
    if space.resident() != resident {
        let space_number = space.id().number();
        found.push(Violation::Resident { space: space_number, charged: space.resident(), found: resident });
    }
}

type Visit<'v> = &'v mut dyn FnMut(Page, RawEntry, &mut Uses, &mut Vec<Violation>);

fn walk(
    world: &World,
    table: PhysFrame,
    level: u8,
    base: VirtAddr,
    uses: &mut Uses,
    found: &mut Vec<Violation>,
    visit: Visit<'_>,
) {
    let kind = world.manager().memory().descriptor(table).kind();
    if kind != FrameKind::Table {
        found.push(Violation::NotATable { table, kind });
        return;
    }
    let seen = uses.tables.entry(table).or_default();
    *seen += 1;
    if *seen > 1 {
        found.push(Violation::TableOnTwoPaths { table });
        return;
    }
    for (index, entry) in entries(world.sim(), table) {
        let address = VirtAddr::new_truncate(base.as_u64() | (index as u64) << span_bits(level - 1));
        if level == 1 {
            visit(Page::containing_address(address), entry, uses, found);
        } else if let Some(next) = next_table(entry) {
            walk(world, next, level - 1, address, uses, found, visit);
        } else {
            found.push(Violation::UnknownEntry { page: Page::containing_address(address), entry });
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "one leaf, and the four places where what it says is noted")]
fn check_leaf(
    world: &World,
    space: Space<'_, Sim>,
    expected: &Expected,
    page: Page,
    entry: RawEntry,
    resident: &mut Residency,
    uses: &mut Uses,
    found: &mut Vec<Violation>,
) {
    let Some(area) = space.area(page) else {
        found.push(Violation::OutsideAreas { page, entry });
        return;
    };
    if let AreaKind::Device { memory_type } = area.kind {
        return check_device_leaf(world, area.protection, memory_type, page, entry, found);
    }
    let zero = AnyFrame::System(world.manager().zero_frame());
    let (frame, flags) = match entry.decode() {
        Entry::Present { frame, flags } => {
            let too_strong = !area.protection.is_accessible()
                || flags.contains(LeafFlags::WRITABLE) && !area.protection.contains(Protection::WRITE)
                || flags.contains(LeafFlags::USER) != area.protection.contains(Protection::USER)
                || !flags.contains(LeafFlags::NO_EXECUTE);
            if too_strong {
                found.push(Violation::StrongerThanArea { page, entry });
            }
            let frame = world.sim().frame_at(frame);
            let memory_type = match frame {
                AnyFrame::System(_) => LeafFlags::empty(),
                AnyFrame::Device(_) => COHERENT_TYPE,
            };
            if flags & (LeafFlags::WRITE_THROUGH | LeafFlags::CACHE_DISABLE) != memory_type {
                found.push(Violation::MemoryType { page, entry });
            }
            (frame, flags)
        }
        Entry::NoAccess { frame, flags } => {
            if area.protection.is_accessible() {
                found.push(Violation::StrongerThanArea { page, entry });
            }
            (world.sim().frame_at(frame), flags)
        }
        Entry::Exclusive { frame, flags } => {
            if !area.protection.contains(Protection::WRITE) {
                found.push(Violation::StrongerThanArea { page, entry });
            }
            (AnyFrame::System(frame), flags)
        }
        Entry::Device { frame, writable } => {
            if writable && !area.protection.contains(Protection::WRITE) {
                found.push(Violation::StrongerThanArea { page, entry });
            }
            (AnyFrame::Device(frame), if writable { LeafFlags::WRITABLE } else { LeafFlags::empty() })
        }
        Entry::Migrating { frame, flags, .. } => {
            if !expected.open_batch {
                found.push(Violation::UnexpectedMigrating { page, entry });
            }
            uses.migrating.push(frame);
            (frame, flags)
        }
        Entry::Poison => return,
        Entry::Swap { slot } => {
            resident.swap += 1;
            *uses.slots.entry(slot.number()).or_default() += 1;
            return;
        }
        Entry::Empty | Entry::Unknown(_) => {
            found.push(Violation::UnknownEntry { page, entry });
            return;
        }
    };
    if frame == zero {
        if flags.contains(LeafFlags::WRITABLE) {
            found.push(Violation::WritableZeroPage { page, entry });
        }
        // An empty page that is on its way names the zero page, too, and had no flags.
        resident.zero += u64::from(!flags.is_empty());
        return;
    }
    match frame {
        AnyFrame::System(_) => resident.ram += 1,
        AnyFrame::Device(_) => resident.device += 1,
    }
    let kind = world.manager().descriptor(frame).map(Descriptor::kind);
    if (kind == Some(FrameKind::Shared)) != (area.kind == AreaKind::Shared) || area.kind == AreaKind::Guard {
        found.push(Violation::WrongArea { page, entry, area: area.kind });
    }
    match descriptor_locked(world, frame) {
        None => {
            found.push(Violation::NoSuchFrame { page, entry });
            return;
        }
        Some(false) if matches!(entry.decode(), Entry::Migrating { .. }) => {
            found.push(Violation::NotLocked { page, entry });
        }
        Some(_) => {}
    }
    uses.mappings.entry(frame).or_default().push(area.origin_of(page));
    if flags.contains(LeafFlags::WRITABLE) {
        uses.writable.push((frame, page));
    }
}

/// A leaf of a device area: no stronger than its area, of its memory type, and over no frame that the memory manager has.
fn check_device_leaf(
    world: &World,
    protection: Protection,
    memory_type: LeafFlags,
    page: Page,
    entry: RawEntry,
    found: &mut Vec<Violation>,
) {
    let Entry::Present { frame, flags } = entry.decode() else {
        found.push(Violation::UnknownEntry { page, entry });
        return;
    };
    let mut expected = memory_type | LeafFlags::NO_EXECUTE;
    expected.set(LeafFlags::WRITABLE, protection.contains(Protection::WRITE));
    expected.set(LeafFlags::USER, protection.contains(Protection::USER));
    if flags - LeafFlags::ACCESSED - LeafFlags::DIRTY != expected || !protection.is_accessible() {
        found.push(Violation::StrongerThanArea { page, entry });
    }
    if world.manager().descriptor(world.sim().frame_at(frame)).is_some() {
        found.push(Violation::NoSuchFrame { page, entry });
    }
}

/// Whether the frame is locked; `None` where there is no such frame.
fn descriptor_locked(world: &World, frame: AnyFrame) -> Option<bool> {
    Some(world.manager().descriptor(frame)?.is_locked())
}
