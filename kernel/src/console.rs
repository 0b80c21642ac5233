//! The console: the first serial port, for people.
//!
//! Lock: [`Level::Console`], held while one message is written. Fault, interrupt and panic
//! paths write with [`Emergency`](crate::arch::serial::Emergency) instead and take no lock.
//! A port that accepts nothing for a second loses the rest of the message.
#![forbid(unsafe_code)]
use crate::arch::machine::Hardware;
use crate::arch::serial::console_uart;
use crate::clock::Deadline;
use core::fmt::{self, Write};
use core::time::Duration;
use ferry_mm::lock::{Level, Lock};
use log::{LevelFilter, Log, Metadata, Record};
use uart_16550::backend::PioBackend;
use uart_16550::{Config, Uart16550};

/// How long the port may refuse a byte.
const LIMIT: Duration = Duration::from_secs(1);

static UART: Lock<Uart16550<PioBackend>> = Lock::new(Level::Console, console_uart());

/// Prepares the port and becomes the place where the `log` crate writes.
pub fn init() {
    // A machine without the port runs on; there is nowhere to complain.
    let _ = UART.lock(&Hardware).init(Config::DEFAULT);
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// Sends bytes while the port accepts them; gives up when it refuses for [`LIMIT`].
pub(crate) fn send(uart: &mut Uart16550<PioBackend>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let mut sent = uart.send_bytes(bytes);
        if sent == 0 {
            let mut deadline = Deadline::after(LIMIT);
            while sent == 0 {
                if deadline.expired() {
                    return;
                }
                core::hint::spin_loop();
                sent = uart.send_bytes(bytes);
            }
        }
        bytes = &bytes[sent..];
    }
}

struct Writer<'a>(&'a mut Uart16550<PioBackend>);

impl Write for Writer<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        send(self.0, text.as_bytes());
        Ok(())
    }
}

/// Writes one message; see [`println!`](crate::println).
pub fn print(message: fmt::Arguments) {
    // The writer has no errors of its own; one of a `Display` cuts the message.
    let _ = Writer(&mut UART.lock(&Hardware)).write_fmt(message);
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, _: &Metadata) -> bool {
        true
    }

    fn log(&self, record: &Record) {
        let target = record.target().trim_start_matches("ferry_kernel::");
        print(format_args!("{:5} {target}: {}\n", record.level(), record.args()));
    }

    fn flush(&self) {}
}

/// Writes a formatted message to the console.
#[macro_export]
macro_rules! print {
    ($($message:tt)*) => { $crate::console::print(format_args!($($message)*)) };
}

/// Writes a formatted line to the console.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($message:tt)*) => { $crate::print!("{}\n", format_args!($($message)*)) };
}
