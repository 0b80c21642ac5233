//! The control area and the rings as the guest's driver sees them: a hostile device
//!
//! The input is a script: turns of the device, which writes whatever it likes into its own pages, and calls of the driver. It
//! begins with the index at which everything starts, and flags.
//!
//! Oracle: what the script has written is known. A completion that the driver takes must stand in the ring, of the command that
//! is due; a request must be about an operation that was started, has not ended and does not wait. The driver writes nowhere but
//! in its own pages, no page beside the BAR changes, and after a failure every call says the same.
use std::collections::{BTreeMap, VecDeque};

use ferry_device::bar::WordIndex;
use ferry_device::command::{DeviceState, Operation};
use ferry_device::driver::Deadline;
use ferry_device::geometry::{CONTROL_BYTES, FRAME_BYTES, FrameRange};
use ferry_device::identity::DeviceType;
use ferry_device::layout::{ANSWER_ENTRIES, REQUEST_ENTRIES, RING_ENTRIES};
use ferry_device::request::{Access, Answer, Request, Verdict};
use ferry_device::{Command, ContextId, Device, DeviceError, FrameIndex, Identity, PageSpan, VirtualPage};
use zerocopy::IntoBytes;

use crate::Target;
use crate::memory::BarMemory;
use crate::script::Script;

/// See the module.
pub const TARGET: Target = Target { name: "driver", check, seeds, most_bytes: 1024 };

/// Pages that the device writes, and where in them which words are, in bytes.
const DEVICE_PAGES: [usize; 3] = [0, 4, 5];
const STATE: usize = 0x40;
const CONSUMER: usize = 0x80;
const REQUEST_PRODUCER: usize = 0xc0;
const ANSWER_CONSUMER: usize = 0x100;
const COMPLETIONS: usize = 0x4000;
const REQUESTS: usize = 0x5000;

/// Words that the guest writes.
const PRODUCER: usize = 0x1000;
const REQUEST_CONSUMER: usize = 0x1040;
const ANSWER_PRODUCER: usize = 0x1080;

/// Looks at the device in one wait.
const POLLS: u32 = 2;

/// A deadline after some looks.
struct Polls(u32);

impl Deadline for Polls {
    fn restart(&mut self) {
        self.0 = POLLS;
    }

    fn expired(&mut self) -> bool {
        self.0 = self.0.saturating_sub(1);
        self.0 == 0
    }
}

/// An operation that the driver has started.
struct Started {
    operation: Operation,
    waits: bool,
}

/// The hostile device, and what is known of the driver.
struct Stage<'m> {
    memory: &'m BarMemory,
    /// What the device has written.
    written: Vec<u8>,
    /// Commands under way: their numbers, and how many frames each changes.
    under_way: VecDeque<(u64, u64)>,
    /// The device's index as the driver has seen it.
    seen: u64,
    operations: BTreeMap<u64, Started>,
    failure: Option<DeviceError>,
}

