//! What the device does with its rings: one turn at a time, without a clock or a thread.
//!
//! ```text
//!   a turn:  every submitted command ──▶ every answer ──▶ one page of each operation
//! ```
//!
//! Invariants:
//! 1. The producer index is read once per turn. What lies between the engine's own index and it is
//!    executed, in order; if that is more than the ring holds, the guest broke the protocol and the
//!    engine ends in [`DeviceState::Failed`]. The indices of the other rings are treated alike.
//! 2. An entry is copied out once, checked, then executed. Refused means nothing was changed.
//! 3. The engine's indices are its own; the copies in the control area are for the guest and never read.
//! 4. Between two steps of the engine no translation is in use but through [`translate::Translations`], so a command that
//!    forgets them has waited for everybody.
mod operations;
mod translate;

use std::sync::atomic::{AtomicU64, Ordering};

use ferry_device::command::{DeviceState, Operation};
use ferry_device::geometry::FrameIndex;
use ferry_device::layout::{
    ANSWER_ENTRIES, CONSUMER, CompletionEntry, HEARTBEAT, PRODUCER, REQUEST_ENTRIES, RING_ENTRIES, STATE,
    command_place, completion_place,
};
use ferry_device::{Command, ContextId, Status};

use crate::mapping::Mapping;
use crate::options::Misbehaviour;
use operations::Operations;
use translate::Translations;

/// How the guest broke the ring protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GuestError {
    /// Its index of commands is out of range.
    #[error(
        "the guest broke the ring protocol: its producer index {producer:#x} is more than {RING_ENTRIES} entries \
         beyond the device's index {consumer:#x}"
    )]
    Commands {
        /// The guest's index.
        producer: u64,
        /// The device's index.
        consumer: u64,
    },
    /// Its index of answers is out of range.
    #[error(
        "the guest broke the ring protocol: its index of answers {producer:#x} is more than {ANSWER_ENTRIES} entries \
         beyond the device's index {consumer:#x}"
    )]
    Answers {
        /// The guest's index.
        producer: u64,
        /// The device's index.
        consumer: u64,
    },
    /// An answer that does not exist, or with another sequence number than its index.
    #[error("the guest broke the ring protocol: answer {0} is none")]
    Answer(u64),
    /// It claims to have taken requests that were never made, or to have given some back.
    #[error(
        "the guest broke the ring protocol: its index of requests {consumer:#x} is not within {REQUEST_ENTRIES} entries \
         of the device's index {producer:#x}"
    )]
    Requests {
        /// The device's index.
        producer: u64,
        /// The guest's index.
        consumer: u64,
    },
}

/// The device at work on a mapping.
pub struct Engine {
    mapping: Mapping,
    consumer: u64,
    heartbeat: u64,
    misbehaviour: Option<Misbehaviour>,
    translations: Translations,
    operations: Operations,
}

impl Engine {
    /// A device that has completed `consumer` commands so far, and made no request.
    pub fn new(mapping: Mapping, consumer: u64, misbehaviour: Option<Misbehaviour>) -> Self {
        let (translations, operations) = (Translations::default(), Operations::new(misbehaviour));
        Self { mapping, consumer, heartbeat: 0, misbehaviour, translations, operations }
    }

    /// Executes what the guest has submitted and a piece of what is under way; returns how many steps that were. Adds
    /// the frames that commands changed to `transformed`, before the guest can know of them.
    ///
    /// # Errors
    /// [`GuestError`]; the engine takes no further turn then.
    pub fn turn(&mut self, transformed: &AtomicU64) -> Result<u64, GuestError> {
        self.heartbeat = self.heartbeat.wrapping_add(1);
        self.mapping.bar().publish(HEARTBEAT, self.heartbeat);
        self.try_turn(transformed).inspect_err(|_| self.set_state(DeviceState::Failed))
    }

    /// Tells the guest in what state the device is.
    pub fn set_state(&self, state: DeviceState) {
        self.mapping.bar().publish(STATE, state.to_wire());
    }

    fn try_turn(&mut self, transformed: &AtomicU64) -> Result<u64, GuestError> {
        let producer = self.mapping.bar().observe(PRODUCER);
        let pending = producer.wrapping_sub(self.consumer);
        if pending > RING_ENTRIES {
            return Err(GuestError::Commands { producer, consumer: self.consumer });
        }
        for _ in 0..pending {
            self.execute_next(transformed);
        }
        let answers = self.operations.take_answers(self.mapping.bar())?;
        let steps = self.operations.step(&mut self.mapping, &mut self.translations)?;
        Ok(pending + answers + steps)
    }

    fn execute_next(&mut self, transformed: &AtomicU64) {
        let sequence = self.consumer;
        let bar = self.mapping.bar();
        let entry = bar.load(command_place(sequence));
        let outcome = Command::decode(&entry, sequence, bar.geometry())
            .and_then(|command| self.execute(sequence, command).map(|()| command.frames()));
        let (status, frames) = match outcome {
            Ok(frames) => (Status::Done, frames),
            Err(status) => (status, 0),
        };
        transformed.fetch_add(frames, Ordering::Relaxed);
        let bogus = self.misbehaviour == Some(Misbehaviour::BogusCompletion);
        let named = if bogus { sequence.wrapping_add(RING_ENTRIES) } else { sequence };
        let completion = CompletionEntry {
            sequence: named.into(),
            status: status.to_wire().into(),
            frames: frames.into(),
            reserved: 0.into(),
        };
        let bar = self.mapping.bar();
        bar.store(completion_place(sequence), &completion);
        self.consumer = sequence.wrapping_add(1);
        bar.publish(CONSUMER, self.consumer);
    }

    fn execute(&mut self, sequence: u64, command: Command) -> Result<(), Status> {
        match command {
            Command::Nop => Ok(()),
            Command::Invert(range) => {
                self.mapping.bar().begin_reads();
                for offset in 0..range.count {
                    let frame = FrameIndex(range.first.0 + offset);
                    self.mapping.invert_frame(frame).map_err(|_| Status::BadFrame)?;
                }
                Ok(())
            }
            Command::Attach { context, window, root } => self.translations.attach(context, window, root),
            Command::Detach(context) => {
                self.translations.detach(context)?;
                self.operations.detach(context);
                Ok(())
            }
            Command::Invalidate { context, span } => {
                let window = self.translations.window(context)?;
                if !window.contains(span) {
                    return Err(Status::BadPages);
                }
                if self.misbehaviour != Some(Misbehaviour::StaleTranslations) {
                    self.translations.forget(context, span);
                }
                Ok(())
            }
            Command::Start { context, operation } => self.start(sequence, context, operation),
            Command::FailDma(count) => {
                self.operations.fail_dma(count);
                Ok(())
            }
        }
    }

    fn start(&mut self, sequence: u64, context: ContextId, operation: Operation) -> Result<(), Status> {
        if !self.translations.window(context)?.contains(operation.span()) {
            return Err(Status::BadPages);
        }
        self.operations.start(sequence, context, operation)
    }
}

#[cfg(test)]
mod context_tests;
#[cfg(test)]
mod tests;
