//! Walks the guest's page tables in the guest's RAM, as the CPU would (Intel SDM 3A 4.5).
//!
//! Entries are decoded by the memory manager's own codec, so that there is one place that knows their bits; the tables
//! themselves are read from outside.
use std::fmt;

use ferry_mm::page_table::entry::{Entry, LeafFlags, RawEntry};
use ferry_mm::page_table::words::EntryWords;
use x86_64::structures::paging::page_table::PageTableLevel;
use x86_64::{PhysAddr, VirtAddr};

use super::ram::Physical;

/// Levels of the tables, from the root down.
const LEVELS: [Level; 4] = [Level(4), Level(3), Level(2), Level(1)];

/// Bits of an address that index one table.
const INDEX_BITS: u32 = 9;

/// Bits of an address within a page.
const OFFSET_BITS: u32 = 12;

/// Bits of an entry that hold a frame's address.
const ADDRESS_MASK: u64 = 0x000f_ffff_ffff_f000;

/// A level of the page tables: 4 is the root.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Level(u8);

impl Level {
    /// Index of the entry for `address` in a table of this level.
    fn index(self, address: VirtAddr) -> u16 {
        ((address.as_u64() >> self.shift()) & ((1 << INDEX_BITS) - 1)) as u16
    }

    /// Bytes that one entry of this level spans, as a power of two.
    pub fn shift(self) -> u32 {
        OFFSET_BITS + INDEX_BITS * (u32::from(self.0) - 1)
    }

    /// The level's number.
    pub fn number(self) -> u8 {
        self.0
    }

    fn as_hardware(self) -> PageTableLevel {
        match self.0 {
            4 => PageTableLevel::Four,
            3 => PageTableLevel::Three,
            2 => PageTableLevel::Two,
            _ => PageTableLevel::One,
        }
    }

    fn may_be_leaf(self) -> bool {
        self.0 <= 3
    }
}

/// One entry on the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// The table's level.
    pub level: Level,
    /// Index in the table.
    pub index: u16,
    /// The entry's bits.
    pub raw: RawEntry,
}

/// What stands at the end of the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// The page is in RAM, at this address.
    Present(PhysAddr),
    /// The entry on level 1 is not present; this is its meaning.
    NotPresent(Entry),
    /// An upper table is missing, so nothing was ever here.
    NoTable,
}

/// The way from the root to a page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Walk {
    /// The entries, root first.
    pub steps: Vec<Step>,
    /// Where it leads.
    pub target: Target,
}

/// Why a walk ends nowhere: the tables are damaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WalkError {
    /// A table's address is not in RAM.
    #[error("the level-{} table on the way to v{address:#x} is said to be at p{table:#x}, where there is no RAM", .level.0)]
    OutsideRam {
        /// The address that was looked up.
        address: VirtAddr,
        /// The table's level.
        level: Level,
        /// Where it is said to be.
        table: PhysAddr,
    },
    /// Above level 1 an entry is either empty or present.
    #[error("the level-{} entry on the way to v{address:#x} is {raw:?}, which is neither empty nor present", .level.0)]
    SpecialTable {
        /// The address that was looked up.
        address: VirtAddr,
        /// The entry's level.
        level: Level,
        /// Its bits.
        raw: RawEntry,
    },
}

