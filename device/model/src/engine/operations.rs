//! Operations: what takes the device a while, page by page between commands.
//!
//! ```text
//!            answer Retry
//!          ┌──────────────┐
//!          ▼              │
//!   start ─▶ Running ─▶ Asking ─▶ Waiting        Asking and Ending last until the request ring has room
//!              │          answer of another kind
//!              └────────────────────▶ Ending ─▶ gone
//! ```
//!
//! Invariants:
//! 1. A page is translated and transferred in one step; nothing of the translation is kept outside the TLB.
//! 2. A transfer that fails ends the operation: no page after it is touched.
//! 3. A request is posted only where the ring has room for it.
use ferry_device::command::Operation;
use ferry_device::context::MAX_OPERATIONS;
use ferry_device::layout::{
    ANSWER_CONSUMER, ANSWER_ENTRIES, ANSWER_PRODUCER, REQUEST_CONSUMER, REQUEST_ENTRIES, REQUEST_PRODUCER,
    answer_place, request_place,
};
use ferry_device::page_table::Target;
use ferry_device::request::{Answer, Ended, OperationStatus, PageFault, Request};
use ferry_device::{Bar, ContextId, FrameIndex, PageSpan, Status, VirtualPage};

use super::GuestError;
use super::translate::{Broken, Translations};
use crate::mapping::{Mapping, TransferError};
use crate::options::Misbehaviour;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Running,
    Asking,
    Waiting,
    Ending(OperationStatus),
    Gone,
}

/// An operation under way.
#[derive(Clone, Copy, Debug)]
struct UnderWay {
    sequence: u64,
    context: ContextId,
    operation: Operation,
    pages: u64,
    faults: u64,
    value: u64,
    state: State,
}

/// All operations under way and the two rings that they use.
pub(super) struct Operations {
    under_way: Vec<UnderWay>,
    requests_posted: u64,
    answers_taken: u64,
    transfers: Transfers,
    misbehaviour: Option<Misbehaviour>,
}

impl Operations {
    pub(super) fn new(misbehaviour: Option<Misbehaviour>) -> Self {
        let transfers = Transfers { until_failure: 0, all_fail: misbehaviour == Some(Misbehaviour::FailingDma) };
        let under_way = Vec::with_capacity(MAX_OPERATIONS);
        Self { under_way, requests_posted: 0, answers_taken: 0, transfers, misbehaviour }
    }

    pub(super) fn start(&mut self, sequence: u64, context: ContextId, operation: Operation) -> Result<(), Status> {
        if self.under_way.len() == MAX_OPERATIONS {
            return Err(Status::TooManyOperations);
        }
        let state = State::Running;
        self.under_way.push(UnderWay { sequence, context, operation, pages: 0, faults: 0, value: 0, state });
        Ok(())
    }

    /// Ends the operations of a context.
    pub(super) fn detach(&mut self, context: ContextId) {
        for one in self.under_way.iter_mut().filter(|one| one.context == context) {
            if !matches!(one.state, State::Ending(_)) {
                one.state = State::Ending(OperationStatus::Detached);
            }
        }
    }

    /// Makes the `count`-th transfer from now on fail; 0 makes none fail.
    pub(super) fn fail_dma(&mut self, count: u64) {
        self.transfers.until_failure = count;
    }

    /// Takes every answer that the guest has given; returns how many. One for an operation that does not wait, because
    /// its context was detached meanwhile, is nothing.
    pub(super) fn take_answers(&mut self, bar: &Bar) -> Result<u64, GuestError> {
        let producer = bar.observe(ANSWER_PRODUCER);
        let given = producer.wrapping_sub(self.answers_taken);
        if given > ANSWER_ENTRIES {
            return Err(GuestError::Answers { producer, consumer: self.answers_taken });
        }
        for _ in 0..given {
            let sequence = self.answers_taken;
            let answer = Answer::decode(&bar.load(answer_place(sequence)), sequence);
            let Answer { operation, verdict } = answer.ok_or(GuestError::Answer(sequence))?;
            let waits = |one: &&mut UnderWay| one.sequence == operation && one.state == State::Waiting;
            if let Some(one) = self.under_way.iter_mut().find(waits) {
                one.faults += 1;
                one.state = verdict.end().map_or(State::Running, State::Ending);
            }
            self.answers_taken = sequence.wrapping_add(1);
        }
        if given > 0 {
            bar.publish(ANSWER_CONSUMER, self.answers_taken);
        }
        Ok(given)
    }

    /// Does one page of each operation and posts what there is to say; returns how many of both.
    pub(super) fn step(&mut self, mapping: &mut Mapping, translations: &mut Translations) -> Result<u64, GuestError> {
        if self.under_way.is_empty() {
            return Ok(0);
        }
        let mut steps = 0;
        for one in &mut self.under_way {
            if one.state == State::Running {
                one.step(mapping, translations, &mut self.transfers);
                steps += 1;
            }
        }
        Ok(steps + self.post(mapping.bar())?)
    }

