//! The guest's driver against the running model, over a mapping of its own of the same file, as
//! QEMU has one: each behaviour as a user of both meets it.
#![allow(clippy::unwrap_used, reason = "all of this file is a test")]
mod support;

use std::ops::Range;
use std::path::Path;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use ferry_device::geometry::MAX_COMMAND_FRAMES;
use ferry_device::layout::{PRODUCER, RING_ENTRIES};
use ferry_device::{
    AttachError, Bar, BarError, Command, Completion, Deadline, Device, DeviceError, DeviceType, FrameIndex, FrameRange,
    Identity, NoSuchFrame, SizeError,
};
use ferry_device_model::{GuestError, MemoryError, Misbehaviour, Model, ModelError, Options};
use memmap2::{MmapOptions, MmapRaw};
use support::Directory;

/// A deadline by the host's clock.
struct Within {
    bound: Duration,
    start: Instant,
}

impl Within {
    fn new(bound: Duration) -> Self {
        Self { bound, start: Instant::now() }
    }
}

impl Deadline for Within {
    fn restart(&mut self) {
        self.start = Instant::now();
    }

    fn expired(&mut self) -> bool {
        self.start.elapsed() > self.bound
    }
}

/// Long enough for a loaded machine; no test passes by waiting for it.
fn patience() -> Within {
    Within::new(Duration::from_secs(20))
}

/// The guest's side: a mapping of the file.
struct Guest {
    mapping: MmapRaw,
}

impl Guest {
    fn new(path: &Path) -> Self {
        let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
        Self { mapping: MmapOptions::new().map_raw(&file).unwrap() }
    }

    fn bar(&self) -> Result<Bar, BarError> {
        let base = NonNull::new(self.mapping.as_mut_ptr()).unwrap();
        // SAFETY: a shared mapping of that length without any reference into it; the tests drop what uses the `Bar`
        // before the `Guest`, which they declare first.
        unsafe { Bar::new(base, self.mapping.len() as u64) }
    }

    fn device(&self) -> Device {
        Device::attach(self.bar().unwrap()).unwrap()
    }
}

fn start(directory: &Directory, bytes: u64, options: Options) -> (Model, Guest) {
    let path = directory.path().join("bar");
    let model = Model::start(&path, bytes, options, None).unwrap();
    let guest = Guest::new(&path);
    (model, guest)
}

fn misbehaving(misbehaviour: Misbehaviour) -> Options {
    Options { misbehaviour: Some(misbehaviour), ..Options::default() }
}

fn invert(first: u64, count: u64) -> Command {
    Command::Invert(FrameRange { first: FrameIndex(first), count })
}

/// Fills device frames through the guest's BAR; byte `i` of frame `f` is a function of both.
fn fill(bar: &Bar, frames: Range<u64>) {
    #[repr(align(4096))]
    struct Page([u8; 4096]);
    let mut page = Page([0; 4096]);
    for frame in frames {
        for (offset, byte) in page.0.iter_mut().enumerate() {
            *byte = pattern(frame, offset);
        }
        // SAFETY: a page of RAM of this function.
        unsafe { bar.write_frame(FrameIndex(frame), page.0.as_ptr()) }.unwrap();
    }
    bar.finish_writes();
}

fn pattern(frame: u64, offset: usize) -> u8 {
    (frame as usize * 31 + (offset >> 8) * 7 + offset) as u8
}

#[test]
fn the_file_is_sparse_and_zero_but_for_the_identification() {
    let directory = Directory::new();
    let options = Options { number: 7, device_type: DeviceType::Coherent, misbehaviour: None };
    let path = directory.path().join("bar");
    std::fs::write(&path, [0xff; 10_000]).unwrap();
    let (model, guest) = start(&directory, 4 << 20, options);
    assert_eq!(guest.device().identity(), Identity { number: 7, device_type: DeviceType::Coherent });
    assert_eq!(model.memory().non_zero_bytes().unwrap(), 0);
    assert_eq!((model.memory().geometry().frames(), model.memory().geometry().control_pages()), (1016, 8));
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes.len() as u64, model.bar_bytes());
    assert!(bytes[0x50..].iter().all(|byte| *byte == 0));
    assert!(std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&path).unwrap()) * 512 < 1 << 20);
}