/// Walks from the level-4 table at `root` to the page of `address`.
///
/// # Errors
/// [`WalkError`] where the tables are damaged.
pub fn walk(memory: &impl Physical, root: PhysAddr, address: VirtAddr) -> Result<Walk, WalkError> {
    let mut steps = Vec::with_capacity(LEVELS.len());
    let mut table = root;
    for level in LEVELS {
        let index = level.index(address);
        let word = memory.word(table + u64::from(index) * 8).ok_or(WalkError::OutsideRam { address, level, table })?;
        let raw = RawEntry(word);
        steps.push(Step { level, index, raw });
        let entry = raw.decode();
        let target = match entry {
            Entry::Present { .. } if level.0 == 1 => Target::Present(PhysAddr::new_truncate(word & ADDRESS_MASK)),
            Entry::Present { flags, .. } if level.may_be_leaf() && flags.contains(LeafFlags::HUGE) => {
                let within = (1 << level.shift()) - 1;
                let base = word & ADDRESS_MASK & !within;
                Target::Present(PhysAddr::new_truncate(base | (address.as_u64() & within & ADDRESS_MASK)))
            }
            Entry::Present { .. } => {
                table = PhysAddr::new_truncate(word & ADDRESS_MASK);
                continue;
            }
            entry if level.0 == 1 => Target::NotPresent(entry),
            Entry::Empty => Target::NoTable,
            _ => return Err(WalkError::SpecialTable { address, level, raw }),
        };
        return Ok(Walk { steps, target });
    }
    unreachable!("every entry of level 1 ends the walk")
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = EntryWords { level: self.level.as_hardware(), entry: self.raw };
        write!(f, "L{}[{:3}]  {:#018x}  {words}", self.level.0, self.index, self.raw.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::PageBytes;
    use std::collections::BTreeMap;

    /// RAM of 16 MiB in which a test sets single words.
    #[derive(Default)]
    struct HandMade(BTreeMap<u64, u64>);

    impl Physical for HandMade {
        fn word(&self, address: PhysAddr) -> Option<u64> {
            (address.as_u64() < 16 << 20).then(|| self.0.get(&address.as_u64()).copied().unwrap_or(0))
        }

        fn page(&self, _: PhysAddr) -> Option<PageBytes> {
            None
        }
    }

    const ROOT: PhysAddr = PhysAddr::new(0x1000);
    /// Indices 1, 2, 3, 4 from the root down, offset 0x567.
    const ADDRESS: VirtAddr = VirtAddr::new((1 << 39) | (2 << 30) | (3 << 21) | (4 << 12) | 0x567);

    fn tables(leaf: u64) -> HandMade {
        HandMade(BTreeMap::from([
            (0x1000 + 8, 0x2003),
            (0x2000 + 2 * 8, 0x3003),
            (0x3000 + 3 * 8, 0x4003),
            (0x4000 + 4 * 8, leaf),
        ]))
    }

    #[test]
    fn a_present_page_is_found_over_four_levels() {
        let walk = walk(&tables(0x8000_0000_0055_5067), ROOT, ADDRESS).unwrap();
        assert_eq!(walk.target, Target::Present(PhysAddr::new(0x55_5000)));
        assert_eq!(walk.steps.iter().map(|step| step.index).collect::<Vec<_>>(), [1, 2, 3, 4]);
        let text = walk.steps[3].to_string();
        assert_eq!(
            text,
            "L1[  4]  0x8000000000555067  present, page frame p0x555000, writable, user, accessed, dirty, no execute"
        );
        assert_eq!(walk.steps[0].to_string(), "L4[  1]  0x0000000000002003  present, next table p0x2000");
    }

    #[test]
    fn a_page_on_the_device_names_its_frame() {
        use ferry_mm::frame::{DeviceFrame, DeviceId};
        let frame = DeviceFrame::new(DeviceId::new(0).unwrap(), 77);
        let raw = Entry::Device { frame, writable: true }.encode();
        let walk = walk(&tables(raw.0), ROOT, ADDRESS).unwrap();
        assert_eq!(walk.target, Target::NotPresent(Entry::Device { frame, writable: true }));
        assert!(
            walk.steps[3]
                .to_string()
                .ends_with("not present: on device 0, device frame 77; writable when it comes home")
        );
    }

    #[test]
    fn a_missing_table_ends_the_walk_early() {
        let nothing = walk(&HandMade::default(), ROOT, ADDRESS).unwrap();
        assert_eq!((nothing.steps.len(), nothing.target), (1, Target::NoTable));
        let empty = walk(&tables(0), ROOT, ADDRESS).unwrap();
        assert_eq!(empty.target, Target::NotPresent(Entry::Empty));
    }

    #[test]
    fn large_leaves_keep_the_low_bits_of_the_address() {
        let mut memory = tables(0);
        memory.0.insert(0x3000 + 3 * 8, 0x60_0083);
        assert_eq!(walk(&memory, ROOT, ADDRESS).unwrap().target, Target::Present(PhysAddr::new(0x60_4000)));
    }

    #[test]
    fn damage_is_named() {
        let mut memory = tables(0);
        memory.0.insert(0x2000 + 2 * 8, 0x1_0000_0003);
        let error = walk(&memory, ROOT, ADDRESS).unwrap_err();
        assert_eq!(error, WalkError::OutsideRam { address: ADDRESS, level: Level(2), table: PhysAddr::new(1 << 32) });
        memory.0.insert(0x1000 + 8, 0x2002);
        assert!(matches!(walk(&memory, ROOT, ADDRESS), Err(WalkError::SpecialTable { level: Level(4), .. })));
    }
}
