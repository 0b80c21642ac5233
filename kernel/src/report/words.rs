//! Numbers of the CPU in words.
use core::fmt;
use x86_64::registers::rflags::RFlags;
use x86_64::structures::idt::PageFaultErrorCode;

/// Name of an exception or interrupt (Intel SDM 3A, table 6-1).
pub fn vector_name(vector: u64) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug exception",
        2 => "non-maskable interrupt",
        3 => "breakpoint",
        4 => "overflow",
        5 => "bound range exceeded",
        6 => "invalid opcode",
        7 => "device not available",
        8 => "double fault",
        10 => "invalid task state",
        11 => "segment not present",
        12 => "stack-segment fault",
        13 => "general protection fault",
        14 => "page fault",
        16 => "x87 floating-point error",
        17 => "alignment check",
        18 => "machine check",
        19 => "SIMD floating-point exception",
        20 => "virtualization exception",
        21 => "control protection exception",
        32.. => "unexpected interrupt",
        _ => "reserved exception",
    }
}

/// The error code of a page fault as a sentence (Intel SDM 3A, 4.7).
pub struct ErrorCode(pub u64);

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = PageFaultErrorCode::from_bits_retain(self.0);
        let who = if code.contains(PageFaultErrorCode::USER_MODE) { "ring 3" } else { "the kernel" };
        let what = if code.contains(PageFaultErrorCode::INSTRUCTION_FETCH) {
            "execute"
        } else if code.contains(PageFaultErrorCode::CAUSED_BY_WRITE) {
            "write to"
        } else {
            "read"
        };
        let why = if code.contains(PageFaultErrorCode::MALFORMED_TABLE) {
            "whose table entry has a reserved bit set"
        } else if code.contains(PageFaultErrorCode::PROTECTION_KEY) {
            "that a protection key forbids"
        } else if code.contains(PageFaultErrorCode::PROTECTION_VIOLATION) {
            "that is present but does not allow it"
        } else {
            "that is not present"
        };
        write!(f, "{who} tried to {what} a page {why}")
    }
}

/// An error code that names a segment (Intel SDM 3A, 6.13).
pub struct SelectorCode(pub u64);

impl fmt::Display for SelectorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const EXTERNAL: u64 = 1;
        if self.0 == 0 {
            return f.write_str("no segment is involved");
        }
        let table = match self.0 >> 1 & 0b11 {
            0 => "the global descriptor table",
            2 => "the local descriptor table",
            _ => "the interrupt descriptor table",
        };
        let index = self.0 >> 3 & 0x1fff;
        let external = if self.0 & EXTERNAL != 0 { ", while an event from outside was delivered" } else { "" };
        write!(f, "entry {index} of {table}{external}")
    }
}

/// RFLAGS, the set bits by name (Intel SDM 1, 3.4.3).
pub struct Flags(pub u64);

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = [
            (RFlags::CARRY_FLAG, "carry"),
            (RFlags::ZERO_FLAG, "zero"),
            (RFlags::SIGN_FLAG, "sign"),
            (RFlags::OVERFLOW_FLAG, "overflow"),
            (RFlags::DIRECTION_FLAG, "direction"),
            (RFlags::TRAP_FLAG, "trap"),
            (RFlags::ALIGNMENT_CHECK, "access to ring 3 allowed"),
        ];
        for (_, name) in named.into_iter().filter(|(flag, _)| self.0 & flag.bits() != 0) {
            write!(f, "{name}, ")?;
        }
        let interrupts = self.0 & RFlags::INTERRUPT_FLAG.bits() != 0;
        write!(f, "interrupts {}", if interrupts { "on" } else { "off" })
    }
}
