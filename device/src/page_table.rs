//! The device page table: what a context's pages are to the device. Entries stand in device frames; the guest writes
//! them through the BAR, the device walks them.
//!
//! ```text
//!   page - first page of the window = 18 bits
//!   ┌─────────┬─────────┐
//!   │ 17 .. 9 │ 8 .. 0  │
//!   └────┬────┴────┬────┘            an entry, 8 bytes, of either level
//!        │         │                 63            12 11      4    3      2      1      0
//!        ▼         ▼                ┌────────────────┬─────────┬──────┬──────┬──────┬──────┐
//!      root ────▶ leaf ────▶ page   │ frame number   │ 0       │ATOMIC│LOCAL │WRITE │VALID │
//!      512 pointers 512 entries     └────────────────┴─────────┴──────┴──────┴──────┴──────┘
//! ```
//!
//! A pointer of the root has VALID and LOCAL and nothing else. An entry with LOCAL names a frame of this device, one
//! without a frame of RAM. ATOMIC: nobody else uses the page, so that it may be changed atomically; it comes with WRITE.
//!
//! Invariants:
//! 1. All frames of a table are there when it is made: setting an entry allocates nothing and cannot fail for want of room.
//! 2. An entry is stored in one 8-byte access, so the device sees the old or the new one.
//! 3. The writer finds leaves by its own list, never by the pointers that stand in device memory.
//!
//! Locks: none inside; the table's owner lets one writer at a time.
use alloc::vec::Vec;
use core::fmt;

use crate::bar::{Bar, WordIndex};
use crate::context::{PageSpan, RamFrame, VirtualPage};
use crate::geometry::{FrameIndex, NoSuchFrame};

const VALID: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const LOCAL: u64 = 1 << 2;
const ATOMIC: u64 = 1 << 3;
const FRAME_SHIFT: u32 = 12;
const RESERVED: u64 = ((1 << FRAME_SHIFT) - 1) & !(VALID | WRITE | LOCAL | ATOMIC);

/// Entries in a frame of the table.
pub const FRAME_ENTRIES: u64 = WordIndex::COUNT;

/// Where a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// In this frame of the device itself.
    Local(FrameIndex),
    /// In this frame of RAM.
    Ram(RamFrame),
}

/// What the device may do with a page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Rights {
    /// Read.
    Read,
    /// Read and write.
    Write,
    /// Read, write, and change atomically.
    Atomic,
}

/// A valid entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableEntry {
    /// Where the page is.
    pub target: Target,
    /// What the device may do with it.
    pub rights: Rights,
}

impl TableEntry {
    /// The entry as it stands in the table.
    pub const fn encode(self) -> u64 {
        let target = match self.target {
            Target::Local(frame) => LOCAL | frame.0 << FRAME_SHIFT,
            Target::Ram(frame) => frame.0 << FRAME_SHIFT,
        };
        let rights = match self.rights {
            Rights::Read => 0,
            Rights::Write => WRITE,
            Rights::Atomic => WRITE | ATOMIC,
        };
        target | rights | VALID
    }

    /// The entry that stands as `word` in a table; `None` where no page is.
    ///
    /// # Errors
    /// [`BadEntry`] where no entry looks like this.
    pub const fn decode(word: u64) -> Result<Option<Self>, BadEntry> {
        if word == 0 {
            return Ok(None);
        }
        let frame = word >> FRAME_SHIFT;
        let target = if word & LOCAL != 0 { Target::Local(FrameIndex(frame)) } else { Target::Ram(RamFrame(frame)) };
        let rights = match word & (WRITE | ATOMIC) {
            0 => Rights::Read,
            WRITE => Rights::Write,
            ATOMIC => return Err(BadEntry(word)),
            _ => Rights::Atomic,
        };
        if word & VALID == 0 || word & RESERVED != 0 {
            return Err(BadEntry(word));
        }
        Ok(Some(Self { target, rights }))
    }

    /// The pointer of a root to this leaf.
    pub const fn pointer_to(leaf: FrameIndex) -> Self {
        Self { target: Target::Local(leaf), rights: Rights::Read }
    }
}

