//! Tests of the driver against devices that are scripted, silent or hostile.
//!
//! The device acts inside the deadline of the driver's wait, so each test is deterministic and runs
//! on one thread.
use super::*;
use crate::command::Operation;
use crate::context::{ContextId, MAX_OPERATIONS, PageSpan, VirtualPage};
use crate::geometry::NoSuchFrame;
use crate::layout::{
    CompletionEntry, LAYOUT_VERSION, REQUEST_CONSUMER, REQUEST_PRODUCER, RequestEntry, answer_place, request_place,
};
use crate::request::{Access, Ended, OperationStatus, PageFault, Verdict};
use crate::testing::{Memory, Script};
use proptest::prelude::*;
use std::boxed::Box;
use std::vec::Vec;
use zerocopy::little_endian::{U32, U64};

const POLLS: u32 = 20;

fn completion(sequence: u64, status: u64, frames: u64) -> CompletionEntry {
    CompletionEntry {
        sequence: U64::new(sequence),
        status: U64::new(status),
        frames: U64::new(frames),
        reserved: U64::ZERO,
    }
}

/// An obedient device that completes everything there is and remembers it.
fn obedient<'a>(bar: &'a Bar, seen: &'a mut Vec<(u64, Command)>, next: &'a mut u64) -> impl FnMut() + 'a {
    move || {
        let producer = bar.observe(PRODUCER);
        while *next != producer {
            let entry = bar.load(command_place(*next));
            let command = Command::decode(&entry, *next, bar.geometry()).unwrap();
            seen.push((*next, command));
            bar.store(completion_place(*next), &completion(*next, 1, command.frames()));
            *next = next.wrapping_add(1);
            bar.publish(CONSUMER, *next);
        }
    }
}

fn invert(first: u64, count: u64) -> Command {
    Command::Invert(FrameRange { first: FrameIndex(first), count })
}

fn span(first: u64, count: u64) -> PageSpan {
    PageSpan::new(VirtualPage(first), count).unwrap()
}

fn read(first: u64, count: u64) -> Operation {
    Operation::Read { span: span(first, count), buffer: FrameIndex(0) }
}

/// A device on which one `Read` of pages 100 to 109 is under way, as command 0.
fn with_a_read(memory: &Memory) -> Device {
    let bar = memory.bar();
    let mut device = Device::attach(memory.bar()).unwrap();
    let command = Command::Start { context: ContextId::new(3).unwrap(), operation: read(100, 10) };
    let mut deadline = Script::new(POLLS, || {
        bar.store(completion_place(0), &completion(0, 1, 0));
        bar.publish(CONSUMER, 1);
    });
    assert_eq!(device.run(command, &mut deadline), Ok(Completion { sequence: 0, frames: 0 }));
    device
}

fn post(bar: &Bar, index: u64, request: Request, change: fn(&mut RequestEntry)) {
    let mut entry = request.encode(index);
    change(&mut entry);
    bar.store(request_place(index), &entry);
    bar.publish(REQUEST_PRODUCER, index + 1);
}

fn miss(first: u64, count: u64) -> Request {
    Request::PageFault(PageFault { operation: 0, span: span(first, count), access: Access::Read, faults: 0 })
}

fn ended(status: OperationStatus, pages: u64) -> Request {
    Request::Ended(Ended { operation: 0, status, pages, faults: 1, value: 0 })
}

#[test]
fn misses_are_taken_answered_and_the_end_is_told() {
    let memory = Memory::ready(0);
    let bar = memory.bar();
    let mut device = with_a_read(&memory);
    assert_eq!(device.next_request(), Ok(None));
    let retry = Answer { operation: 0, verdict: Verdict::Retry };
    assert_eq!(device.answer(retry), Err(DeviceError::NothingToAnswer(0)));
    post(&bar, 0, miss(104, 6), |_| ());
    assert_eq!(device.next_request(), Ok(Some(miss(104, 6))));
    assert_eq!(bar.observe(REQUEST_CONSUMER), 1);
    assert_eq!(device.answer(retry), Ok(()));
    assert_eq!(Answer::decode(&bar.load(answer_place(0)), 0), Some(retry));
    assert_eq!(device.answer(retry), Err(DeviceError::NothingToAnswer(0)), "one answer to one question");
    post(&bar, 1, ended(OperationStatus::Done, 10), |_| ());
    assert_eq!(device.next_request(), Ok(Some(ended(OperationStatus::Done, 10))));
    assert_eq!(device.next_request(), Ok(None));
    bar.publish(STATE, DeviceState::Stopped.to_wire());
    assert_eq!(device.next_request(), Err(DeviceError::NotReady(2)));
}

