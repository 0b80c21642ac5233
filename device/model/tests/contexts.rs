//! Contexts of the running model as the guest's driver meets them: reads and writes of the guest's RAM through a device
//! page table, misses, invalidation, and what ends an operation early. RAM and device memory are checked through the files.
#![allow(clippy::unwrap_used, reason = "all of this file is a test")]
mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use ferry_device::bar::WordIndex;
use ferry_device::command::Operation;
use ferry_device::page_table::{PageTable, Rights, TableEntry, Target};
use ferry_device::request::{Access, Answer, Ended, OperationStatus, PageFault, Request, Verdict};
use ferry_device::{
    Bar, Command, ContextId, Deadline, Device, DeviceError, FrameIndex, PageSpan, RamFrame, Status, VirtualPage,
};
use ferry_device_model::{GuestRam, Misbehaviour, Model, Options, RamRegion};
use memmap2::{MmapOptions, MmapRaw};
use support::Directory;

/// Frame numbers of the RAM: two regions with a hole between them, as a machine with much RAM has.
const LOW_FRAMES: u64 = 8;
const HIGH_START: u64 = 1 << 20;
const HIGH_FRAMES: u64 = 24;

/// First page of the context's window, first frame of buffers.
const BASE: u64 = 0x12345;
const WINDOW: u64 = 600;
const BUFFER: u64 = 100;

struct Patience(Instant);

impl Deadline for Patience {
    fn restart(&mut self) {
        self.0 = Instant::now();
    }

    fn expired(&mut self) -> bool {
        self.0.elapsed() > Duration::from_secs(20)
    }
}

fn patience() -> Patience {
    Patience(Instant::now())
}

/// A guest with RAM, a device, and one context on it.
struct Guest {
    device: Device,
    table: PageTable,
    context: ContextId,
    ram: File,
    bar_file: File,
    model: Model,
    _mapping: MmapRaw,
    _directory: Directory,
}

impl Guest {
    fn new(misbehaviour: Option<Misbehaviour>) -> Self {
        let directory = Directory::new();
        let (bar_path, ram_path) = (directory.path().join("bar"), directory.path().join("ram"));
        let ram = File::options().read(true).write(true).create_new(true).open(&ram_path).unwrap();
        ram.set_len((LOW_FRAMES + HIGH_FRAMES) * 4096).unwrap();
        let regions = vec![
            RamRegion { first: RamFrame(0), frames: LOW_FRAMES, file_frame: 0 },
            RamRegion { first: RamFrame(HIGH_START), frames: HIGH_FRAMES, file_frame: LOW_FRAMES },
        ];
        let options = Options { misbehaviour, ..Options::default() };
        let reached = GuestRam::open(&ram_path, regions).unwrap();
        let model = Model::start(&bar_path, 1 << 20, options, Some(reached)).unwrap();
        let bar_file = File::options().read(true).write(true).open(&bar_path).unwrap();
        let mapping = MmapOptions::new().map_raw(&bar_file).unwrap();
        // SAFETY: a shared mapping of that length without any reference into it, kept as long as the `Bar`.
        let bar = unsafe { Bar::new(NonNull::new(mapping.as_mut_ptr()).unwrap(), mapping.len() as u64) }.unwrap();
        let mut device = Device::attach(bar.clone()).unwrap();
        let window = span(BASE, WINDOW);
        let table = PageTable::new(bar, window, &[5, 6, 7].map(FrameIndex)).unwrap();
        let context = ContextId::new(2).unwrap();
        let attach = Command::Attach { context, window, root: table.root() };
        device.run(attach, &mut patience()).unwrap();
        Self { device, table, context, ram, bar_file, model, _mapping: mapping, _directory: directory }
    }

    fn run(&mut self, command: Command) -> Result<(), DeviceError> {
        self.device.run(command, &mut patience()).map(drop)
    }

    fn start(&mut self, operation: Operation) -> u64 {
        let start = Command::Start { context: self.context, operation };
        self.device.run(start, &mut patience()).unwrap().sequence
    }

    fn request(&mut self) -> Request {
        let begin = Instant::now();
        loop {
            match self.device.next_request().unwrap() {
                Some(request) => return request,
                None => assert!(begin.elapsed() < Duration::from_secs(20), "the device asks nothing"),
            }
            std::thread::yield_now();
        }
    }

    fn ended(&mut self) -> Ended {
        match self.request() {
            Request::Ended(ended) => ended,
            Request::PageFault(fault) => panic!("{fault:?}"),
        }
    }