/// A word that is no entry of a device page table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadEntry(pub u64);

impl fmt::Display for BadEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x} is no entry of a device page table; somebody else wrote into its frame", self.0)
    }
}

impl core::error::Error for BadEntry {}

/// Device frames that a table over `window` consists of: the root and a leaf for each 512 pages.
pub const fn frames_of(window: PageSpan) -> u64 {
    1 + window.count().div_ceil(FRAME_ENTRIES)
}

/// The guest's side of a context's page table.
#[derive(Debug)]
pub struct PageTable {
    bar: Bar,
    window: PageSpan,
    root: FrameIndex,
    leaves: Vec<FrameIndex>,
}

impl PageTable {
    /// Makes a table without entries over `window` in `frames`, which belong to it from now on: the root, then the leaves.
    ///
    /// # Errors
    /// [`TableError`] where these are not as many frames as [`frames_of`] says, or one does not exist.
    pub fn new(bar: Bar, window: PageSpan, frames: &[FrameIndex]) -> Result<Self, TableError> {
        let wrong = TableError::Frames { found: frames.len() as u64, expected: frames_of(window) };
        let Some((&root, leaves)) = frames.split_first() else { return Err(wrong) };
        if frames.len() as u64 != frames_of(window) {
            return Err(wrong);
        }
        for frame in frames {
            bar.clear_frame(*frame)?;
        }
        bar.finish_writes();
        for (index, leaf) in (0..).zip(leaves) {
            bar.store_word(root, WordIndex::low_bits_of(index), TableEntry::pointer_to(*leaf).encode())?;
        }
        bar.finish_writes();
        Ok(Self { bar, window, root, leaves: leaves.into() })
    }

    /// The pages that it reaches.
    pub const fn window(&self) -> PageSpan {
        self.window
    }

    /// The frame that a context is attached with.
    pub const fn root(&self) -> FrameIndex {
        self.root
    }

    /// Every frame of the table, for when it is given up.
    pub fn frames(&self) -> impl Iterator<Item = FrameIndex> + '_ {
        core::iter::once(self.root).chain(self.leaves.iter().copied())
    }

    /// Sets the entry of a page. Not visible to the device before [`Self::publish`].
    ///
    /// # Errors
    /// [`TableError::Outside`].
    pub fn set(&self, page: VirtualPage, entry: TableEntry) -> Result<(), TableError> {
        self.store(page, entry.encode())
    }

    /// Clears the entries of those pages of `span` that the window has. The device may go on using them until it has
    /// done a [`Command::Invalidate`](crate::Command::Invalidate).
    ///
    /// # Errors
    /// None that a table whose frames exist can give.
    pub fn clear(&self, span: PageSpan) -> Result<(), TableError> {
        let (ours, theirs) = (self.window.numbers(), span.numbers());
        for page in ours.start.max(theirs.start)..ours.end.min(theirs.end) {
            self.store(VirtualPage(page), 0)?;
        }
        self.publish();
        Ok(())
    }

    /// The entry of a page, as it stands in device memory.
    ///
    /// # Errors
    /// [`TableError::Outside`], or [`TableError::BadEntry`] where the device has written there.
    pub fn entry(&self, page: VirtualPage) -> Result<Option<TableEntry>, TableError> {
        let (leaf, word) = self.place(page)?;
        Ok(TableEntry::decode(self.bar.load_word(leaf, word)?)?)
    }

    /// Makes every entry that was set visible to the device.
    pub fn publish(&self) {
        self.bar.finish_writes();
    }

    fn store(&self, page: VirtualPage, entry: u64) -> Result<(), TableError> {
        let (leaf, word) = self.place(page)?;
        Ok(self.bar.store_word(leaf, word, entry)?)
    }

    fn place(&self, page: VirtualPage) -> Result<(FrameIndex, WordIndex), TableError> {
        let outside = TableError::Outside { page, window: self.window };
        let index = self.window.index_of(page).ok_or(outside)?;
        let leaf = self.leaves.get((index / FRAME_ENTRIES) as usize).ok_or(outside)?;
        Ok((*leaf, WordIndex::low_bits_of(index)))
    }
}

