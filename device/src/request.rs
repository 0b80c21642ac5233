//! What the device asks of the guest, and what the guest answers.
//!
//! ```text
//!   command Read ──▶ completed: the operation runs
//!                        │ a page has no usable entry
//!                        ├──▶ request PageFault ──▶ guest programs entries ──▶ answer Retry ──▶ it goes on
//!                        │                          guest cannot           ──▶ answer Fault ──▶ it ends
//!                        └──▶ request Ended: status, pages done, faults
//! ```
//!
//! | kind | request     | page       | count              | detail            | value              |
//! |------|-------------|------------|--------------------|-------------------|--------------------|
//! | 1    | `PageFault` | the first  | pages left         | `Access`          | zero               |
//! | 2    | `Ended`     | zero       | pages done         | `OperationStatus` | what `Add` found   |
//!
//! Invariants:
//! 1. An operation has at most one unanswered `PageFault`, and none after `Ended`.
//! 2. The operation's number is the sequence number of its command.
use zerocopy::little_endian::U64;

use crate::context::{PageSpan, VirtualPage};
use crate::layout::{AnswerEntry, RequestEntry};
use crate::wire::wire_enum;

const KIND_PAGE_FAULT: u64 = 1;
const KIND_ENDED: u64 = 2;

wire_enum! {
    /// What an operation does with a page.
    Access {
        /// It reads it.
        Read = 1, "read";
        /// It writes it.
        Write = 2, "write";
        /// It changes it in one step, which no CPU may see half-done: the page must be the device's alone.
        Atomic = 3, "change atomically";
    }
}

wire_enum! {
    /// How an operation ended.
    OperationStatus {
        /// All pages were done.
        Done = 1, "done";
        /// A page is not mapped or not readable.
        Fault = 2, "a page is not mapped, or allows no access";
        /// A page may not be written.
        NotPermitted = 3, "a page may not be written";
        /// The guest could not help.
        Failed = 4, "the guest could not fault a page in";
        /// A transfer between RAM and the device failed.
        DmaFailed = 5, "a transfer between RAM and the device failed";
        /// An entry of the page table is none, or names a frame that does not exist.
        BadEntry = 6, "the device page table is broken";
        /// The context was detached.
        Detached = 7, "the context was detached";
    }
}

wire_enum! {
    /// The guest's answer to a page fault.
    Verdict {
        /// Look again: entries were programmed, or something was in the way.
        Retry = 1, "look again";
        /// The page is not mapped or not readable.
        Fault = 2, "not mapped, or allows no access";
        /// The page may not be written.
        NotPermitted = 3, "may not be written";
        /// The guest could not help.
        Failed = 4, "could not be faulted in";
    }
}

impl Verdict {
    /// How an operation ends that gets this answer; `None` where it goes on.
    pub const fn end(self) -> Option<OperationStatus> {
        match self {
            Self::Retry => None,
            Self::Fault => Some(OperationStatus::Fault),
            Self::NotPermitted => Some(OperationStatus::NotPermitted),
            Self::Failed => Some(OperationStatus::Failed),
        }
    }
}

/// A miss of the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageFault {
    /// The operation.
    pub operation: u64,
    /// All pages that the operation has still to do; the first one misses.
    pub span: PageSpan,
    /// For what.
    pub access: Access,
    /// How many misses have been answered before.
    pub faults: u64,
}

/// The end of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ended {
    /// The operation.
    pub operation: u64,
    /// How.
    pub status: OperationStatus,
    /// Pages that were done, from the first on.
    pub pages: u64,
    /// How many misses were answered.
    pub faults: u64,
    /// What an addition found in memory.
    pub value: u64,
}

/// Something the device asks or tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// A page has no usable entry.
    PageFault(PageFault),
    /// An operation has ended.
    Ended(Ended),
}

impl Request {
    /// The operation.
    pub const fn operation(self) -> u64 {
        match self {
            Self::PageFault(PageFault { operation, .. }) | Self::Ended(Ended { operation, .. }) => operation,
        }
    }