impl Stage<'_> {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.memory.fill(offset, bytes);
        self.written[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn write_words(&mut self, offset: usize, words: &[u64]) {
        self.write(offset, words.as_bytes());
    }

    /// A word, whoever writes it.
    fn word(&self, offset: usize) -> u64 {
        self.memory.bytes(offset, size_of::<u64>()).iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
    }

    /// Lets the device do something in its pages.
    fn act(&mut self, script: &mut Script) {
        match script.below(6) {
            // Any word.
            0 => {
                let page = DEVICE_PAGES[usize::from(script.below(DEVICE_PAGES.len() as u8))];
                let offset = script.word_below(FRAME_BYTES);
                let value = script.long();
                self.write_words(page * FRAME_BYTES + offset, &[value]);
            }
            // An index, near where it belongs.
            1 => {
                let near = i64::from(script.byte() as i8);
                for (of_device, of_guest) in
                    [(CONSUMER, PRODUCER), (REQUEST_PRODUCER, REQUEST_CONSUMER), (ANSWER_CONSUMER, ANSWER_PRODUCER)]
                {
                    if script.byte() & 1 == 0 {
                        let index = self.word(of_guest).wrapping_add_signed(near);
                        self.write_words(of_device, &[index]);
                    }
                }
            }
            // Completions of everything that is under way, and then one of them wrong.
            2 => {
                for (sequence, frames) in self.under_way.clone() {
                    self.write_words(completion(sequence), &[sequence, 1, frames, 0]);
                }
                let (wrong, field) = (script.number(), usize::from(script.below(4)));
                if let Some((sequence, _)) = self.under_way.get(wrong as usize).copied() {
                    let value = script.number();
                    self.write_words(completion(sequence) + field * size_of::<u64>(), &[value]);
                }
                let producer = self.word(PRODUCER);
                self.write_words(CONSUMER, &[producer]);
            }
            // A request.
            3 => {
                let sequence = self.word(REQUEST_CONSUMER);
                let place = REQUESTS + (sequence % REQUEST_ENTRIES) as usize * 64;
                let kind = 1 + u64::from(script.below(3));
                let oldest = self.operations.keys().next().copied().unwrap_or(0);
                let operation = oldest.wrapping_add(script.number());
                let [page, count, detail, faults, value] = std::array::from_fn(|_| script.number());
                self.write_words(place, &[sequence, kind, operation, page, count, detail, faults, value]);
                self.write_words(REQUEST_PRODUCER, &[sequence.wrapping_add(1)]);
            }
            4 => {
                let state = script.number();
                self.write_words(STATE, &[state]);
            }
            _ => {
                let consumer = self.word(ANSWER_PRODUCER);
                self.write_words(ANSWER_CONSUMER, &[consumer]);
            }
        }
    }

    /// Notes how a call ended, and returns whether it was no failure.
    fn note<T>(&mut self, result: Result<T, DeviceError>) -> Option<T> {
        match (result, self.failure) {
            (Ok(_), Some(failure)) => panic!("{failure}, and the driver goes on"),
            (Ok(value), None) => Some(value),
            (Err(error), failure) => {
                assert!(failure.is_none_or(|failure| failure == error), "{error} after {failure:?}");
                assert!(!error.to_string().is_empty(), "an error has a text");
                self.failure = Some(error).filter(|error| error.is_failure());
                None
            }
        }
    }

    fn submit(&mut self, device: &mut Device, script: &mut Script) {
        let Some(command) = command(script) else { return };
        if let Some(sequence) = self.note_submit(device, command) {
            if let Command::Start { operation, .. } = command {
                let old = self.operations.insert(sequence, Started { operation, waits: false });
                assert!(old.is_none(), "two operations have one number");
            }
            self.under_way.push_back((sequence, command.frames()));
        }
    }

    fn note_submit(&mut self, device: &mut Device, command: Command) -> Option<u64> {
        let expected = self.word(PRODUCER);
        let sequence = self.note(device.submit(command))?;
        assert_eq!(sequence, expected, "a command is out of its order");
        assert!(command.check(device.geometry()).is_ok(), "a command was submitted that the device cannot do");
        Some(sequence)
    }

    fn wait(&mut self, device: &mut Device) {
        let due = self.under_way.front().copied();
        let result = device.wait(&mut Polls(POLLS));
        if let (Some((sequence, _)), None) = (due, self.failure)
            && self.seen == sequence
        {
            self.seen = self.word(CONSUMER);
            match (self.seen.wrapping_sub(sequence), result) {
                (0, Err(DeviceError::Timeout { .. } | DeviceError::NotReady(_))) => {}
                (0, _) => panic!("nothing is completed, and {result:?}"),
                (done, Err(DeviceError::BadIndex { .. })) => assert!(done > self.under_way.len() as u64, "{result:?}"),
                (done, _) => assert!(done <= self.under_way.len() as u64, "{done} are completed, and {result:?}"),
            }
        }
        if let Err(DeviceError::Refused { sequence, .. }) = result {
            assert_eq!(Some(sequence), due.map(|(sequence, _)| sequence), "another command was refused");
            self.under_way.pop_front();
            self.operations.remove(&sequence);
        }
        if let Some(done) = self.note(result) {
            let place = completion(done.sequence);
            assert_eq!(Some((done.sequence, done.frames)), due, "another command was completed");
            let found = [0, 8, 16].map(|field| self.word(place + field));
            assert_eq!(found, [done.sequence, 1, done.frames], "the ring does not say so");
            self.under_way.pop_front();
        }
    }

    fn take_request(&mut self, device: &mut Device) {
        let posted = self.word(REQUEST_PRODUCER).wrapping_sub(self.word(REQUEST_CONSUMER));
        let Some(Some(request)) = self.note(device.next_request()) else { return };
        assert!((1..=REQUEST_ENTRIES).contains(&posted), "{posted} requests are in the ring, and one is taken");
        let started = self.operations.get_mut(&request.operation()).expect("a request is about no operation");
        let span = started.operation.span();
        match request {
            Request::PageFault(fault) => {
                assert!(!started.waits, "an operation asks twice");
                assert_eq!(fault.access, started.operation.access());
                let (left, all) = (fault.span.numbers(), span.numbers());
                assert!(left.start >= all.start && left.end == all.end, "{left:?} of {all:?}");
                started.waits = true;
            }
            Request::Ended(ended) => {
                assert!(ended.pages <= span.count(), "more pages than there are");
                self.operations.remove(&request.operation());
            }
        }
    }

    fn answer(&mut self, device: &mut Device, script: &mut Script) {
        let waiting = self.operations.iter().find(|(_, started)| started.waits).map(|(sequence, _)| *sequence);
        let operation = if script.byte() & 1 == 0 { waiting } else { None }.unwrap_or_else(|| script.number());
        let untaken = self.word(ANSWER_PRODUCER).wrapping_sub(self.word(ANSWER_CONSUMER));
        let result = device.answer(Answer { operation, verdict: Verdict::Retry });
        let waits = self.operations.get(&operation).is_some_and(|started| started.waits);
        if result.is_ok() {
            assert!(waits, "an answer to nobody was taken");
            assert!(untaken < ANSWER_ENTRIES, "{untaken} answers are in the ring, and another was given");
        }
        if waits && self.failure.is_none() {
            // Where the ring has no room, the device broke it, and nothing is answered any more.
            assert!(result.is_ok() || result.is_err_and(DeviceError::is_failure), "{result:?}");
            if let Some(started) = self.operations.get_mut(&operation) {
                started.waits = false;
            }
        }
        self.note(result);
    }
}

