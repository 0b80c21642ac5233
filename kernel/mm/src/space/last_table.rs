//! The level-1 table that a space used last: neighbouring pages fault one after the other, and then nobody walks.
//!
//! ```text
//!  63      59 58                         32 31                             0
//! ┌──────────┬─────────────────────────────┬────────────────────────────────┐
//! │    0     │ which 2 MiB of the space + 1 │ number of the table's frame    │     0: none is known
//! └──────────┴─────────────────────────────┴────────────────────────────────┘
//! ```
//!
//! Invariants:
//! 1. The word is one, so that CPUs that work in different parts of a space replace it but never mix it.
//! 2. It is read and written with the areas of the space held, and forgotten, with the areas held exclusively, before a table is
//!    freed. So a table that is found is one of the space.
use core::sync::atomic::{AtomicU64, Ordering};
use x86_64::structures::paging::{Page, PhysFrame};

use super::Space;
use crate::frame::{frame_of, number};
use crate::machine::Machine;
use crate::page_table::walk;

/// See the module.
#[derive(Debug)]
pub(super) struct LastTable(AtomicU64);

/// Bits of an address below the number of its 2 MiB.
const PART_BITS: u32 = 21;

/// Where the part of the space stands, above the number of a frame.
const PART_SHIFT: u32 = u32::BITS;

impl LastTable {
    pub(super) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// The level-1 table of `page` in `space`, where there is one. The caller holds the areas.
    #[inline(always)]
    pub(super) fn find<M: Machine>(&self, space: Space<'_, M>, page: Page) -> Option<PhysFrame> {
        let part = (page.start_address().as_u64() >> PART_BITS) + 1;
        let mut word = self.0.load(Ordering::Relaxed);
        if word >> PART_SHIFT != part {
            word = self.walk(space, page, part)?;
        }
        Some(frame_of(word as u32))
    }

    #[cold]
    #[inline(never)]
    fn walk<M: Machine>(&self, space: Space<'_, M>, page: Page, part: u64) -> Option<u64> {
        let table = walk::leaf_table(&space.manager.machine, space.root(), page)?;
        let word = part << PART_SHIFT | u64::from(number(table));
        self.0.store(word, Ordering::Relaxed);
        Some(word)
    }

    /// Knows no table any more. The caller holds the areas exclusively.
    pub(super) fn forget(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}