/// Why a page table was not made or changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableError {
    /// Too few or too many frames for the window.
    Frames {
        /// How many were given.
        found: u64,
        /// How many it takes.
        expected: u64,
    },
    /// A frame that the device does not have.
    NoSuchFrame(NoSuchFrame),
    /// The page is not in the window.
    Outside {
        /// The page.
        page: VirtualPage,
        /// The window.
        window: PageSpan,
    },
    /// What stands in the table is no entry.
    BadEntry(BadEntry),
}

impl From<NoSuchFrame> for TableError {
    fn from(error: NoSuchFrame) -> Self {
        Self::NoSuchFrame(error)
    }
}

impl From<BadEntry> for TableError {
    fn from(error: BadEntry) -> Self {
        Self::BadEntry(error)
    }
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frames { found, expected } => {
                write!(f, "a device page table over this window takes {expected} device frames, not {found}")
            }
            Self::NoSuchFrame(none) => none.fmt(f),
            Self::Outside { page, window } => write!(
                f,
                "page {:#x} is outside the context's window, pages {:#x} to {:#x}; attach it with a larger one",
                page.0,
                window.numbers().start,
                window.numbers().end - 1
            ),
            Self::BadEntry(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for TableError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Memory;

    fn word(memory: &Memory, frame: usize, index: usize) -> u64 {
        let start = 0x8000 + frame * 4096 + index * 8;
        u64::from_le_bytes(memory.bytes()[start..start + 8].try_into().unwrap())
    }

    #[test]
    fn entries_are_these_bits_and_others_are_none() {
        let entry = |target, rights| TableEntry { target, rights };
        let (local, ram) = (Target::Local(FrameIndex(0x12)), Target::Ram(RamFrame(0xf_ffff)));
        for (expected, entry) in [
            (0x12005, entry(local, Rights::Read)),
            (0x12007, entry(local, Rights::Write)),
            (0xffff_f001, entry(ram, Rights::Read)),
            (0xffff_f00b, entry(ram, Rights::Atomic)),
        ] {
            assert_eq!((entry.encode(), TableEntry::decode(expected)), (expected, Ok(Some(entry))));
        }
        assert_eq!(TableEntry::decode(0), Ok(None));
        for bad in [0x12004, 0x12009, 0x12011, 0x801, 2, 1 << 63] {
            assert_eq!(TableEntry::decode(bad), Err(BadEntry(bad)), "{bad:#x}");
        }
    }

    #[test]
    fn a_table_stands_where_the_device_looks_for_it() {
        let memory = Memory::ready(0);
        memory.fill(0x8000, &[0xff; 4 * 4096]);
        let window = PageSpan::new(VirtualPage(1000), 513).unwrap();
        let frames = [2, 0, 3].map(FrameIndex);
        let table = PageTable::new(memory.bar(), window, &frames).unwrap();
        assert_eq!([word(&memory, 2, 0), word(&memory, 2, 1), word(&memory, 2, 2)], [0x0005, 0x3005, 0]);
        let entry = TableEntry { target: Target::Ram(RamFrame(7)), rights: Rights::Write };
        for page in [1000, 1511, 1512] {
            table.set(VirtualPage(page), entry).unwrap();
            assert_eq!(table.entry(VirtualPage(page)), Ok(Some(entry)));
        }
        assert_eq!([word(&memory, 0, 0), word(&memory, 0, 511), word(&memory, 3, 0)], [0x7003; 3]);
        table.clear(PageSpan::new(VirtualPage(1001), 100_000).unwrap()).unwrap();
        assert_eq!([word(&memory, 0, 0), word(&memory, 0, 511), word(&memory, 3, 0)], [0x7003, 0, 0]);
        for page in [999, 1513] {
            assert!(matches!(table.set(VirtualPage(page), entry), Err(TableError::Outside { .. })));
        }
        assert!(memory.bytes()[0x8000 + 4096..0x8000 + 2 * 4096].iter().all(|byte| *byte == 0xff), "not its frame");
        let few = PageTable::new(memory.bar(), window, &frames[..2]).unwrap_err();
        assert_eq!(few, TableError::Frames { found: 2, expected: 3 });
    }
}