    fn fault(&mut self) -> PageFault {
        match self.request() {
            Request::PageFault(fault) => fault,
            Request::Ended(ended) => panic!("{ended:?}"),
        }
    }

    fn answer(&mut self, operation: u64, verdict: Verdict) {
        self.device.answer(Answer { operation, verdict }).unwrap();
    }

    fn set(&self, page: u64, target: Target, rights: Rights) {
        self.table.set(VirtualPage(BASE + page), TableEntry { target, rights }).unwrap();
        self.table.publish();
    }

    fn fill_ram(&self, frame: u64, value: u8) {
        self.ram.write_all_at(&[value; 4096], file_frame(frame) * 4096).unwrap();
    }

    fn fill_device(&self, frame: u64, value: u8) {
        self.bar_file.write_all_at(&[value; 4096], 0x8000 + frame * 4096).unwrap();
    }

    /// Whether every byte of a frame of RAM is `value`.
    fn ram_is(&self, frame: u64, value: u8) -> bool {
        let mut bytes = [0; 4096];
        self.ram.read_exact_at(&mut bytes, file_frame(frame) * 4096).unwrap();
        bytes == [value; 4096]
    }

    fn device_is(&self, frame: u64, value: u8) -> bool {
        let mut bytes = [0; 4096];
        self.model.memory().frame_bytes(FrameIndex(frame), &mut bytes).unwrap();
        bytes == [value; 4096]
    }
}

fn file_frame(frame: u64) -> u64 {
    if frame < LOW_FRAMES { frame } else { frame - HIGH_START + LOW_FRAMES }
}

fn span(first: u64, count: u64) -> PageSpan {
    PageSpan::new(VirtualPage(first), count).unwrap()
}

fn read(page: u64, count: u64) -> Operation {
    Operation::Read { span: span(BASE + page, count), buffer: FrameIndex(BUFFER) }
}

fn write(page: u64, count: u64) -> Operation {
    Operation::Write { span: span(BASE + page, count), buffer: FrameIndex(BUFFER) }
}

fn ram(frame: u64) -> Target {
    Target::Ram(RamFrame(frame))
}

#[test]
fn pages_are_read_and_written_wherever_they_are() {
    let mut guest = Guest::new(None);
    // The pages on both sides of the border between two leaves: low RAM, high RAM, the device.
    guest.set(511, ram(3), Rights::Write);
    guest.set(512, ram(HIGH_START + 23), Rights::Write);
    guest.set(513, Target::Local(FrameIndex(50)), Rights::Write);
    guest.fill_ram(3, 0x11);
    guest.fill_ram(HIGH_START + 23, 0x22);
    guest.fill_device(50, 0x33);
    let operation = guest.start(read(511, 3));
    let done = Ended { operation, status: OperationStatus::Done, pages: 3, faults: 0, value: 0 };
    assert_eq!(guest.ended(), done);
    assert!(guest.device_is(BUFFER, 0x11) && guest.device_is(BUFFER + 1, 0x22) && guest.device_is(BUFFER + 2, 0x33));
    for (index, value) in [(0, 0x44), (1, 0x55), (2, 0x66)] {
        guest.fill_device(BUFFER + index, value);
    }
    guest.start(write(511, 3));
    assert_eq!(guest.ended().status, OperationStatus::Done);
    assert!(guest.ram_is(3, 0x44) && guest.ram_is(HIGH_START + 23, 0x55) && guest.device_is(50, 0x66));
    assert!([2, 4, HIGH_START + 22].iter().all(|frame| guest.ram_is(*frame, 0)) && guest.device_is(BUFFER + 3, 0));
}

#[test]
fn a_miss_asks_for_all_that_is_left_and_is_counted() {
    let mut guest = Guest::new(None);
    guest.set(0, ram(0), Rights::Read);
    guest.fill_ram(0, 0x77);
    let operation = guest.start(read(0, 100));
    let expected = PageFault { operation, span: span(BASE + 1, 99), access: Access::Read, faults: 0 };
    assert_eq!(guest.fault(), expected);
    guest.set(1, ram(0), Rights::Read);
    guest.answer(operation, Verdict::Retry);
    let expected = PageFault { operation, span: span(BASE + 2, 98), access: Access::Read, faults: 1 };
    assert_eq!(guest.fault(), expected);
    guest.answer(operation, Verdict::Fault);
    let fault = Ended { operation, status: OperationStatus::Fault, pages: 2, faults: 2, value: 0 };
    assert_eq!(guest.ended(), fault);
    assert!(guest.device_is(BUFFER, 0x77) && guest.device_is(BUFFER + 1, 0x77) && guest.device_is(BUFFER + 2, 0));
}

