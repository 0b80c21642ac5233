//! The heap, for what is small and not on a hot path.
//!
//! Lock: [`Level::Heap`], inside which nothing is called. Never taken in fault, interrupt or panic paths.
#![allow(unsafe_code, reason = "an allocator is an unsafe trait")]
use crate::arch::machine::Hardware;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use ferry_mm::lock::{Level, Lock};
use linked_list_allocator::Heap;
use x86_64::VirtAddr;

struct Locked(Lock<Heap>);

#[global_allocator]
static HEAP: Locked = Locked(Lock::new(Level::Heap, Heap::empty()));

// SAFETY: the wrapped heap hands out disjoint ranges of the memory given to `init`, aligned as
// asked, and an exhausted heap is a null pointer.
unsafe impl GlobalAlloc for Locked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.lock(&Hardware).allocate_first_fit(layout).map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if let Some(pointer) = NonNull::new(pointer) {
            // SAFETY: the caller returns what `alloc` has handed out, with its layout.
            unsafe { self.0.lock(&Hardware).deallocate(pointer, layout) };
        }
    }
}

/// Gives the heap its memory. Before it, every allocation fails.
///
/// # Safety
/// `bytes` from `start` are mapped, writable and used by nothing else, for ever.
///
/// # Panics
/// When it is called twice.
pub unsafe fn init(start: VirtAddr, bytes: usize) {
    let mut heap = HEAP.0.lock(&Hardware);
    assert!(heap.size() == 0, "the heap gets its memory once");
    // SAFETY: the caller's promise, and the heap is empty.
    unsafe { heap.init(start.as_mut_ptr(), bytes) };
}

/// Bytes handed out, with what the heap needs to keep them apart.
pub fn used() -> usize {
    HEAP.0.lock(&Hardware).used()
}

#[cfg(feature = "tests")]
mod tests {
    use super::*;
    use crate::harness::{TestResult, check, check_eq, kernel_test};
    use alloc::vec::Vec;

    kernel_test! {
        fn an_exhausted_heap_is_an_error_and_recovers() -> TestResult {
            let before = used();
            let size = HEAP.0.lock(&Hardware).size();
            let mut too_large = Vec::<u8>::new();
            check!(too_large.try_reserve_exact(size + 1).is_err(), "a block larger than the heap was handed out")?;
            let mut blocks: Vec<Vec<u8>> = Vec::new();
            blocks.try_reserve(64)?;
            while blocks.len() < 64 {
                let mut block = Vec::new();
                if block.try_reserve_exact(size / 32).is_err() {
                    break;
                }
                blocks.push(block);
            }
            check!((16..=32).contains(&blocks.len()), "{} blocks of a 32nd of the heap", blocks.len())?;
            drop(blocks);
            check_eq!(used(), before);
            Ok(())
        }

        fn blocks_are_aligned_and_disjoint() -> TestResult {
            let layouts = [(1, 1), (24, 8), (100, 64), (4096, 4096), (3, 1)].map(|(size, align)| {
                Layout::from_size_align(size, align).expect("powers of two")
            });
            // SAFETY: no layout is of size zero.
            let blocks = layouts.map(|layout| unsafe { HEAP.alloc(layout) });
            for (i, (block, layout)) in blocks.iter().zip(layouts).enumerate() {
                let aligned = block.addr().is_multiple_of(layout.align());
                check!(!block.is_null() && aligned, "block {i} at {block:?} for {layout:?}")?;
                for (other, other_layout) in blocks.iter().zip(layouts).take(i) {
                    let (a, b) = (block.addr(), other.addr());
                    check!(a + layout.size() <= b || b + other_layout.size() <= a, "{block:?} and {other:?} overlap")?;
                }
            }
            for (block, layout) in blocks.into_iter().zip(layouts) {
                // SAFETY: each comes from `alloc` with this layout.
                unsafe { HEAP.dealloc(block, layout) };
            }
            Ok(())
        }
    }
}