    fn post(&mut self, bar: &Bar) -> Result<u64, GuestError> {
        let consumer = bar.observe(REQUEST_CONSUMER);
        let untaken = self.requests_posted.wrapping_sub(consumer);
        if untaken > REQUEST_ENTRIES {
            return Err(GuestError::Requests { producer: self.requests_posted, consumer });
        }
        let (mut room, mut posted) = (REQUEST_ENTRIES - untaken, 0);
        for one in &mut self.under_way {
            let Some(request) = one.request().filter(|_| room > 0) else { continue };
            let mut entry = request.encode(self.requests_posted);
            if self.misbehaviour == Some(Misbehaviour::BogusRequest) {
                entry.operation.set(!one.sequence);
            }
            bar.store(request_place(self.requests_posted), &entry);
            self.requests_posted = self.requests_posted.wrapping_add(1);
            one.state = if one.state == State::Asking { State::Waiting } else { State::Gone };
            room -= 1;
            posted += 1;
        }
        if posted > 0 {
            bar.publish(REQUEST_PRODUCER, self.requests_posted);
            self.under_way.retain(|one| one.state != State::Gone);
        }
        Ok(posted)
    }
}

impl UnderWay {
    fn step(&mut self, mapping: &mut Mapping, translations: &mut Translations, transfers: &mut Transfers) {
        let page = VirtualPage(self.operation.span().first().0 + self.pages);
        let access = self.operation.access();
        self.state = match translations.translate(mapping.bar(), self.context, page, access) {
            Err(Broken) => State::Ending(OperationStatus::BadEntry),
            Ok(None) => State::Asking,
            Ok(Some(target)) => match transfers.transfer(mapping, self.operation, self.pages, target) {
                Err(status) => State::Ending(status),
                Ok(value) => {
                    self.value = value;
                    self.pages += 1;
                    let is_done = self.pages == self.operation.span().count();
                    if is_done { State::Ending(OperationStatus::Done) } else { State::Running }
                }
            },
        };
    }

    /// What there is to say to the guest.
    fn request(&self) -> Option<Request> {
        let (operation, pages, faults) = (self.sequence, self.pages, self.faults);
        match self.state {
            State::Running | State::Waiting | State::Gone => None,
            State::Ending(status) => {
                Some(Request::Ended(Ended { operation, status, pages, faults, value: self.value }))
            }
            State::Asking => {
                let span = self.operation.span();
                let left = PageSpan::new(VirtualPage(span.first().0 + pages), span.count() - pages).ok()?;
                let access = self.operation.access();
                Some(Request::PageFault(PageFault { operation, span: left, access, faults }))
            }
        }
    }
}

/// Transfers of pages, and which of them shall fail.
struct Transfers {
    until_failure: u64,
    all_fail: bool,
}

impl Transfers {
    /// Does page `index` of an operation, which is at `target`; returns what an addition found.
    fn transfer(
        &mut self,
        mapping: &mut Mapping,
        operation: Operation,
        index: u64,
        target: Target,
    ) -> Result<u64, OperationStatus> {
        if matches!(target, Target::Ram(_)) && self.fails() {
            return Err(OperationStatus::DmaFailed);
        }
        let at = |buffer: FrameIndex| FrameIndex(buffer.0 + index);
        let moved = match (operation, target) {
            (Operation::Read { buffer, .. }, Target::Ram(frame)) => mapping.read_ram(frame, at(buffer)),
            (Operation::Read { buffer, .. }, Target::Local(frame)) => mapping.copy_frame(frame, at(buffer)),
            (Operation::Write { buffer, .. }, Target::Ram(frame)) => mapping.write_ram(at(buffer), frame),
            (Operation::Write { buffer, .. }, Target::Local(frame)) => mapping.copy_frame(at(buffer), frame),
            (Operation::Add { word, operand, .. }, Target::Ram(frame)) => {
                return mapping.add_to_ram(frame, word, operand).map_err(status_of);
            }
            // Only RAM can be changed atomically; the guest says so with the entry.
            (Operation::Add { .. }, Target::Local(_)) => return Err(OperationStatus::BadEntry),
        };
        mapping.bar().finish_writes();
        moved.map(|()| 0).map_err(status_of)
    }

    fn fails(&mut self) -> bool {
        let is_last = self.until_failure == 1;
        self.until_failure = self.until_failure.saturating_sub(1);
        is_last || self.all_fail
    }
}

fn status_of(error: TransferError) -> OperationStatus {
    match error {
        TransferError::Unreachable => OperationStatus::DmaFailed,
        TransferError::Frame(_) | TransferError::Ram(_) => OperationStatus::BadEntry,
    }
}