#[test]
fn an_operation_goes_on_where_it_missed() {
    let mut guest = Guest::new(None);
    let operation = guest.start(write(0, 100));
    let fault = guest.fault();
    assert_eq!((fault.span, fault.access), (span(BASE, 100), Access::Write));
    for page in 0..100 {
        guest.set(page, ram(HIGH_START + page % HIGH_FRAMES), Rights::Write);
    }
    guest.answer(operation, Verdict::Retry);
    let done = Ended { operation, status: OperationStatus::Done, pages: 100, faults: 1, value: 0 };
    assert_eq!(guest.ended(), done);
}

#[test]
fn rights_are_needed_and_a_stronger_entry_needs_no_invalidation() {
    let mut guest = Guest::new(None);
    guest.set(0, ram(1), Rights::Read);
    guest.start(read(0, 1));
    assert_eq!(guest.ended().status, OperationStatus::Done);
    guest.fill_device(BUFFER, 0x88);
    for (verdict, status) in [
        (Verdict::NotPermitted, OperationStatus::NotPermitted),
        (Verdict::Failed, OperationStatus::Failed),
        (Verdict::Fault, OperationStatus::Fault),
    ] {
        let operation = guest.start(write(0, 1));
        assert_eq!(guest.fault().operation, operation);
        guest.answer(operation, verdict);
        assert_eq!((guest.ended().status, guest.ram_is(1, 0)), (status, true));
    }
    let operation = guest.start(write(0, 1));
    guest.fault();
    guest.set(0, ram(1), Rights::Write);
    guest.answer(operation, Verdict::Retry);
    assert_eq!((guest.ended().status, guest.ram_is(1, 0x88)), (OperationStatus::Done, true));
}

#[test]
fn an_addition_needs_an_exclusive_page_and_tells_what_was_there() {
    let mut guest = Guest::new(None);
    let add = Operation::Add { span: span(BASE, 1), word: WordIndex::low_bits_of(511), operand: 5 };
    let last_word = file_frame(HIGH_START) * 4096 + 4088;
    guest.ram.write_all_at(&(u64::MAX - 1).to_le_bytes(), last_word).unwrap();
    guest.set(0, ram(HIGH_START), Rights::Write);
    let operation = guest.start(add);
    assert_eq!(guest.fault().access, Access::Atomic);
    guest.set(0, ram(HIGH_START), Rights::Atomic);
    guest.answer(operation, Verdict::Retry);
    let ended = guest.ended();
    assert_eq!((ended.status, ended.value, ended.faults), (OperationStatus::Done, u64::MAX - 1, 1));
    let mut bytes = [0; 8];
    guest.ram.read_exact_at(&mut bytes, last_word).unwrap();
    assert_eq!(u64::from_le_bytes(bytes), 3);
    guest.set(0, Target::Local(FrameIndex(9)), Rights::Atomic);
    guest.run(Command::Invalidate { context: guest.context, span: span(BASE, 1) }).unwrap();
    guest.start(add);
    assert_eq!(guest.ended().status, OperationStatus::BadEntry);
}

/// What a read finds after its two pages moved from frame 1 to frame 2, with or without the invalidation; the same in both.
fn read_after_pages_moved(misbehaviour: Option<Misbehaviour>, invalidates: bool) -> u8 {
    let mut guest = Guest::new(misbehaviour);
    guest.fill_ram(1, 0xaa);
    guest.fill_ram(2, 0xbb);
    for frame in [1, 2] {
        for page in [0, 1] {
            guest.set(page, ram(frame), Rights::Read);
        }
        if frame == 2 && invalidates {
            guest.run(Command::Invalidate { context: guest.context, span: span(BASE, 2) }).unwrap();
        }
        guest.start(read(0, 2));
        assert_eq!(guest.ended().status, OperationStatus::Done);
    }
    let found = [0xaa, 0xbb].map(|byte| [BUFFER, BUFFER + 1].map(|frame| guest.device_is(frame, byte)));
    match found {
        [[true, true], [false, false]] => 0xaa,
        [[false, false], [true, true]] => 0xbb,
        mixed => panic!("one page is remembered and the other is not: {mixed:?}"),
    }
}

