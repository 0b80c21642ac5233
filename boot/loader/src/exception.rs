//! A fault of the loader itself ends the run with a line instead of a triple fault.
//!
//! ```text
//!   stubs  +0 call common  +16 call common  +32 ...     the return address tells the vector
//!   stack  [return address] [error code, for some vectors] RIP CS RFLAGS RSP SS
//! ```
use crate::handover::CODE_SELECTOR;
use crate::{console, cpu};
use core::arch::naked_asm;
use ferry_protocol::exit::ExitCode;
use x86_64::VirtAddr;
use x86_64::instructions::tables::lidt;
use x86_64::registers::control::Cr2;
use x86_64::structures::DescriptorTablePointer;

/// Vectors that the CPU uses for exceptions (Intel SDM 3A.6.3.1).
const VECTORS: usize = 32;

/// Vectors that push an error code (Intel SDM 3A, table 6-1): #DF, #TS to #PF, #AC, #CP.
const WITH_ERROR_CODE: u32 = 1 << 8 | 0b11111 << 10 | 1 << 17 | 1 << 21;

/// Distance of the stubs in bytes.
const STUB_BYTES: usize = 16;

/// Present 64-bit interrupt gate, ring 0 (Intel SDM 3A.6.14.1).
const INTERRUPT_GATE: u16 = 0x8e00;

/// A gate as the CPU reads it.
#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    address_low: u16,
    selector: u16,
    options: u16,
    address_middle: u16,
    address_high: u32,
    reserved: u32,
}

impl Gate {
    const MISSING: Self =
        Self { address_low: 0, selector: 0, options: 0, address_middle: 0, address_high: 0, reserved: 0 };

    fn to(address: usize) -> Self {
        Self {
            address_low: address as u16,
            selector: CODE_SELECTOR,
            options: INTERRUPT_GATE,
            address_middle: (address >> 16) as u16,
            address_high: (address >> 32) as u32,
            reserved: 0,
        }
    }
}

/// Filled once by [`install`], read by the CPU alone afterwards.
static mut GATES: [Gate; VECTORS] = [Gate::MISSING; VECTORS];

/// Makes every exception end the run with a report.
pub fn install() {
    let gates = &raw mut GATES;
    let stubs = (stubs as *const ()).addr();
    let filled = core::array::from_fn(|vector| Gate::to(stubs + vector * STUB_BYTES));
    let limit = (size_of_val(&filled) - 1) as u16;
    let pointer = DescriptorTablePointer { limit, base: VirtAddr::from_ptr(gates) };
    // SAFETY: this runs once, first of all, on the only CPU, so nobody reads the table meanwhile. It stays
    // where it is, and each gate leads to a stub that never returns.
    unsafe {
        gates.write(filled);
        lidt(&pointer);
    }
}

/// One stub per vector.
#[unsafe(naked)]
unsafe extern "C" fn stubs() -> ! {
    naked_asm!(
        ".rept {vectors}",
        ".balign {stub_bytes}",
        "call 9f",
        ".endr",
        "9: pop rdi",
        "mov rsi, rsp",
        "and rsp, -16",
        "call {report}",
        "ud2",
        vectors = const VECTORS,
        stub_bytes = const STUB_BYTES,
        report = sym report,
    )
}

/// `return_address` lies within the stub of the vector, `stack` is where the CPU's frame begins.
extern "C" fn report(return_address: usize, stack: *const u64) -> ! {
    let vector = (return_address - (stubs as *const ()).addr()) / STUB_BYTES;
    let skipped = usize::from(WITH_ERROR_CODE & (1 << vector) != 0);
    // SAFETY: the CPU has just pushed its frame there, behind an error code for the vectors that have one.
    let instruction = unsafe { stack.add(skipped).read() };
    let address = Cr2::read_raw();
    console::line(format_args!("exception {vector} at v{instruction:#x} in the loader (CR2 {address:#x})"));
    cpu::exit(ExitCode::LoaderPanic)
}
