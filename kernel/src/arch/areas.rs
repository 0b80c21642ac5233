//! Access to the memory in areas, as a program would access it: it may fault, and a page may come home for it.
//!
//! Pages of areas migrate, so no reference to their bytes is ever made; here they are touched by single instructions that
//! continue after a fault where they stopped. A fault that cannot be resolved ends the run with a report; who wants
//! an error instead uses [`super::probe`].
//!
//! Every function panics where part of the range is outside [`AREAS`], because Rust objects may lie there.
use super::layout::AREAS;
use core::arch::asm;
use ferry_mm::address::{PAGE_BYTES, PageRange};
use x86_64::VirtAddr;

fn assert_inside(address: VirtAddr, bytes: usize) {
    let last = address.as_u64().checked_add(bytes.saturating_sub(1) as u64);
    let inside = AREAS.contains(address) && last.is_some_and(|last| last <= AREAS.last().as_u64());
    assert!(inside, "v{address:#x} plus {bytes:#x} bytes is not in an area");
}

/// Copies, in ascending order.
///
/// # Safety
/// Each of the two ranges lies in an area, or may be read respectively written.
unsafe fn copy(from: u64, to: u64, bytes: usize) {
    // SAFETY: the caller vouches for both ranges; the direction flag is clear (System V AMD64 ABI 3.2.1).
    unsafe {
        asm!(
            "rep movsb",
            inout("rcx") bytes => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags)
        );
    }
}

/// Loads a byte.
#[inline]
pub fn load_byte(address: VirtAddr) -> u8 {
    assert_inside(address, 1);
    // SAFETY: no Rust object lies in an area.
    unsafe { address.as_ptr::<u8>().read_volatile() }
}

/// Stores `bytes`.
pub fn store_bytes(address: VirtAddr, bytes: &[u8]) {
    assert_inside(address, bytes.len());
    // SAFETY: the source is a slice of ours, the target lies in an area, where no Rust object is.
    unsafe { copy(bytes.as_ptr().addr() as u64, address.as_u64(), bytes.len()) };
}

/// Loads into `bytes`.
pub fn load_bytes(address: VirtAddr, bytes: &mut [u8]) {
    assert_inside(address, bytes.len());
    // SAFETY: the source lies in an area, the target is a slice of ours.
    unsafe { copy(address.as_u64(), bytes.as_mut_ptr().addr() as u64, bytes.len()) };
}

/// Loads one byte of each page of `range`.
pub fn load_each(range: PageRange) {
    assert_inside(range.start_address(), range.bytes() as usize);
    for address in (range.start_address().as_u64()..range.end()).step_by(PAGE_BYTES as usize) {
        // SAFETY: no Rust object lies in an area.
        unsafe { VirtAddr::new_truncate(address).as_ptr::<u8>().read_volatile() };
    }
}

/// Stores `value` into one byte of each page of `range`.
pub fn store_each(range: PageRange, value: u8) {
    assert_inside(range.start_address(), range.bytes() as usize);
    for address in (range.start_address().as_u64()..range.end()).step_by(PAGE_BYTES as usize) {
        // SAFETY: no Rust object lies in an area.
        unsafe { VirtAddr::new_truncate(address).as_mut_ptr::<u8>().write_volatile(value) };
    }
}