fn completion(sequence: u64) -> usize {
    COMPLETIONS + (sequence % RING_ENTRIES) as usize * 32
}

fn command(script: &mut Script) -> Option<Command> {
    let context = ContextId::new(script.below(17).into())?;
    let span = PageSpan::new(VirtualPage(script.number()), script.number()).ok()?;
    let frame = FrameIndex(script.number());
    let access = [Access::Read, Access::Write, Access::Atomic][usize::from(script.below(3))];
    let operation = match access {
        Access::Read => Operation::Read { span, buffer: frame },
        Access::Write => Operation::Write { span, buffer: frame },
        Access::Atomic => Operation::Add { span, word: WordIndex::new(frame.0)?, operand: span.count() },
    };
    Some(match script.below(7) {
        0 => Command::Nop,
        1 => Command::Invert(FrameRange { first: frame, count: span.count() }),
        2 => Command::Attach { context, window: span, root: frame },
        3 => Command::Detach(context),
        4 => Command::Invalidate { context, span },
        5 => Command::FailDma(frame.0),
        _ => Command::Start { context, operation },
    })
}

/// Flag: the identification is what follows in the input.
const FOREIGN: u8 = 1;

thread_local! {
    /// Making it takes longer than most inputs do; each leaves zeros in its frames, or has failed.
    static MEMORY: BarMemory = BarMemory::new();
}

fn check(input: &[u8]) {
    MEMORY.with(|memory| check_on(memory, input));
}

