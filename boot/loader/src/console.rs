//! The first serial port, as far as one line needs it: no interrupts, no buffer, no lock.
//!
//! QEMU's UART sends without being set up. The wait for it is bounded, so a machine without the port
//! loses the text and nothing else.
use core::fmt::{Arguments, Write};
use x86_64::instructions::port::Port;

/// Transmit holding register of COM1.
pub const DATA: u16 = 0x3f8;

/// Line status register of COM1.
pub const LINE_STATUS: u16 = DATA + 5;

/// Bit of the line status: the transmit holding register is empty.
pub const TRANSMIT_EMPTY: u8 = 1 << 5;

/// How often the line status is read before a byte is sent anyway.
pub const MAX_POLLS: u32 = 100_000;

/// Every line begins with this, so that its author is known.
pub const PREFIX: &str = "loader: ";

struct Com1;

impl Write for Com1 {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.bytes() {
            let mut polls = 0;
            // SAFETY: reading the line status of COM1 changes nothing that anybody relies on.
            while unsafe { Port::<u8>::new(LINE_STATUS).read() } & TRANSMIT_EMPTY == 0 && polls < MAX_POLLS {
                core::hint::spin_loop();
                polls += 1;
            }
            // SAFETY: the loader alone uses COM1; a byte written there is sent and touches no memory.
            unsafe { Port::new(DATA).write(byte) };
        }
        Ok(())
    }
}

/// Writes one line.
pub fn line(text: Arguments) {
    // `Com1` never fails, so neither does a formatter that only forwards its errors.
    let _ = Com1.write_fmt(format_args!("{PREFIX}{text}\r\n"));
}
