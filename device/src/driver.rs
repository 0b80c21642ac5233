//! The driver: commands into the ring, completions and requests out of theirs, every wait bounded.
//!
//! ```text
//!        completed        consumed             producer          (indices, modulo 2^64)
//!   ─────────┼───────────────┼────────────────────┼─────────▶
//!    taken   │ done, not yet │ under way at the   │ free
//!            │ taken         │ device             │
//!            └───────────── at most RING_ENTRIES ─┘
//! ```
//!
//! Invariants:
//! 1. `completed <= consumed <= producer <= completed + RING_ENTRIES`, all three kept in RAM. The
//!    device's index enters `consumed` only after it was found between the other two.
//! 2. What the driver must know about a command under way it keeps in RAM; the ring is written,
//!    never read back.
//! 3. The device completes in the order of submission.
//! 4. Each wait for the next completion ends: by the completion, by the device breaking a rule, or
//!    by the caller's [`Deadline`].
//! 5. A device that broke a rule, stopped or did not answer is not used again: from then on every
//!    call returns that first error. A refused command is not such a case.
//!
//! Memory ordering: an entry is written before the producer index is published (release), and a
//! completion is read after the consumer index was observed (acquire). So the device sees every
//! frame that was written before `submit`, and after `wait` the caller sees every frame that the
//! device wrote: no fence of the caller's is needed around commands.
//!
//! Locks: none inside; `&mut self` means that a `Device` shared by several CPUs stands in a lock,
//! and that lock is held while `wait` polls.
mod error;
mod operations;

use core::iter::Peekable;

use crate::bar::Bar;
use crate::command::{Command, Completion, DeviceState, Status};
use crate::geometry::{FrameIndex, FrameRange, Geometry, MAX_COMMAND_FRAMES};
use crate::identity::{AttachError, Identity};
use crate::layout::{
    CONSUMER, HEARTBEAT, IDENTIFICATION, PRODUCER, RING_ENTRIES, STATE, command_place, completion_place, slot,
};
use crate::request::{Answer, Request};
pub use error::DeviceError;
use operations::Operations;

/// The bound of a wait, made by somebody who has a clock.
pub trait Deadline {
    /// Starts the bound afresh. Called before each wait for the next completion, so the bound is
    /// "no progress for so long", not the time of a whole batch.
    fn restart(&mut self);

    /// Whether the bound has passed since the last [`Deadline::restart`]. Asked after every look at
    /// the device.
    fn expired(&mut self) -> bool;
}

/// An attached device.
#[derive(Debug)]
pub struct Device {
    bar: Bar,
    identity: Identity,
    producer: u64,
    consumed: u64,
    completed: u64,
    /// Frames that each command under way must report, by slot.
    expected: [u64; RING_ENTRIES as usize],
    operations: Operations,
    failure: Option<DeviceError>,
}

impl Device {
    /// Takes the device behind `bar` into use. Nothing is waited for: whether the device answers,
    /// [`Device::ping`] tells.
    ///
    /// # Errors
    /// [`AttachError`] where the BAR is not this device's, not of this version, or not idle.
    pub fn attach(bar: Bar) -> Result<Self, AttachError> {
        let identity = Identity::decode(&bar.load(IDENTIFICATION), bar.geometry())?;
        let state = bar.observe(STATE);
        if DeviceState::from_wire(state) != Some(DeviceState::Ready) {
            return Err(AttachError::NotReady(state));
        }
        let producer = bar.observe(PRODUCER);
        let consumer = bar.observe(CONSUMER);
        if producer != consumer {
            return Err(AttachError::InFlight { producer, consumer });
        }
        Ok(Self {
            identity,
            producer,
            consumed: producer,
            completed: producer,
            expected: [0; RING_ENTRIES as usize],
            operations: Operations::attach(&bar)?,
            bar,
            failure: None,
        })
    }

    /// What the device says about itself.
    pub const fn identity(&self) -> Identity {
        self.identity
    }