    /// The ring entry of this request, as the one with index `sequence`.
    pub fn encode(self, sequence: u64) -> RequestEntry {
        let (kind, page, count, detail, faults, value) = match self {
            Self::PageFault(PageFault { span, access, faults, .. }) => {
                (KIND_PAGE_FAULT, span.first().0, span.count(), access.to_wire(), faults, 0)
            }
            Self::Ended(Ended { status, pages, faults, value, .. }) => {
                (KIND_ENDED, 0, pages, status.to_wire(), faults, value)
            }
        };
        let [sequence, kind, operation] = [sequence, kind, self.operation()].map(U64::new);
        let [page, count, detail, faults, value] = [page, count, detail, faults, value].map(U64::new);
        RequestEntry { sequence, kind, operation, page, count, detail, faults, value }
    }

    /// The request in a ring entry; `None` where there is no such request. The sequence is not looked at.
    pub fn decode(entry: &RequestEntry) -> Option<Self> {
        let (operation, faults) = (entry.operation.get(), entry.faults.get());
        match entry.kind.get() {
            KIND_PAGE_FAULT => {
                let span = PageSpan::new(VirtualPage(entry.page.get()), entry.count.get()).ok()?;
                let access = Access::from_wire(entry.detail.get())?;
                Some(Self::PageFault(PageFault { operation, span, access, faults }))
            }
            KIND_ENDED => {
                let status = OperationStatus::from_wire(entry.detail.get())?;
                let (pages, value) = (entry.count.get(), entry.value.get());
                Some(Self::Ended(Ended { operation, status, pages, faults, value }))
            }
            _ => None,
        }
    }
}

/// The guest's answer to a page fault of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The operation.
    pub operation: u64,
    /// What it shall do.
    pub verdict: Verdict,
}

impl Answer {
    /// The ring entry of this answer, as the one with index `sequence`.
    pub fn encode(self, sequence: u64) -> AnswerEntry {
        AnswerEntry {
            sequence: U64::new(sequence),
            operation: U64::new(self.operation),
            verdict: U64::new(self.verdict.to_wire()),
            reserved: U64::ZERO,
        }
    }

    /// The answer in a ring entry with index `sequence`; `None` where there is no such answer, or it names another index.
    pub fn decode(entry: &AnswerEntry, sequence: u64) -> Option<Self> {
        let verdict = Verdict::from_wire(entry.verdict.get())?;
        (entry.sequence.get() == sequence).then_some(Self { operation: entry.operation.get(), verdict })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_pass_and_others_are_none() {
        let span = PageSpan::new(VirtualPage(0x1234), 7).unwrap();
        let fault = PageFault { operation: 9, span, access: Access::Write, faults: 2 };
        let status = OperationStatus::DmaFailed;
        let ended = Ended { operation: 9, status, pages: 3, faults: 1, value: u64::MAX };
        for request in [Request::PageFault(fault), Request::Ended(ended)] {
            let entry = request.encode(5);
            assert_eq!((entry.sequence.get(), Request::decode(&entry)), (5, Some(request)));
            for change in [
                |entry: &mut RequestEntry| entry.kind.set(0),
                |entry: &mut RequestEntry| entry.kind.set(3),
                |entry: &mut RequestEntry| entry.detail.set(0),
                |entry: &mut RequestEntry| entry.detail.set(99),
            ] {
                let mut wrong = entry;
                change(&mut wrong);
                assert_eq!(Request::decode(&wrong), None);
            }
        }
        let mut far = Request::PageFault(fault).encode(5);
        far.page.set(u64::MAX);
        assert_eq!(Request::decode(&far), None);
        let answer = Answer { operation: 9, verdict: Verdict::NotPermitted };
        assert_eq!(Answer::decode(&answer.encode(4), 4), Some(answer));
        assert_eq!(Answer::decode(&answer.encode(4), 5), None);
        for verdict in [0, 5, u64::MAX] {
            let mut entry = answer.encode(4);
            entry.verdict.set(verdict);
            assert_eq!(Answer::decode(&entry, 4), None);
        }
    }
}
