//! The path of an address: its five parts, and the entries that they select.
//!
//! ```text
//!   47      39 38      30 29      21 20      12 11          0
//!   │ L4 index│ L3 index │ L2 index │ L1 index │   offset    │    (Intel SDM 3A, 4.5.4)
//! ```
use crate::arch::tables;
use core::fmt;
use x86_64::structures::paging::PageTableFlags;
use x86_64::{PhysAddr, VirtAddr};

/// Levels of the table.
const LEVELS: usize = 4;

/// The five parts of an address.
pub struct Parts(pub VirtAddr);

impl fmt::Display for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, index) in indices(self.0).into_iter().enumerate() {
            write!(f, "L{}[{index}] ", LEVELS - i)?;
        }
        write!(f, "+ {:#x}", u64::from(self.0.page_offset()))
    }
}

fn indices(address: VirtAddr) -> [u16; LEVELS] {
    [address.p4_index(), address.p3_index(), address.p2_index(), address.p1_index()].map(u16::from)
}

/// Where a walk ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// At an entry that maps the address.
    Mapped,
    /// At an entry that is not present, of this level and this value.
    NotPresent(usize, u64),
    /// At a table that is not RAM.
    Damaged,
}

/// One entry on a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Step {
    level: usize,
    index: u16,
    table: PhysAddr,
    value: u64,
}

/// The entries that the CPU goes through for an address, in the tables that are in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Path {
    steps: [Option<Step>; LEVELS],
    /// Where it ended.
    pub end: End,
}

impl Path {
    /// Follows `address` from CR3 on.
    pub fn walk(address: VirtAddr) -> Self {
        let mut path = Self { steps: [None; LEVELS], end: End::Mapped };
        let mut table = tables::root();
        for (i, index) in indices(address).into_iter().enumerate() {
            let level = LEVELS - i;
            let Some(value) = tables::entry(table, index) else {
                path.end = End::Damaged;
                break;
            };
            path.steps[i] = Some(Step { level, index, table, value });
            let flags = PageTableFlags::from_bits_truncate(value);
            if !flags.contains(PageTableFlags::PRESENT) {
                path.end = End::NotPresent(level, value);
                break;
            }
            if flags.contains(PageTableFlags::HUGE_PAGE) && level > 1 {
                break;
            }
            table = tables::frame_of(value);
        }
        path
    }

    /// Whether every entry on the path has the flag: how the CPU combines "writable" and "ring 3".
    pub fn all(&self, flag: PageTableFlags) -> bool {
        self.steps.iter().flatten().all(|step| PageTableFlags::from_bits_truncate(step.value).contains(flag))
    }

    /// Whether any entry on the path has the flag: how the CPU combines "no execution".
    pub fn any(&self, flag: PageTableFlags) -> bool {
        self.steps.iter().flatten().any(|step| PageTableFlags::from_bits_truncate(step.value).contains(flag))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in self.steps.iter().flatten() {
            let Step { level, index, table, value } = step;
            writeln!(
                f,
                "  L{level}[{index:3}] of the table at p{table:#x}: {value:#018x}  {}",
                Meaning(*value, *level)
            )?;
        }
        match self.end {
            End::Damaged => {
                writeln!(f, "  the entry above names a table that is not in RAM: the page table is damaged")
            }
            End::Mapped | End::NotPresent(..) => Ok(()),
        }
    }
}

/// What a raw entry says.
struct Meaning(u64, usize);

impl fmt::Display for Meaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(value, level) = *self;
        let flags = PageTableFlags::from_bits_truncate(value);
        if value == 0 {
            return f.write_str("empty");
        }
        if !flags.contains(PageTableFlags::PRESENT) {
            return f.write_str("not present, but not empty: a special entry");
        }
        let leaf = level == 1 || flags.contains(PageTableFlags::HUGE_PAGE);
        write!(f, "{} p{:#x}", if leaf { "page" } else { "table" }, tables::frame_of(value))?;
        let named = [
            (PageTableFlags::WRITABLE, ", writable", ", read-only"),
            (PageTableFlags::NO_EXECUTE, ", not executable", ", executable"),
            (PageTableFlags::USER_ACCESSIBLE, ", ring 3", ""),
            (PageTableFlags::ACCESSED, ", accessed", ""),
            (PageTableFlags::DIRTY, ", dirty", ""),
            (PageTableFlags::GLOBAL, ", global", ""),
        ];
        for (flag, set, clear) in named {
            // The flags of a table's own entry below "accessed" belong to leaves.
            let leaf_only = flag == PageTableFlags::DIRTY || flag == PageTableFlags::GLOBAL;
            if leaf || !leaf_only {
                f.write_str(if flags.contains(flag) { set } else { clear })?;
            }
        }
        Ok(())
    }
}
