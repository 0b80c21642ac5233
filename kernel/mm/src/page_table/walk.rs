//! The walk: from an address to its leaf entry, through four tables.
use x86_64::VirtAddr;
use x86_64::structures::paging::page_table::PageTableLevel;
use x86_64::structures::paging::{Page, PageTableIndex, PhysFrame};

use super::entry::{Entry, LeafFlags, RawEntry};
use super::slot::EntrySlot;
use crate::frame::{FrameKind, NO_FRAME, OwnedFrame, SystemMemory, frame_of, number};
use crate::machine::Machine;
use crate::trace::{Event, record};

/// The levels, from the root down.
pub const LEVELS: [PageTableLevel; 4] =
    [PageTableLevel::Four, PageTableLevel::Three, PageTableLevel::Two, PageTableLevel::One];

/// The entries on the path of an address, from level 4 down, as far as the path goes.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    steps: [Option<PathStep>; 4],
}

/// One entry on a path.
#[derive(Clone, Copy, Debug)]
pub struct PathStep {
    /// The level of the table.
    pub level: PageTableLevel,
    /// Where the entry stands.
    pub slot: EntrySlot,
    /// What it is.
    pub entry: RawEntry,
}

impl Path {
    /// The steps, from level 4 down.
    pub fn steps(&self) -> impl Iterator<Item = &PathStep> {
        self.steps.iter().flatten()
    }

    /// The entry where the path ends: a leaf, an empty entry or a special one.
    pub fn last(&self) -> RawEntry {
        self.steps().last().map_or(RawEntry::EMPTY, |step| step.entry)
    }

    /// The level-1 entry, where the path goes so far.
    pub fn leaf(&self) -> Option<&PathStep> {
        self.steps[3].as_ref()
    }
}

/// Reads the entries on the path of `address`. Takes no lock: a report may call it at any time.
pub fn path<M: Machine>(machine: &M, root: PhysFrame, address: VirtAddr) -> Path {
    let mut steps = [None; 4];
    let mut table = root;
    for (step, level) in steps.iter_mut().zip(LEVELS) {
        let slot = EntrySlot::new(table, address.page_table_index(level));
        let entry = machine.load_entry(slot);
        *step = Some(PathStep { level, slot, entry });
        match entry.decode() {
            Entry::Present { frame, flags } if !flags.contains(LeafFlags::HUGE) => table = frame,
            _ => break,
        }
    }
    Path { steps }
}

/// Calls `visit` with every present leaf below `root`: its first address, its entry, and the rights that its whole path grants.
///
/// For checks of the whole table while nobody changes it.
pub fn for_each_leaf<M: Machine>(machine: &M, root: PhysFrame, visit: &mut dyn FnMut(VirtAddr, RawEntry, LeafFlags)) {
    leaves_below(machine, root, PageTableLevel::Four, 0, LeafFlags::WRITABLE | LeafFlags::USER, visit);
}

fn leaves_below<M: Machine>(
    machine: &M,
    table: PhysFrame,
    level: PageTableLevel,
    base: u64,
    granted: LeafFlags,
    visit: &mut dyn FnMut(VirtAddr, RawEntry, LeafFlags),
) {
    for index in 0..512 {
        let entry = machine.load_entry(EntrySlot::new(table, PageTableIndex::new(index)));
        let Entry::Present { frame, flags } = entry.decode() else { continue };
        // Leave to write and user access need every entry's consent; any one entry forbids execution.
        let consent = LeafFlags::WRITABLE | LeafFlags::USER;
        let rights = (granted & flags & consent) | ((granted | flags) & LeafFlags::NO_EXECUTE);
        let start = base + u64::from(index) * level.entry_address_space_alignment();
        match level.next_lower_level() {
            Some(below) if !flags.contains(LeafFlags::HUGE) => {
                leaves_below(machine, frame, below, start, rights, visit);
            }
            _ => visit(VirtAddr::new_truncate(start), entry, rights),
        }
    }
}

/// The level-1 table of `page`, where there is one.
///
/// The caller holds the areas of the space, so the table stays.
#[inline(always)]
pub(crate) fn leaf_table<M: Machine>(machine: &M, root: PhysFrame, page: Page) -> Option<PhysFrame> {
    let mut table = root;
    for index in upper_indices(page) {
        table = next_table(machine.load_entry(EntrySlot::new(table, index)))?;
    }
    Some(table)
}

/// The level-1 table of `page`, made with all tables above it where they are missing.
///
/// The caller holds the areas of the space and no table. Fails, with what `allocate` says, where a table cannot be
/// made; those already made stay. `allocate` returns frames full of zeros.
#[inline]
pub(crate) fn populate<'m, M: Machine, E>(
    machine: &'m M,
    memory: &SystemMemory<M::Descriptors>,
    root: PhysFrame,
    page: Page,
    allocate: impl FnMut() -> Result<OwnedFrame<'m, M>, E>,
) -> Result<PhysFrame, E> {
    let table = table_for(machine, memory, root, page.start_address(), PageTableLevel::One, allocate)?;
    Ok(table.expect("the lower half has no leaf above level 1"))
}

