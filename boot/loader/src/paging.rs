//! Builds the page tables that the kernel starts with (Intel SDM 3A.4.5, 4-level paging).
//!
//! ```text
//!   level 4 ─▶ level 3 ─▶ level 2 ─▶ level 1 ─▶ 4 KiB page
//!                            └─────────────────▶ 2 MiB page (direct map only)
//! ```
//!
//! Invariants:
//! 1. Permissions stand in the leaves alone: entries above are present and writable, never "no execute".
//! 2. No leaf is writable and executable ([`Access`] cannot say it); none is for user mode.
//! 3. A leaf is written once: mapping over something is an error.
use crate::elf::Access;
use crate::layout::BIG_PAGE_BYTES;
use crate::memory::{MemoryError, PhysRange};
use core::fmt;
use x86_64::structures::paging::{PageTable, PageTableFlags, PageTableIndex};
use x86_64::{PhysAddr, VirtAddr};

const PAGE_BYTES: u64 = 4096;

/// Most ranges that the direct map keeps read-only: the handover page and two per segment.
const MAX_READ_ONLY: usize = 1 + 2 * crate::elf::MAX_SEGMENTS;

/// Where tables come from and how they are reached.
pub trait TableMemory {
    /// A frame with an empty table.
    ///
    /// # Errors
    /// [`MemoryError::Exhausted`].
    fn new_table(&mut self) -> Result<PhysAddr, MemoryError>;

    /// The table in `frame`, which [`Self::new_table`] gave out.
    fn table(&mut self, frame: PhysAddr) -> &mut PageTable;
}

/// Why something cannot be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PagingError {
    /// No frame for a table.
    Memory(MemoryError),
    /// This virtual address is mapped already: the layout contradicts itself.
    AlreadyMapped(VirtAddr),
    /// More read-only ranges than two per segment.
    TooManyReadOnly,
}

impl fmt::Display for PagingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(error) => error.fmt(f),
            Self::AlreadyMapped(address) => write!(f, "v{address:x} is mapped already"),
            Self::TooManyReadOnly => f.write_str("more read-only ranges than segments"),
        }
    }
}

impl core::error::Error for PagingError {}

impl From<MemoryError> for PagingError {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error)
    }
}

/// Page tables under construction.
pub struct Tables<'m, M> {
    memory: &'m mut M,
    root: PhysAddr,
    /// Frames that the direct map must not make writable.
    read_only: [PhysRange; MAX_READ_ONLY],
    read_only_len: usize,
}

impl<'m, M: TableMemory> Tables<'m, M> {
    /// Empty tables.
    ///
    /// # Errors
    /// [`MemoryError::Exhausted`].
    pub fn new(memory: &'m mut M) -> Result<Self, MemoryError> {
        let root = memory.new_table()?;
        let nothing = PhysRange { start: 0, end: 0 };
        Ok(Self { memory, root, read_only: [nothing; MAX_READ_ONLY], read_only_len: 0 })
    }

    /// The level-4 table.
    pub fn root(&self) -> PhysAddr {
        self.root
    }

    /// Maps `frames` (whole frames) from `page` on, as 4 KiB pages. What is not writable here will not be
    /// writable through the direct map either.
    ///
    /// # Errors
    /// [`PagingError`].
    pub fn map(&mut self, page: VirtAddr, frames: PhysRange, access: Access) -> Result<(), PagingError> {
        if access != Access::ReadWrite {
            let slot = self.read_only.get_mut(self.read_only_len).ok_or(PagingError::TooManyReadOnly)?;
            *slot = frames;
            self.read_only_len += 1;
        }
        for offset in (0..frames.end - frames.start).step_by(PAGE_BYTES as usize) {
            self.map_leaf(page + offset, frames.start + offset, access, false)?;
        }
        Ok(())
    }

    /// Maps the RAM in `range` at `offset` plus its physical address, never executable, with 2 MiB leaves
    /// where they fit. Everything else has to be mapped before, see [`Self::map`].
    ///
    /// # Errors
    /// [`PagingError`].
    pub fn map_direct(&mut self, offset: VirtAddr, range: PhysRange) -> Result<(), PagingError> {
        let mut frame = range.start;
        while frame < range.end {
            let big = PhysRange { start: frame, end: frame + BIG_PAGE_BYTES };
            let small = PhysRange { start: frame, end: frame + PAGE_BYTES };
            let fits = frame.is_multiple_of(BIG_PAGE_BYTES) && big.end <= range.end && !self.is_read_only(big);
            let access = if self.is_read_only(small) { Access::Read } else { Access::ReadWrite };
            self.map_leaf(offset + frame, frame, access, fits)?;
            frame = if fits { big.end } else { small.end };
        }
        Ok(())
    }

    fn is_read_only(&self, range: PhysRange) -> bool {
        self.read_only[..self.read_only_len].iter().any(|read_only| read_only.overlaps(range))
    }

    fn map_leaf(&mut self, page: VirtAddr, frame: u64, access: Access, big: bool) -> Result<(), PagingError> {
        let directory = [page.p4_index(), page.p3_index()];
        let mut table = self.root;
        for index in directory {
            table = self.next_table(table, index, page)?;
        }
        let (index, size) = if big {
            (page.p2_index(), PageTableFlags::HUGE_PAGE)
        } else {
            table = self.next_table(table, page.p2_index(), page)?;
            (page.p1_index(), PageTableFlags::empty())
        };
        let entry = &mut self.memory.table(table)[index];
        if !entry.is_unused() {
            return Err(PagingError::AlreadyMapped(page));
        }
        let permissions = match access {
            Access::Read => PageTableFlags::NO_EXECUTE,
            Access::ReadWrite => PageTableFlags::NO_EXECUTE | PageTableFlags::WRITABLE,
            Access::ReadExecute => PageTableFlags::empty(),
        };
        entry.set_addr(PhysAddr::new_truncate(frame), PageTableFlags::PRESENT | permissions | size);
        Ok(())
    }