#[test]
fn inverted_frames_are_inverted_and_the_others_are_as_they_were() {
    let directory = Directory::new();
    let (model, guest) = start(&directory, 1 << 20, Options::default());
    let mut device = guest.device();
    fill(device.bar(), 0..248);
    let chosen = |frame: u64| frame % 5 == 2 || (100..140).contains(&frame);
    let frames: Vec<FrameIndex> = (0..248).filter(|frame| chosen(*frame)).map(FrameIndex).collect();
    assert_eq!(device.invert(frames.iter().copied(), &mut patience()), Ok(frames.len() as u64));
    assert_eq!(model.frames_transformed(), frames.len() as u64);
    let mut bytes = [0; 4096];
    for frame in 0..248 {
        model.memory().frame_bytes(FrameIndex(frame), &mut bytes).unwrap();
        let mask = if chosen(frame) { 0xff } else { 0 };
        assert!(bytes.iter().enumerate().all(|(i, byte)| *byte == pattern(frame, i) ^ mask), "frame {frame}");
    }
    for frame in 0..248 {
        device.bar().clear_frame(FrameIndex(frame)).unwrap();
    }
    device.bar().finish_writes();
    assert_eq!(model.memory().non_zero_bytes().unwrap(), 0);
}

#[test]
fn the_scan_counts_single_bytes_at_both_ends() {
    use std::os::unix::fs::FileExt;
    let directory = Directory::new();
    let (model, _guest) = start(&directory, 4 << 20, Options::default());
    let file = std::fs::File::options().write(true).open(directory.path().join("bar")).unwrap();
    for offset in [0x7fff, 0x8000, (1 << 20) - 1, 1 << 20, 0x10_8000, (4 << 20) - 1] {
        file.write_all_at(&[1], offset).unwrap();
    }
    assert_eq!(model.memory().non_zero_bytes().unwrap(), 5, "the byte in the control area does not count");
    let mut bytes = [0; 4096];
    let none = model.memory().frame_bytes(FrameIndex(1016), &mut bytes).unwrap_err();
    assert!(matches!(none, MemoryError::NoSuchFrame(NoSuchFrame { frames: 1016, .. })));
}

#[test]
fn a_hundred_thousand_commands_pass_one_at_a_time_and_in_bulk() {
    let directory = Directory::new();
    let (model, guest) = start(&directory, 1 << 20, Options::default());
    let mut device = guest.device();
    let mut deadline = patience();
    let mut sequence = 0;
    for _ in 0..20_000 {
        assert_eq!(device.run(Command::Nop, &mut deadline), Ok(Completion { sequence, frames: 0 }));
        sequence += 1;
    }
    let mut inverted = vec![0u64; 248];
    while sequence < 100_000 {
        let batch = 1 + sequence % RING_ENTRIES;
        for i in 0..batch {
            let frame = (sequence + i) * 7 % 248;
            inverted[frame as usize] += 1;
            assert_eq!(device.submit(invert(frame, 1)), Ok(sequence + i));
        }
        for _ in 0..batch {
            assert_eq!(device.wait(&mut deadline), Ok(Completion { sequence, frames: 1 }));
            sequence += 1;
        }
    }
    assert_eq!(model.frames_transformed(), inverted.iter().sum::<u64>());
    let mut bytes = [0; 4096];
    for (frame, times) in inverted.iter().enumerate() {
        model.memory().frame_bytes(FrameIndex(frame as u64), &mut bytes).unwrap();
        assert_eq!(bytes, [if times % 2 == 1 { 0xff } else { 0 }; 4096], "frame {frame}");
    }
}

#[test]
fn sixteen_thousand_scattered_frames_fit_in_one_call() {
    let directory = Directory::new();
    let (model, guest) = start(&directory, 128 << 20, Options::default());
    let mut device = guest.device();
    let scattered = (0..16_384).map(|i| FrameIndex(i * 2 % 32_760 + i / 16_380));
    let begin = Instant::now();
    assert_eq!(device.invert(scattered, &mut patience()), Ok(16_384));
    println!("16384 single frames: {:?}", begin.elapsed());
    let begin = Instant::now();
    assert_eq!(device.invert((0..32_760).map(FrameIndex), &mut patience()), Ok(32_760));
    println!("32760 frames in runs of {MAX_COMMAND_FRAMES}: {:?}", begin.elapsed());
    assert_eq!(model.memory().non_zero_bytes().unwrap(), (32_760 - 16_384) * 4096);
}

#[test]
fn a_device_that_slept_answers_at_once() {
    let directory = Directory::new();
    let (_model, guest) = start(&directory, 1 << 20, Options::default());
    let mut device = guest.device();
    std::thread::sleep(Duration::from_millis(50));
    device.ping(&mut Within::new(Duration::from_millis(500))).unwrap();
}

