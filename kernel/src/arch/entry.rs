//! Exception entries: from the CPU's delivery to a Rust function and back.
//!
//! Compiled code uses the red zone, the 128 bytes below the stack pointer, so nothing may be pushed
//! onto an interrupted stack. Every vector therefore enters on an exception stack of its own kind.
//! All but page faults stay there. A page fault moves on, so that a page fault inside its handler
//! finds the exception stack free:
//!
//! ```text
//!   page-fault stack                      interrupted stack
//!   ┌─────────────┐                       │ in use          │
//!   │ ss … error  │ ──── 1. check ──────▶ ├─────────────────┤ interrupted rsp
//!   │ rax rcx     │      2. touch         │ red zone, kept  │
//!   └─────────────┘      3. copy, switch  ├─────────────────┤ aligned to 16
//!                                         │ ExceptionFrame  │
//!                                         ├─────────────────┤
//!                                         │ handler's calls │
//! ```
//!
//! Invariants:
//! 1. The interrupted stack pointer is checked against the bounds of the CPU's current stack before
//!    anything is written there. Where it does not fit, the report runs on the exception stack.
//! 2. Both ends of the new frame, which is smaller than a page, are written before the switch. So
//!    a fault during the move happens on the page-fault stack, where the check finds it, and no fault
//!    happens between the switch and the handler, while CR2 is still unread.
//! 3. Interrupts stay off from delivery to IRETQ (interrupt gates).
//! 4. The direction flag, which a copy may have set, is cleared before Rust runs (System V AMD64 ABI 3.2.1).
use super::exceptions::{exception, page_fault};
use super::frame::{ExceptionFrame, RED_ZONE_BYTES, VECTOR_STATE_BYTES};
use super::layout::PAGE_SIZE;
use super::per_cpu::PerCpu;
use core::arch::naked_asm;
use core::mem::offset_of;

/// Vector of interrupts that cannot be masked (Intel SDM 3A, table 6-1).
pub const NON_MASKABLE: u8 = 2;

/// Vector of page faults.
pub const PAGE_FAULT: u8 = 14;

/// Distance between the entries of two vectors in [`vectors`].
pub const VECTOR_ENTRY_BYTES: u64 = 16;

const _: () = assert!(size_of::<ExceptionFrame>() < PAGE_SIZE as usize, "two touches reach the whole frame");

/// Entry of page faults.
///
/// # Safety
/// Only the CPU enters here, on the page-fault stack.
#[unsafe(naked)]
pub unsafe extern "C" fn page_fault_entry() {
    naked_asm!(
        "push rax",
        "push rcx",
        "cld",
        // rsp: rcx, rax, error code, rip, cs, rflags, interrupted rsp, ss.
        "mov rax, [rsp + 48]",
        "mov rcx, rax",
        "sub rcx, gs:[{floor}]",
        "cmp rcx, gs:[{span}]",
        "ja 2f",
        "sub rax, {red_zone}",
        "and rax, -16",
        "mov rcx, rsp",
        "mov [rax - 8], rcx",
        "mov [rax - {frame_bytes}], rcx",
        "mov rsp, rax",
        "push qword ptr [rcx + 56]",
        "push qword ptr [rcx + 48]",
        "push qword ptr [rcx + 40]",
        "push qword ptr [rcx + 32]",
        "push qword ptr [rcx + 24]",
        "push qword ptr [rcx + 16]",
        "push {page_fault_vector}",
        "push qword ptr [rcx + 8]",
        "push qword ptr [rcx]",
        "push rdx",
        "push rsi",
        "push rdi",
        "push r8",
        "push r9",
        "push r10",
        "push r11",
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, {vector_bytes}",
        "fxsave64 [rsp]",
        "inc dword ptr gs:[{depth}]",
        "mov rdi, rsp",
        "mov rsi, cr2",
        "call {page_fault}",
        "dec dword ptr gs:[{depth}]",
        "jmp {leave}",
        // The interrupted stack cannot be used: stay here and report.
        "2:",
        "pop rcx",
        "pop rax",
        "push {page_fault_vector}",
        "jmp {enter}",
        floor = const offset_of!(PerCpu, stack_floor),
        span = const offset_of!(PerCpu, stack_span),
        depth = const offset_of!(PerCpu, fault_depth),
        red_zone = const RED_ZONE_BYTES,
        frame_bytes = const size_of::<ExceptionFrame>(),
        vector_bytes = const VECTOR_STATE_BYTES,
        page_fault_vector = const PAGE_FAULT,
        page_fault = sym page_fault,
        leave = sym leave,
        enter = sym enter,
    )
}

/// Entries of all 256 vectors, each [`VECTOR_ENTRY_BYTES`] long; that of [`PAGE_FAULT`] is not used.
///
/// The CPU pushes an error code for vectors 8, 10 to 14, 17, 21, 29 and 30 (Intel SDM 3A, table 6-1;
/// AMD APM 2, table 8-1); for the others the entry pushes 0, so that frames look alike.
///
/// # Safety
/// Only the CPU enters here, on the exception stack of the vector.
#[unsafe(naked)]
pub unsafe extern "C" fn vectors() {
    naked_asm!(
        ".set ferry_vector, 0",
        ".rept 256",
        ".p2align 4",
        ".if (ferry_vector == 8) || (ferry_vector >= 10 && ferry_vector <= 14) || (ferry_vector == 17) || (ferry_vector == 21) || (ferry_vector == 29) || (ferry_vector == 30)",
        ".else",
        "push 0",
        ".endif",
        "push ferry_vector",
        "jmp {enter}",
        ".set ferry_vector, ferry_vector + 1",
        ".endr",
        enter = sym enter,
    )
}

/// Saves the state on the exception stack and calls [`exception`].
#[unsafe(naked)]
unsafe extern "C" fn enter() {
    naked_asm!(
        "push rax",
        "push rcx",
        "push rdx",
        "push rsi",
        "push rdi",
        "push r8",
        "push r9",
        "push r10",
        "push r11",
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, {vector_bytes}",
        "fxsave64 [rsp]",
        "cld",
        "mov rdi, rsp",
        "mov rsi, cr2",
        "call {exception}",
        "jmp {leave}",
        vector_bytes = const VECTOR_STATE_BYTES,
        exception = sym exception,
        leave = sym leave,
    )
}

/// Restores the state of the [`ExceptionFrame`] at the stack pointer and returns to it.
///
/// The registers that called functions keep are already as they were.
#[unsafe(naked)]
unsafe extern "C" fn leave() {
    naked_asm!(
        "fxrstor64 [rsp]",
        "add rsp, {kept}",
        "pop r11",
        "pop r10",
        "pop r9",
        "pop r8",
        "pop rdi",
        "pop rsi",
        "pop rdx",
        "pop rcx",
        "pop rax",
        // Vector and error code.
        "add rsp, 16",
        "iretq",
        kept = const offset_of!(ExceptionFrame, r11),
    )
}
