//! The backtrace of a report. Code addresses stand between the marks of [`ferry_protocol::symbol`],
//! where the host tool puts function, file and line.
use crate::arch::backtrace::return_addresses;
use core::fmt::Write;
use ferry_protocol::symbol::{CLOSE, OPEN};

/// Most lines; what a report leaves out it counts.
const MOST_LINES: u32 = 24;

/// Writes `instruction`, where there is one, and then every caller along `frame_pointer`. A caller
/// that repeats, as in endless recursion, takes one line.
pub fn write(out: &mut impl Write, instruction: Option<u64>, frame_pointer: u64) {
    let _ = writeln!(out, "backtrace, innermost first");
    let mut lines = Lines { out, written: 0, left_out: 0, last: None, repeats: 0 };
    if let Some(address) = instruction {
        lines.add(address);
    }
    // A return address is behind the call; the byte before it belongs to the call's line.
    return_addresses(frame_pointer, |address| lines.add(address - 1));
    lines.finish();
}

struct Lines<'a, W> {
    out: &'a mut W,
    written: u32,
    left_out: u32,
    last: Option<u64>,
    repeats: u32,
}

impl<W: Write> Lines<'_, W> {
    fn add(&mut self, address: u64) {
        if self.last == Some(address) {
            self.repeats += 1;
            return;
        }
        self.finish_repeats();
        self.last = Some(address);
        if self.written == MOST_LINES {
            self.left_out += 1;
            return;
        }
        let _ = writeln!(self.out, "  {:2} {OPEN}{address:x}{CLOSE}", self.written);
        self.written += 1;
    }

    fn finish_repeats(&mut self) {
        let repeats = core::mem::take(&mut self.repeats);
        if repeats > 0 && self.left_out == 0 {
            let _ = writeln!(self.out, "     the same {repeats} more times");
        }
    }

    fn finish(mut self) {
        self.finish_repeats();
        if self.left_out > 0 {
            let _ = writeln!(self.out, "     and {} more", self.left_out);
        }
    }
}