    /// How many frames it has, and where.
    pub const fn geometry(&self) -> Geometry {
        self.bar.geometry()
    }

    /// The memory behind the BAR, for copying frames.
    pub const fn bar(&self) -> &Bar {
        &self.bar
    }

    /// Commands submitted whose completion was not taken yet.
    pub const fn in_flight(&self) -> u64 {
        self.producer.wrapping_sub(self.completed)
    }

    /// Hands a command to the device and returns its sequence number, without waiting.
    ///
    /// # Errors
    /// [`DeviceError::RingFull`]; [`DeviceError::NoSuchFrame`] or [`DeviceError::BadCount`] for
    /// frames that a command may not name; [`DeviceError::BadPages`] for pages; [`DeviceError::TooManyOperations`]; the
    /// device's first failure, if it had one.
    pub fn submit(&mut self, command: Command) -> Result<u64, DeviceError> {
        self.usable()?;
        command.check(self.geometry())?;
        if self.in_flight() == RING_ENTRIES {
            return Err(DeviceError::RingFull);
        }
        let sequence = self.producer;
        if let Command::Start { operation, .. } = command {
            self.operations.start(sequence, operation)?;
        }
        self.expected[slot(sequence)] = command.frames();
        self.bar.store(command_place(sequence), &command.encode(sequence));
        self.producer = sequence.wrapping_add(1);
        self.bar.publish(PRODUCER, self.producer);
        Ok(sequence)
    }

    /// Waits for the oldest command under way and takes its completion.
    ///
    /// # Errors
    /// [`DeviceError::Idle`] where none is under way; [`DeviceError::Refused`] where the device
    /// refused the command (it is taken all the same); [`DeviceError::Timeout`] when `deadline`
    /// passes; otherwise the rule that the device broke.
    pub fn wait(&mut self, deadline: &mut dyn Deadline) -> Result<Completion, DeviceError> {
        self.usable()?;
        let result = self.take(deadline);
        if let Err(error) = result
            && error.is_failure()
        {
            self.failure = Some(error);
        }
        result
    }

    /// Submits one command and waits for it.
    ///
    /// # Errors
    /// As [`Device::submit`] and [`Device::wait`]; [`DeviceError::Busy`] while others are under way.
    pub fn run(&mut self, command: Command, deadline: &mut dyn Deadline) -> Result<Completion, DeviceError> {
        self.idle()?;
        self.submit(command)?;
        self.wait(deadline)
    }

    /// Checks that the device answers.
    ///
    /// # Errors
    /// As [`Device::run`].
    pub fn ping(&mut self, deadline: &mut dyn Deadline) -> Result<(), DeviceError> {
        self.run(Command::Nop, deadline).map(drop)
    }

    /// Takes the next request of the device, if there is one. Does not wait.
    ///
    /// # Errors
    /// The rule that the device broke; [`DeviceError::NotReady`] where there is none and none will come.
    pub fn next_request(&mut self) -> Result<Option<Request>, DeviceError> {
        self.usable()?;
        let result = self.operations.next_request(&self.bar);
        self.failure = result.err().filter(|error| error.is_failure());
        result
    }

    /// Tells a waiting operation how to go on. Entries that were set before are visible to it.
    ///
    /// # Errors
    /// [`DeviceError::NothingToAnswer`] where the operation does not wait; the rule that the device broke.
    pub fn answer(&mut self, answer: Answer) -> Result<(), DeviceError> {
        self.usable()?;
        let result = self.operations.answer(&self.bar, answer);
        self.failure = result.err().filter(|error| error.is_failure());
        result
    }

