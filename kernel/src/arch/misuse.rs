//! Ways to break the machine, for tests that show how it is reported.
//!
//! Each ends the run, so none leaves anything behind that could hurt.
use super::per_cpu::{ExceptionStack, PerCpu};
use core::arch::asm;
use x86_64::VirtAddr;

/// Reads a byte, whatever is there.
pub fn read(address: u64) {
    // SAFETY: a load changes nothing; its result is thrown away.
    unsafe { asm!("mov {}, [{}]", out(reg_byte) _, in(reg) address, options(nostack, preserves_flags)) };
}

/// Writes a zero byte, to a page that is not writable.
pub fn write(address: u64) {
    // SAFETY: the callers name pages that must not be writable; the run ends either way.
    unsafe { asm!("mov byte ptr [{}], 0", in(reg) address, options(nostack, preserves_flags)) };
}

/// Calls an address.
pub fn call(address: u64) {
    // SAFETY: the callers name data that begins with a return instruction.
    unsafe { asm!("call {}", in(reg) address, clobber_abi("C")) };
}

/// Executes an instruction that does not exist.
pub fn invalid_instruction() -> ! {
    // SAFETY: raises an exception and does nothing else.
    unsafe { asm!("ud2", options(noreturn)) };
}

/// Makes this CPU deaf for what others ask of it.
pub fn switch_interrupts_off() {
    x86_64::instructions::interrupts::disable();
}

/// Runs `body` as the handler of an interrupt runs.
pub fn as_interrupt_handler(body: impl FnOnce()) {
    x86_64::instructions::interrupts::without_interrupts(|| PerCpu::current().handle_interrupt(body));
}

/// Raises an interrupt that nobody sends.
pub fn interrupt() {
    // SAFETY: enters through the interrupt table as a device's interrupt would.
    unsafe { asm!("int 0x40") };
}

/// Reads from the null page with another stack pointer.
pub fn read_with_stack_pointer(stack_pointer: u64) -> ! {
    // SAFETY: the load faults, and the report of the fault ends the run without this stack.
    unsafe { asm!("mov rsp, {}", "mov al, [0x18]", "ud2", in(reg) stack_pointer, options(noreturn)) };
}

/// Makes the CPU deliver page faults on a stack that ends at `top`.
pub fn lose_page_fault_stack(top: VirtAddr) {
    let task_state = PerCpu::current().task_state.get();
    // SAFETY: the CPU reads the field at the next page fault, and nothing else does. It is not aligned.
    unsafe {
        (&raw mut (*task_state).interrupt_stack_table[ExceptionStack::PageFault as usize]).write_unaligned(top);
    }
}