    /// The table below entry `index` of `table`, made if there is none.
    fn next_table(&mut self, table: PhysAddr, index: PageTableIndex, page: VirtAddr) -> Result<PhysAddr, PagingError> {
        let entry = &self.memory.table(table)[index];
        if entry.flags().contains(PageTableFlags::HUGE_PAGE) {
            return Err(PagingError::AlreadyMapped(page));
        }
        if !entry.is_unused() {
            return Ok(entry.addr());
        }
        let new = self.memory.new_table()?;
        self.memory.table(table)[index].set_addr(new, PageTableFlags::PRESENT | PageTableFlags::WRITABLE);
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::boxed::Box;
    use std::vec::Vec;

    /// Tables as boxes; the frame's number is the index.
    #[derive(Default)]
    struct Boxes(Vec<Box<PageTable>>);

    impl TableMemory for Boxes {
        fn new_table(&mut self) -> Result<PhysAddr, MemoryError> {
            self.0.push(Box::new(PageTable::new()));
            Ok(PhysAddr::new((self.0.len() as u64 - 1) * PAGE_BYTES))
        }

        fn table(&mut self, frame: PhysAddr) -> &mut PageTable {
            &mut self.0[(frame.as_u64() / PAGE_BYTES) as usize]
        }
    }

    /// What the hardware would find at `address`: the physical address and the leaf's raw flags. Written
    /// from the manual's picture (SDM 3A, table 4-15 to 4-20), with shifts of its own.
    fn walk(memory: &mut Boxes, root: PhysAddr, address: u64) -> Option<(u64, u64)> {
        let mut table = root.as_u64();
        for shift in [39, 30, 21, 12] {
            let raw = memory.table(PhysAddr::new(table))[(address >> shift) as usize & 511].clone();
            let raw = raw.addr().as_u64() | raw.flags().bits();
            if raw & 1 == 0 {
                return None;
            }
            let next = raw & 0x000f_ffff_ffff_f000;
            if shift == 12 || raw & 0x80 != 0 {
                let below = (1_u64 << shift) - 1;
                return Some(((next & !below) | (address & below), raw & (0x8000_0000_0000_0086)));
            }
            table = next;
        }
        None
    }

    const NO_EXECUTE: u64 = 1 << 63;
    const WRITABLE: u64 = 2;
    const BIG: u64 = 0x80;
    const DIRECT: u64 = 0xffff_8000_0000_0000;
    const TEXT: u64 = 0xffff_ffff_8000_0000;

    #[test]
    fn text_is_executable_once_and_writable_nowhere() {
        let mut memory = Boxes::default();
        let mut tables = Tables::new(&mut memory).unwrap();
        let root = tables.root();
        let range = |start, end| PhysRange { start, end };
        tables.map(VirtAddr::new(TEXT), range(0x40_1000, 0x40_3000), Access::ReadExecute).unwrap();
        tables.map(VirtAddr::new(TEXT + 0x2000), range(0x40_3000, 0x40_4000), Access::ReadWrite).unwrap();
        tables.map_direct(VirtAddr::new(DIRECT), range(0, 0x9f000)).unwrap();
        tables.map_direct(VirtAddr::new(DIRECT), range(0x10_0000, 0x80_1000)).unwrap();
        tables.map_direct(VirtAddr::new(DIRECT), range(5 << 30, (5 << 30) + 0x20_0000)).unwrap();

        assert_eq!(walk(&mut memory, root, TEXT + 0x1234), Some((0x40_2234, 0)));
        assert_eq!(walk(&mut memory, root, TEXT + 0x2000), Some((0x40_3000, NO_EXECUTE | WRITABLE)));
        assert_eq!(walk(&mut memory, root, TEXT + 0x3000), None);
        for frame in (0..0x90_0000).step_by(PAGE_BYTES as usize) {
            let expected = match frame {
                0x40_1000..0x40_3000 => Some((frame, NO_EXECUTE)),
                0x9f000..0x10_0000 | 0x80_1000.. => None,
                0x20_0000..0x40_0000 | 0x60_0000..0x80_0000 => Some((frame, NO_EXECUTE | WRITABLE | BIG)),
                _ => Some((frame, NO_EXECUTE | WRITABLE)),
            };
            assert_eq!(walk(&mut memory, root, DIRECT + frame), expected, "p{frame:#x}");
        }
        let high = (5 << 30) + 0x1f_ffff;
        assert_eq!(walk(&mut memory, root, DIRECT + high), Some((high, NO_EXECUTE | WRITABLE | BIG)));
    }

    #[test]
    fn mapping_over_something_is_an_error() {
        let mut memory = Boxes::default();
        let mut tables = Tables::new(&mut memory).unwrap();
        let page = VirtAddr::new(DIRECT + 0x20_0000);
        let frames = PhysRange { start: 0x20_0000, end: 0x20_1000 };
        tables.map(page, frames, Access::Read).unwrap();
        assert_eq!(tables.map(page, frames, Access::Read), Err(PagingError::AlreadyMapped(page)));
        let offset = VirtAddr::new(DIRECT);
        let big = PhysRange { start: 0x40_0000, end: 0x60_0000 };
        tables.map_direct(offset, big).unwrap();
        assert_eq!(
            tables.map(offset + 0x40_1000_u64, frames, Access::Read),
            Err(PagingError::AlreadyMapped(offset + 0x40_1000_u64))
        );
    }
}