#[test]
fn an_idle_model_sleeps() {
    let directory = Directory::new();
    let (_model, guest) = start(&directory, 1 << 20, Options::default());
    let heartbeat = |bar: &Bar| bar.observe(ferry_device::layout::HEARTBEAT);
    let bar = guest.bar().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let (before, begin) = (heartbeat(&bar), Instant::now());
    std::thread::sleep(Duration::from_millis(200));
    let (turns, milliseconds) = (heartbeat(&bar) - before, begin.elapsed().as_millis() as u64);
    assert!((1..=milliseconds + 1).contains(&turns), "{turns} turns in {milliseconds} ms");
}

#[test]
fn each_misbehaviour_meets_its_refusal() {
    let directory = Directory::new();
    let (_model, guest) = start(&directory, 1 << 20, misbehaving(Misbehaviour::WrongVersion));
    assert_eq!(Device::attach(guest.bar().unwrap()).unwrap_err(), AttachError::Version(3));

    let directory = Directory::new();
    let (model, guest) = start(&directory, 1 << 20, misbehaving(Misbehaviour::TooSmall));
    assert_eq!(guest.bar().unwrap_err(), BarError::Size(SizeError::TooSmall(model.bar_bytes())));

    let directory = Directory::new();
    let (_model, guest) = start(&directory, 1 << 20, misbehaving(Misbehaviour::BogusCompletion));
    let wrong = DeviceError::WrongSequence { expected: 0, found: 128 };
    assert_eq!(guest.device().ping(&mut patience()), Err(wrong));

    let directory = Directory::new();
    let (_model, guest) = start(&directory, 1 << 20, misbehaving(Misbehaviour::NeverAnswers));
    let begin = Instant::now();
    let timeout = DeviceError::Timeout { sequence: 0, alive: false };
    assert_eq!(guest.device().ping(&mut Within::new(Duration::from_millis(50))), Err(timeout));
    assert!((50..5000).contains(&begin.elapsed().as_millis()));
}

#[test]
fn stopping_finishes_what_was_submitted_and_says_so() {
    let directory = Directory::new();
    let (mut model, guest) = start(&directory, 1 << 20, Options::default());
    let mut device = guest.device();
    for i in 0..100 {
        device.submit(invert(i, 100)).unwrap();
    }
    model.stop();
    assert_eq!(model.frames_transformed(), 10_000);
    for _ in 0..100 {
        device.wait(&mut patience()).unwrap();
    }
    assert_eq!(device.ping(&mut patience()), Err(DeviceError::NotReady(2)));
    assert_eq!(Device::attach(guest.bar().unwrap()).unwrap_err(), AttachError::NotReady(2));
    model.stop();
}

#[test]
fn a_second_driver_can_attach_once_the_first_is_done() {
    let directory = Directory::new();
    let (_model, guest) = start(&directory, 1 << 20, Options::default());
    for boot in 0..3 {
        let mut device = guest.device();
        for i in 0..200 {
            assert_eq!(device.run(Command::Nop, &mut patience()).unwrap().sequence, boot * 200 + i);
        }
    }
}

#[test]
fn a_guest_that_breaks_the_protocol_is_named_on_both_sides() {
    let directory = Directory::new();
    let (model, guest) = start(&directory, 1 << 20, Options::default());
    let mut device = guest.device();
    device.ping(&mut patience()).unwrap();
    device.bar().publish(PRODUCER, 1000);
    let begin = Instant::now();
    while model.failure().is_none() && begin.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let failure = model.failure().unwrap();
    assert_eq!(failure, GuestError::Commands { producer: 1000, consumer: 1 });
    assert_eq!(device.ping(&mut patience()), Err(DeviceError::NotReady(3)));
}

#[test]
fn a_size_or_path_that_cannot_be_is_refused_with_the_remedy() {
    let directory = Directory::new();
    let path = directory.path().join("bar");
    for (bytes, error) in [(0, SizeError::TooSmall(0)), (3 << 20, SizeError::NotPowerOfTwo(3 << 20))] {
        let refused = Model::start(&path, bytes, Options::default(), None).unwrap_err();
        assert!(matches!(refused, ModelError::Size(size) if size == error));
        assert!(!path.exists(), "refused before the file is touched");
    }
    let nowhere = directory.path().join("missing").join("bar");
    let refused = Model::start(&nowhere, 1 << 20, Options::default(), None).unwrap_err().to_string();
    assert!(refused.contains("cannot create") && refused.contains("missing/bar"), "{refused}");
}
