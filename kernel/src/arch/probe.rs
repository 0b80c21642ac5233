//! Accesses that may fault: each returns an error where an ordinary access would end the run.
//!
//! A probe is a function with one instruction that may raise an exception. When nobody resolves
//! that exception, `resume` recognises the instruction by its address, writes the error where the
//! probe's caller wants it and lets the probe return "failed".
//!
//! Invariant: a probe keeps the pointer for the error in `rsi` and changes no stack of its caller
//! before the instruction, so that `resume` can trust what it finds in the frame.
use super::entry::PAGE_FAULT;
use super::frame::ExceptionFrame;
use super::layout;
use crate::memory::fault::Failure;
use core::arch::naked_asm;
use core::fmt;
use core::mem::MaybeUninit;
use x86_64::VirtAddr;

/// The exception that a probe met.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ProbeError {
    /// Its vector.
    pub vector: u8,
    /// Its error code, 0 for exceptions that have none.
    pub error_code: u64,
    /// CR2: the address that faulted. Meaningful for page faults only.
    pub address: VirtAddr,
    /// What the memory manager said about a page fault.
    pub failure: Option<Failure>,
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exception {} with error code {:#x}", self.vector, self.error_code)?;
        if self.vector == PAGE_FAULT {
            write!(f, " at v{:#x}", self.address)?;
        }
        match self.failure {
            Some(failure) => write!(f, ": {failure}"),
            None => Ok(()),
        }
    }
}

impl core::error::Error for ProbeError {}

/// What a probe returns in `rax` and `rdx`.
#[repr(C)]
struct Outcome {
    value: u64,
    failed: u64,
}

/// Reads eight bytes.
///
/// # Errors
/// The exception that nobody resolved.
pub fn load(address: VirtAddr) -> Result<u64, ProbeError> {
    // SAFETY: the probe writes nothing but the error.
    probe(|error| unsafe { probe_load(address.as_u64(), error) })
}

/// Writes eight bytes into an area.
///
/// # Errors
/// The exception that nobody resolved.
///
/// # Panics
/// Where `address` is outside [`layout::AREAS`].
pub fn store(address: VirtAddr, value: u64) -> Result<(), ProbeError> {
    assert!(layout::AREAS.contains(address), "v{address:#x} is not in an area");
    // SAFETY: no Rust object lives in an area.
    unsafe { store_anywhere(address, value) }
}

/// Writes eight bytes.
///
/// # Errors
/// The exception that nobody resolved.
///
/// # Safety
/// No Rust object lies there, or the page is known not to be writable.
pub unsafe fn store_anywhere(address: VirtAddr, value: u64) -> Result<(), ProbeError> {
    // SAFETY: the caller has made sure that the store hurts nobody.
    probe(|error| unsafe { probe_store(address.as_u64(), error, value) }).map(|_| ())
}

/// Calls the code at `address`.
///
/// # Errors
/// The exception that fetching its first instruction raised.
///
/// # Safety
/// There is a function without arguments of the C ABI, or the page is known not to be executable.
pub unsafe fn execute(address: VirtAddr) -> Result<(), ProbeError> {
    // SAFETY: the caller knows what is there.
    probe(|error| unsafe { probe_execute(address.as_u64(), error) }).map(|_| ())
}

fn probe(run: impl FnOnce(*mut ProbeError) -> Outcome) -> Result<u64, ProbeError> {
    let mut error = MaybeUninit::uninit();
    let outcome = run(error.as_mut_ptr());
    match outcome.failed {
        0 => Ok(outcome.value),
        // SAFETY: a probe fails only by `resume`, which has written the error.
        _ => Err(unsafe { error.assume_init() }),
    }
}

#[unsafe(naked)]
unsafe extern "C" fn probe_load(address: u64, error: *mut ProbeError) -> Outcome {
    naked_asm!(
        ".global ferry_probe_load",
        "ferry_probe_load:",
        "mov rax, [rdi]",
        "xor edx, edx",
        ".global ferry_probe_failed",
        "ferry_probe_failed:",
        "ret",
    )
}

#[unsafe(naked)]
unsafe extern "C" fn probe_store(address: u64, error: *mut ProbeError, value: u64) -> Outcome {
    naked_asm!(".global ferry_probe_store", "ferry_probe_store:", "mov [rdi], rdx", "xor edx, edx", "ret")
}

#[unsafe(naked)]
unsafe extern "C" fn probe_execute(address: u64, error: *mut ProbeError) -> Outcome {
    naked_asm!(
        "sub rsp, 8",
        "call rdi",
        ".global ferry_probe_executed",
        "ferry_probe_executed:",
        "add rsp, 8",
        "xor edx, edx",
        "ret",
    )
}

unsafe extern "C" {
    safe static ferry_probe_load: u8;
    safe static ferry_probe_store: u8;
    safe static ferry_probe_executed: u8;
    safe static ferry_probe_failed: u8;
}

