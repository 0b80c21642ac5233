//! One CPU as hardware sees it: a root, translation caches, a walker and a store buffer.
//!
//! Invariants:
//! 1. A translation is cached only where every entry on its path was present and had its accessed bit set (Intel SDM 3A 4.10.2.3).
//! 2. The walker sets accessed and dirty bits by a locked exchange of the entry it read; where the entry changed meanwhile, it
//!    looks again, so it never marks an entry that is no longer present (Intel SDM 3A 4.8, 9.1.2.1).
//! 3. A store goes through a translation that was cached as writable and dirty without a look at the tables. A store through
//!    one that was cached clean walks again, and faults where the entry is gone.
use std::sync::atomic::Ordering;

use ferry_mm::address::TABLE_ENTRIES;
use ferry_mm::page_table::entry::{Entry, LeafFlags, RawEntry};
use ferry_mm::space::Access;
use x86_64::VirtAddr;
use x86_64::structures::paging::page_table::PageTableLevel;
use x86_64::structures::paging::{Page, PageTableIndex, PhysFrame};

use crate::machine::Chaos;
use crate::memory::{FRAME_WORDS, Memory, frame_index};
use crate::random::Random;
use crate::store_buffer::StoreBuffer;
use crate::tlb::{TablePath, Tlb, Translation};

/// Level-4 entries of the lower half.
pub(crate) const LOWER_HALF_ENTRIES: usize = TABLE_ENTRIES as usize / 2;

/// An access that hardware cannot make: what the CPU tells the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageFault {
    /// Where (CR2).
    pub address: VirtAddr,
    /// What was tried.
    pub access: Access,
}

/// One CPU.
pub(crate) struct Core {
    pub(crate) root: PhysFrame,
    pub(crate) tlb: Tlb,
    pub(crate) stores: StoreBuffer,
    random: Random,
}

/// What a walk is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Load,
    Store,
}

impl Core {
    pub(crate) fn new(seed: u64, number: usize) -> Self {
        Self {
            root: PhysFrame::containing_address(x86_64::PhysAddr::zero()),
            tlb: Tlb::default(),
            stores: StoreBuffer::default(),
            random: Random::new(seed, number as u64),
        }
    }

    /// Loads the word of 8 bytes at an aligned address.
    pub(crate) fn load(&mut self, memory: &Memory, address: VirtAddr) -> Result<u64, PageFault> {
        let frame = self.translate(memory, address, Purpose::Load)?;
        Ok(self.stores.load(memory, word(frame, address)))
    }

    /// Stores the bytes of `mask` in the word at an aligned address.
    pub(crate) fn store(&mut self, memory: &Memory, address: VirtAddr, mask: u64, value: u64) -> Result<(), PageFault> {
        let frame = self.translate(memory, address, Purpose::Store)?;
        self.stores.push(memory, word(frame, address), mask, value);
        Ok(())
    }

    fn translate(&mut self, memory: &Memory, address: VirtAddr, purpose: Purpose) -> Result<PhysFrame, PageFault> {
        let page = Page::containing_address(address);
        let granted = match self.tlb.leaf(page) {
            Some(cached) if purpose == Purpose::Load => Some(cached.frame),
            Some(cached) if cached.writable && cached.dirty => Some(cached.frame),
            // A translation that forbids the store faults as it stands, also where the entry allows it by now.
            Some(cached) if !cached.writable => None,
            _ => self.walk(memory, page, purpose),
        };
        granted.ok_or_else(|| {
            self.tlb.forget_faulting(page);
            let access = if purpose == Purpose::Load { Access::Read } else { Access::Write };
            PageFault { address, access }
        })
    }

    /// Walks the tables of `page` and caches what it finds; the frame, where the access is allowed.
    fn walk(&mut self, memory: &Memory, page: Page, purpose: Purpose) -> Option<PhysFrame> {
        let address = page.start_address();
        let (mut level, mut path) =
            self.tlb.lowest_table(address).unwrap_or((4, TablePath { table: self.root, writable: true }));
        while level > 1 {
            let index = address.page_table_index(level_of(level));
            let (table, flags) = mark(memory, path.table, index, |_| LeafFlags::ACCESSED)?;
            assert!(
                !flags.contains(LeafFlags::HUGE),
                "the simulated walker knows no leaf above level 1: v{address:#x}"
            );
            path = TablePath { table, writable: path.writable && flags.contains(LeafFlags::WRITABLE) };
            level -= 1;
            self.tlb.insert_path(level, address, path);
        }
        let stores =
            |flags: LeafFlags| purpose == Purpose::Store && path.writable && flags.contains(LeafFlags::WRITABLE);
        let (frame, flags) = mark(memory, path.table, page.p1_index(), |flags| {
            if stores(flags) { LeafFlags::ACCESSED | LeafFlags::DIRTY } else { LeafFlags::ACCESSED }
        })?;
        let translation = Translation {
            frame,
            writable: path.writable && flags.contains(LeafFlags::WRITABLE),
            dirty: flags.contains(LeafFlags::DIRTY),
            global: flags.contains(LeafFlags::GLOBAL),
        };
        self.tlb.insert_leaf(page, translation);
        (purpose == Purpose::Load || translation.writable).then_some(frame)
    }

