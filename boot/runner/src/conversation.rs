//! The conversation with a kernel, from its greeting to its end, as every command has it.
//!
//! ```text
//!   kernel: Hello ─▶ lines and records, some of which the partner answers ─▶ Done ─▶ the machine ends
//! ```
//!
//! Invariants:
//! 1. Nothing that a kernel says counts before it has greeted with this tool's version.
//! 2. All is well only where the kernel said that it was done and then ended with success.
//! 3. Every wait is bounded; what was under way then is in the message.
use std::time::{Duration, Instant};

use ferry_protocol::exit::ExitCode;
use ferry_protocol::link::{self, FromKernel, VERSION};

use crate::demo::failure::Failure;
use crate::error::{Error, Refusal};
use crate::qemu::{End, Event, Machine};

/// How long the kernel may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Patience {
    /// From the machine's start to its end.
    InAll(Duration),
    /// From each record to the next.
    ForEachRecord(Duration),
}

/// Whoever talks with a kernel.
pub trait Partner {
    /// Hears a line of the console.
    fn line(&mut self, line: &str);

    /// Hears a record that is neither greeting nor farewell, and answers it where it must be.
    ///
    /// # Errors
    /// Where the record has no place here, or shows that something does not hold.
    fn record(&mut self, record: FromKernel<'_>, machine: &mut Machine) -> Result<(), Error>;

    /// What is under way, for the message of a wait that was too long.
    fn under_way(&self) -> String;

    /// What is wrong where the machine has ended otherwise than well.
    fn ended(&mut self, end: End) -> Error {
        Failure::Ended(end).into()
    }
}

/// Follows a machine to its end.
///
/// # Errors
/// Refused where QEMU gives up before the kernel says a word; failed where the kernel breaks off, does not end in time, says what
/// has no place here, or the partner finds something wrong.
pub fn follow(machine: &mut Machine, patience: Patience, partner: &mut impl Partner) -> Result<(), Error> {
    let (Patience::InAll(limit) | Patience::ForEachRecord(limit)) = patience;
    let mut deadline = machine.started() + limit;
    let (mut heard, mut greeted, mut done) = (false, false, false);
    loop {
        match machine.next(deadline) {
            Event::Line(line) => {
                heard = true;
                partner.line(&line);
            }
            Event::Record(mut frame) => {
                heard = true;
                let bytes = frame.len();
                match link::decode(&mut frame).map_err(|_| Failure::Garbled { bytes })? {
                    FromKernel::Hello { version: VERSION } => greeted = true,
                    FromKernel::Hello { version } => return Err(Failure::Version(version).into()),
                    early if !greeted => return Err(unexpected(&early)),
                    FromKernel::Done => done = true,
                    record => partner.record(record, machine)?,
                }
                if matches!(patience, Patience::ForEachRecord(_)) {
                    deadline = Instant::now() + limit;
                }
            }
            Event::Ended(End::Code(ExitCode::Success)) if done => return Ok(()),
            Event::Ended(End::Code(ExitCode::Success)) => {
                return Err(Failure::Incomplete("saying that it was done").into());
            }
            Event::Ended(end @ End::Qemu { .. }) if !heard => return Err(Refusal::QemuGaveUp(end.to_string()).into()),
            Event::Ended(end) => return Err(partner.ended(end)),
            Event::TimedOut => {
                let (lines, last) = (machine.stop(), partner.under_way());
                return Err(Failure::TimedOut { limit, last, lines }.into());
            }
        }
    }
}

/// What is wrong where a record has no place.
pub fn unexpected(record: &FromKernel<'_>) -> Error {
    Failure::Unexpected(format!("{record:?}")).into()
}
