//! The end of a run.
use super::serial::Emergency;
use core::fmt::Write;
use ferry_protocol::exit::{ExitCode, PORT};
use x86_64::instructions::{hlt, interrupts, port::Port};

/// Ends the run with `code`, after everything written to the serial ports is out.
///
/// Without QEMU's `isa-debug-exit` device it says so and halts.
pub fn exit(code: ExitCode) -> ! {
    interrupts::disable();
    crate::trace::end();
    Emergency.drain();
    // SAFETY: the port belongs to `isa-debug-exit` or to nobody.
    unsafe { Port::new(PORT).write(code as u32) };
    let _ = writeln!(
        Emergency,
        "{code:?}: {}. Halted, because there is no exit device; start QEMU with -device isa-debug-exit,iobase={PORT:#x},iosize=0x04",
        code.sentence()
    );
    halt()
}

/// Stops this CPU for good.
pub fn halt() -> ! {
    loop {
        interrupts::disable();
        hlt();
    }
}
