//! What happens after an exception entry: the Rust side.
//!
//! A page fault goes to the memory manager. Everything that nobody resolves ends in
//! [`crate::report`], unless it happened inside a [`probe`], which then returns an error.
//!
//! No lock is taken here and nothing is allocated from the heap.
use super::apic::SPURIOUS_VECTOR;
use super::cpus::{self, SERVICE_VECTOR};
use super::entry::{NON_MASKABLE, PAGE_FAULT};
use super::frame::ExceptionFrame;
use super::probe::{self, ProbeError};
use crate::memory;
use crate::report;
use x86_64::VirtAddr;
use x86_64::structures::idt::PageFaultErrorCode;

/// Handles a page fault, on the interrupted stack.
pub(super) extern "C" fn page_fault(frame: &mut ExceptionFrame, address: u64) {
    // CR2 holds what the CPU tried to translate, and only canonical addresses are translated.
    let address = VirtAddr::new_truncate(address);
    #[cfg(feature = "tests")]
    if hook::call(frame, address) {
        return;
    }
    let code = PageFaultErrorCode::from_bits_retain(frame.error_code);
    if let Err(failure) = memory::fault::page_fault(address, code, frame) {
        unresolved_page_fault(frame, address, failure);
    }
}

#[cold]
fn unresolved_page_fault(frame: &mut ExceptionFrame, address: VirtAddr, failure: memory::fault::Failure) {
    let error = ProbeError { vector: PAGE_FAULT, error_code: frame.error_code, address, failure: Some(failure) };
    if !probe::resume(frame, error) {
        report::page_fault(frame, address, failure);
    }
}

/// Handles everything else, on the exception stack of its kind. Of page faults only those come here
/// whose interrupted stack cannot be used.
pub(super) extern "C" fn exception(frame: &mut ExceptionFrame, cr2: u64) {
    let address = VirtAddr::new_truncate(cr2);
    let vector = frame.vector as u8;
    match vector {
        SERVICE_VECTOR => return cpus::interrupt(),
        SPURIOUS_VECTOR => return,
        NON_MASKABLE => cpus::stop::if_requested(),
        PAGE_FAULT => report::unusable_stack(frame, address),
        _ => {}
    }
    let error = ProbeError { vector, error_code: frame.error_code, address, failure: None };
    if !probe::resume(frame, error) {
        report::exception(frame);
    }
}

/// A detour for tests: a function that sees page faults before the memory manager does.
#[cfg(feature = "tests")]
pub mod hook {
    use super::ExceptionFrame;
    use core::sync::atomic::{AtomicPtr, Ordering::Relaxed};
    use x86_64::VirtAddr;

    /// Sees a page fault; `true` means that it has dealt with it.
    pub type Hook = fn(&mut ExceptionFrame, VirtAddr) -> bool;

    static HOOK: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

    /// Runs `body` while `hook` sees every page fault.
    pub fn with<R>(hook: Hook, body: impl FnOnce() -> R) -> R {
        HOOK.store(hook as *mut (), Relaxed);
        let result = body();
        HOOK.store(core::ptr::null_mut(), Relaxed);
        result
    }

    pub(super) fn call(frame: &mut ExceptionFrame, address: VirtAddr) -> bool {
        let hook = HOOK.load(Relaxed);
        if hook.is_null() {
            return false;
        }
        // SAFETY: `with` stores nothing but null and values of type `Hook`.
        let hook = unsafe { core::mem::transmute::<*mut (), Hook>(hook) };
        hook(frame, address)
    }
}