#[test]
fn a_request_that_the_operation_cannot_make_ends_the_use_of_the_device() {
    let wrong_access = PageFault { operation: 0, span: span(104, 6), access: Access::Write, faults: 0 };
    let stranger = PageFault { operation: 1, access: Access::Read, ..wrong_access };
    let nothing = |_: &mut RequestEntry| ();
    type Change = fn(&mut RequestEntry);
    let cases: [(Request, Change); 10] = [
        (miss(104, 6), |entry| entry.sequence.set(1)),
        (miss(104, 6), |entry| entry.kind.set(7)),
        (miss(104, 6), |entry| entry.detail.set(0)),
        (miss(99, 11), nothing),
        (miss(104, 5), nothing),
        (miss(104, 7), nothing),
        (Request::PageFault(wrong_access), nothing),
        (Request::PageFault(stranger), nothing),
        (ended(OperationStatus::Done, 9), nothing),
        (ended(OperationStatus::Fault, 10), nothing),
    ];
    for (request, change) in cases {
        let memory = Memory::ready(0);
        let mut device = with_a_read(&memory);
        post(&memory.bar(), 0, request, change);
        let operation = request.operation();
        let bad = DeviceError::BadRequest { sequence: 0, operation };
        assert_eq!(device.next_request(), Err(bad), "{request:?}");
        assert_eq!(device.submit(Command::Nop), Err(bad));
    }
    let memory = Memory::ready(0);
    let mut device = with_a_read(&memory);
    post(&memory.bar(), 0, miss(100, 10), nothing);
    post(&memory.bar(), 1, miss(100, 10), nothing);
    assert!(device.next_request().is_ok());
    let twice = DeviceError::BadRequest { sequence: 1, operation: 0 };
    assert_eq!(device.next_request(), Err(twice), "it asks again before it is answered");
    for producer in [65, u64::MAX] {
        let memory = Memory::ready(0);
        let mut device = with_a_read(&memory);
        memory.bar().publish(REQUEST_PRODUCER, producer);
        assert_eq!(device.next_request(), Err(DeviceError::BadRequestIndex { found: producer, ours: 0 }));
    }
}

#[test]
fn operations_are_counted_and_a_refused_one_is_forgotten() {
    let memory = Memory::ready(0);
    let bar = memory.bar();
    let mut device = Device::attach(memory.bar()).unwrap();
    let command = Command::Start { context: ContextId::new(0).unwrap(), operation: read(0, 1) };
    for _ in 0..MAX_OPERATIONS {
        device.submit(command).unwrap();
    }
    assert_eq!(device.submit(command), Err(DeviceError::TooManyOperations));
    bar.store(completion_place(0), &completion(0, Status::TooManyOperations.to_wire(), 0));
    bar.publish(CONSUMER, 1);
    let refused = DeviceError::Refused { sequence: 0, status: Status::TooManyOperations };
    assert_eq!(device.wait(&mut Script::new(POLLS, || ())), Err(refused));
    assert!(device.submit(command).is_ok() && device.submit(command).is_err());
}

