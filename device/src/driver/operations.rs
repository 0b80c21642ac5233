//! Operations under way: the request and answer rings, and what of each operation the driver must know to check them.
//!
//! Invariants:
//! 1. A request is taken only where it is about an operation that the driver started, pages of it that are left, and the
//!    access that it makes.
//! 2. Each `PageFault` is answered once, and an operation asks again only when it was answered.
//! 3. There are never more answers in the ring than operations, so it is never full.
use crate::bar::Bar;
use crate::command::{DeviceState, Operation};
use crate::context::MAX_OPERATIONS;
use crate::identity::AttachError;
use crate::layout::{
    ANSWER_CONSUMER, ANSWER_ENTRIES, ANSWER_PRODUCER, REQUEST_CONSUMER, REQUEST_ENTRIES, REQUEST_PRODUCER, STATE,
    answer_place, request_place,
};
use crate::request::{Answer, Ended, OperationStatus, PageFault, Request};

use super::DeviceError;

const _: () = assert!(MAX_OPERATIONS as u64 <= ANSWER_ENTRIES, "an answer for each operation fits");

/// An operation under way.
#[derive(Clone, Copy, Debug)]
struct Started {
    sequence: u64,
    operation: Operation,
    waits: bool,
}

/// The operations under way and both rings.
#[derive(Debug)]
pub(super) struct Operations {
    started: [Option<Started>; MAX_OPERATIONS],
    requests_taken: u64,
    answers_given: u64,
}

impl Operations {
    /// Begins where an earlier driver has ended.
    pub(super) fn attach(bar: &Bar) -> Result<Self, AttachError> {
        let (requests_taken, answers_given) = (bar.observe(REQUEST_CONSUMER), bar.observe(ANSWER_PRODUCER));
        for (producer, consumer) in
            [(bar.observe(REQUEST_PRODUCER), requests_taken), (answers_given, bar.observe(ANSWER_CONSUMER))]
        {
            if producer != consumer {
                return Err(AttachError::InFlight { producer, consumer });
            }
        }
        Ok(Self { started: [None; MAX_OPERATIONS], requests_taken, answers_given })
    }

    /// Notes an operation that is about to be submitted.
    pub(super) fn start(&mut self, sequence: u64, operation: Operation) -> Result<(), DeviceError> {
        let free = self.started.iter_mut().find(|place| place.is_none()).ok_or(DeviceError::TooManyOperations)?;
        *free = Some(Started { sequence, operation, waits: false });
        Ok(())
    }

    /// Forgets an operation that the device did not take, if `sequence` was one.
    pub(super) fn forget(&mut self, sequence: u64) {
        if let Some(place) = self.place(sequence) {
            *place = None;
        }
    }

    pub(super) fn next_request(&mut self, bar: &Bar) -> Result<Option<Request>, DeviceError> {
        // The state first: a device that stops posts before it says so.
        let state = bar.observe(STATE);
        let (producer, sequence) = (bar.observe(REQUEST_PRODUCER), self.requests_taken);
        match producer.wrapping_sub(sequence) {
            0 if DeviceState::from_wire(state) != Some(DeviceState::Ready) => return Err(DeviceError::NotReady(state)),
            0 => return Ok(None),
            1..=REQUEST_ENTRIES => {}
            _ => return Err(DeviceError::BadRequestIndex { found: producer, ours: sequence }),
        }
        let entry = bar.load(request_place(sequence));
        let bad = DeviceError::BadRequest { sequence, operation: entry.operation.get() };
        let request = Request::decode(&entry).filter(|_| entry.sequence.get() == sequence).ok_or(bad)?;
        let place = self.place(request.operation()).ok_or(bad)?;
        let started = place.as_mut().ok_or(bad)?;
        if !started.may_make(request) {
            return Err(bad);
        }
        match request {
            Request::PageFault(_) => started.waits = true,
            Request::Ended(_) => *place = None,
        }
        self.requests_taken = sequence.wrapping_add(1);
        bar.publish(REQUEST_CONSUMER, self.requests_taken);
        Ok(Some(request))
    }

    pub(super) fn answer(&mut self, bar: &Bar, answer: Answer) -> Result<(), DeviceError> {
        let nothing = DeviceError::NothingToAnswer(answer.operation);
        let started = self.place(answer.operation).and_then(Option::as_mut).ok_or(nothing)?;
        if !core::mem::replace(&mut started.waits, false) {
            return Err(nothing);
        }
        let (consumer, sequence) = (bar.observe(ANSWER_CONSUMER), self.answers_given);
        if sequence.wrapping_sub(consumer) >= ANSWER_ENTRIES {
            return Err(DeviceError::BadRequestIndex { found: consumer, ours: sequence });
        }
        bar.store(answer_place(sequence), &answer.encode(sequence));
        self.answers_given = sequence.wrapping_add(1);
        bar.publish(ANSWER_PRODUCER, self.answers_given);
        Ok(())
    }

    fn place(&mut self, sequence: u64) -> Option<&mut Option<Started>> {
        self.started.iter_mut().find(|place| place.is_some_and(|started| started.sequence == sequence))
    }
}

impl Started {
    /// Whether an obedient device can make this request about the operation now.
    fn may_make(&self, request: Request) -> bool {
        let span = self.operation.span();
        match request {
            Request::PageFault(PageFault { span: left, access, .. }) => {
                !self.waits
                    && access == self.operation.access()
                    && span.contains(left)
                    && left.numbers().end == span.numbers().end
            }
            Request::Ended(Ended { status: OperationStatus::Done, pages, .. }) => !self.waits && pages == span.count(),
            // Detaching ends an operation that waits, too.
            Request::Ended(Ended { pages, .. }) => pages < span.count(),
        }
    }
}
