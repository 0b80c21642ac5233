//! The end of a run.
use ferry_protocol::exit::{ExitCode, PORT};
use x86_64::instructions::{hlt, interrupts, port::Port};

/// Ends the run with `code`; where there is no `isa-debug-exit` device, stops this CPU for good.
pub fn exit(code: ExitCode) -> ! {
    // SAFETY: a write to this port either ends QEMU or, without the device, goes nowhere.
    unsafe { Port::new(PORT).write(code as u32) };
    interrupts::disable();
    loop {
        hlt();
    }
}
