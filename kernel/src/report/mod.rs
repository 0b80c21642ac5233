//! Reports that end a run: what happened, where, what the machine looks like, what probably went wrong.
//!
//! Invariants:
//! 1. A report takes no lock, allocates nothing, and reads only memory that cannot fault.
//! 2. A panic or exception during a report ends the run at once, with a code of its own.
//! 3. Every function that reports ends the run. It stops all other CPUs first, so what it says of the machine stays true.
#![forbid(unsafe_code)]
mod backtrace;
mod cause;
mod path;
mod words;

use crate::arch::cpus::stop;
use crate::arch::exit::{exit, halt};
use crate::arch::frame::ExceptionFrame;
use crate::arch::per_cpu::{self, ExceptionStack, FAULT_ROOM_BYTES, PerCpu};
use crate::arch::serial::Emergency;
use crate::memory::explain::explain;
use crate::memory::fault::Failure;
use cause::{Cause, StackProblem};
use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};
use ferry_mm::space::FaultError;
use ferry_protocol::exit::ExitCode;
use path::Path;
use words::{ErrorCode, Flags, SelectorCode, vector_name};
use x86_64::VirtAddr;
use x86_64::structures::idt::PageFaultErrorCode;

/// The CPU that reports, plus one; 0 while none does.
static REPORTER: AtomicU32 = AtomicU32::new(0);

/// Begins a report, or ends the run where one is already being written.
fn begin(title: &str) -> Emergency {
    let cpu = if per_cpu::is_loaded() { PerCpu::current().id() } else { 0 };
    match REPORTER.compare_exchange(0, cpu + 1, SeqCst, SeqCst) {
        Ok(_) => stop::all_others(),
        Err(reporter) if reporter == cpu + 1 => {
            let _ = writeln!(Emergency, "\n==== {title}, while CPU {cpu} was writing the report above ====");
            exit(ExitCode::NestedPanic);
        }
        // Another CPU was first. Its report ends the run for all.
        Err(_) => halt(),
    }
    let _ = writeln!(Emergency, "\n==== {title} on CPU {cpu} ====");
    Emergency
}

fn end(mut out: Emergency, code: ExitCode) -> ! {
    let _ = writeln!(out, "==== end of report: {} ====", code.sentence());
    exit(code)
}

/// Reports a Rust panic.
pub fn panic(info: &PanicInfo, frame_pointer: u64) -> ! {
    let mut out = begin("panic");
    let _ = writeln!(out, "{}", info.message());
    if let Some(location) = info.location() {
        let _ = writeln!(out, "  at {location}");
    }
    if per_cpu::is_loaded() && PerCpu::current().fault_depth() > 0 {
        let _ = writeln!(out, "  page-fault handlers at work: {}", PerCpu::current().fault_depth());
    }
    backtrace::write(&mut out, None, frame_pointer);
    end(out, ExitCode::Panic)
}

/// Reports a page fault that the memory manager did not resolve.
pub fn page_fault(frame: &ExceptionFrame, address: VirtAddr, failure: Failure) -> ! {
    let depth = PerCpu::current().fault_depth();
    let mut out = begin(if depth > 1 { "page fault inside the page-fault handler" } else { "page fault" });
    if depth > 1 {
        let _ = writeln!(out, "page faults that were being handled when this one happened: {}", depth - 1);
    }
    let path = describe_address(&mut out, frame, address);
    let _ = writeln!(out, "the memory manager could not help: {failure}");
    let cause = Cause::of_page_fault(address, PageFaultErrorCode::from_bits_retain(frame.error_code), &path);
    let _ = writeln!(out, "likely cause: {cause}");
    describe_machine(&mut out, frame);
    let code = match (cause, failure) {
        (Cause::GuardPage { .. }, _) => ExitCode::StackOverflow,
        (_, Failure::Access(FaultError::OutOfMemory(_) | FaultError::Poisoned(_) | FaultError::Disk(_))) => {
            ExitCode::AccessFailed
        }
        _ => ExitCode::UnexpectedException,
    };
    end(out, code)
}

/// Reports a page fault whose interrupted stack cannot take the handler.
pub fn unusable_stack(frame: &ExceptionFrame, address: VirtAddr) -> ! {
    let cpu = PerCpu::current();
    let problem = StackProblem::of(cpu, frame.rsp, address);
    let mut out = begin(problem.title());
    let stack = cpu.stack();
    let _ = writeln!(
        out,
        "the stack pointer was v{:#018x}; the kernel stack is v{:#x}..v{:#x}, and a page fault needs {FAULT_ROOM_BYTES} bytes of it",
        frame.rsp, stack.bottom, stack.top,
    );
    if cpu.fault_depth() > 0 {
        let _ = writeln!(out, "page-fault handlers at work: {}", cpu.fault_depth());
    }
    describe_address(&mut out, frame, address);
    let _ = writeln!(out, "likely cause: {problem}");
    describe_machine(&mut out, frame);
    let code = match problem {
        StackProblem::Overflow { .. } | StackProblem::LittleRoom { .. } => ExitCode::StackOverflow,
        _ => ExitCode::UnexpectedException,
    };
    end(out, code)
}

/// Reports every other exception or interrupt: none is expected.
pub fn exception(frame: &ExceptionFrame) -> ! {
    /// Vectors with a report of their own (Intel SDM 3A, table 6-1).
    const DOUBLE_FAULT: u64 = 8;
    /// Vectors whose error code names a segment: invalid TSS, segment not present, stack segment, general protection.
    const SELECTOR_ERRORS: core::ops::RangeInclusive<u64> = 10..=13;
    let mut out = begin(vector_name(frame.vector));
    let _ = writeln!(out, "vector {}, error code {:#x}", frame.vector, frame.error_code);
    if SELECTOR_ERRORS.contains(&frame.vector) {
        let _ = writeln!(out, "in words: {}", SelectorCode(frame.error_code));
    }
    let _ = writeln!(out, "likely cause: {}", Cause::of_exception(frame));
    describe_machine(&mut out, frame);
    end(out, if frame.vector == DOUBLE_FAULT { ExitCode::DoubleFault } else { ExitCode::UnexpectedException })
}

/// Writes error code, the parts of the address, the entries on its path and what the memory manager believes.
fn describe_address(out: &mut Emergency, frame: &ExceptionFrame, address: VirtAddr) -> Path {
    let _ = writeln!(out, "{} (error code {:#x})", ErrorCode(frame.error_code), frame.error_code);
    let _ = writeln!(out, "address v{address:#018x} = {}", path::Parts(address));
    let path = Path::walk(address);
    let _ = write!(out, "{path}");
    let _ = out.write_str("as the memory manager sees it, ");
    let _ = explain(address, out);
    path
}

fn describe_machine(out: &mut Emergency, frame: &ExceptionFrame) {
    let _ = writeln!(out, "registers");
    for (i, (name, value)) in frame.registers().into_iter().enumerate() {
        let _ = write!(out, "  {name:>3} {value:#018x}{}", if i % 4 == 3 { "\n" } else { "" });
    }
    let _ = writeln!(out, "  rip {:#018x}  flags {:#x} ({})", frame.rip, frame.rflags, Flags(frame.rflags));
    for kind in ExceptionStack::ALL {
        if PerCpu::current().exception_stack(kind).holds_pointer(frame.rsp) {
            let _ = writeln!(out, "  rsp is on the {}", kind.name());
        }
    }
    backtrace::write(out, Some(frame.rip), frame.rbp);
}
