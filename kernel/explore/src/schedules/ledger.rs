//! The ledger: who stored what, and what a load may therefore return.
//!
//! Each writer has one cell, a word, in every page and numbers its stores. A CPU is a writer; so is the device that it drives, which
//! stores to a pinned frame by its physical address. No cell has two writers, so what a load returns tells which store it saw.
//!
//! ```text
//!   page of 512 words:  │ cell of writer 0 │ pattern │ cell of writer 1 │ pattern │ ...     one cell in each part of a copy
//!   a stored word:      │ writer (8 bits) │ page (8 bits) │ number of the store (48 bits) │
//! ```
//!
//! What a load of a CPU returns, wherever the page was meanwhile:
//! 1. Of its own cell the last store: a CPU sees its own stores at once.
//! 2. Of another's cell a store at least as new as all that the CPU has seen the writer know: x86-TSO lets stores be late, but in
//!    order, and for everybody at once (Intel SDM 3A 9.2.3.2, 9.2.3.5). So a page whose contents fell back is found by the first
//!    load that can tell.
//! 3. In the end, the last store of every writer.
//!
//! What a child of a fork sees of a cell: a store between the last one before the fork began and the last one before it returned.
use super::stage::{CPUS, DATA_PAGES};

/// Writers: each CPU, and the device that each CPU drives.
pub(super) const WRITERS: usize = 2 * CPUS;

/// Words of a part of a copy, each of which holds the cell of one writer.
const PART_WORDS: usize = 64;

const WRITER_SHIFT: u32 = 56;
const PAGE_SHIFT: u32 = 48;

/// A writer of the ledger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Writer(usize);

impl Writer {
    /// A CPU's own stores.
    pub(super) fn cpu(number: usize) -> Self {
        Self(number)
    }

    /// The stores of the device that a CPU drives.
    pub(super) fn device_of(number: usize) -> Self {
        Self(CPUS + number)
    }

    /// The word of the writer's cell in every page.
    pub(super) fn cell(self) -> usize {
        self.0 * PART_WORDS + 5 * self.0 + 3
    }

    /// Its place in a [`Last`].
    pub(super) fn index(self) -> usize {
        self.0
    }

    /// Every writer.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..WRITERS).map(Self)
    }
}

/// The word that a writer's store of this number leaves in a page; nothing was stored yet where it is 0.
pub(super) fn word(writer: Writer, page: usize, number: u64) -> u64 {
    if number == 0 { 0 } else { (writer.0 as u64 + 1) << WRITER_SHIFT | (page as u64) << PAGE_SHIFT | number }
}

/// The number of the store that left `found` in a cell.
///
/// # Panics
/// Where no store of this writer to this page did.
pub(super) fn number(writer: Writer, page: usize, found: u64) -> u64 {
    let number = found & ((1 << PAGE_SHIFT) - 1);
    assert!(
        found == word(writer, page, number),
        "page {page}: the cell of {writer:?} holds {found:#x}, which is not its"
    );
    number
}

/// How much each writer has stored, by somebody's knowledge.
type Clock = [u64; WRITERS];

struct Store {
    page: usize,
    /// What the writer had seen when it stored, this store included.
    knew: Clock,
}

/// The numbers of the last stores to every cell.
pub(super) type Last = [[u64; DATA_PAGES]; WRITERS];

/// What has been stored to the pages that stay mapped.
#[derive(Default)]
pub(super) struct Ledger {
    stores: [Vec<Store>; WRITERS],
    last: Last,
    /// What each CPU has seen.
    seen: [Clock; CPUS],
}

impl Ledger {
    /// The word of a writer's next store to `page`. It is noted once it is made.
    pub(super) fn next(&self, writer: Writer, page: usize) -> u64 {
        word(writer, page, self.stores[writer.0].len() as u64 + 1)
    }

    /// Notes that the next store of a writer to `page` was made.
    pub(super) fn stored(&mut self, writer: Writer, page: usize) {
        let number = self.stores[writer.0].len() as u64 + 1;
        self.last[writer.0][page] = number;
        let mut knew = self.seen.get(writer.0).copied().unwrap_or_default();
        knew[writer.0] = number;
        if let Some(seen) = self.seen.get_mut(writer.0) {
            *seen = knew;
        }
        self.stores[writer.0].push(Store { page, knew });
    }

