//! Memory that stands for a BAR, between two pages that must not change: the one place with `unsafe` but for PCI's.
#![allow(unsafe_code)]
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use ferry_device::Bar;
use ferry_device::geometry::{FRAME_BYTES, MIN_BAR_BYTES};

/// Bytes of the smallest BAR.
pub const BAR_BYTES: usize = MIN_BAR_BYTES as usize;

/// What the pages around it are filled with.
const CANARY: u8 = 0xc7;

/// Memory of the smallest BAR. Only reached through raw pointers, as a BAR is.
pub struct BarMemory {
    allocation: NonNull<u8>,
    bar: Bar,
}

impl BarMemory {
    fn layout() -> Layout {
        Layout::from_size_align(BAR_BYTES + 2 * FRAME_BYTES, FRAME_BYTES).expect("constants that fit")
    }

    /// All zero.
    pub fn new() -> Self {
        // SAFETY: the layout is not of size zero; the allocation is used through raw pointers only and lives as long as
        // `BarMemory`, whose `bar` no target keeps longer.
        unsafe {
            let Some(allocation) = NonNull::new(alloc_zeroed(Self::layout())) else {
                handle_alloc_error(Self::layout())
            };
            allocation.write_bytes(CANARY, FRAME_BYTES);
            allocation.add(FRAME_BYTES + BAR_BYTES).write_bytes(CANARY, FRAME_BYTES);
            let bar = Bar::new(allocation.add(FRAME_BYTES), BAR_BYTES as u64).expect("the size and place of a BAR");
            Self { allocation, bar }
        }
    }

    /// The BAR. It must not outlive `self`.
    pub fn bar(&self) -> Bar {
        self.bar.clone()
    }

    /// Copies bytes out.
    pub fn bytes(&self, offset: usize, length: usize) -> Vec<u8> {
        assert!(offset + length <= BAR_BYTES);
        self.copy(FRAME_BYTES + offset, length)
    }

    /// Overwrites bytes.
    pub fn fill(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= BAR_BYTES);
        // SAFETY: inside the allocation, as just checked.
        unsafe {
            let target = self.allocation.add(FRAME_BYTES + offset);
            target.copy_from_nonoverlapping(NonNull::from_ref(bytes).cast(), bytes.len());
        }
    }

    fn copy(&self, offset: usize, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        // SAFETY: callers stay inside the allocation.
        unsafe { self.allocation.add(offset).copy_to_nonoverlapping(NonNull::from_mut(&mut bytes[..]).cast(), length) };
        bytes
    }

    /// Whether all bytes from `offset` on, a page boundary, are zero.
    pub fn is_zero_from(&self, offset: usize) -> bool {
        let mut pages = (offset..BAR_BYTES).step_by(FRAME_BYTES);
        pages.all(|page| self.bytes(page, FRAME_BYTES) == [0; FRAME_BYTES])
    }

    /// Whether the pages around it are as they were.
    pub fn canaries_live(&self) -> bool {
        [0, FRAME_BYTES + BAR_BYTES].into_iter().all(|offset| self.copy(offset, FRAME_BYTES) == [CANARY; FRAME_BYTES])
    }
}

impl Default for BarMemory {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for BarMemory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout.
        unsafe { dealloc(self.allocation.as_ptr(), Self::layout()) };
    }
}