fn address_of(symbol: &u8) -> u64 {
    core::ptr::from_ref(symbol).addr() as u64
}

/// Lets a probe fail where `frame` stands at its instruction, and says whether it did.
pub(super) fn resume(frame: &mut ExceptionFrame, error: ProbeError) -> bool {
    let at_access = [&ferry_probe_load, &ferry_probe_store].map(address_of).contains(&frame.rip);
    let at_target = frame.vector == u64::from(PAGE_FAULT) && error.address.as_u64() == frame.rip;
    #[cfg(feature = "tests")]
    let at_access = at_access || tests::at_trap(frame);
    if at_access {
        // Nothing has been pushed: the return address is on top.
    } else if at_target && super::backtrace::read_stack(frame.rsp) == Some(address_of(&ferry_probe_executed)) {
        // The fetch of the call's target faulted. Drop its return address and the alignment.
        frame.rsp += 2 * size_of::<u64>() as u64;
    } else {
        return false;
    }
    // SAFETY: at these instructions `rsi` is the pointer that `probe` has passed.
    unsafe { (frame.rsi as *mut ProbeError).write(error) };
    frame.rdx = 1;
    frame.rip = address_of(&ferry_probe_failed);
    true
}

#[cfg(feature = "tests")]
mod tests {
    use super::*;
    use crate::harness::{TestResult, check_eq, fail, kernel_test};
    use x86_64::structures::idt::PageFaultErrorCode;

    /// Vectors of the exceptions that the tests raise (Intel SDM 3A, table 6-1).
    const BREAKPOINT: u8 = 3;
    const INVALID_OPCODE: u8 = 6;
    const GENERAL_PROTECTION: u8 = 13;

    #[unsafe(naked)]
    unsafe extern "C" fn probe_breakpoint(unused: u64, error: *mut ProbeError) -> Outcome {
        // A trap: the saved instruction pointer is that of the next instruction.
        naked_asm!("int3", ".global ferry_probe_breakpoint", "ferry_probe_breakpoint:", "xor edx, edx", "ret")
    }

    #[unsafe(naked)]
    unsafe extern "C" fn probe_invalid(unused: u64, error: *mut ProbeError) -> Outcome {
        naked_asm!(".global ferry_probe_invalid", "ferry_probe_invalid:", "ud2")
    }

    unsafe extern "C" {
        safe static ferry_probe_breakpoint: u8;
        safe static ferry_probe_invalid: u8;
    }

    pub(super) fn at_trap(frame: &ExceptionFrame) -> bool {
        [&ferry_probe_breakpoint, &ferry_probe_invalid].map(address_of).contains(&frame.rip)
    }

    fn vector(result: Result<u64, ProbeError>) -> Option<u8> {
        result.err().map(|error| error.vector)
    }

    kernel_test! {
        fn traps_and_faults_arrive_with_their_vector() -> TestResult {
            // SAFETY: the probes touch nothing but the error.
            unsafe {
                check_eq!(vector(probe(|error| probe_breakpoint(0, error))), Some(BREAKPOINT));
                check_eq!(vector(probe(|error| probe_invalid(0, error))), Some(INVALID_OPCODE));
                // Not canonical: bit 47 is not repeated above.
                check_eq!(vector(probe(|error| probe_load(1 << 47, error))), Some(GENERAL_PROTECTION));
            }
            Ok(())
        }

        fn a_read_of_the_null_page_says_where_and_why() -> TestResult {
            let address = VirtAddr::new(0x123);
            let Err(error) = load(address) else { fail!("the null page is mapped") };
            check_eq!((error.vector, error.address), (PAGE_FAULT, address));
            check_eq!(error.error_code, 0);
            Ok(())
        }

        fn code_is_readable_and_not_writable() -> TestResult {
            let code = VirtAddr::from_ptr(probe_load as *const ());
            let before = load(code)?;
            // SAFETY: if the page were writable, the store would change nothing.
            let Err(error) = (unsafe { store_anywhere(code, before) }) else {
                fail!("the kernel's code is writable");
            };
            let expected = PageFaultErrorCode::PROTECTION_VIOLATION | PageFaultErrorCode::CAUSED_BY_WRITE;
            check_eq!(error.error_code, expected.bits());
            Ok(())
        }

        fn data_is_not_executable() -> TestResult {
            static RETURN: [u8; 1] = [0xc3];
            let on_stack = RETURN;
            for address in [VirtAddr::from_ptr(&RETURN), VirtAddr::from_ptr(&on_stack)] {
                // SAFETY: the byte is a return instruction, so even if it runs nothing happens.
                let Err(error) = (unsafe { execute(address) }) else { fail!("data is executable") };
                check_eq!((error.vector, error.address), (PAGE_FAULT, address));
                let expected = PageFaultErrorCode::PROTECTION_VIOLATION | PageFaultErrorCode::INSTRUCTION_FETCH;
                check_eq!(error.error_code, expected.bits());
            }
            Ok(())
        }
    }
}