#[test]
fn commands_pass_in_order_while_rings_and_indices_wrap_around() {
    let start = u64::MAX - 300;
    let memory = Memory::ready(start);
    let (bar, mut seen, mut next) = (memory.bar(), Vec::new(), start);
    let mut device = Device::attach(memory.bar()).unwrap();
    let mut expected = Vec::new();
    let mut deadline = Script::new(POLLS, obedient(&bar, &mut seen, &mut next));
    for round in 0..1000u64 {
        let batch = 1 + round % RING_ENTRIES;
        for i in 0..batch {
            let command = if i % 3 == 0 { Command::Nop } else { invert(round % 200, 1 + i % 40) };
            let sequence = device.submit(command).unwrap();
            assert_eq!(sequence, start.wrapping_add(expected.len() as u64));
            expected.push((sequence, command));
        }
        for (sequence, command) in &expected[expected.len() - batch as usize..] {
            let done = Completion { sequence: *sequence, frames: command.frames() };
            assert_eq!(device.wait(&mut deadline), Ok(done));
        }
    }
    drop(deadline);
    assert!(expected.len() > 60_000 && seen == expected && memory.canaries_live());
}

#[test]
fn a_full_ring_takes_no_more_and_an_idle_one_gives_nothing() {
    let memory = Memory::ready(0);
    let mut device = Device::attach(memory.bar()).unwrap();
    let mut never = Script::new(POLLS, || ());
    assert_eq!(device.wait(&mut never), Err(DeviceError::Idle));
    for sequence in 0..128 {
        assert_eq!(device.submit(Command::Nop), Ok(sequence));
    }
    assert_eq!(device.submit(Command::Nop), Err(DeviceError::RingFull));
    assert_eq!(device.ping(&mut never), Err(DeviceError::Busy(128)));
    assert_eq!(device.invert([], &mut never), Err(DeviceError::Busy(128)));
}

#[test]
fn frames_become_ranges_and_all_of_them_are_counted() {
    let memory = Memory::ready(0);
    let (bar, mut seen, mut next) = (memory.bar(), Vec::new(), 0);
    let mut device = Device::attach(memory.bar()).unwrap();
    let mut deadline = Script::new(POLLS, obedient(&bar, &mut seen, &mut next));
    let frames = (10..20).chain([20, 22, 21, 21, 247, 0]).map(FrameIndex);
    assert_eq!(device.invert(frames, &mut deadline), Ok(16));
    assert_eq!(device.invert([], &mut deadline), Ok(0));
    assert_eq!(device.invert((0..248).map(|i| FrameIndex(i ^ 1)), &mut deadline), Ok(248));
    drop(deadline);
    let ranges: Vec<Command> = seen.iter().map(|(_, command)| *command).collect();
    assert_eq!(
        ranges[..6],
        [invert(10, 11), invert(22, 1), invert(21, 1), invert(21, 1), invert(247, 1), invert(0, 1)]
    );
    assert!(ranges.len() as u64 - 6 > RING_ENTRIES - 4, "the last batch nearly fills the ring: {}", ranges.len());
}

#[test]
fn a_run_of_frames_is_cut_at_the_largest_command() {
    let cut = |frames: &[u64]| -> Vec<FrameRange> {
        Runs { frames: frames.iter().copied().map(FrameIndex).peekable() }.collect()
    };
    let range = |first, count| FrameRange { first: FrameIndex(first), count };
    assert_eq!(cut(&(0..2500).collect::<Vec<_>>()), [range(0, 1024), range(1024, 1024), range(2048, 452)]);
    assert_eq!(cut(&[u64::MAX, 0]), [range(u64::MAX, 1), range(0, 1)]);
}

#[test]
fn a_bad_frame_of_the_caller_never_reaches_the_device() {
    let memory = Memory::ready(0);
    let (bar, mut seen, mut next) = (memory.bar(), Vec::new(), 0);
    let mut device = Device::attach(memory.bar()).unwrap();
    let none = |frame| DeviceError::NoSuchFrame(NoSuchFrame { frame: FrameIndex(frame), frames: 248 });
    assert_eq!(device.submit(invert(248, 1)), Err(none(248)));
    assert_eq!(device.submit(invert(0, 0)), Err(DeviceError::BadCount(0)));
    let mut deadline = Script::new(POLLS, obedient(&bar, &mut seen, &mut next));
    assert_eq!(device.invert([1, 3, 248, 5].map(FrameIndex), &mut deadline), Err(none(248)));
    assert_eq!(device.ping(&mut deadline), Ok(()), "the device stays usable");
    drop(deadline);
    assert_eq!(seen.len(), 3);
}

