//! The link: records to and from the host tool over the second serial port.
//!
//! The records are those of [`ferry_protocol::link`]. Sending needs no heap, so tests may run out
//! of it. Lock: [`Level::Link`], held while one record is sent or awaited. A machine without
//! a second port loses the records, so that a kernel started by hand runs on.
#![forbid(unsafe_code)]
use crate::arch::machine::Hardware;
use crate::arch::serial::link_uart;
use crate::clock::Deadline;
use crate::console;
use core::fmt;
use core::time::Duration;
use ferry_mm::lock::{Level, Lock};
use ferry_protocol::link::{self, FrameBuffer, FromHost, FromKernel, LinkError, MAX_FRAME_BYTES, ToShell};
use uart_16550::backend::PioBackend;
use uart_16550::{Config, Uart16550};

struct Link {
    uart: Uart16550<PioBackend>,
    connected: bool,
}

static LINK: Lock<Link> = Lock::new(Level::Link, Link { uart: link_uart(), connected: false });

/// Why no answer came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoAnswer {
    /// The machine has no second serial port.
    NotConnected,
    /// Nothing complete came in this time.
    TimedOut(Duration),
    /// What came is not a record.
    Garbled(LinkError),
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConnected => f.write_str("the machine has no second serial port; start the kernel with ferry"),
            Self::TimedOut(limit) => {
                write!(f, "the host tool did not answer within {limit:?}; start the kernel with ferry")
            }
            Self::Garbled(_) => {
                f.write_str("the host tool's answer is not understood; rebuild kernel and host tool together")
            }
        }
    }
}

impl core::error::Error for NoAnswer {}

/// Prepares the port and sends the first record.
pub fn init() {
    let mut link = LINK.lock(&Hardware);
    link.connected = link.uart.init(Config::DEFAULT).is_ok();
    drop(link);
    send(&FromKernel::Hello { version: link::VERSION });
}

/// Sends a record.
///
/// # Panics
/// Where the record is longer than a frame; texts are to be cut with [`link::cut`].
pub fn send(record: &FromKernel) {
    let mut buffer = [0; MAX_FRAME_BYTES];
    let Ok(frame) = link::encode(record, &mut buffer) else { panic!("a record is longer than a frame: {record:?}") };
    let mut link = LINK.lock(&Hardware);
    if link.connected {
        console::send(&mut link.uart, frame);
    }
}

/// Waits for a record of the host, at most for `limit`.
///
/// # Errors
/// None came, or something that is none.
pub fn wait(limit: Duration) -> Result<FromHost, NoAnswer> {
    let mut frame = FrameBuffer::default();
    receive(&mut frame, limit)?;
    link::decode(frame.frame()).map_err(NoAnswer::Garbled)
}

/// Waits for what the shell shall do next, at most for `limit`. It stands in `frame`.
///
/// # Errors
/// As [`wait`].
pub fn wait_for_line(frame: &mut FrameBuffer, limit: Duration) -> Result<ToShell<'_>, NoAnswer> {
    receive(frame, limit)?;
    link::decode(frame.frame()).map_err(NoAnswer::Garbled)
}

/// Receives one frame.
fn receive(frame: &mut FrameBuffer, limit: Duration) -> Result<(), NoAnswer> {
    let mut link = LINK.lock(&Hardware);
    if !link.connected {
        return Err(NoAnswer::NotConnected);
    }
    let mut deadline = Deadline::after(limit);
    loop {
        match link.uart.try_receive_byte() {
            Ok(byte) => {
                if frame.push(byte).map_err(NoAnswer::Garbled)? {
                    return Ok(());
                }
            }
            Err(_) if deadline.expired() => return Err(NoAnswer::TimedOut(limit)),
            Err(_) => core::hint::spin_loop(),
        }
    }
}
