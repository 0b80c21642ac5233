//! What the guest asks of the device, and what the device answers.
//!
//! | opcode | command      | fields                                        | does                                      |
//! |--------|--------------|-----------------------------------------------|-------------------------------------------|
//! | 1      | `Nop`        | none                                          | nothing: shows that the device lives      |
//! | 2      | `Invert`     | `first_frame, count`                          | every byte `b` of them becomes `!b`       |
//! | 3      | `Attach`     | `context, page, count; first_frame`: the root | lets operations use the context           |
//! | 4      | `Detach`     | `context`                                     | ends its operations, forgets its pages    |
//! | 5      | `Invalidate` | `context, page, count`                        | forgets these translations                |
//! | 6      | `Read`       | `context, page, count; first_frame`: buffer   | starts copying pages into the buffer      |
//! | 7      | `Write`      | `context, page, count; first_frame`: buffer   | starts copying the buffer into pages      |
//! | 8      | `Add`        | `context, page; word; operand`                | starts adding to a word of a page         |
//! | 9      | `FailDma`    | `operand`                                     | makes that transfer from now on fail      |
//!
//! `Read`, `Write` and `Add` start *operations*: the completion says that it runs; the end is a
//! [`request`](crate::request).
//!
//! Invariants:
//! 1. A command that is refused has changed nothing: it is checked before anything is touched.
//! 2. Zero is no opcode, no status and no state, so memory that nobody wrote is never an answer.
//! 3. When `Invalidate` or `Detach` is completed, no operation uses the translations any more.
use zerocopy::little_endian::U64;

use crate::bar::WordIndex;
use crate::context::{BadSpan, ContextId, PageSpan, VirtualPage};
use crate::geometry::{FrameIndex, FrameRange, Geometry, RangeError};
use crate::layout::CommandEntry;
use crate::request::Access;
use crate::wire::wire_enum;

const OPCODE_NOP: u64 = 1;
const OPCODE_INVERT: u64 = 2;
const OPCODE_ATTACH: u64 = 3;
const OPCODE_DETACH: u64 = 4;
const OPCODE_INVALIDATE: u64 = 5;
const OPCODE_READ: u64 = 6;
const OPCODE_WRITE: u64 = 7;
const OPCODE_ADD: u64 = 8;
const OPCODE_FAIL_DMA: u64 = 9;

/// Something the device does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Nothing, but it is answered.
    Nop,
    /// Invert every byte of these device frames.
    Invert(FrameRange),
    /// Take a context into use.
    Attach {
        /// Which one.
        context: ContextId,
        /// The pages it may reach.
        window: PageSpan,
        /// The root of its page table.
        root: FrameIndex,
    },
    /// End the use of a context.
    Detach(ContextId),
    /// Forget translations.
    Invalidate {
        /// Of this context.
        context: ContextId,
        /// Of these pages.
        span: PageSpan,
    },
    /// Start an operation.
    Start {
        /// In this context.
        context: ContextId,
        /// What to do.
        operation: Operation,
    },
    /// Make the N-th transfer of a page between RAM and the device from now on fail, once; 0 makes none fail.
    FailDma(u64),
}

/// Something that takes the device a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Copy pages into as many device frames from `buffer` on.
    Read {
        /// The pages.
        span: PageSpan,
        /// The first device frame.
        buffer: FrameIndex,
    },
    /// Copy as many device frames from `buffer` on into pages.
    Write {
        /// The pages.
        span: PageSpan,
        /// The first device frame.
        buffer: FrameIndex,
    },
    /// Add to a word of a page in one step, wrapping; the end tells what was there.
    Add {
        /// The page, as a span of one.
        span: PageSpan,
        /// The word.
        word: WordIndex,
        /// What to add.
        operand: u64,
    },
}

impl Operation {
    /// The pages that it works on.
    pub const fn span(self) -> PageSpan {
        match self {
            Self::Read { span, .. } | Self::Write { span, .. } | Self::Add { span, .. } => span,
        }
    }

    /// What it does with them.
    pub const fn access(self) -> Access {
        match self {
            Self::Read { .. } => Access::Read,
            Self::Write { .. } => Access::Write,
            Self::Add { .. } => Access::Atomic,
        }
    }

