//! The BAR accessor: the one place that touches the memory behind the BAR.
//!
//! Three paths, and nothing else:
//!
//! ```text
//!   control area   aligned 8-byte volatile loads and stores     Bar::load, store, observe, publish
//!   device frames  16-byte loads, 16-byte non-temporal stores   Bar::read_frame, write_frame, clear_frame
//!   page tables    aligned 8-byte volatile loads and stores     Bar::load_word, store_word
//! ```
//!
//! Reading a real BAR with plain narrow loads is a thousand times slower than with wide streaming
//! ones, so the data path has no other way.
//!
//! # Memory ordering
//! The control area may be mapped uncached, write-combining or write-back; the order holds in each:
//! 1. [`Bar::publish`] is a release: SFENCE, the store, SFENCE. Everything this CPU wrote into the
//!    BAR before, frames included, is visible before the new index is, and the index does not
//!    linger in a write-combining buffer (Intel SDM 3A, 13.3.1).
//! 2. [`Bar::observe`] is an acquire: the load, then LFENCE. No later load is satisfied early.
//! 3. Before a batch of [`Bar::read_frame`] that another agent's writes precede,
//!    [`Bar::begin_reads`] (MFENCE: streaming loads may otherwise hit a stale streaming buffer,
//!    Intel SDM 2B, MOVNTDQA). After a batch of [`Bar::write_frame`] or [`Bar::clear_frame`] that
//!    somebody outside shall see, [`Bar::finish_writes`] (SFENCE), once per batch.
//!
//! Invariants:
//! 1. A `Bar` covers at least the control area, so a [`Place`] needs no further check.
//! 2. A frame is touched only after its index was compared with the number of frames.
//! 3. No reference into the BAR is made, not even to an atomic.
//!
//! Locks: none. Words of the control area have one writer each (see [`layout`](crate::layout));
//! who may touch a device frame is the business of the frame's owner. Two agents in one frame get
//! mixed bytes, nothing worse.
#![allow(unsafe_code)]

mod copy;

use core::arch::x86_64::{_mm_lfence, _mm_mfence, _mm_sfence};
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{Ordering, compiler_fence};

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::geometry::{FRAME_BYTES, FrameIndex, Geometry, NoSuchFrame, SizeError};
use crate::layout::Place;
use copy::ReadFrame;

/// Bytes of a word of the control area.
const WORD_BYTES: usize = size_of::<u64>();

/// A word of a device frame, by its index from 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WordIndex(u16);

impl WordIndex {
    /// Words in a frame.
    pub const COUNT: u64 = (FRAME_BYTES / WORD_BYTES) as u64;

    /// The word with this index; `None` where a frame has fewer words.
    pub const fn new(index: u64) -> Option<Self> {
        if index < Self::COUNT { Some(Self(index as u16)) } else { None }
    }

    /// The word that the low nine bits name, as at the lowest level of a page table.
    pub const fn low_bits_of(index: u64) -> Self {
        Self((index % Self::COUNT) as u16)
    }

    /// Its index.
    pub const fn number(self) -> u64 {
        self.0 as u64
    }

    /// Offset from the start of the frame, in bytes.
    pub const fn offset(self) -> usize {
        self.0 as usize * WORD_BYTES
    }
}

/// The memory behind a BAR, mapped.
///
/// Clones name the same memory.
#[derive(Clone, Debug)]
pub struct Bar {
    base: NonNull<u8>,
    geometry: Geometry,
    read_frame: ReadFrame,
}

// SAFETY: a `Bar` owns nothing that belongs to a thread; `Bar::new` has its caller promise that the memory may be used
// for as long as any clone is, whichever thread holds it.
unsafe impl Send for Bar {}
// SAFETY: every access is volatile or inline assembly on raw pointers and tolerates other writers (the device is one
// at all times), so a second thread with the same `Bar` adds nothing new.
unsafe impl Sync for Bar {}

