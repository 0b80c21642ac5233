//! What the device does with its ring: one turn at a time, without a clock or a thread.
//!
//! Invariants:
//! 1. The producer index is read once per turn. What lies between the engine's own index and it is
//!    executed, in order; if that is more than the ring holds, the guest broke the protocol and the
//!    engine ends in [`DeviceState::Failed`].
//! 2. An entry is copied out once, checked, then executed. Refused means nothing was changed.
//! 3. The engine's index is its own; the copy in the control area is for the guest and never read.
use std::sync::atomic::{AtomicU64, Ordering};

use ferry_device::command::DeviceState;
use ferry_device::geometry::FrameIndex;
use ferry_device::layout::{
    CONSUMER, CompletionEntry, HEARTBEAT, PRODUCER, RING_ENTRIES, STATE, command_place, completion_place,
};
use ferry_device::{Command, NoSuchFrame, Status};

use crate::mapping::Mapping;

/// How the guest broke the ring protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the guest broke the ring protocol: its producer index {producer:#x} is more than {RING_ENTRIES} entries beyond the \
     device's index {consumer:#x}"
)]
pub struct GuestError {
    /// The guest's index.
    pub producer: u64,
    /// The device's index.
    pub consumer: u64,
}

/// The device at work on a mapping.
pub struct Engine {
    mapping: Mapping,
    consumer: u64,
    heartbeat: u64,
    bogus_completions: bool,
}

impl Engine {
    /// A device that has completed `consumer` commands so far.
    pub fn new(mapping: Mapping, consumer: u64, bogus_completions: bool) -> Self {
        Self { mapping, consumer, heartbeat: 0, bogus_completions }
    }

    /// Executes what the guest has submitted and returns how many commands that were. Adds the
    /// frames that were changed to `transformed`, before the guest can know of them.
    ///
    /// # Errors
    /// [`GuestError`]; the engine takes no further turn then.
    pub fn turn(&mut self, transformed: &AtomicU64) -> Result<u64, GuestError> {
        self.heartbeat = self.heartbeat.wrapping_add(1);
        self.mapping.bar().publish(HEARTBEAT, self.heartbeat);
        let producer = self.mapping.bar().observe(PRODUCER);
        let pending = producer.wrapping_sub(self.consumer);
        if pending > RING_ENTRIES {
            self.set_state(DeviceState::Failed);
            return Err(GuestError { producer, consumer: self.consumer });
        }
        for _ in 0..pending {
            self.execute_next(transformed);
        }
        Ok(pending)
    }

    /// Tells the guest in what state the device is.
    pub fn set_state(&self, state: DeviceState) {
        self.mapping.bar().publish(STATE, state.to_wire());
    }

    fn execute_next(&mut self, transformed: &AtomicU64) {
        let sequence = self.consumer;
        let bar = self.mapping.bar();
        let entry = bar.load(command_place(sequence));
        let outcome = Command::decode(&entry, sequence, bar.geometry())
            .and_then(|command| self.execute(command).map_err(|NoSuchFrame { .. }| Status::BadFrame));
        let (status, frames) = match outcome {
            Ok(frames) => (Status::Done, frames),
            Err(status) => (status, 0),
        };
        transformed.fetch_add(frames, Ordering::Relaxed);
        let named = if self.bogus_completions { sequence.wrapping_add(RING_ENTRIES) } else { sequence };
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

    fn execute(&mut self, command: Command) -> Result<u64, NoSuchFrame> {
        match command {
            Command::Nop => {}
            Command::Invert(range) => {
                self.mapping.bar().begin_reads();
                for offset in 0..range.count {
                    self.mapping.invert_frame(FrameIndex(range.first.0 + offset))?;
                }
            }
        }
        Ok(command.frames())
    }
}

#[cfg(test)]
mod tests;
