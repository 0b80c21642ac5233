//! The translation caches of one CPU: leaf translations, and the paths to tables.
//!
//! Both keep what they were given until somebody tells them, or until the core forgets on its own. The paths are the
//! paging-structure caches of Intel SDM 3A 4.10.3: a CPU may use them to begin a walk below the root, also where no leaf is cached.
use std::collections::BTreeMap;

use ferry_mm::address::{PAGE_BYTES, TABLE_ENTRIES};
use ferry_mm::page_table::flush::FlushScope;
use x86_64::VirtAddr;
use x86_64::structures::paging::{Page, PhysFrame};

/// First address of the upper half.
const UPPER_HALF: u64 = 0xffff_8000_0000_0000;

/// A cached leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Translation {
    pub(crate) frame: PhysFrame,
    /// Whether every entry on the path allowed stores.
    pub(crate) writable: bool,
    /// Whether the leaf's dirty bit was set; a store through a clean translation walks again.
    pub(crate) dirty: bool,
    /// Whether the translation survives a write to CR3.
    pub(crate) global: bool,
}

/// A cached path: the table of some level for some addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TablePath {
    pub(crate) table: PhysFrame,
    pub(crate) writable: bool,
}

/// The caches of one CPU.
#[derive(Default)]
pub(crate) struct Tlb {
    leaves: BTreeMap<Page, Translation>,
    /// Keyed by the level of the table (1 to 3) and by the address bits that led there.
    paths: BTreeMap<(u8, u64), TablePath>,
}

/// How many low bits of an address one table of this level translates; for level 0, the offset in a page.
pub(crate) fn span_bits(level: u8) -> u32 {
    PAGE_BYTES.ilog2() + TABLE_ENTRIES.ilog2() * u32::from(level)
}

/// The bits of an address that choose a table of this level.
pub(crate) fn prefix(level: u8, address: VirtAddr) -> u64 {
    address.as_u64() >> span_bits(level)
}

impl Tlb {
    pub(crate) fn leaf(&self, page: Page) -> Option<Translation> {
        self.leaves.get(&page).copied()
    }

    pub(crate) fn leaves(&self) -> impl Iterator<Item = (Page, Translation)> {
        self.leaves.iter().map(|(page, translation)| (*page, *translation))
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = (u8, u64, TablePath)> {
        self.paths.iter().map(|((level, prefix), path)| (*level, *prefix, *path))
    }

    /// The lowest cached table on the path of `address`, with its level.
    pub(crate) fn lowest_table(&self, address: VirtAddr) -> Option<(u8, TablePath)> {
        (1..=3).find_map(|level| Some((level, *self.paths.get(&(level, prefix(level, address)))?)))
    }

    pub(crate) fn insert_leaf(&mut self, page: Page, translation: Translation) {
        self.leaves.insert(page, translation);
    }

    pub(crate) fn insert_path(&mut self, level: u8, address: VirtAddr, path: TablePath) {
        self.paths.insert((level, prefix(level, address)), path);
    }

    /// What a page fault invalidates: everything that was used for the address (Intel SDM 3A 4.10.4.1).
    pub(crate) fn forget_faulting(&mut self, page: Page) {
        self.leaves.remove(&page);
        for level in 1..=3 {
            self.paths.remove(&(level, prefix(level, page.start_address())));
        }
    }

    /// Forgets the leaf in place `index` of all, and nothing where there is none.
    pub(crate) fn forget_nth(&mut self, index: usize) {
        if let Some(page) = self.leaves.keys().nth(index).copied() {
            self.leaves.remove(&page);
        }
    }

    /// Number of cached leaves.
    pub(crate) fn len(&self) -> usize {
        self.leaves.len()
    }

    /// A flush by request. INVLPG forgets all paths, whatever the address (Intel SDM 3A 4.10.4.1).
    pub(crate) fn flush(&mut self, scope: FlushScope) {
        self.paths.clear();
        match scope {
            FlushScope::Pages(range) => self.leaves.retain(|page, _| !range.contains_page(*page)),
            FlushScope::LowerHalf => self.leaves.retain(|page, _| page.start_address().as_u64() >= UPPER_HALF),
        }
    }

    /// A write to CR3: only global translations stay.
    pub(crate) fn change_root(&mut self) {
        self.paths.clear();
        self.leaves.retain(|_, translation| translation.global);
    }
}
