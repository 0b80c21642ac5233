//! The event stream: what the memory manager tells, as records on the third serial port.
//!
//! ```text
//!   mm: Machine::trace ─▶ convert ─┐                       ┌─ full: sent at once, waiting for the port
//!   faults, copies, stories ───────┼─▶ sequence, time, CPU ─┤
//!                                  │                        └─ ring: kept; the newest are sent when the run ends
//! ```
//!
//! Invariants:
//! 1. Where the stream is off, an event costs one relaxed load and a branch: [`is_on`]. (A constant would need a second build of the
//!    kernel, and then what is traced would not be what is run.)
//! 2. Nothing here formats text or takes heap memory once [`begin`] has returned, so events may be told in the fault path.
//! 3. The stream's lock is [`Level::Trace`]: while it is held nothing is called but the port and the timer. Its holder never waits for
//!    another CPU.
//! 4. Full: the wait for the port is as long as its reader makes it; the host's deadline ends a run whose reader is gone. A machine
//!    without the port has no stream.
#![deny(unsafe_code)]
mod convert;
mod ring;

use crate::arch::cpu::time_stamp;
use crate::arch::machine::Hardware;
use crate::arch::serial::trace_uart;
use crate::clock::Deadline;
use crate::memory;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use core::time::Duration;
use ferry_mm::frame::{AnyFrame, FrameKind};
use ferry_mm::lock::{Level, Lock};
use ferry_mm::machine::Machine;
use ferry_protocol::link::encode;
use ferry_protocol::options::Trace;
pub use ferry_protocol::trace::Event as Told;
use ferry_protocol::trace::{Event, FrameState, MAX_FRAME_BYTES, Record, VERSION};
use ring::Ring;
use uart_16550::backend::PioBackend;
use uart_16550::{Config, Uart16550};

/// How long the time-stamp counter is measured against the timer.
const CALIBRATION: Duration = Duration::from_millis(10);

static ON: AtomicBool = AtomicBool::new(false);
static STREAM: Lock<Stream> =
    Lock::new(Level::Trace, Stream { uart: trace_uart(), sequence: 0, origin: 0, ring: None });

struct Stream {
    uart: Uart16550<PioBackend>,
    sequence: u64,
    /// Time stamp of the beginning.
    origin: u64,
    /// Where records are kept, if they are not sent at once.
    ring: Option<Ring>,
}

/// Why there is no stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoStream {
    /// The machine has no third serial port.
    NoPort,
    /// The heap has no room for the ring.
    HeapFull,
}

impl fmt::Display for NoStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPort => {
                f.write_str("the machine has no third serial port for the trace; start the kernel with ferry")
            }
            Self::HeapFull => f.write_str("the heap has no room for the ring of the trace; use --trace full"),
        }
    }
}

impl core::error::Error for NoStream {}

/// Whether events are wanted.
#[inline(always)]
pub fn is_on() -> bool {
    ON.load(Relaxed)
}

/// Begins the stream: its first record, then the state of every frame. No address space exists yet.
///
/// # Errors
/// See [`NoStream`]; nothing is told then.
pub fn begin(mode: Trace) -> Result<(), NoStream> {
    if mode == Trace::Off {
        return Ok(());
    }
    // Before the lock: nothing is allocated inside.
    let ring = if mode == Trace::Ring { Some(Ring::new().ok_or(NoStream::HeapFull)?) } else { None };
    let mut stream = STREAM.lock(&Hardware);
    stream.uart.init(Config::DEFAULT).map_err(|_| NoStream::NoPort)?;
    let ticks_per_millisecond = ticks_per_millisecond();
    stream.origin = time_stamp();
    // What comes first is needed by whoever reads the rest, so it never goes through the ring.
    stream.tell(Event::Begin { version: VERSION, ticks_per_millisecond });
    snapshot(&mut stream);
    stream.ring = ring;
    ON.store(true, Relaxed);
    Ok(())
}

/// Tells an event, where the stream is on.
#[inline(always)]
pub fn tell(event: impl FnOnce() -> Event<'static>) {
    if is_on() {
        tell_now(event());
    }
}

