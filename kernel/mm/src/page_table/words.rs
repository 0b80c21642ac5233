//! What an entry means, in words for people.
use core::fmt;
use x86_64::structures::paging::page_table::PageTableLevel;

use super::entry::{Entry, LeafFlags, RawEntry};

/// An entry of a table of this level, to be printed in words.
#[derive(Clone, Copy, Debug)]
pub struct EntryWords {
    /// The table's level, which says whether a present entry points at a page.
    pub level: PageTableLevel,
    /// The entry.
    pub entry: RawEntry,
}

impl fmt::Display for EntryWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.entry.decode() {
            Entry::Empty => f.write_str("empty"),
            Entry::Present { frame, flags } => {
                let address = frame.start_address().as_u64();
                if self.level == PageTableLevel::One || flags.contains(LeafFlags::HUGE) {
                    write!(f, "present, page frame p{address:#x}")?;
                    write_flags(f, flags)
                } else {
                    write!(f, "present, next table p{address:#x}")
                }
            }
            Entry::Swap { slot } => write!(f, "not present: swapped out to slot {}", slot.number()),
            Entry::Migrating { .. } => f.write_str("not present: on its way (migrating)"),
            Entry::Device { frame, writable } => {
                let rights = if writable { "writable" } else { "read-only" };
                let (device, index) = (frame.device().number(), frame.index());
                write!(f, "not present: on device {device}, device frame {index}; {rights} when it comes home")
            }
            Entry::Exclusive { .. } => f.write_str("not present: the device has exclusive access"),
            Entry::NoAccess { .. } => f.write_str("not present: the area forbids every access"),
            Entry::Poison => f.write_str("not present: poisoned, its contents are lost"),
            Entry::Unknown(_) => f.write_str("no encoding that the memory manager knows"),
        }
    }
}

fn write_flags(f: &mut fmt::Formatter<'_>, flags: LeafFlags) -> fmt::Result {
    f.write_str(if flags.contains(LeafFlags::WRITABLE) { ", writable" } else { ", read-only" })?;
    for (flag, word) in [
        (LeafFlags::USER, "user"),
        (LeafFlags::ACCESSED, "accessed"),
        (LeafFlags::DIRTY, "dirty"),
        (LeafFlags::GLOBAL, "global"),
        (LeafFlags::NO_EXECUTE, "no execute"),
    ] {
        if flags.contains(flag) {
            write!(f, ", {word}")?;
        }
    }
    Ok(())
}