    const fn check(self, geometry: Geometry) -> Result<(), CommandError> {
        match self {
            Self::Read { span, buffer } | Self::Write { span, buffer } => {
                check_frames(geometry, FrameRange { first: buffer, count: span.count() })
            }
            Self::Add { span, .. } if span.count() != 1 => {
                Err(CommandError::Span(BadSpan { first: span.first(), count: span.count() }))
            }
            Self::Add { .. } => Ok(()),
        }
    }
}

const fn check_frames(geometry: Geometry, range: FrameRange) -> Result<(), CommandError> {
    match geometry.check(range) {
        Ok(()) => Ok(()),
        Err(error) => Err(CommandError::Frames(error)),
    }
}

/// Why a command is none that the device can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommandError {
    /// It names frames that it may not.
    Frames(RangeError),
    /// It names pages that it may not.
    Span(BadSpan),
}

impl Command {
    /// Device frames that are changed when the command is completed.
    pub const fn frames(self) -> u64 {
        match self {
            Self::Invert(range) => range.count,
            _ => 0,
        }
    }

    /// Checks that a device of this geometry can do the command, as far as that follows from the command alone.
    ///
    /// # Errors
    /// [`CommandError`] where the command names frames or pages that it may not.
    pub const fn check(self, geometry: Geometry) -> Result<(), CommandError> {
        match self {
            Self::Nop | Self::Detach(_) | Self::Invalidate { .. } | Self::FailDma(_) => Ok(()),
            Self::Invert(range) => check_frames(geometry, range),
            Self::Attach { root, .. } => check_frames(geometry, FrameRange { first: root, count: 1 }),
            Self::Start { operation, .. } => operation.check(geometry),
        }
    }