    /// Has the device invert every byte of these frames, and returns how many frames it did.
    ///
    /// Neighbours in the order given become one command, and the ring is kept full. A frame given
    /// twice is inverted twice.
    ///
    /// # Errors
    /// As [`Device::run`], the first one; no further command is submitted then, and those under
    /// way have ended unless the device failed. Frames before the one at fault may be inverted.
    pub fn invert(
        &mut self,
        frames: impl IntoIterator<Item = FrameIndex>,
        deadline: &mut dyn Deadline,
    ) -> Result<u64, DeviceError> {
        self.idle()?;
        let mut inverted = 0;
        let mut first_error = None;
        for range in (Runs { frames: frames.into_iter().peekable() }) {
            if self.in_flight() == RING_ENTRIES {
                match self.wait(deadline) {
                    Ok(completion) => inverted += completion.frames,
                    Err(error) => first_error = Some(error),
                }
            }
            if first_error.is_none() {
                first_error = self.submit(Command::Invert(range)).err();
            }
            if first_error.is_some() {
                break;
            }
        }
        while self.failure.is_none() && self.in_flight() > 0 {
            match self.wait(deadline) {
                Ok(completion) => inverted += completion.frames,
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok(inverted), Err)
    }

    fn usable(&self) -> Result<(), DeviceError> {
        self.failure.map_or(Ok(()), Err)
    }

    fn idle(&self) -> Result<(), DeviceError> {
        self.usable()?;
        match self.in_flight() {
            0 => Ok(()),
            commands => Err(DeviceError::Busy(commands)),
        }
    }

    fn take(&mut self, deadline: &mut dyn Deadline) -> Result<Completion, DeviceError> {
        if self.in_flight() == 0 {
            return Err(DeviceError::Idle);
        }
        if self.consumed == self.completed {
            self.consumed = self.poll(deadline)?;
            self.bar.begin_reads();
        }
        let sequence = self.completed;
        let entry = self.bar.load(completion_place(sequence));
        self.completed = sequence.wrapping_add(1);
        if entry.sequence.get() != sequence {
            return Err(DeviceError::WrongSequence { expected: sequence, found: entry.sequence.get() });
        }
        let expected = match Status::from_wire(entry.status.get()) {
            None => return Err(DeviceError::UnknownStatus { sequence, found: entry.status.get() }),
            Some(Status::Done) => self.expected[slot(sequence)],
            Some(status) => {
                self.operations.forget(sequence);
                return Err(DeviceError::Refused { sequence, status });
            }
        };
        match entry.frames.get() {
            frames if frames == expected => Ok(Completion { sequence, frames }),
            found => Err(DeviceError::WrongCount { sequence, expected, found }),
        }
    }

    /// Waits until the device has consumed beyond `completed` and returns its checked index.
    fn poll(&self, deadline: &mut dyn Deadline) -> Result<u64, DeviceError> {
        let heartbeat = self.bar.observe(HEARTBEAT);
        deadline.restart();
        loop {
            // The state first: a device that stops publishes what it has completed before it says so, hence a state
            // seen before an index without progress is final.
            let state = self.bar.observe(STATE);
            let consumer = self.bar.observe(CONSUMER);
            let done = consumer.wrapping_sub(self.completed);
            if done > self.in_flight() {
                return Err(DeviceError::BadIndex { consumer, oldest: self.completed, producer: self.producer });
            }
            if done > 0 {
                return Ok(consumer);
            }
            if DeviceState::from_wire(state) != Some(DeviceState::Ready) {
                return Err(DeviceError::NotReady(state));
            }
            if deadline.expired() {
                let alive = self.bar.observe(HEARTBEAT) != heartbeat;
                return Err(DeviceError::Timeout { sequence: self.completed, alive });
            }
            core::hint::spin_loop();
        }
    }
}

/// Joins neighbours into ranges that a command takes.
struct Runs<I: Iterator<Item = FrameIndex>> {
    frames: Peekable<I>,
}

impl<I: Iterator<Item = FrameIndex>> Iterator for Runs<I> {
    type Item = FrameRange;

    fn next(&mut self) -> Option<FrameRange> {
        let first = self.frames.next()?;
        let mut count = 1;
        while count < MAX_COMMAND_FRAMES
            && self.frames.next_if(|next| first.0.checked_add(count) == Some(next.0)).is_some()
        {
            count += 1;
        }
        Some(FrameRange { first, count })
    }
}

#[cfg(test)]
mod tests;