/// The table of `level` on the path of `address`, made where it is missing; inside, the leaf that stands in the way.
#[inline]
pub(super) fn table_for<'m, M: Machine, E>(
    machine: &'m M,
    memory: &SystemMemory<M::Descriptors>,
    root: PhysFrame,
    address: VirtAddr,
    level: PageTableLevel,
    mut allocate: impl FnMut() -> Result<OwnedFrame<'m, M>, E>,
) -> Result<Result<PhysFrame, RawEntry>, E> {
    let mut table = root;
    for above in LEVELS.into_iter().take_while(|above| *above > level) {
        let slot = EntrySlot::new(table, address.page_table_index(above));
        let mut entry = machine.load_entry(slot);
        if entry == RawEntry::EMPTY {
            let fresh = allocate()?;
            // It must be a table before it can be seen: another CPU may lock it at once.
            let owner = memory.descriptor(root).table_owner();
            memory.make_table(fresh.frame(), owner);
            let linked = table_entry(fresh.frame());
            match machine.compare_exchange_entry(slot, RawEntry::EMPTY, linked) {
                Ok(()) => {
                    fresh.into_frame();
                    let address = address.align_down(above.entry_address_space_alignment());
                    let old = RawEntry::EMPTY;
                    record(machine, || Event::Entry { space: owner, address, level: above, old, new: linked });
                    entry = linked;
                }
                Err(winner) => {
                    memory.free_table(machine, fresh.into_frame());
                    entry = winner;
                }
            }
        }
        match next_table(entry) {
            Some(next) => table = next,
            None => return Ok(Err(entry)),
        }
    }
    Ok(Ok(table))
}

/// Frees the level-1 to level-3 tables that map an address of `part` and nothing outside of `gap`, whose leaf entries are all empty.
///
/// The gap ends at the neighbouring areas. The caller holds the areas exclusively and has paid its flushes.
/// Paging-structure caches may still hold an upper entry: `flush` is called once the entries are cut and before a frame is freed.
pub(crate) fn free_tables<M: Machine>(
    machine: &M,
    memory: &SystemMemory<M::Descriptors>,
    root: PhysFrame,
    part: core::ops::Range<u64>,
    gap: core::ops::Range<u64>,
    flush: impl FnOnce(),
) {
    let mut head = NO_FRAME;
    cut_below(machine, memory, root, PageTableLevel::Four, 0, &Cut { part, gap }, &mut head);
    if head == NO_FRAME {
        return;
    }
    flush();
    while head != NO_FRAME {
        let table = frame_of(head);
        head = memory.descriptor(table).link().1;
        memory.free_table(machine, table);
    }
}

/// Which tables are cut: those that map an address of `part` and nothing outside of `gap`, which holds it.
struct Cut {
    part: core::ops::Range<u64>,
    gap: core::ops::Range<u64>,
}

/// Cuts tables below `table`, and puts them into the list at `head`.
fn cut_below<M: Machine>(
    machine: &M,
    memory: &SystemMemory<M::Descriptors>,
    table: PhysFrame,
    level: PageTableLevel,
    base: u64,
    cut: &Cut,
    head: &mut u32,
) {
    let Some(below) = level.next_lower_level() else { return };
    let span = level.entry_address_space_alignment();
    // The upper half belongs to the kernel and is shared by all spaces.
    let entries = if level == PageTableLevel::Four { 256 } else { 512 };
    let first = cut.part.start.saturating_sub(base) / span;
    let last = cut.part.end.saturating_sub(base).div_ceil(span).min(entries);
    for index in first..last {
        let start = base + index * span;
        let slot = EntrySlot::new(table, PageTableIndex::new_truncate(index as u16));
        let Some(child) = next_table(machine.load_entry(slot)) else { continue };
        cut_below(machine, memory, child, below, start, cut, head);
        if cut.gap.start <= start && start + span <= cut.gap.end {
            let old = machine.swap_entry(slot, RawEntry::EMPTY);
            record(machine, || Event::Entry {
                space: memory.descriptor(table).table_owner(),
                address: VirtAddr::new_truncate(start),
                level,
                old,
                new: RawEntry::EMPTY,
            });
            debug_assert_eq!(memory.descriptor(child).kind(), FrameKind::Table);
            memory.descriptor(child).set_link(NO_FRAME, *head);
            *head = number(child);
        }
    }
}

/// The entry that names a table. Rights are decided at the leaf.
fn table_entry(table: PhysFrame) -> RawEntry {
    Entry::Present { frame: table, flags: LeafFlags::WRITABLE | LeafFlags::USER }.encode()
}

#[inline(always)]
fn next_table(entry: RawEntry) -> Option<PhysFrame> {
    match entry.decode() {
        Entry::Present { frame, flags } if !flags.contains(LeafFlags::HUGE) => Some(frame),
        _ => None,
    }
}

#[inline(always)]
fn upper_indices(page: Page) -> [PageTableIndex; 3] {
    [page.p4_index(), page.p3_index(), page.p2_index()]
}
