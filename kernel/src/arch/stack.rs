//! Stacks and their guard pages.
//!
//! ```text
//!   top     ┬──────────────┐
//!           │    stack     │  grows downwards
//!   bottom  ┼──────────────┤
//!           │  guard page  │  unmapped once the memory manager owns the page tables
//!           ┴──────────────┘
//! ```
use super::layout::PAGE_SIZE;
use core::cell::UnsafeCell;
use x86_64::VirtAddr;

/// The bounds of a stack, and by them of its guard page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StackBounds {
    /// Lowest address of the stack; the page below it is the guard page.
    pub bottom: VirtAddr,
    /// First address above the stack.
    pub top: VirtAddr,
}

impl StackBounds {
    /// No stack: contains nothing, guards nothing.
    pub const NONE: Self = Self { bottom: VirtAddr::zero(), top: VirtAddr::zero() };

    /// Whether a stack pointer of `address` belongs here. An empty stack's pointer is `top`.
    pub fn holds_pointer(&self, address: u64) -> bool {
        self.bottom.as_u64() < address && address <= self.top.as_u64()
    }

    /// Whether `bytes` at `address` lie in the stack.
    pub fn contains(&self, address: u64, bytes: u64) -> bool {
        self.bottom.as_u64() <= address && address.checked_add(bytes).is_some_and(|end| end <= self.top.as_u64())
    }

    /// Whether `address` lies in the guard page.
    pub fn guards(&self, address: u64) -> bool {
        let bottom = self.bottom.as_u64();
        bottom != 0 && (bottom - PAGE_SIZE..bottom).contains(&address)
    }

    /// First address of the guard page.
    pub fn guard_page(&self) -> VirtAddr {
        VirtAddr::new_truncate(self.bottom.as_u64().wrapping_sub(PAGE_SIZE))
    }
}

/// A stack inside the kernel's image, with its guard page.
#[repr(C, align(4096))]
pub struct GuardedStack<const BYTES: usize> {
    guard: [u8; PAGE_SIZE as usize],
    stack: UnsafeCell<[u8; BYTES]>,
}

impl<const BYTES: usize> GuardedStack<BYTES> {
    /// A stack of zeros.
    pub const fn zeroed() -> Self {
        const { assert!(BYTES.is_multiple_of(PAGE_SIZE as usize), "the end of a stack is the end of a page") };
        Self { guard: [0; PAGE_SIZE as usize], stack: UnsafeCell::new([0; BYTES]) }
    }

    /// Where it lies.
    pub fn bounds(&self) -> StackBounds {
        let bottom = VirtAddr::from_ptr(self.stack.get());
        StackBounds { bottom, top: bottom + BYTES as u64 }
    }
}