#[test]
fn translations_are_remembered_until_they_are_invalidated() {
    assert_eq!(read_after_pages_moved(None, true), 0xbb);
    assert_eq!(read_after_pages_moved(None, false), 0xaa, "a forgotten invalidation shows");
    assert_eq!(read_after_pages_moved(Some(Misbehaviour::StaleTranslations), true), 0xaa);
}

#[test]
fn what_a_cleared_and_invalidated_entry_named_is_not_touched_again() {
    let mut guest = Guest::new(None);
    for round in 0..200u64 {
        let frame = HIGH_START + round % HIGH_FRAMES;
        for page in 0..100 {
            guest.set(page, ram(frame), Rights::Write);
        }
        guest.fill_device(BUFFER, 0xff);
        let operation = guest.start(write(0, 100));
        for _ in 0..round * 10 {
            std::hint::spin_loop();
        }
        guest.table.clear(span(BASE, 100)).unwrap();
        guest.run(Command::Invalidate { context: guest.context, span: span(BASE, 100) }).unwrap();
        guest.fill_ram(frame, 0x5a);
        if let Request::PageFault(fault) = guest.request() {
            assert_eq!((fault.operation, fault.span.numbers().end), (operation, BASE + 100));
            guest.answer(operation, Verdict::Fault);
            guest.ended();
        }
        assert!(guest.ram_is(frame, 0x5a), "round {round}");
    }
}

#[test]
fn a_detached_context_ends_its_operations_and_reaches_nothing() {
    let mut guest = Guest::new(None);
    let context = guest.context;
    let operation = guest.start(read(0, 2));
    guest.fault();
    guest.run(Command::Detach(context)).unwrap();
    let detached = Ended { operation, status: OperationStatus::Detached, pages: 0, faults: 0, value: 0 };
    assert_eq!(guest.ended(), detached);
    let nothing = guest.device.answer(Answer { operation, verdict: Verdict::Retry });
    assert_eq!(nothing, Err(DeviceError::NothingToAnswer(operation)));
    let refused = |result: Result<(), DeviceError>| match result {
        Err(DeviceError::Refused { status, .. }) => Some(status),
        _ => None,
    };
    let start = Command::Start { context, operation: read(0, 2) };
    assert_eq!(refused(guest.run(start)), Some(Status::BadContext));
    assert_eq!(refused(guest.run(Command::Detach(context))), Some(Status::BadContext));
    assert_eq!(refused(guest.run(Command::Invalidate { context, span: span(BASE, 1) })), Some(Status::BadContext));
    let attach = Command::Attach { context, window: span(BASE, WINDOW), root: guest.table.root() };
    assert_eq!(guest.run(attach), Ok(()));
    assert_eq!(refused(guest.run(attach)), Some(Status::BadContext));
    let outside = Command::Start { context, operation: read(WINDOW - 1, 2) };
    assert_eq!(refused(guest.run(outside)), Some(Status::BadPages));
    let outside = Command::Invalidate { context, span: span(BASE + WINDOW - 1, 2) };
    assert_eq!(refused(guest.run(outside)), Some(Status::BadPages));
}

#[test]
fn who_gets_the_number_of_a_context_gets_none_of_its_translations() {
    let mut guest = Guest::new(None);
    let context = guest.context;
    guest.set(0, ram(HIGH_START), Rights::Write);
    guest.fill_device(BUFFER, 0x99);
    guest.start(write(0, 1));
    assert_eq!((guest.ended().status, guest.ram_is(HIGH_START, 0x99)), (OperationStatus::Done, true));
    guest.run(Command::Detach(context)).unwrap();
    guest.table.clear(span(BASE, 1)).unwrap();
    guest.fill_ram(HIGH_START, 0x5a);
    guest.run(Command::Attach { context, window: span(BASE, WINDOW), root: guest.table.root() }).unwrap();
    let operation = guest.start(write(0, 1));
    assert_eq!((guest.fault().operation, guest.ram_is(HIGH_START, 0x5a)), (operation, true));
}

