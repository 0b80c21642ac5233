//! Tests of contexts against guests that obey nothing: whatever stands in rings and tables, the engine ends its turn, and
//! changes nothing but its own pages, device frames, and the RAM that it was given.
use super::*;
use crate::ram::{GuestRam, RamRegion};
use crate::support::Directory;
use ferry_device::context::{MAX_OPERATIONS, PageSpan, VirtualPage};
use ferry_device::layout::CommandEntry;
use ferry_device::page_table::TableEntry;
use ferry_device::{Geometry, RamFrame};
use proptest::prelude::*;
use std::fs::File;
use std::os::unix::fs::FileExt;

struct Bench {
    _directory: Directory,
    bar: File,
    ram: File,
    engine: Engine,
}

impl Bench {
    /// RAM of 16 frames, of which the device is given the middle eight, as frames 0 to 7.
    fn new() -> Self {
        let directory = Directory::new();
        let make = |name: &str, bytes: u64| {
            let file =
                File::options().read(true).write(true).create_new(true).open(directory.path().join(name)).unwrap();
            file.set_len(bytes).unwrap();
            file
        };
        let (bar, ram) = (make("bar", 1 << 20), make("ram", 16 * 4096));
        ram.write_all_at(&[0xc7; 16 * 4096], 0).unwrap();
        let regions = vec![RamRegion { first: RamFrame(0), frames: 8, file_frame: 4 }];
        let reached = GuestRam::open(&directory.path().join("ram"), regions).unwrap();
        let mapping = Mapping::new(&bar, Geometry::of_bar(1 << 20).unwrap(), Some(reached)).unwrap();
        Self { engine: Engine::new(mapping, 0, None), _directory: directory, bar, ram }
    }

    fn write(&self, offset: u64, words: &[u64]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.bar.write_all_at(&bytes, offset).unwrap();
    }

    fn word(&self, offset: u64) -> u64 {
        let mut bytes = [0; 8];
        self.bar.read_exact_at(&mut bytes, offset).unwrap();
        u64::from_le_bytes(bytes)
    }

    fn command(&self, sequence: u64, command: Command) {
        let entry: CommandEntry = command.encode(sequence);
        self.bar.write_all_at(zerocopy::IntoBytes::as_bytes(&entry), 0x2000 + sequence % 128 * 64).unwrap();
        self.write(0x1000, &[sequence + 1]);
    }

    fn turn(&mut self) -> Result<u64, GuestError> {
        self.engine.turn(&AtomicU64::new(0))
    }
}

fn context() -> ContextId {
    ContextId::new(0).unwrap()
}

fn read(count: u64) -> Command {
    let span = PageSpan::new(VirtualPage(0), count).unwrap();
    Command::Start { context: context(), operation: Operation::Read { span, buffer: FrameIndex(100) } }
}

fn attached() -> Bench {
    let mut bench = Bench::new();
    let window = PageSpan::new(VirtualPage(0), 512).unwrap();
    bench.command(0, Command::Attach { context: context(), window, root: FrameIndex(0) });
    bench.write(0x8000, &[TableEntry::pointer_to(FrameIndex(1)).encode()]);
    assert_eq!((bench.turn(), bench.word(0x4008)), (Ok(1), 1));
    bench
}

#[test]
fn indices_out_of_range_stop_the_device() {
    for (offset, value, error) in [
        (0x1040, 1, GuestError::Requests { producer: 0, consumer: 1 }),
        (0x1040, u64::MAX - 64, GuestError::Requests { producer: 0, consumer: u64::MAX - 64 }),
        (0x1080, 129, GuestError::Answers { producer: 129, consumer: 0 }),
        (0x1080, u64::MAX, GuestError::Answers { producer: u64::MAX, consumer: 0 }),
        (0x1080, 1, GuestError::Answer(0)),
    ] {
        let mut bench = attached();
        bench.command(1, read(1));
        bench.write(offset, &[value]);
        assert_eq!((bench.turn(), bench.word(0x40)), (Err(error), 3), "{offset:#x} {value:#x}");
    }
}

#[test]
fn requests_wait_for_room_and_operations_are_bounded() {
    let mut bench = attached();
    for sequence in 1..=MAX_OPERATIONS as u64 + 1 {
        bench.command(sequence, read(1));
    }
    bench.turn().unwrap();
    let status = |bench: &Bench, sequence: u64| bench.word(0x4008 + sequence * 32);
    assert_eq!((status(&bench, 16), status(&bench, 17)), (1, 8));
    assert_eq!(bench.word(0xc0), 16, "each asks once");
    // Every answer brings a new question, until 64 are not taken.
    for round in 1..10u64 {
        for index in 0..16 {
            let sequence = (round - 1) * 16 + index;
            bench.write(0x6000 + sequence % 128 * 32, &[sequence, 1 + index, 1]);
        }
        bench.write(0x1080, &[round * 16]);
        bench.turn().unwrap();
        assert_eq!(bench.word(0xc0), ((round + 1) * 16).min(64));
    }
    bench.write(0x1040, &[10]);
    bench.turn().unwrap();
    assert_eq!(bench.word(0xc0), 74);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn a_hostile_guest_reaches_only_what_the_device_was_given(
        entries in proptest::collection::vec((1u64..11, 0u64..3, 0u64..600, 0u64..20, 0u64..260, any::<u64>()), 1..100),
        table in proptest::collection::vec((0u64..2048, prop_oneof![
            (0u64..260, 0u64..16).prop_map(|(frame, bits)| frame << 12 | bits),
            any::<u64>(),
        ]), 0..600),
        answers in proptest::collection::vec((0u64..100, 0u64..6), 0..40),
        turns in 1usize..60,
    ) {
        let mut bench = Bench::new();
        for (word, value) in table {
            bench.write(0x8000 + word * 8, &[value]);
        }
        for (sequence, (opcode, context, page, count, frame, operand)) in (0..).zip(&entries) {
            let fields = [sequence, *opcode, *frame, *count, *context, *page, *operand, *operand % 600];
            bench.write(0x2000 + sequence * 64, &fields);
        }
        bench.write(0x1000, &[entries.len() as u64]);
        for (sequence, (operation, verdict)) in (0..).zip(&answers) {
            bench.write(0x6000 + sequence * 32, &[sequence, *operation, *verdict]);
        }
        let mut given = 0;
        for _ in 0..turns {
            bench.write(0x1040, &[bench.word(0xc0)]);
            given = (given + 1).min(answers.len() as u64);
            bench.write(0x1080, &[given]);
            let Err(error) = bench.turn() else { continue };
            let wrong = (0..).zip(&answers).find(|(_, (_, verdict))| !(1..=4).contains(verdict));
            prop_assert_eq!(Some(error), wrong.map(|(sequence, _)| GuestError::Answer(sequence)));
            break;
        }
        let mut bytes = vec![0; 16 * 4096];
        bench.ram.read_exact_at(&mut bytes, 0).unwrap();
        prop_assert!(bytes[..4 * 4096].iter().chain(&bytes[12 * 4096..]).all(|byte| *byte == 0xc7));
    }
}
