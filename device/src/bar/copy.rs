//! How 4096 bytes cross between a device frame and RAM: 16 bytes at a time, in every direction.
//!
//! ```text
//!   device frame ── MOVNTDQA (SSE4.1) or MOVDQA ──▶ register ── MOVDQA ──▶ RAM
//!   RAM ── MOVDQA ──▶ register ── MOVNTDQ ──▶ device frame
//! ```
//!
//! All accesses are volatile or inline assembly (the streaming intrinsics are). That is what keeps
//! the compiler from recognising the loop as a copy and calling `memcpy`, whose accesses are as
//! narrow as its author liked.
//!
//! Invariants:
//! 1. Both pointers are on a 16-byte boundary (a frame is on a page boundary).
//! 2. A frame is moved in whole 64-byte lines, in ascending order: what fills a write-combining
//!    buffer and lets it leave in one burst (Intel SDM 1, 10.4.6.2).
//! 3. No fence here: the callers owe one per batch, not one per frame.
use core::arch::x86_64::{__cpuid, __m128i, _mm_setzero_si128, _mm_stream_load_si128, _mm_stream_si128};

use crate::geometry::FRAME_BYTES;

/// Bytes of one access.
pub(super) const CHUNK_BYTES: usize = size_of::<__m128i>();

const CHUNKS: usize = FRAME_BYTES / CHUNK_BYTES;

/// Accesses of one 64-byte line; all loads of a line come before its stores.
const LINE_CHUNKS: usize = 4;

/// CPUID leaf 1, ECX: SSE4.1 (Intel SDM 2A, CPUID).
const FEATURES: u32 = 1;
const SSE4_1: u32 = 1 << 19;

/// A routine that copies a device frame (first pointer) to RAM (second pointer).
///
/// # Safety
/// Both pointers are on a 16-byte boundary; 4096 bytes may be read at the first and written at the
/// second; the areas do not overlap. The CPU has what the routine uses.
pub(super) type ReadFrame = unsafe fn(*const u8, *mut u8);

/// The best routine for this CPU. Asks CPUID, which is slow in a virtual machine: once per mapping.
pub(super) fn fastest_read() -> ReadFrame {
    if __cpuid(FEATURES).ecx & SSE4_1 != 0 { read_streaming } else { read_plain }
}

/// Copies a device frame with streaming loads, which a write-combining mapping serves a line at a
/// time.
///
/// # Safety
/// As [`ReadFrame`]; the CPU has SSE4.1.
#[target_feature(enable = "sse4.1")]
pub(super) unsafe fn read_streaming(from: *const u8, to: *mut u8) {
    let (from, to) = (from.cast::<__m128i>(), to.cast::<__m128i>());
    for line in (0..CHUNKS).step_by(LINE_CHUNKS) {
        // SAFETY: `line` and the three behind it are below `CHUNKS`, so all accesses stay in the two areas of 4096
        // bytes the caller vouches for, on 16-byte boundaries.
        unsafe {
            let a = _mm_stream_load_si128(from.add(line));
            let b = _mm_stream_load_si128(from.add(line + 1));
            let c = _mm_stream_load_si128(from.add(line + 2));
            let d = _mm_stream_load_si128(from.add(line + 3));
            to.add(line).write_volatile(a);
            to.add(line + 1).write_volatile(b);
            to.add(line + 2).write_volatile(c);
            to.add(line + 3).write_volatile(d);
        }
    }
}

/// Copies a device frame with ordinary 16-byte loads, for a CPU without SSE4.1.
///
/// # Safety
/// As [`ReadFrame`].
pub(super) unsafe fn read_plain(from: *const u8, to: *mut u8) {
    let (from, to) = (from.cast::<__m128i>(), to.cast::<__m128i>());
    for line in (0..CHUNKS).step_by(LINE_CHUNKS) {
        // SAFETY: as in `read_streaming`.
        unsafe {
            let a = from.add(line).read_volatile();
            let b = from.add(line + 1).read_volatile();
            let c = from.add(line + 2).read_volatile();
            let d = from.add(line + 3).read_volatile();
            to.add(line).write_volatile(a);
            to.add(line + 1).write_volatile(b);
            to.add(line + 2).write_volatile(c);
            to.add(line + 3).write_volatile(d);
        }
    }
}

/// Copies RAM into a device frame with non-temporal stores.
///
/// # Safety
/// Both pointers are on a 16-byte boundary; 4096 bytes may be read at `from` and written at `to`;
/// the areas do not overlap.
pub(super) unsafe fn write(from: *const u8, to: *mut u8) {
    let (from, to) = (from.cast::<__m128i>(), to.cast::<__m128i>());
    for line in (0..CHUNKS).step_by(LINE_CHUNKS) {
        // SAFETY: as in `read_streaming`.
        unsafe {
            let a = from.add(line).read_volatile();
            let b = from.add(line + 1).read_volatile();
            let c = from.add(line + 2).read_volatile();
            let d = from.add(line + 3).read_volatile();
            _mm_stream_si128(to.add(line), a);
            _mm_stream_si128(to.add(line + 1), b);
            _mm_stream_si128(to.add(line + 2), c);
            _mm_stream_si128(to.add(line + 3), d);
        }
    }
}

/// Clears a device frame with non-temporal stores.
///
/// # Safety
/// `to` is on a 16-byte boundary; 4096 bytes may be written there.
pub(super) unsafe fn clear(to: *mut u8) {
    let to = to.cast::<__m128i>();
    // SAFETY: SSE2 is part of every x86-64 CPU; accesses as in `read_streaming`.
    unsafe {
        let zero = _mm_setzero_si128();
        for line in (0..CHUNKS).step_by(LINE_CHUNKS) {
            _mm_stream_si128(to.add(line), zero);
            _mm_stream_si128(to.add(line + 1), zero);
            _mm_stream_si128(to.add(line + 2), zero);
            _mm_stream_si128(to.add(line + 3), zero);
        }
    }
}