#[test]
fn an_armed_transfer_fails_and_nothing_behind_it_is_touched() {
    let mut guest = Guest::new(None);
    for page in 0..10 {
        guest.set(page, ram(HIGH_START + page), Rights::Write);
        guest.fill_device(BUFFER + page, 0x99);
    }
    guest.run(Command::FailDma(4)).unwrap();
    let operation = guest.start(write(0, 10));
    let failed = Ended { operation, status: OperationStatus::DmaFailed, pages: 3, faults: 0, value: 0 };
    assert_eq!(guest.ended(), failed);
    assert!((0..10).all(|page| guest.ram_is(HIGH_START + page, if page < 3 { 0x99 } else { 0 })));
    guest.start(write(0, 10));
    assert_eq!(guest.ended().status, OperationStatus::Done, "once");
    let mut guest = Guest::new(Some(Misbehaviour::FailingDma));
    guest.set(0, ram(1), Rights::Write);
    guest.fill_device(BUFFER, 0x99);
    guest.start(write(0, 1));
    assert_eq!((guest.ended().status, guest.ram_is(1, 0)), (OperationStatus::DmaFailed, true));
}

#[test]
fn a_table_that_names_what_is_not_there_ends_the_operation() {
    let mut guest = Guest::new(None);
    for target in [ram(LOW_FRAMES), ram(HIGH_START + HIGH_FRAMES), ram((1 << 52) - 1), Target::Local(FrameIndex(248))] {
        guest.set(0, target, Rights::Write);
        guest.run(Command::Invalidate { context: guest.context, span: span(BASE, 1) }).unwrap();
        for operation in [read(0, 1), write(0, 1)] {
            guest.start(operation);
            assert_eq!(guest.ended().status, OperationStatus::BadEntry, "{target:?}");
        }
    }
    guest.bar_file.write_all_at(&2u64.to_le_bytes(), 0x8000 + 6 * 4096).unwrap();
    guest.run(Command::Invalidate { context: guest.context, span: span(BASE, 1) }).unwrap();
    guest.start(read(0, 1));
    assert_eq!(guest.ended().status, OperationStatus::BadEntry);
    assert_eq!(guest.device.ping(&mut patience()), Ok(()));
}

#[test]
fn a_request_about_nothing_is_noticed() {
    let mut guest = Guest::new(Some(Misbehaviour::BogusRequest));
    let operation = guest.start(read(0, 1));
    let begin = Instant::now();
    let found = loop {
        match guest.device.next_request() {
            Ok(None) => assert!(begin.elapsed() < Duration::from_secs(20)),
            found => break found,
        }
    };
    assert_eq!(found, Err(DeviceError::BadRequest { sequence: 0, operation: !operation }));
}

#[test]
fn several_devices_work_on_the_same_ram() {
    let directory = Directory::new();
    let ram_path = directory.path().join("ram");
    std::fs::write(&ram_path, [0x3c; 4096]).unwrap();
    let models: Vec<Model> = (0..3)
        .map(|number| {
            let regions = vec![RamRegion { first: RamFrame(0), frames: 1, file_frame: 0 }];
            let reached = GuestRam::open(&ram_path, regions).unwrap();
            let path = directory.path().join(format!("bar{number}"));
            Model::start(&path, 1 << 20, Options { number, ..Options::default() }, Some(reached)).unwrap()
        })
        .collect();
    for (number, model) in models.iter().enumerate() {
        let file = File::options().read(true).write(true).open(directory.path().join(format!("bar{number}"))).unwrap();
        let mapping = MmapOptions::new().map_raw(&file).unwrap();
        // SAFETY: as in `Guest::new`; `mapping` outlives the device.
        let bar = unsafe { Bar::new(NonNull::new(mapping.as_mut_ptr()).unwrap(), 1 << 20) }.unwrap();
        let mut device = Device::attach(bar.clone()).unwrap();
        assert_eq!(device.identity().number as usize, number);
        let (window, context) = (span(BASE, 1), ContextId::new(0).unwrap());
        let table = PageTable::new(bar, window, &[0, 1].map(FrameIndex)).unwrap();
        table.set(VirtualPage(BASE), TableEntry { target: ram(0), rights: Rights::Read }).unwrap();
        table.publish();
        device.run(Command::Attach { context, window, root: table.root() }, &mut patience()).unwrap();
        device.run(Command::Start { context, operation: read(0, 1) }, &mut patience()).unwrap();
        let begin = Instant::now();
        while device.next_request().unwrap().is_none() {
            assert!(begin.elapsed() < Duration::from_secs(20));
        }
        let mut bytes = [0; 4096];
        model.memory().frame_bytes(FrameIndex(BUFFER), &mut bytes).unwrap();
        assert_eq!(bytes, [0x3c; 4096]);
    }
}
