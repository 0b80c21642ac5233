//! What counts: from the mark that begins a window to the one that ends it.
//!
//! ```text
//!   Begin ───────── CopyBegin ── CopyEnd ── Pause ── Resume ───────── End
//!   └───────────────── instructions ────────┘         └───────────────┘
//!                   └─── copied ───┘
//! ```
//!
//! Counters only grow; a window remembers what they were. Marks are not among them: those of copies, which stand inside, are added.
use std::fmt;

use ferry_protocol::mark::Mark;

/// Counters since QEMU was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Instructions that were begun, by all CPUs; one that faults is begun twice.
    pub instructions: u64,
    /// Those of them in bulk copies.
    pub copied: u64,
    /// INVLPG.
    pub invlpg: u64,
    /// Writes to CR3.
    pub cr3_writes: u64,
    /// Commands to a local APIC that send an interrupt.
    pub ipis: u64,
    /// Bytes written in the BAR.
    pub bar_bytes_written: u64,
    /// Bytes read there.
    pub bar_bytes_read: u64,
}

impl Counts {
    fn since(self, before: Self) -> Self {
        Self {
            instructions: self.instructions - before.instructions,
            copied: self.copied - before.copied,
            invlpg: self.invlpg - before.invlpg,
            cr3_writes: self.cr3_writes - before.cr3_writes,
            ipis: self.ipis - before.ipis,
            bar_bytes_written: self.bar_bytes_written - before.bar_bytes_written,
            bar_bytes_read: self.bar_bytes_read - before.bar_bytes_read,
        }
    }
}

/// As it stands in the file.
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { instructions, copied, invlpg, cr3_writes, ipis, bar_bytes_written, bar_bytes_read } = self;
        write!(f, "{instructions} {copied} {invlpg} {cr3_writes} {ipis} {bar_bytes_written} {bar_bytes_read}")
    }
}

/// The window that is open, if one is.
#[derive(Default)]
pub struct Window {
    begun: Option<Counts>,
    /// Instructions at the beginning of the copy that is under way.
    copy_begun: Option<u64>,
    copied: u64,
    /// Marks inside, which are instructions of the window, too.
    marks: u64,
    /// Instructions at the beginning of the pause that is under way, and those in pauses before.
    paused: Option<u64>,
    left_out: u64,
}

impl Window {
    /// Whether what executes now counts.
    pub fn is_counting(&self) -> bool {
        self.begun.is_some() && self.paused.is_none()
    }

    /// Whether it is part of a bulk copy.
    pub fn is_copying(&self) -> bool {
        self.copy_begun.is_some()
    }

    /// Takes note of a mark; `now` are the counters before it. Returns what the window has counted that it ends.
    pub fn mark(&mut self, mark: Mark, now: Counts) -> Option<Counts> {
        match mark {
            Mark::Begin => *self = Self { begun: Some(now), ..Self::default() },
            Mark::CopyBegin => {
                self.marks += 1;
                self.copy_begun = Some(now.instructions);
            }
            Mark::CopyEnd => {
                self.marks += 1;
                self.copied += self.copy_begun.take().map_or(0, |begun| now.instructions - begun);
            }
            Mark::Pause => self.paused = Some(now.instructions),
            Mark::Resume => self.left_out += self.paused.take().map_or(0, |paused| now.instructions - paused),
            Mark::End => {
                let begun = self.begun.take()?;
                let mut counts = now.since(begun);
                counts.instructions = counts.instructions - self.left_out + self.marks;
                counts.copied = self.copied;
                return Some(counts);
            }
            Mark::FirstWord | Mark::LastWord => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(instructions: u64, ipis: u64) -> Counts {
        Counts { instructions, ipis, ..Counts::default() }
    }

    #[test]
    fn pauses_are_left_out_and_copies_counted_apart() {
        let mut window = Window::default();
        assert_eq!(window.mark(Mark::End, at(1, 0)), None, "nothing has begun");
        window.mark(Mark::CopyBegin, at(2, 0));
        window.mark(Mark::CopyEnd, at(9, 0));
        window.mark(Mark::Begin, at(10, 3));
        window.mark(Mark::CopyBegin, at(15, 3));
        assert!(window.is_copying());
        window.mark(Mark::CopyEnd, at(18, 3));
        window.mark(Mark::Pause, at(20, 3));
        assert!(!window.is_counting());
        window.mark(Mark::Resume, at(1000, 3));
        let counts = window.mark(Mark::End, at(1001, 5)).unwrap();
        assert_eq!((counts.instructions, counts.copied, counts.ipis), (13, 3, 2));
        assert!(!window.is_counting());
    }
}
