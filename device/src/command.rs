//! What the guest asks of the device, and what the device answers.
//!
//! | opcode | command  | frames               | changes                              |
//! |--------|----------|----------------------|--------------------------------------|
//! | 1      | `Nop`    | none                 | nothing: shows that the device lives |
//! | 2      | `Invert` | `first_frame, count` | every byte `b` of them becomes `!b`  |
//!
//! Invariants:
//! 1. A command that is refused has changed nothing: its frames are checked before the first is
//!    touched.
//! 2. Zero is no opcode, no status and no state, so memory that nobody wrote is never an answer.
use core::fmt;

use zerocopy::little_endian::U64;

use crate::geometry::{FrameIndex, FrameRange, Geometry, RangeError};
use crate::layout::CommandEntry;

const OPCODE_NOP: u64 = 1;
const OPCODE_INVERT: u64 = 2;

/// Something the device does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Nothing, but it is answered.
    Nop,
    /// Invert every byte of these device frames.
    Invert(FrameRange),
}

impl Command {
    /// Device frames that the command changes where it succeeds.
    pub const fn frames(self) -> u64 {
        match self {
            Self::Nop => 0,
            Self::Invert(range) => range.count,
        }
    }

    /// Checks that a device of this geometry can do the command.
    ///
    /// # Errors
    /// [`RangeError`] where the command names frames that it may not.
    pub const fn check(self, geometry: Geometry) -> Result<(), RangeError> {
        match self {
            Self::Nop => Ok(()),
            Self::Invert(range) => geometry.check(range),
        }
    }

    /// The ring entry of this command, as the one with index `sequence`.
    pub fn encode(self, sequence: u64) -> CommandEntry {
        let (opcode, first, count) = match self {
            Self::Nop => (OPCODE_NOP, 0, 0),
            Self::Invert(range) => (OPCODE_INVERT, range.first.0, range.count),
        };
        CommandEntry {
            sequence: U64::new(sequence),
            opcode: U64::new(opcode),
            first_frame: U64::new(first),
            count: U64::new(count),
        }
    }

    /// The command in a ring entry, as the device understands it; `sequence` is the entry's index.
    ///
    /// # Errors
    /// The status with which the device refuses the entry.
    pub fn decode(entry: &CommandEntry, sequence: u64, geometry: Geometry) -> Result<Self, Status> {
        if entry.sequence.get() != sequence {
            return Err(Status::BadSequence);
        }
        let range = FrameRange { first: FrameIndex(entry.first_frame.get()), count: entry.count.get() };
        let command = match entry.opcode.get() {
            OPCODE_NOP => Self::Nop,
            OPCODE_INVERT => Self::Invert(range),
            _ => return Err(Status::BadCommand),
        };
        match command.check(geometry) {
            Ok(()) => Ok(command),
            Err(RangeError::Frame(_)) => Err(Status::BadFrame),
            Err(RangeError::Count(_)) => Err(Status::BadCount),
        }
    }
}

/// A command that the device has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    /// The command's index since the device started.
    pub sequence: u64,
    /// Device frames that the command changed.
    pub frames: u64,
}

/// Makes an enum with its wire values, so that both directions come from one list.
macro_rules! wire_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $value:literal, $text:literal;)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u64)]
        pub enum $name {
            $($(#[doc = $doc])+ $variant = $value,)+
        }

        impl $name {
            /// Its value in the control area.
            pub const fn to_wire(self) -> u64 {
                self as u64
            }

            /// The one with this value in the control area, or `None` where there is none.
            pub const fn from_wire(value: u64) -> Option<Self> {
                match value {
                    $($value => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $text,)+ })
            }
        }
    };
}
pub(crate) use wire_enum;

wire_enum! {
    /// How a command ended.
    Status {
        /// All of it was done.
        Done = 1, "done";
        /// No command has this opcode.
        BadCommand = 2, "no such command";
        /// A frame that the device does not have.
        BadFrame = 3, "no such device frame";
        /// No frame, or more than a command may name.
        BadCount = 4, "not a count of frames that a command takes";
        /// The entry carries another sequence number than its index.
        BadSequence = 5, "the sequence number is not the entry's index";
    }
}

wire_enum! {
    /// What the device is doing, as a whole.
    DeviceState {
        /// It executes commands.
        Ready = 1, "ready";
        /// The host has stopped it.
        Stopped = 2, "stopped by the host";
        /// It gave up: the guest's producer index was out of range, so nothing tells which entries are real.
        Failed = 3, "failed because the guest broke the ring protocol";
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::MAX_COMMAND_FRAMES;
    use proptest::prelude::*;

    fn geometry() -> Geometry {
        Geometry::of_bar(1 << 20).unwrap()
    }

    #[test]
    fn wire_values_are_fixed_and_zero_is_none_of_them() {
        let statuses = [Status::Done, Status::BadCommand, Status::BadFrame, Status::BadCount, Status::BadSequence];
        for (value, status) in (1..).zip(statuses) {
            assert_eq!((status.to_wire(), Status::from_wire(value)), (value, Some(status)));
        }
        for (value, state) in (1..).zip([DeviceState::Ready, DeviceState::Stopped, DeviceState::Failed]) {
            assert_eq!((state.to_wire(), DeviceState::from_wire(value)), (value, Some(state)));
        }
        for value in [0, 6, u64::MAX] {
            assert_eq!(Status::from_wire(value), None);
            assert_eq!(DeviceState::from_wire(value), None);
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_its_reason() {
        let entry = |sequence, opcode, first, count| CommandEntry {
            sequence: U64::new(sequence),
            opcode: U64::new(opcode),
            first_frame: U64::new(first),
            count: U64::new(count),
        };
        for (entry, status) in [
            (entry(8, 1, 0, 0), Status::BadSequence),
            (entry(7, 0, 0, 1), Status::BadCommand),
            (entry(7, 3, 0, 1), Status::BadCommand),
            (entry(7, 2, 248, 1), Status::BadFrame),
            (entry(7, 2, u64::MAX, 2), Status::BadFrame),
            (entry(7, 2, 0, 0), Status::BadCount),
            (entry(7, 2, 0, MAX_COMMAND_FRAMES + 1), Status::BadCount),
        ] {
            assert_eq!(Command::decode(&entry, 7, geometry()), Err(status), "{entry:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(sequence: u64, first in 0u64..248, more in 0u64..248) {
            let count = 1 + more.min(247 - first);
            for command in [Command::Nop, Command::Invert(FrameRange { first: FrameIndex(first), count })] {
                prop_assert_eq!(Command::decode(&command.encode(sequence), sequence, geometry()), Ok(command));
            }
        }
    }
}
