//! Who called: the chain of frame pointers, followed without ever faulting.
//!
//! ```text
//!   rbp ──▶ │ caller's rbp   │──▶ │ its caller's rbp │──▶ …
//!           │ return address │    │ return address   │
//! ```
use super::layout::BOOT_STACK_BYTES;
use super::per_cpu::{self, PerCpu};
use core::arch::asm;

/// Longest chain that is followed: as many frames, of two words at least, as the kernel stack can hold.
const MOST_FRAMES: u64 = BOOT_STACK_BYTES / 16;

/// The frame pointer of the function that this is inlined into.
#[inline(always)]
pub fn frame_pointer() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rbp", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Eight bytes at `address`, or `None` outside the stacks of this CPU.
pub fn read_stack(address: u64) -> Option<u64> {
    const BYTES: u64 = size_of::<u64>() as u64;
    if !per_cpu::is_loaded() || !address.is_multiple_of(BYTES) {
        return None;
    }
    PerCpu::current().stacks().find(|(_, stack)| stack.contains(address, BYTES))?;
    // SAFETY: the eight bytes lie in a stack of this CPU, which is mapped, and may hold anything.
    Some(unsafe { (address as *const u64).read_volatile() })
}

/// Calls `each` with every return address on the chain that begins at `frame_pointer`.
///
/// The chain ends where a link leaves the stacks of this CPU, does not lead upwards, or a return
/// address is outside the kernel's code.
pub fn return_addresses(mut frame_pointer: u64, mut each: impl FnMut(u64)) {
    for _ in 0..MOST_FRAMES {
        let (Some(next), Some(address)) =
            (read_stack(frame_pointer), read_stack(frame_pointer.wrapping_add(size_of::<u64>() as u64)))
        else {
            return;
        };
        if !is_code(address) {
            return;
        }
        each(address);
        if next <= frame_pointer {
            return;
        }
        frame_pointer = next;
    }
}

unsafe extern "C" {
    safe static __executable_start: u8;
    safe static etext: u8;
}

/// Whether `address` lies in the image, before the end of its code (both ends set by the linker).
pub fn is_code(address: u64) -> bool {
    let [start, end] = [&__executable_start, &etext].map(|symbol| core::ptr::from_ref(symbol).addr() as u64);
    (start..end).contains(&address)
}