fn check_on(memory: &BarMemory, input: &[u8]) {
    memory.fill(0, &[0; CONTROL_BYTES]);
    let mut script = Script::new(input);
    let (flags, index) = (script.byte(), script.long());
    let written = vec![0; CONTROL_BYTES];
    let (under_way, operations) = (VecDeque::new(), BTreeMap::new());
    let mut stage = Stage { memory, written, under_way, operations, seen: index, failure: None };
    let identity = Identity { number: 3, device_type: DeviceType::Coherent };
    let geometry = stage.memory.bar().geometry();
    stage.write(0, identity.encode(geometry).as_bytes());
    stage.write_words(STATE, &[DeviceState::Ready.to_wire()]);
    if flags & FOREIGN != 0 {
        stage.write(usize::from(script.below(0x90)), script.bytes(0x40));
    }
    for (of_device, of_guest) in
        [(CONSUMER, PRODUCER), (REQUEST_PRODUCER, REQUEST_CONSUMER), (ANSWER_CONSUMER, ANSWER_PRODUCER)]
    {
        stage.write_words(of_device, &[index]);
        stage.memory.fill(of_guest, index.as_bytes());
    }
    let mut device = match Device::attach(stage.memory.bar()) {
        Ok(device) => device,
        Err(error) => return assert!(!error.to_string().is_empty(), "an error has a text"),
    };
    while !script.is_over() {
        match script.below(8) {
            0..=2 => stage.act(&mut script),
            3 | 4 => stage.submit(&mut device, &mut script),
            5 => stage.wait(&mut device),
            6 => stage.take_request(&mut device),
            _ => stage.answer(&mut device, &mut script),
        }
        assert_eq!(device.in_flight() + taken_and_wrong(&stage), stage.under_way.len() as u64);
        assert!(device.in_flight() <= RING_ENTRIES);
    }
    for page in DEVICE_PAGES.into_iter().chain([7]) {
        let range = page * FRAME_BYTES..(page + 1) * FRAME_BYTES;
        assert!(
            stage.memory.bytes(range.start, FRAME_BYTES) == stage.written[range],
            "the driver wrote into page {page}"
        );
    }
    assert!(stage.memory.is_zero_from(CONTROL_BYTES), "the driver wrote into a device frame");
    assert!(stage.memory.canaries_live(), "the driver wrote beside the BAR");
}

/// Completions that broke a rule: taken, and not under way any more.
fn taken_and_wrong(stage: &Stage<'_>) -> u64 {
    let taken = matches!(
        stage.failure,
        Some(DeviceError::WrongSequence { .. } | DeviceError::UnknownStatus { .. } | DeviceError::WrongCount { .. })
    );
    u64::from(taken)
}

fn seeds() -> Vec<Vec<u8>> {
    const NEAR_THE_END: u64 = u64::MAX - 2;
    let begin = |flags: u8, index: u64| [&[flags][..], &index.to_le_bytes()].concat();
    // Context 1, pages 2 to 4, frame 5, then what is started with it.
    let start = |access: u8| vec![3, 1, 2, 3, 5, access, 6];
    let invert = vec![3, 1, 2, 3, 5, 0, 1];
    let complete = vec![0, 2, 200, 0];
    let (wait, take, answer) = (vec![5], vec![6], vec![7, 0]);
    // The first operation under way misses page 2, for a read; and ends, done with 3 pages.
    let miss = vec![0, 3, 0, 0, 2, 3, 1, 0, 0];
    let end = vec![0, 3, 1, 0, 0, 3, 1, 0, 0];
    let one = [
        begin(0, 0),
        start(0),
        complete.clone(),
        wait.clone(),
        miss.clone(),
        take.clone(),
        answer.clone(),
        end,
        take.clone(),
    ]
    .concat();
    let asks = [miss.clone(), take.clone()].concat();
    let twice = [begin(0, 0), start(0), complete.clone(), wait.clone(), asks.clone(), answer.clone(), asks].concat();
    let many = [begin(0, NEAR_THE_END), invert.repeat(4), complete.clone(), wait.repeat(5)].concat();
    let refused = [begin(0, 9), start(1), vec![0, 2, 0, 1, 4], wait.clone()].concat();
    let stopped = [begin(0, 9), invert, vec![0, 4, 2], wait].concat();
    let foreign = [begin(FOREIGN, 0), vec![8; 9]].concat();
    vec![one, twice, many, refused, stopped, foreign]
}