    /// The numbers of the frames that this CPU reaches without a look at the tables: through a cached translation, as a
    /// cached table, or by a store that is on its way.
    pub(crate) fn reachable(&self) -> impl Iterator<Item = usize> {
        let leaves = self.tlb.leaves().map(|(_, translation)| frame_index(translation.frame));
        let tables = self.tlb.paths().map(|(_, _, path)| frame_index(path.table));
        leaves.chain(tables).chain(self.stores.frames())
    }

    /// What a CPU may do on its own at any moment: let a store out, forget a translation, fill one that nobody asked for.
    pub(crate) fn stir(&mut self, memory: &Memory, chaos: &Chaos) {
        if self.random.chance(chaos.drain) {
            self.stores.drain_one(memory);
        }
        if self.random.chance(chaos.forget) && self.tlb.len() > 0 {
            let victim = self.random.below(self.tlb.len());
            self.tlb.forget_nth(victim);
        }
        if self.random.chance(chaos.fill)
            && let Some(page) = self.some_page(memory)
        {
            self.prefetch(memory, page);
        }
    }

    /// Caches what a walk for `page` finds, as a speculative load does: a leaf, or only the path where there is none.
    pub(crate) fn prefetch(&mut self, memory: &Memory, page: Page) {
        self.walk(memory, page, Purpose::Load);
    }

    /// Some page of the lower half whose tables exist; its leaf is present where any of the table's is.
    fn some_page(&mut self, memory: &Memory) -> Option<Page> {
        let mut table = self.root;
        let mut indices = [PageTableIndex::new(0); 4];
        for (depth, chosen) in indices.iter_mut().enumerate() {
            let entries = if depth == 0 { LOWER_HALF_ENTRIES } else { FRAME_WORDS };
            let start = self.random.below(entries);
            let words = memory.frame(table.into());
            let present = (0..entries).map(|step| (start + step) % entries).find_map(|index| {
                match RawEntry(words[index].load(Ordering::SeqCst)).decode() {
                    Entry::Present { frame, .. } => Some((index, frame)),
                    _ => None,
                }
            });
            // A leaf that is not present will do, too: its path is cached.
            let (index, frame) = if depth == 3 { present.unwrap_or((start, table)) } else { present? };
            *chosen = PageTableIndex::new_truncate(index as u16);
            table = frame;
        }
        let [p4, p3, p2, p1] = indices;
        Some(Page::from_page_table_indices(p4, p3, p2, p1))
    }
}

/// Reads an entry and sets the bits that `bits` asks for, in one locked step; `None` where it is not present.
fn mark(
    memory: &Memory,
    table: PhysFrame,
    index: PageTableIndex,
    bits: impl Fn(LeafFlags) -> LeafFlags,
) -> Option<(PhysFrame, LeafFlags)> {
    let place = &memory.frame(table.into())[usize::from(index)];
    let mut current = place.load(Ordering::SeqCst);
    loop {
        let Entry::Present { frame, flags } = RawEntry(current).decode() else { return None };
        let marked = flags | bits(flags);
        if marked == flags {
            return Some((frame, flags));
        }
        match place.compare_exchange(current, current | marked.bits(), Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => return Some((frame, marked)),
            Err(now) => current = now,
        }
    }
}

fn level_of(level: u8) -> PageTableLevel {
    match level {
        4 => PageTableLevel::Four,
        3 => PageTableLevel::Three,
        2 => PageTableLevel::Two,
        _ => PageTableLevel::One,
    }
}

fn word(frame: PhysFrame, address: VirtAddr) -> usize {
    frame_index(frame) * FRAME_WORDS + usize::from(address.page_offset()) / 8
}
