//! The functions that compiled Rust code expects to find under C names.
//!
//! The precompiled `core` and `alloc` call `memcpy`, `memmove`, `memset`, `memcmp` and `bcmp`, and
//! name `rust_eh_personality` and `_Unwind_Resume`, which no code reaches because panics abort.
//!
//! The five are written in assembly: a body in Rust would be recognised as a copy loop and become
//! a call of itself. Short lengths take a few instructions without a loop; long ones use string
//! instructions, eight bytes at a time, with the last eight bytes done apart.
use core::arch::naked_asm;

/// Copies `n` bytes from `source` to `target` and returns `target` (C11 7.24.2.1).
///
/// Up to 32 bytes everything is loaded before anything is stored; beyond, it copies upwards.
/// [`memmove`] relies on both.
///
/// # Safety
/// `source` is readable and `target` writable for `n` bytes, and they do not overlap.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(target: *mut u8, source: *const u8, n: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "cmp rdx, 16",
        "jb 3f",
        "cmp rdx, 32",
        "ja 2f",
        "movups xmm0, [rsi]",
        "movups xmm1, [rsi + rdx - 16]",
        "movups [rdi], xmm0",
        "movups [rdi + rdx - 16], xmm1",
        "ret",
        // More than 32.
        "2:",
        "mov r8, [rsi + rdx - 8]",
        "lea r9, [rdi + rdx - 8]",
        "mov rcx, rdx",
        "shr rcx, 3",
        "rep movsq",
        "mov [r9], r8",
        "ret",
        // Fewer than 16.
        "3:",
        "cmp edx, 8",
        "jb 4f",
        "mov r8, [rsi]",
        "mov r9, [rsi + rdx - 8]",
        "mov [rdi], r8",
        "mov [rdi + rdx - 8], r9",
        "ret",
        "4:",
        "cmp edx, 4",
        "jb 5f",
        "mov r8d, [rsi]",
        "mov r9d, [rsi + rdx - 4]",
        "mov [rdi], r8d",
        "mov [rdi + rdx - 4], r9d",
        "ret",
        // One to three: the first, the middle and the last byte are all there are.
        "5:",
        "test edx, edx",
        "jz 6f",
        "mov ecx, edx",
        "shr ecx, 1",
        "movzx r8d, byte ptr [rsi]",
        "movzx r9d, byte ptr [rsi + rcx]",
        "movzx r10d, byte ptr [rsi + rdx - 1]",
        "mov [rdi], r8b",
        "mov [rdi + rcx], r9b",
        "mov [rdi + rdx - 1], r10b",
        "6:",
        "ret",
    )
}

/// Copies `n` bytes between ranges that may overlap and returns `target` (C11 7.24.2.2).
///
/// # Safety
/// `source` is readable and `target` writable for `n` bytes.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(target: *mut u8, source: *const u8, n: usize) -> *mut u8 {
    naked_asm!(
        "cmp rdx, 32",
        "jbe {memcpy}",
        // Only a target inside the source, above its start, needs the way down.
        "mov rax, rdi",
        "sub rax, rsi",
        "cmp rax, rdx",
        "jae {memcpy}",
        "mov rax, rdi",
        "movups xmm1, [rsi]",
        "2:",
        "sub rdx, 16",
        "movups xmm0, [rsi + rdx]",
        "movups [rdi + rdx], xmm0",
        "cmp rdx, 16",
        "ja 2b",
        "movups [rdi], xmm1",
        "ret",
        memcpy = sym memcpy,
    )
}

/// Sets `n` bytes to the low byte of `value` and returns `target` (C11 7.24.6.1).
///
/// # Safety
/// `target` is writable for `n` bytes.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(target: *mut u8, value: i32, n: usize) -> *mut u8 {
    naked_asm!(
        "mov r9, rdi",
        "movzx esi, sil",
        "movabs rax, 0x0101010101010101",
        "imul rax, rsi",
        "cmp rdx, 8",
        "jb 3f",
        "mov [rdi + rdx - 8], rax",
        "cmp rdx, 32",
        "ja 2f",
        "mov [rdi], rax",
        "cmp rdx, 16",
        "jbe 5f",
        "mov [rdi + 8], rax",
        "mov [rdi + rdx - 16], rax",
        "mov rax, r9",
        "ret",
        "2:",
        "mov rcx, rdx",
        "shr rcx, 3",
        "rep stosq",
        "mov rax, r9",
        "ret",
        "3:",
        "cmp edx, 4",
        "jb 4f",
        "mov [rdi], eax",
        "mov [rdi + rdx - 4], eax",
        "mov rax, r9",
        "ret",
        "4:",
        "test edx, edx",
        "jz 5f",
        "mov [rdi + rdx - 1], al",
        "shr edx, 1",
        "mov [rdi], al",
        "mov [rdi + rdx], al",
        "5:",
        "mov rax, r9",
        "ret",
    )
}

