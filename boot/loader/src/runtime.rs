//! The five functions and two symbols that the precompiled `core` expects to be linked with.
//!
//! String instructions do the work, eight bytes at a time where they can: under an emulator that is
//! many times faster than a loop. None of these may be written with anything that the compiler turns
//! back into a call of itself, hence assembly.
use core::arch::asm;

/// Bytes per step of the wide string instructions.
const WORD: usize = 8;

/// Copies `count` bytes, for areas that do not overlap.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller (compiled code) vouches for both areas; the direction flag is clear by the ABI.
    unsafe {
        asm!(
            "rep movsq",
            "mov rcx, {tail}",
            "rep movsb",
            tail = in(reg) count % WORD,
            inout("rcx") count / WORD => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags)
        );
    }
    to
}

/// Copies `count` bytes; the areas may overlap.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // Distance with wrap-around: large where `to` lies below `from`, and then forwards is right.
    if to.addr().wrapping_sub(from.addr()) >= count {
        // SAFETY: as the caller vouches; copying forwards reads each byte before it is overwritten.
        return unsafe { memcpy(to, from, count) };
    }
    // SAFETY: the caller vouches for both areas, which are not empty here; copying backwards reads each
    // byte before it is overwritten, and the direction flag is clear again afterwards.
    unsafe {
        asm!(
            "std",
            "rep movsb",
            "cld",
            inout("rcx") count => _,
            inout("rdi") to.wrapping_add(count).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(count).wrapping_sub(1) => _,
            options(nostack)
        );
    }
    to
}

/// Sets `count` bytes to the low byte of `value`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
    let word = u64::from_le_bytes([value as u8; WORD]);
    // SAFETY: the caller vouches for the area; the direction flag is clear by the ABI.
    unsafe {
        asm!(
            "rep stosq",
            "mov rcx, {tail}",
            "rep stosb",
            tail = in(reg) count % WORD,
            inout("rcx") count / WORD => _, inout("rdi") to => _, in("rax") word,
            options(nostack, preserves_flags)
        );
    }
    to
}

/// Compares `count` bytes: negative, zero or positive like the first difference.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    for index in 0..count {
        // SAFETY: the caller vouches for `count` bytes on both sides.
        let (left, right) = unsafe { (left.add(index).read_volatile(), right.add(index).read_volatile()) };
        if left != right {
            return i32::from(left) - i32::from(right);
        }
    }
    0
}

/// Whether `count` bytes differ.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(left, right, count) }
}

/// Named by the unwind tables of `core`; with `panic = "abort"` nobody calls it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() -> ! {
    panic!("unwinding was started, but this program does not unwind")
}

/// Named by landing pads in `core`; with `panic = "abort"` nobody calls it.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    panic!("unwinding was resumed, but this program does not unwind")
}