#[test]
fn a_device_that_never_answers_is_given_up_within_the_bound() {
    for alive in [false, true] {
        let memory = Memory::ready(7);
        let bar = memory.bar();
        let mut device = Device::attach(memory.bar()).unwrap();
        let mut looks = 0;
        let mut deadline = Script::new(POLLS, || {
            looks += 1;
            if alive {
                bar.publish(HEARTBEAT, u64::from(looks));
            }
        });
        let timeout = DeviceError::Timeout { sequence: 7, alive };
        assert_eq!(device.ping(&mut deadline), Err(timeout));
        assert_eq!(device.ping(&mut deadline), Err(timeout), "it is not asked again");
        assert_eq!(device.submit(Command::Nop), Err(timeout));
        assert_eq!(looks, POLLS + 1);
    }
}

#[test]
fn each_broken_rule_has_its_error_and_ends_the_use_of_the_device() {
    let answer = |entry: CompletionEntry| {
        move |bar: &Bar| {
            bar.store(completion_place(5), &entry);
            bar.publish(CONSUMER, 6);
        }
    };
    let index = |consumer| move |bar: &Bar| bar.publish(CONSUMER, consumer);
    let bad_index = |consumer| DeviceError::BadIndex { consumer, oldest: 5, producer: 6 };
    type Act = Box<dyn Fn(&Bar)>;
    let cases: [(Act, DeviceError); 9] = [
        (Box::new(answer(completion(4, 1, 2))), DeviceError::WrongSequence { expected: 5, found: 4 }),
        (Box::new(answer(completion(5, 0, 2))), DeviceError::UnknownStatus { sequence: 5, found: 0 }),
        (
            Box::new(answer(completion(5, 1 << 32 | 1, 2))),
            DeviceError::UnknownStatus { sequence: 5, found: 1 << 32 | 1 },
        ),
        (Box::new(answer(completion(5, 1, 3))), DeviceError::WrongCount { sequence: 5, expected: 2, found: 3 }),
        (Box::new(index(4)), bad_index(4)),
        (Box::new(index(7)), bad_index(7)),
        (Box::new(index(u64::MAX)), bad_index(u64::MAX)),
        (Box::new(|bar| bar.publish(STATE, DeviceState::Stopped.to_wire())), DeviceError::NotReady(2)),
        (Box::new(|bar| bar.publish(STATE, 99)), DeviceError::NotReady(99)),
    ];
    for (act, error) in cases {
        let memory = Memory::ready(5);
        let bar = memory.bar();
        let mut device = Device::attach(memory.bar()).unwrap();
        let mut deadline = Script::new(POLLS, || act(&bar));
        assert_eq!(device.run(invert(0, 2), &mut deadline), Err(error));
        assert_eq!(device.ping(&mut deadline), Err(error), "a device that broke a rule is not used again");
        assert!(memory.canaries_live());
    }
}

#[test]
fn a_refused_command_is_an_error_of_that_command_only() {
    let memory = Memory::ready(0);
    let bar = memory.bar();
    let mut device = Device::attach(memory.bar()).unwrap();
    let mut sequence = 0;
    let mut deadline = Script::new(POLLS, || {
        let status = if sequence == 1 { Status::BadFrame } else { Status::Done };
        bar.store(completion_place(sequence), &completion(sequence, status.to_wire(), 0));
        sequence += 1;
        bar.publish(CONSUMER, sequence);
    });
    assert_eq!(device.ping(&mut deadline), Ok(()));
    assert_eq!(
        device.run(invert(0, 1), &mut deadline),
        Err(DeviceError::Refused { sequence: 1, status: Status::BadFrame })
    );
    assert_eq!(device.ping(&mut deadline), Ok(()));
}