    /// Checks what a CPU has loaded from the cell of `writer` in `page`, and learns from it.
    ///
    /// # Panics
    /// Where it could not have seen that.
    pub(super) fn loaded(&mut self, cpu: usize, writer: Writer, page: usize, found: u64) {
        let number = number(writer, page, found);
        let known = self.seen[cpu][writer.0] as usize;
        let oldest = self.stores[writer.0][..known].iter().rposition(|store| store.page == page).map_or(0, |at| at + 1);
        let newest = self.last[writer.0][page];
        assert!(
            (oldest as u64..=newest).contains(&number),
            "CPU {cpu}, page {page}: a load of the cell of {writer:?} returned store {number}, expected {oldest} to {newest}"
        );
        if let Some(store) = number.checked_sub(1).map(|index| &self.stores[writer.0][index as usize]) {
            for (seen, knew) in self.seen[cpu].iter_mut().zip(store.knew) {
                *seen = (*seen).max(knew);
            }
        }
    }

    /// The last stores so far.
    pub(super) fn last(&self) -> Last {
        self.last
    }
}

/// What has been stored to pages that one CPU unmaps, discards and protects while the others use them.
#[derive(Default)]
pub(super) struct Scratch {
    stored: [[u64; SCRATCH_PAGES]; CPUS],
    /// Stores up to these are gone.
    dead: [[u64; SCRATCH_PAGES]; CPUS],
    /// The zaps that had ended when each CPU stored to each page, and whether one was under way.
    at_store: [[(u64, bool); SCRATCH_PAGES]; CPUS],
    zaps: u64,
    is_zapped: bool,
    /// Nothing may get through.
    pub(super) is_unmapped: bool,
    /// No store may get through.
    pub(super) is_read_only: bool,
}

/// Pages whose contents come and go.
pub(super) const SCRATCH_PAGES: usize = 2;

/// What was stored when a zap began.
pub(super) struct Zap([[u64; SCRATCH_PAGES]; CPUS]);

impl Scratch {
    /// The word of a CPU's next store to `page`.
    pub(super) fn next(&self, cpu: usize, page: usize) -> u64 {
        word(Writer::cpu(cpu), page, self.stored[cpu].iter().max().copied().unwrap_or(0) + 1)
    }

    /// Notes that the next store of a CPU to `page` was made.
    ///
    /// # Panics
    /// Where it could not have been made.
    pub(super) fn stored(&mut self, cpu: usize, page: usize) {
        assert!(!self.is_unmapped, "CPU {cpu} stored to scratch page {page} after it was unmapped");
        assert!(!self.is_read_only, "CPU {cpu} stored to scratch page {page} after it was protected");
        let number = self.stored[cpu].iter().max().copied().unwrap_or(0) + 1;
        self.stored[cpu][page] = number;
        self.at_store[cpu][page] = (self.zaps, self.is_zapped);
    }

    /// Checks what a CPU has loaded from the cell of another, or its own.
    ///
    /// # Panics
    /// Where it could not have seen that.
    pub(super) fn loaded(&self, cpu: usize, of: usize, page: usize, found: u64) {
        assert!(!self.is_unmapped, "CPU {cpu} loaded from scratch page {page} after it was unmapped");
        let number = number(Writer::cpu(of), page, found);
        let (last, dead) = (self.stored[of][page], self.dead[of][page]);
        let is_whole = self.at_store[of][page] == (self.zaps, false) && !self.is_zapped;
        let is_right = match number {
            0 => of != cpu || last == 0 || !is_whole,
            number if of == cpu => number == last && number > dead,
            number => number > dead && number <= last,
        };
        assert!(
            is_right,
            "CPU {cpu}, scratch page {page}: a load of the cell of CPU {of} returned store {number}; stored were {last}, of which {dead} are gone"
        );
    }

    /// A zap begins.
    pub(super) fn begin_zap(&mut self) -> Zap {
        self.is_zapped = true;
        Zap(self.stored)
    }

    /// A zap has ended: what was stored when it began is gone.
    pub(super) fn end_zap(&mut self, zap: &Zap) {
        self.end_offer();
        self.dead = zap.0;
    }

    /// The contents have been offered to whoever needs the memory: until a page is stored to again, it may become zeros.
    pub(super) fn end_offer(&mut self) {
        self.is_zapped = false;
        self.zaps += 1;
    }
}