    /// The ring entry of this command, as the one with index `sequence`.
    pub fn encode(self, sequence: u64) -> CommandEntry {
        let mut fields = Fields::default();
        let opcode = match self {
            Self::Nop => OPCODE_NOP,
            Self::Invert(range) => {
                (fields.first_frame, fields.count) = (range.first.0, range.count);
                OPCODE_INVERT
            }
            Self::Attach { context, window, root } => {
                fields.name(context, window);
                fields.first_frame = root.0;
                OPCODE_ATTACH
            }
            Self::Detach(context) => {
                fields.context = context.number() as u64;
                OPCODE_DETACH
            }
            Self::Invalidate { context, span } => {
                fields.name(context, span);
                OPCODE_INVALIDATE
            }
            Self::Start { context, operation } => {
                fields.name(context, operation.span());
                match operation {
                    Operation::Read { buffer, .. } => {
                        fields.first_frame = buffer.0;
                        OPCODE_READ
                    }
                    Operation::Write { buffer, .. } => {
                        fields.first_frame = buffer.0;
                        OPCODE_WRITE
                    }
                    Operation::Add { word, operand, .. } => {
                        (fields.word, fields.operand) = (word.number(), operand);
                        OPCODE_ADD
                    }
                }
            }
            Self::FailDma(count) => {
                fields.operand = count;
                OPCODE_FAIL_DMA
            }
        };
        CommandEntry {
            sequence: U64::new(sequence),
            opcode: U64::new(opcode),
            first_frame: U64::new(fields.first_frame),
            count: U64::new(fields.count),
            context: U64::new(fields.context),
            page: U64::new(fields.page),
            operand: U64::new(fields.operand),
            word: U64::new(fields.word),
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
        let frame = FrameIndex(entry.first_frame.get());
        let context = ContextId::new(entry.context.get()).ok_or(Status::BadContext);
        let pages = PageSpan::new(VirtualPage(entry.page.get()), entry.count.get()).map_err(|_| Status::BadPages);
        let start = |operation| Ok(Self::Start { context: context?, operation });
        let command = match entry.opcode.get() {
            OPCODE_NOP => Self::Nop,
            OPCODE_INVERT => Self::Invert(FrameRange { first: frame, count: entry.count.get() }),
            OPCODE_ATTACH => Self::Attach { context: context?, window: pages?, root: frame },
            OPCODE_DETACH => Self::Detach(context?),
            OPCODE_INVALIDATE => Self::Invalidate { context: context?, span: pages? },
            OPCODE_READ => start(Operation::Read { span: pages?, buffer: frame })?,
            OPCODE_WRITE => start(Operation::Write { span: pages?, buffer: frame })?,
            OPCODE_ADD => {
                let word = WordIndex::new(entry.word.get()).ok_or(Status::BadPages)?;
                start(Operation::Add { span: pages?, word, operand: entry.operand.get() })?
            }
            OPCODE_FAIL_DMA => Self::FailDma(entry.operand.get()),
            _ => return Err(Status::BadCommand),
        };
        match command.check(geometry) {
            Ok(()) => Ok(command),
            Err(CommandError::Frames(RangeError::Frame(_))) => Err(Status::BadFrame),
            Err(CommandError::Frames(RangeError::Count(_))) => Err(Status::BadCount),
            Err(CommandError::Span(_)) => Err(Status::BadPages),
        }
    }
}

/// What an entry says beside its opcode.
#[derive(Default)]
struct Fields {
    first_frame: u64,
    count: u64,
    context: u64,
    page: u64,
    operand: u64,
    word: u64,
}

impl Fields {
    fn name(&mut self, context: ContextId, span: PageSpan) {
        self.context = context.number() as u64;
        (self.page, self.count) = (span.first().0, span.count());
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
        /// The device has no such context, or it is not attached, or attached already.
        BadContext = 6, "no context that can do this";
        /// Pages outside the context's window, or outside any.
        BadPages = 7, "not pages of the context's window";
        /// As many operations are under way as the device has room for.
        TooManyOperations = 8, "too many operations are under way";
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
        use Status::*;
        let statuses = [Done, BadCommand, BadFrame, BadCount, BadSequence, BadContext, BadPages, TooManyOperations];
        for (value, status) in (1..).zip(statuses) {
            assert_eq!((status.to_wire(), Status::from_wire(value)), (value, Some(status)));
        }
        for (value, state) in (1..).zip([DeviceState::Ready, DeviceState::Stopped, DeviceState::Failed]) {
            assert_eq!((state.to_wire(), DeviceState::from_wire(value)), (value, Some(state)));
        }
        for value in [0, 9, u64::MAX] {
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
            context: U64::ZERO,
            page: U64::ZERO,
            operand: U64::ZERO,
            word: U64::ZERO,
        };
        let with = |opcode, change: fn(&mut CommandEntry)| {
            let mut entry = entry(7, opcode, 0, 1);
            change(&mut entry);
            entry
        };
        for (entry, status) in [
            (with(3, |entry| entry.context.set(16)), Status::BadContext),
            (with(3, |entry| entry.first_frame.set(248)), Status::BadFrame),
            (with(4, |entry| entry.context.set(u64::MAX)), Status::BadContext),
            (with(5, |entry| entry.count.set(0)), Status::BadPages),
            (with(6, |entry| entry.page.set(1 << 36)), Status::BadPages),
            (with(6, |entry| entry.count.set(1025)), Status::BadCount),
            (with(7, |entry| entry.count.set(249)), Status::BadFrame),
            (with(8, |entry| entry.count.set(2)), Status::BadPages),
            (with(8, |entry| entry.word.set(512)), Status::BadPages),
            (entry(8, 1, 0, 0), Status::BadSequence),
            (entry(7, 0, 0, 1), Status::BadCommand),
            (entry(7, 10, 0, 1), Status::BadCommand),
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
            let context = ContextId::new(sequence % 16).unwrap();
            let span = PageSpan::new(VirtualPage(first << 20 | more), count).unwrap();
            let one = PageSpan::new(span.first(), 1).unwrap();
            let frame = FrameIndex(first);
            let start = |operation| Command::Start { context, operation };
            for command in [
                Command::Nop,
                Command::Invert(FrameRange { first: frame, count }),
                Command::Attach { context, window: span, root: frame },
                Command::Detach(context),
                Command::Invalidate { context, span },
                start(Operation::Read { span, buffer: frame }),
                start(Operation::Write { span, buffer: frame }),
                start(Operation::Add { span: one, word: WordIndex::low_bits_of(more), operand: sequence }),
                Command::FailDma(more),
            ] {
                prop_assert_eq!(Command::decode(&command.encode(sequence), sequence, geometry()), Ok(command));
            }
        }
    }
}