/// Tells an event of the memory manager.
#[cold]
pub fn tell_of_memory(event: &ferry_mm::trace::Event) {
    tell_now(convert::event(event));
}

pub use convert::ram as number;

/// The event of a frame that is filled with zeros.
pub fn cleared(frame: AnyFrame) -> Event<'static> {
    Event::Cleared { frame: convert::any(frame) }
}

/// The event of a copy.
pub fn copied(source: AnyFrame, target: AnyFrame) -> Event<'static> {
    Event::Copied { source: convert::any(source), target: convert::any(target) }
}

#[cold]
fn tell_now(event: Event) {
    STREAM.lock(&Hardware).tell(event);
}

/// Takes the oldest record out of the ring, still encoded; returns its length. `None` where the ring is empty or there is none.
pub fn take(frame: &mut [u8; MAX_FRAME_BYTES]) -> Option<usize> {
    let mut stream = STREAM.lock(&Hardware);
    let record = stream.ring.as_mut()?.pop()?;
    frame[..record.len()].copy_from_slice(record);
    Some(record.len())
}

/// Ends the stream; what a ring keeps is sent. For the end of a run, whoever may be interrupted: it waits for no lock.
pub fn end() {
    ON.store(false, Relaxed);
    if let Some(mut stream) = STREAM.try_lock(&Hardware) {
        stream.empty_ring();
    }
}

impl Stream {
    fn tell(&mut self, event: Event) {
        let cpu = Hardware.cpu().number() as u8;
        let record = Record { sequence: self.sequence, time: time_stamp().wrapping_sub(self.origin), cpu, event };
        self.sequence += 1;
        let mut buffer = [0; MAX_FRAME_BYTES];
        let Ok(frame) = encode(&record, &mut buffer) else {
            // A gap in the sequence, which the reader reports.
            debug_assert!(false, "a record is longer than a frame");
            return;
        };
        match &mut self.ring {
            Some(ring) => ring.push(frame),
            None => self.uart.send_bytes_exact(frame),
        }
    }

    fn empty_ring(&mut self) {
        let Some(mut ring) = self.ring.take() else { return };
        let lost = ring.lost();
        if lost > 0 {
            let sequence = self.sequence - lost - ring.len() as u64;
            let record = Record { sequence, time: 0, cpu: 0, event: Event::Lost { records: lost } };
            let mut buffer = [0; MAX_FRAME_BYTES];
            if let Ok(frame) = encode(&record, &mut buffer) {
                self.uart.send_bytes_exact(frame);
            }
        }
        while let Some(frame) = ring.pop() {
            self.uart.send_bytes_exact(frame);
        }
    }
}

/// The state of all RAM, in runs of equal frames, and the devices there are.
fn snapshot(stream: &mut Stream) {
    let manager = memory::manager();
    let state = |kind| match kind {
        FrameKind::Reserved => FrameState::Reserved,
        FrameKind::Free | FrameKind::FreeTail => FrameState::Free,
        FrameKind::Table => FrameState::Table,
        FrameKind::Zero => FrameState::Zero,
        _ => FrameState::Kernel,
    };
    let mut frames = (0..).zip(manager.memory().descriptors()).map(|(number, frame)| (number, state(frame.kind())));
    let Some((mut first, mut last)) = frames.next() else { return };
    let mut count = 1;
    for (number, state) in frames {
        if state == last {
            count += 1;
            continue;
        }
        stream.tell(Event::Frames { first, count, state: last });
        (first, last, count) = (number, state, 1);
    }
    stream.tell(Event::Frames { first, count, state: last });
    for device in manager.devices() {
        stream.tell(convert::device(device.id(), device.frames(), device.window()));
    }
}

fn ticks_per_millisecond() -> u64 {
    let mut deadline = Deadline::after(CALIBRATION);
    let start = time_stamp();
    while !deadline.expired() {
        core::hint::spin_loop();
    }
    (time_stamp() - start) / CALIBRATION.as_millis() as u64
}