impl Bar {
    /// The BAR that is mapped at `base` and has `bytes` bytes.
    ///
    /// # Errors
    /// [`BarError`] where the size is none that this device has, or `base` is not on a page boundary.
    ///
    /// # Safety
    /// For as long as the returned value or a clone of it is used:
    /// 1. `[base, base + bytes)` is mapped, readable and writable, and no access to it faults;
    /// 2. no Rust reference to any byte of it exists, and nothing but the memory behind the BAR
    ///    (no object of the program) lies in it.
    pub unsafe fn new(base: NonNull<u8>, bytes: u64) -> Result<Self, BarError> {
        let geometry = Geometry::of_bar(bytes).map_err(BarError::Size)?;
        if !base.addr().get().is_multiple_of(FRAME_BYTES) {
            return Err(BarError::Misaligned(base.addr().get()));
        }
        Ok(Self { base, geometry, read_frame: copy::fastest_read() })
    }

    /// How the BAR divides into control area and frames.
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Loads a `T` from the control area, each of its words exactly once and in no particular order.
    pub fn load<T: FromBytes + IntoBytes>(&self, place: Place<T>) -> T {
        let mut value = T::new_zeroed();
        for (index, word) in value.as_mut_bytes().chunks_exact_mut(WORD_BYTES).enumerate() {
            // SAFETY: `place` and the size of `T` lie inside the control area on word boundaries (checked where places
            // are made), and the control area inside the mapping (condition 1 of `new`, `Geometry::of_bar`).
            let loaded = unsafe { self.base.add(place.offset() + index * WORD_BYTES).cast::<u64>().read_volatile() };
            word.copy_from_slice(&loaded.to_ne_bytes());
        }
        value
    }

    /// Stores a `T` into the control area, word by word.
    pub fn store<T: IntoBytes + Immutable>(&self, place: Place<T>, value: &T) {
        for (index, bytes) in value.as_bytes().chunks_exact(WORD_BYTES).enumerate() {
            let mut word = [0; WORD_BYTES];
            word.copy_from_slice(bytes);
            // SAFETY: as in `load`; and nothing but shared words lies there (condition 2 of `new`).
            unsafe {
                let target = self.base.add(place.offset() + index * WORD_BYTES).cast::<u64>();
                target.write_volatile(u64::from_ne_bytes(word));
            }
        }
    }

    /// Loads an index or state with acquire ordering: what its writer wrote before is visible now.
    pub fn observe(&self, place: Place<U64>) -> u64 {
        let value = self.load(place).get();
        self.begin_loads();
        value
    }

    /// Stores an index or state with release ordering: what was written before is visible first.
    pub fn publish(&self, place: Place<U64>, value: u64) {
        self.finish_writes();
        self.store(place, &U64::new(value));
        self.finish_writes();
    }

    /// Copies a device frame to RAM.
    ///
    /// # Errors
    /// [`NoSuchFrame`] where the device has fewer frames; nothing was read or written then.
    ///
    /// # Safety
    /// `to` is on a 16-byte boundary, and the 4096 bytes from there are RAM outside the BAR that
    /// may be written.
    #[inline]
    pub unsafe fn read_frame(&self, frame: FrameIndex, to: *mut u8) -> Result<(), NoSuchFrame> {
        let from = self.frame(frame)?;
        debug_assert!(to.addr().is_multiple_of(copy::CHUNK_BYTES), "unaligned RAM {to:p}");
        // SAFETY: `from` is a whole frame of the mapping, on a page boundary; the caller vouches for `to`; the routine
        // was chosen by what this CPU has.
        unsafe { (self.read_frame)(from, to) };
        Ok(())
    }

