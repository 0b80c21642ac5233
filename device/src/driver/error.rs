//! What can go wrong with a command, and with the device behind it.
//!
//! Invariants:
//! 1. Each error carries the value that was found and, where there is one, the value that would
//!    have been right.
//! 2. [`DeviceError::is_failure`] divides them: a wrong call or a refused command leaves the device
//!    usable, everything else does not.
use core::fmt;

use crate::command::{CommandError, DeviceState, Status};
use crate::context::{BadSpan, MAX_OPERATIONS};
use crate::geometry::{NoSuchFrame, RangeError};
use crate::layout::RING_ENTRIES;

/// What went wrong with a command or with the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceError {
    /// The caller named a frame that the device does not have.
    NoSuchFrame(NoSuchFrame),
    /// The caller named no frame, or more than a command takes.
    BadCount(u64),
    /// The caller named pages that a command may not.
    BadPages(BadSpan),
    /// As many operations are under way as the device has room for; take the end of one first.
    TooManyOperations,
    /// No operation under way with this number waits for an answer.
    NothingToAnswer(u64),
    /// As many commands are under way as the ring holds; take a completion first.
    RingFull,
    /// No command is under way, so there is nothing to wait for.
    Idle,
    /// This many commands are under way; take their completions first.
    Busy(u64),
    /// The device refused a command.
    Refused {
        /// The command.
        sequence: u64,
        /// Its reason.
        status: Status,
    },
    /// The device did not complete a command in time.
    Timeout {
        /// The command.
        sequence: u64,
        /// Whether its heartbeat moved meanwhile: it is slow, not dead.
        alive: bool,
    },
    /// The device is in this state, in which it executes nothing.
    NotReady(u64),
    /// The device's consumer index is not between the oldest command under way and the producer index.
    BadIndex {
        /// The device's index.
        consumer: u64,
        /// Index of the oldest command under way.
        oldest: u64,
        /// The driver's index.
        producer: u64,
    },
    /// A completion names another command than the one it stands for.
    WrongSequence {
        /// The command that it stands for.
        expected: u64,
        /// The one that it names.
        found: u64,
    },
    /// A completion has a status that does not exist.
    UnknownStatus {
        /// The command.
        sequence: u64,
        /// The status.
        found: u64,
    },
    /// The device claims to have changed another number of frames than the command names.
    WrongCount {
        /// The command.
        sequence: u64,
        /// Frames of the command.
        expected: u64,
        /// Frames that the device claims.
        found: u64,
    },
    /// The device's index of a ring that it writes or reads on its own is not where it can be.
    BadRequestIndex {
        /// The device's index.
        found: u64,
        /// The driver's index.
        ours: u64,
    },
    /// A request that does not exist, names another index, or is about something the operation does not do.
    BadRequest {
        /// The request's index.
        sequence: u64,
        /// The operation that it names.
        operation: u64,
    },
}

impl DeviceError {
    /// Whether the device can no longer be used, in contrast to a call or command that was wrong.
    pub const fn is_failure(self) -> bool {
        match self {
            Self::NoSuchFrame(_)
            | Self::BadCount(_)
            | Self::BadPages(_)
            | Self::TooManyOperations
            | Self::NothingToAnswer(_)
            | Self::RingFull
            | Self::Idle
            | Self::Busy(_)
            | Self::Refused { .. } => false,
            Self::Timeout { .. }
            | Self::NotReady(_)
            | Self::BadIndex { .. }
            | Self::WrongSequence { .. }
            | Self::UnknownStatus { .. }
            | Self::WrongCount { .. }
            | Self::BadRequestIndex { .. }
            | Self::BadRequest { .. } => true,
        }
    }
}

impl From<CommandError> for DeviceError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Frames(RangeError::Frame(none)) => Self::NoSuchFrame(none),
            CommandError::Frames(RangeError::Count(count)) => Self::BadCount(count),
            CommandError::Span(span) => Self::BadPages(span),
        }
    }
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoSuchFrame(none) => none.fmt(f),
            Self::BadCount(count) => RangeError::Count(count).fmt(f),
            Self::BadPages(span) => span.fmt(f),
            Self::TooManyOperations => {
                write!(
                    f,
                    "{MAX_OPERATIONS} operations are under way, the device takes no more; wait for the end of one"
                )
            }
            Self::NothingToAnswer(operation) => write!(f, "operation {operation} waits for no answer"),
            Self::RingFull => write!(f, "{RING_ENTRIES} commands are under way, the ring holds no more"),
            Self::Idle => write!(f, "no command is under way"),
            Self::Busy(commands) => write!(f, "{commands} commands are under way; take their completions first"),
            Self::Refused { sequence, status } => write!(f, "the device refused command {sequence}: {status}"),
            Self::Timeout { sequence, alive: true } => {
                write!(f, "the device did not complete command {sequence} in time, but it is alive: the host is slow")
            }
            Self::Timeout { sequence, alive: false } => write!(
                f,
                "the device did not answer command {sequence} in time and shows no sign of life; is its model running?"
            ),
            Self::NotReady(found) => match DeviceState::from_wire(found) {
                Some(state) => write!(f, "the device takes no commands: {state}"),
                None => write!(f, "the device takes no commands: its state is {found:#x}"),
            },
            Self::BadIndex { consumer, oldest, producer } => write!(
                f,
                "the device broke the ring protocol: its consumer index {consumer:#x} is not between {oldest:#x} and \
                 {producer:#x}"
            ),
            Self::WrongSequence { expected, found } => write!(
                f,
                "the device broke the ring protocol: the completion of command {expected} names command {found:#x}"
            ),
            Self::UnknownStatus { sequence, found } => write!(
                f,
                "the device broke the ring protocol: the completion of command {sequence} has status {found:#x}, which \
                 does not exist"
            ),
            Self::WrongCount { sequence, expected, found } => write!(
                f,
                "the device broke the ring protocol: it claims {found} frames for command {sequence}, which names \
                 {expected}"
            ),
            Self::BadRequestIndex { found, ours } => write!(
                f,
                "the device broke the ring protocol: its index {found:#x} of requests or answers does not go with {ours:#x}"
            ),
            Self::BadRequest { sequence, operation } => write!(
                f,
                "the device broke the ring protocol: request {sequence} about operation {operation:#x} is none that it \
                 can make"
            ),
        }
    }
}

impl core::error::Error for DeviceError {}
