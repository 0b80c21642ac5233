//! What an exception entry saves: the one layout shared by the assembly and Rust.
//!
//! ```text
//!   higher addresses      interrupted stack, its red zone of 128 bytes
//!                         ss  rsp  rflags  cs  rip      pushed by the CPU (Intel SDM 3A, 6.14.2)
//!                         error code                    pushed by the CPU, or 0
//!                         vector                        from here on pushed by our entry
//!                         rax rcx rdx rsi rdi r8..r11   what a called function may change
//!                         rbx rbp r12..r15              what it keeps; saved for reports only
//!   lower addresses       512 bytes of x87 and SSE state (Intel SDM 2A, FXSAVE)
//! ```
//!
//! Invariant: the size is a multiple of 16, so that a frame which begins at a multiple of 16 has
//! its vector state aligned as FXSAVE demands and leaves the stack aligned for a call.
use core::mem::offset_of;
use x86_64::VirtAddr;

/// Bytes of the vector state (Intel SDM 1, 10.5.1).
pub const VECTOR_STATE_BYTES: usize = 512;

/// Bytes below the stack pointer that code may use without moving it (System V AMD64 ABI 3.2.2).
pub const RED_ZONE_BYTES: usize = 128;

/// The state of the interrupted code.
///
/// Registers are plain numbers here: interrupted code may hold anything in them.
#[repr(C, align(16))]
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the names are those of the registers")]
pub struct ExceptionFrame {
    /// x87 and SSE state as FXSAVE writes it.
    pub vector_state: [u8; VECTOR_STATE_BYTES],
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rax: u64,
    /// Number of the exception or interrupt.
    pub vector: u64,
    /// The CPU's error code, or 0 for vectors without one.
    pub error_code: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

impl ExceptionFrame {
    /// Where the interrupted code continues.
    pub fn instruction_pointer(&self) -> VirtAddr {
        VirtAddr::new_truncate(self.rip)
    }

    /// The general registers with their names, in the order of their numbers in machine code.
    pub fn registers(&self) -> [(&'static str, u64); 16] {
        [
            ("rax", self.rax),
            ("rcx", self.rcx),
            ("rdx", self.rdx),
            ("rbx", self.rbx),
            ("rsp", self.rsp),
            ("rbp", self.rbp),
            ("rsi", self.rsi),
            ("rdi", self.rdi),
            ("r8", self.r8),
            ("r9", self.r9),
            ("r10", self.r10),
            ("r11", self.r11),
            ("r12", self.r12),
            ("r13", self.r13),
            ("r14", self.r14),
            ("r15", self.r15),
        ]
    }
}

const _: () = {
    assert!(size_of::<ExceptionFrame>().is_multiple_of(16));
    assert!(size_of::<ExceptionFrame>() == VECTOR_STATE_BYTES + 22 * size_of::<u64>());
    assert!(offset_of!(ExceptionFrame, r15) == VECTOR_STATE_BYTES);
    assert!(offset_of!(ExceptionFrame, ss) + size_of::<u64>() == size_of::<ExceptionFrame>());
};