    /// Copies 4096 bytes of RAM into a device frame. Not visible outside before
    /// [`Bar::finish_writes`].
    ///
    /// # Errors
    /// [`NoSuchFrame`] where the device has fewer frames; nothing was read or written then.
    ///
    /// # Safety
    /// `from` is on a 16-byte boundary, and the 4096 bytes from there are RAM outside the BAR that
    /// may be read.
    #[inline]
    pub unsafe fn write_frame(&self, frame: FrameIndex, from: *const u8) -> Result<(), NoSuchFrame> {
        let to = self.frame(frame)?;
        debug_assert!(from.addr().is_multiple_of(copy::CHUNK_BYTES), "unaligned RAM {from:p}");
        // SAFETY: `to` is a whole frame of the mapping, on a page boundary; the caller vouches for `from`.
        unsafe { copy::write(from, to) };
        Ok(())
    }

    /// Clears a device frame. Not visible outside before [`Bar::finish_writes`].
    ///
    /// # Errors
    /// [`NoSuchFrame`] where the device has fewer frames.
    #[inline]
    pub fn clear_frame(&self, frame: FrameIndex) -> Result<(), NoSuchFrame> {
        let to = self.frame(frame)?;
        // SAFETY: `to` is a whole frame of the mapping, on a page boundary, and no object of the program lies there
        // (condition 2 of `new`).
        unsafe { copy::clear(to) };
        Ok(())
    }

    /// Loads a word of a device frame.
    ///
    /// # Errors
    /// [`NoSuchFrame`] where the device has fewer frames.
    pub fn load_word(&self, frame: FrameIndex, word: WordIndex) -> Result<u64, NoSuchFrame> {
        let frame = self.frame(frame)?;
        // SAFETY: a word index is inside a frame, which is inside the mapping; both are on 8-byte boundaries.
        Ok(u64::from_le(unsafe { frame.add(word.offset()).cast::<u64>().read_volatile() }))
    }

    /// Stores a word of a device frame in one access. Not visible outside before [`Bar::finish_writes`].
    ///
    /// # Errors
    /// [`NoSuchFrame`] where the device has fewer frames.
    pub fn store_word(&self, frame: FrameIndex, word: WordIndex, value: u64) -> Result<(), NoSuchFrame> {
        let frame = self.frame(frame)?;
        // SAFETY: as in `load_word`; and no object of the program lies there (condition 2 of `new`).
        unsafe { frame.add(word.offset()).cast::<u64>().write_volatile(value.to_le()) };
        Ok(())
    }

    /// Makes all earlier writes into the BAR visible to the other side before any later one.
    pub fn finish_writes(&self) {
        // SAFETY: SFENCE is part of every x86-64 CPU and touches no memory.
        unsafe { _mm_sfence() };
        compiler_fence(Ordering::SeqCst);
    }

    /// Makes later [`Bar::read_frame`]s see what the other side wrote before this point.
    #[inline]
    pub fn begin_reads(&self) {
        compiler_fence(Ordering::SeqCst);
        // SAFETY: MFENCE is part of every x86-64 CPU and touches no memory.
        unsafe { _mm_mfence() };
    }

    /// Keeps later loads of words from being satisfied before an earlier one.
    fn begin_loads(&self) {
        // SAFETY: LFENCE is part of every x86-64 CPU and touches no memory.
        unsafe { _mm_lfence() };
        compiler_fence(Ordering::SeqCst);
    }

    #[inline]
    fn frame(&self, frame: FrameIndex) -> Result<*mut u8, NoSuchFrame> {
        let offset = self.geometry.frame_offset(frame)?;
        // SAFETY: the offset of a frame that exists lies inside the mapping.
        Ok(unsafe { self.base.add(offset) }.as_ptr())
    }
}

/// A mapping that cannot be the BAR of this device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BarError {
    /// No BAR of this device has this size.
    Size(SizeError),
    /// The mapping starts at this address, which is no page boundary.
    Misaligned(usize),
}

impl fmt::Display for BarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(error) => error.fmt(f),
            Self::Misaligned(address) => write!(f, "the BAR is mapped at {address:#x}, which is no page boundary"),
        }
    }
}

impl core::error::Error for BarError {}

#[cfg(test)]
mod tests;