#[test]
fn what_was_completed_before_the_device_stopped_counts() {
    let memory = Memory::ready(0);
    let bar = memory.bar();
    let mut device = Device::attach(memory.bar()).unwrap();
    let mut deadline = Script::new(POLLS, || {
        bar.store(completion_place(0), &completion(0, 1, 0));
        bar.publish(CONSUMER, 1);
        bar.publish(STATE, DeviceState::Stopped.to_wire());
    });
    assert_eq!(device.ping(&mut deadline), Ok(()));
    assert_eq!(device.ping(&mut deadline), Err(DeviceError::NotReady(2)));
}

#[test]
fn a_bar_of_something_else_is_not_attached_to() {
    let attach = |change: fn(&Memory)| {
        let memory = Memory::ready(0);
        change(&memory);
        Device::attach(memory.bar()).unwrap_err()
    };
    assert_eq!(Device::attach(Memory::new().bar()).unwrap_err(), AttachError::Foreign(0));
    let foreign = u64::from_le_bytes(*b"VENDORX!");
    assert_eq!(attach(|memory| memory.fill(0, b"VENDORX!")), AttachError::Foreign(foreign));
    let version = attach(|memory| {
        let mut identification = memory.bar().load(IDENTIFICATION);
        identification.version = U32::new(LAYOUT_VERSION + 1);
        memory.bar().store(IDENTIFICATION, &identification);
    });
    assert_eq!(version, AttachError::Version(3));
    assert_eq!(attach(|memory| memory.bar().publish(STATE, 0)), AttachError::NotReady(0));
    assert_eq!(attach(|memory| memory.bar().publish(PRODUCER, 3)), AttachError::InFlight { producer: 3, consumer: 0 });
}

proptest! {
    /// Any bytes at all in the control area, changing at every look: the driver ends each call, and
    /// writes nothing but its own pages.
    #[test]
    fn a_hostile_device_gets_nowhere(
        keep_identification: bool,
        writes in proptest::collection::vec((any::<prop::sample::Index>(), prop_oneof![0u64..12, any::<u64>()]), 1..200),
        calls in proptest::collection::vec((0u8..8, 0u64..260, 0u64..6), 1..40),
    ) {
        let memory = Memory::ready(0);
        let words: Vec<usize> =
            [0x40, 0x48, 0x80, 0xc0, 0x100].into_iter().chain((0x5000..0x5100).step_by(8)).chain((0x4000..0x4100).step_by(8)).collect();
        let mut writes = writes.into_iter().cycle();
        let mut hostile = || {
            for (place, value) in writes.by_ref().take(3) {
                // Mostly where it matters: the device's words and the first completions.
                memory.fill(*place.get(&words), &value.to_le_bytes());
            }
        };
        if !keep_identification {
            for offset in (0..64).step_by(8) {
                memory.fill(offset, &(offset as u64).to_le_bytes());
            }
        }
        if let Ok(mut device) = Device::attach(memory.bar()) {
            prop_assert!(keep_identification);
            let frames_before = memory.bytes()[0x7000..].to_vec();
            let context = ContextId::new(0).unwrap();
            let mut deadline = Script::new(POLLS, &mut hostile);
            for (call, first, count) in calls {
                match call {
                    4 => drop(device.submit(Command::Start { context, operation: read(first, count.max(1)) })),
                    5 => drop(device.next_request()),
                    6 => drop(device.answer(Answer { operation: first, verdict: Verdict::Retry })),
                    0 => drop(device.submit(invert(first, count))),
                    1 => drop(device.wait(&mut deadline)),
                    2 => drop(device.run(Command::Nop, &mut deadline)),
                    _ => drop(device.invert((first..first + count).map(FrameIndex), &mut deadline)),
                }
                prop_assert!(device.in_flight() <= RING_ENTRIES);
            }
            prop_assert!(memory.bytes()[0x7000..] == frames_before[..]);
        } else {
            prop_assert!(!keep_identification);
        }
        prop_assert!(memory.canaries_live());
    }
}
