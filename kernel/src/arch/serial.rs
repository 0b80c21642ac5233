//! The serial ports, and the writer that works when nothing else may.
use core::fmt;
use uart_16550::Uart16550;
use uart_16550::backend::PioBackend;
use x86_64::instructions::port::Port;

/// I/O port of the first serial port, the console (IBM PC/AT convention).
const CONSOLE_PORT: u16 = 0x3f8;

/// I/O port of the second serial port, the link to the host.
const LINK_PORT: u16 = 0x2f8;

/// I/O port of the third serial port, the event stream.
const TRACE_PORT: u16 = 0x3e8;

/// The driver for the console's port.
pub const fn console_uart() -> Uart16550<PioBackend> {
    uart(CONSOLE_PORT)
}

/// The driver for the link's port.
pub const fn link_uart() -> Uart16550<PioBackend> {
    uart(LINK_PORT)
}

/// The driver for the event stream's port.
pub const fn trace_uart() -> Uart16550<PioBackend> {
    uart(TRACE_PORT)
}

const fn uart(port: u16) -> Uart16550<PioBackend> {
    // SAFETY: on a PC these ports belong to serial ports or to nobody; each is given to one driver,
    // and `Emergency`, which shares the first, is used when the run is about to end.
    match unsafe { Uart16550::new_port(port) } {
        Ok(uart) => uart,
        Err(_) => panic!("the port of a UART leaves room for its registers"),
    }
}

/// Writes to the console's port, whoever else may be doing so: no lock, no heap, no state.
///
/// For reports that end the run. A port that never becomes ready loses the byte.
pub struct Emergency;

/// Line status register, and in it "room for a byte" and "all bytes are out" (PC16550D, 8.4).
const LINE_STATUS: u16 = 5;
const HOLDING_EMPTY: u8 = 1 << 5;
const TRANSMITTER_EMPTY: u8 = 1 << 6;

/// How often the line status is read before a wait is given up: far longer than a byte takes.
const MOST_POLLS: u32 = 1 << 16;

impl Emergency {
    /// Waits until everything written has left the port.
    pub fn drain(&mut self) {
        wait_for(CONSOLE_PORT, TRANSMITTER_EMPTY);
        wait_for(LINK_PORT, TRANSMITTER_EMPTY);
        wait_for(TRACE_PORT, TRANSMITTER_EMPTY);
    }
}

impl fmt::Write for Emergency {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            wait_for(CONSOLE_PORT, HOLDING_EMPTY);
            // SAFETY: writing to the data register of the console's UART sends a byte.
            unsafe { Port::new(CONSOLE_PORT).write(byte) };
        }
        Ok(())
    }
}

/// Waits, bounded by [`MOST_POLLS`], for a bit of the line status. An absent port reads as all ones.
fn wait_for(port: u16, bit: u8) {
    let mut status = Port::<u8>::new(port + LINE_STATUS);
    for _ in 0..MOST_POLLS {
        // SAFETY: reading the line status clears error bits that nobody uses.
        if unsafe { status.read() } & bit != 0 {
            return;
        }
        core::hint::spin_loop();
    }
}