/// Compares `n` bytes as unsigned numbers, the first that differ deciding (C11 7.24.4.1).
///
/// # Safety
/// Both ranges are readable for `n` bytes.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, n: usize) -> i32 {
    naked_asm!(
        "xor ecx, ecx",
        "2:",
        "lea r8, [rcx + 8]",
        "cmp r8, rdx",
        "ja 3f",
        "mov rax, [rdi + rcx]",
        "mov r9, [rsi + rcx]",
        "mov rcx, r8",
        "cmp rax, r9",
        "je 2b",
        // The lowest address holds the deciding byte, so it must become the most significant.
        "bswap rax",
        "bswap r9",
        "cmp rax, r9",
        "sbb eax, eax",
        "or eax, 1",
        "ret",
        "3:",
        "cmp rcx, rdx",
        "je 4f",
        "movzx eax, byte ptr [rdi + rcx]",
        "movzx r9d, byte ptr [rsi + rcx]",
        "inc rcx",
        "sub eax, r9d",
        "je 3b",
        "ret",
        "4:",
        "xor eax, eax",
        "ret",
    )
}

/// Whether `n` bytes differ: zero where they are the same.
///
/// # Safety
/// Both ranges are readable for `n` bytes.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, n: usize) -> i32 {
    naked_asm!("jmp {memcmp}", memcmp = sym memcmp)
}

/// Named by the unwind tables of precompiled code; panics abort, so nothing calls it.
#[cfg(panic = "abort")]
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn rust_eh_personality() -> ! {
    naked_asm!("ud2")
}

/// Named by the landing pads of precompiled code; panics abort, so nothing calls it.
#[cfg(panic = "abort")]
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn _Unwind_Resume() -> ! {
    naked_asm!("ud2")
}

#[cfg(feature = "tests")]
mod tests {
    use super::{bcmp, memcmp, memcpy, memmove, memset};
    use crate::harness::{TestResult, check_eq, kernel_test};

    /// Longest length tried: past every border at which the functions change their way.
    const LONGEST: usize = 80;
    /// Room on both sides of the bytes under test, to see writes that go astray.
    const MARGIN: usize = 16;
    const ROOM: usize = LONGEST + 2 * MARGIN;

    fn pattern() -> [u8; ROOM] {
        core::array::from_fn(|i| (i * 37 + 11) as u8)
    }

    kernel_test! {
        fn copies_every_short_length() -> TestResult {
            for n in 0..=LONGEST {
                let (source, mut target) = (pattern(), [0xee; ROOM]);
                // SAFETY: both arrays are larger than MARGIN + LONGEST.
                let returned = unsafe { memcpy(target[MARGIN..].as_mut_ptr(), source[MARGIN..].as_ptr(), n) };
                check_eq!(returned, target[MARGIN..].as_mut_ptr());
                for i in 0..ROOM {
                    let inside = (MARGIN..MARGIN + n).contains(&i);
                    check_eq!((n, i, target[i]), (n, i, if inside { source[i] } else { 0xee }));
                }
            }
            Ok(())
        }

        fn moves_between_overlapping_ranges() -> TestResult {
            for n in 0..=LONGEST {
                for from in [0, 1, 7, 8, 15, 16, 31] {
                    for to in [0, 1, 7, 8, 15, 16, 31] {
                        let before = pattern();
                        let mut bytes = before;
                        // SAFETY: `from + n` and `to + n` are at most ROOM.
                        unsafe { memmove(bytes.as_mut_ptr().add(to), bytes.as_ptr().add(from), n) };
                        for i in 0..ROOM {
                            let inside = (to..to + n).contains(&i);
                            let expected = if inside { before[i - to + from] } else { before[i] };
                            check_eq!((n, from, to, i, bytes[i]), (n, from, to, i, expected));
                        }
                    }
                }
            }
            Ok(())
        }

        fn sets_every_short_length() -> TestResult {
            for n in 0..=LONGEST {
                let mut target = [0xee; ROOM];
                // SAFETY: the array is larger than MARGIN + LONGEST.
                unsafe { memset(target[MARGIN..].as_mut_ptr(), 0x1a5, n) };
                for (i, byte) in target.iter().enumerate() {
                    let inside = (MARGIN..MARGIN + n).contains(&i);
                    check_eq!((n, i, *byte), (n, i, if inside { 0xa5 } else { 0xee }));
                }
            }
            Ok(())
        }

        fn compares_by_the_first_difference() -> TestResult {
            for n in 0..=LONGEST {
                let (left, right) = (pattern(), pattern());
                // SAFETY: both arrays are longer than n.
                let equal = unsafe { memcmp(left.as_ptr(), right.as_ptr(), n) | bcmp(left.as_ptr(), right.as_ptr(), n) };
                check_eq!((n, equal), (n, 0));
                for i in 0..n {
                    let mut larger = right;
                    larger[i] = larger[i].wrapping_add(1);
                    // A later difference the other way must not matter.
                    if i + 1 < n {
                        larger[i + 1] = larger[i + 1].wrapping_sub(1);
                    }
                    let expected = (left[i] as i32 - larger[i] as i32).signum();
                    let (left, larger) = (left.as_ptr(), larger.as_ptr());
                    // SAFETY: both arrays are longer than n.
                    let (there, back) = unsafe { (memcmp(left, larger, n), memcmp(larger, left, n)) };
                    check_eq!((n, i, there.signum(), back.signum()), (n, i, expected, -expected));
                }
            }
            Ok(())
        }
    }
}
