//! The control area, the rings and the device page tables as the device's model sees them: a hostile guest
//!
//! The input is a script: the guest writes whatever it likes into its own pages, into device frames, where page tables are, and
//! into RAM; between that the model takes turns. It begins with the index of the first command.
//!
//! Oracle: bytes before and after each turn. The model writes in its own pages of the control area, in device frames and in RAM,
//! there only in frames that some valid, writable entry in some device frame has named, and only while a context is attached.
//! Each command is completed once, in order, with a status that exists, and a turn does no more than the rings can ask for.
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use ferry_device::command::{DeviceState, Status};
use ferry_device::geometry::{CONTROL_BYTES, FRAME_BYTES};
use ferry_device::layout::{ANSWER_ENTRIES, REQUEST_ENTRIES, RING_ENTRIES};
use ferry_device::{Geometry, RamFrame};
use ferry_device_model::{Engine, GuestRam, Mapping, RamRegion};

use crate::Target;
use crate::memory::BAR_BYTES;
use crate::script::Script;

/// See the module.
pub const TARGET: Target = Target { name: "model", check, seeds, most_bytes: 1024 };

/// The guest's RAM: two regions, the second far away, each with as many frames.
const REGION_FRAMES: u64 = 8;
const REGIONS: [u64; 2] = [0, 1 << 20];
const RAM_BYTES: usize = 2 * REGION_FRAMES as usize * FRAME_BYTES;

/// Pages that the guest writes, the empty one included, and its words.
const GUEST_PAGES: [usize; 5] = [1, 2, 3, 6, 7];
const PRODUCER: usize = 0x1000;
const REQUEST_CONSUMER: usize = 0x1040;
const ANSWER_PRODUCER: usize = 0x1080;
const COMMANDS: usize = 0x2000;
const ANSWERS: usize = 0x6000;

/// Words that the device writes.
const STATE: usize = 0x40;
const CONSUMER: usize = 0x80;
const REQUEST_PRODUCER: usize = 0xc0;
const COMPLETIONS: usize = 0x4000;

/// Most operations at a time, each of which does a page and says something in a turn.
const MOST_STEPS: u64 = RING_ENTRIES + ANSWER_ENTRIES + 16 + REQUEST_ENTRIES;

/// Most turns of one input.
const MOST_TURNS: usize = 6;

/// Bits of an entry of a device page table (see `device/src/page_table.rs`).
const VALID: u64 = 1;
const WRITE: u64 = 1 << 1;
const LOCAL: u64 = 1 << 2;

/// Files that stand for the BAR and for RAM, one pair for each thread.
struct Files {
    bar: File,
    ram: File,
    ram_path: PathBuf,
    /// Room for the contents of device frames and RAM.
    words: RefCell<Vec<u8>>,
}

impl Files {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let make = |name: &str| {
            // Where there is a file system in memory, no disk is asked.
            let directory = Some(Path::new("/dev/shm")).filter(|path| path.is_dir()).map(Path::to_owned);
            let directory = directory.unwrap_or_else(std::env::temp_dir);
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = directory.join(format!("ferry-fuzz-{}-{number}-{name}", std::process::id()));
            let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
            (file.expect("a file can be made"), path)
        };
        let ((bar, bar_path), (ram, ram_path)) = (make("bar"), make("ram"));
        // The handle is enough for one; the model opens the other by its name.
        std::fs::remove_file(bar_path).expect("was made");
        Self { bar, ram, ram_path, words: RefCell::new(vec![0; BAR_BYTES - CONTROL_BYTES + RAM_BYTES]) }
    }

    /// Zeros in both.
    fn clear(&self) {
        for (file, bytes) in [(&self.bar, BAR_BYTES), (&self.ram, RAM_BYTES)] {
            file.set_len(0).expect("a file can be cut");
            file.set_len(bytes as u64).expect("a file can grow");
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // What cannot be removed is only left over.
        let _ = std::fs::remove_file(&self.ram_path);
    }
}

thread_local! {
    static FILES: RefCell<Files> = RefCell::new(Files::new());
}

fn read(file: &File, offset: usize, bytes: usize) -> Vec<u8> {
    let mut read = vec![0; bytes];
    file.read_exact_at(&mut read, offset as u64).expect("the file is that long");
    read
}

fn word(bytes: &[u8], offset: usize) -> u64 {
    bytes[offset..offset + size_of::<u64>()].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

struct Stage<'f> {
    files: &'f Files,
    engine: Engine,
    /// Commands completed so far.
    consumer: u64,
    /// The frames of RAM, by their place in the file, that a writable entry has named.
    writable: BTreeSet<u64>,
    attached: bool,
    failed: bool,
}

impl Stage<'_> {
    fn write(&self, offset: usize, words: &[u64]) {
        let bytes: Vec<_> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.files.bar.write_all_at(&bytes, offset as u64).expect("the file is that long");
    }

    /// Lets the guest do something.
    fn act(&mut self, script: &mut Script) {
        let control = read(&self.files.bar, 0, CONTROL_BYTES);
        match script.below(6) {
            // Any word of its own.
            0 => {
                let page = GUEST_PAGES[usize::from(script.below(4))];
                let offset = script.word_below(FRAME_BYTES);
                let value = script.long();
                self.write(page * FRAME_BYTES + offset, &[value]);
            }
            // The next command.
            1 => {
                let sequence = word(&control, PRODUCER);
                let opcode = u64::from(script.below(11));
                let [first_frame, count, context, page, operand, of_word] = std::array::from_fn(|_| script.number());
                let entry = [sequence, opcode, first_frame, count, context, page, operand, of_word];
                self.write(COMMANDS + (sequence % RING_ENTRIES) as usize * 64, &entry);
                self.write(PRODUCER, &[sequence.wrapping_add(1)]);
            }
            // The next answer.
            2 => {
                let sequence = word(&control, ANSWER_PRODUCER);
                let operation = word(&control, CONSUMER).wrapping_sub(script.number());
                let verdict = script.number();
                self.write(ANSWERS + (sequence % ANSWER_ENTRIES) as usize * 32, &[sequence, operation, verdict, 0]);
                self.write(ANSWER_PRODUCER, &[sequence.wrapping_add(1)]);
            }
            // An index, near where it belongs.
            3 => {
                let near = i64::from(script.byte() as i8);
                let index = [REQUEST_CONSUMER, PRODUCER, ANSWER_PRODUCER][usize::from(script.below(3))];
                let other = if index == REQUEST_CONSUMER { REQUEST_PRODUCER } else { index };
                self.write(index, &[word(&control, other).wrapping_add_signed(near)]);
            }
            // An entry of a page table.
            4 => {
                let (frame, entry) = (usize::from(script.byte()), usize::from(script.short()) % 512);
                let value = script.number() << 12 | u64::from(script.byte());
                let offset = CONTROL_BYTES + frame * FRAME_BYTES + entry * size_of::<u64>();
                if offset < BAR_BYTES {
                    self.write(offset, &[value]);
                }
            }
            _ => {
                let (place, value) = (script.word_below(RAM_BYTES), script.long());
                self.files.ram.write_all_at(&value.to_le_bytes(), place as u64).expect("the file is that long");
            }
        }
    }

    /// Notes which frames of RAM the device may write from now on.
    fn look_at_entries(&mut self) {
        let mut words = self.files.words.borrow_mut();
        let (frames, ram) = words.split_at_mut(BAR_BYTES - CONTROL_BYTES);
        self.files.bar.read_exact_at(frames, CONTROL_BYTES as u64).expect("the file is that long");
        // What is in RAM may be in a device frame for a part of a turn.
        self.files.ram.read_exact_at(ram, 0).expect("the file is that long");
        // Whole pages first: this loop is instrumented, and comparing them is not.
        let pages = words.chunks_exact(FRAME_BYTES).filter(|page| **page != [0; FRAME_BYTES]);
        for entry in pages.flat_map(|page| page.chunks_exact(size_of::<u64>())).map(|bytes| word(bytes, 0)) {
            if entry & (VALID | WRITE | LOCAL) == VALID | WRITE {
                let frame = entry >> 12;
                let region = REGIONS.iter().position(|first| (*first..first + REGION_FRAMES).contains(&frame));
                self.writable.extend(region.map(|region| frame % REGION_FRAMES + region as u64 * REGION_FRAMES));
            }
        }
    }

    fn turn(&mut self) {
        let before = (read(&self.files.bar, 0, CONTROL_BYTES), read(&self.files.ram, 0, RAM_BYTES));
        self.look_at_entries();
        let producer = word(&before.0, PRODUCER);
        let pending = producer.wrapping_sub(self.consumer);
        let turned = self.engine.turn(&AtomicU64::new(0));
        let after = (read(&self.files.bar, 0, CONTROL_BYTES), read(&self.files.ram, 0, RAM_BYTES));
        for page in GUEST_PAGES {
            let range = page * FRAME_BYTES..(page + 1) * FRAME_BYTES;
            assert!(
                before.0[range.clone()] == after.0[range],
                "the model wrote into page {page}, which is the guest's"
            );
        }
        if pending > RING_ENTRIES {
            assert!(turned.is_err(), "{pending} commands in a ring of {RING_ENTRIES}");
        } else {
            self.check_completions(&before.0, &after.0, pending);
            self.consumer = producer;
        }
        match turned {
            Ok(steps) => assert!(steps <= MOST_STEPS, "{steps} steps in one turn"),
            Err(error) => {
                assert!(!error.to_string().is_empty(), "an error has a text");
                assert_eq!(word(&after.0, STATE), DeviceState::Failed.to_wire(), "the guest is not told");
                self.failed = true;
            }
        }
        // A frame that an entry came to name in this turn: the device has read or inverted that entry's frame into being.
        self.look_at_entries();
        for (index, (old, new)) in before.1.chunks(FRAME_BYTES).zip(after.1.chunks(FRAME_BYTES)).enumerate() {
            let may_change = self.attached && self.writable.contains(&(index as u64));
            assert!(old == new || may_change, "the model wrote into a frame of RAM that is not the device's");
        }
    }

    fn check_completions(&mut self, before: &[u8], after: &[u8], pending: u64) {
        for index in 0..pending {
            let sequence = self.consumer.wrapping_add(index);
            let place = COMPLETIONS + (sequence % RING_ENTRIES) as usize * 32;
            let command = COMMANDS + (sequence % RING_ENTRIES) as usize * 64;
            let [named, status, frames] = [0, 8, 16].map(|field| word(after, place + field));
            assert_eq!(named, sequence, "a completion is for another command");
            let status = Status::from_wire(status).expect("the status of a completion exists");
            let [of, opcode, count] = [0, 8, 24].map(|field| word(before, command + field));
            let expected = if status == Status::Done && opcode == 2 { count } else { 0 };
            assert_eq!(frames, expected, "another number of frames");
            assert!(status != Status::Done || of == sequence && (1..10).contains(&opcode), "{of} {opcode} was done");
            self.attached |= status == Status::Done && opcode == 3;
        }
        if pending > 0 {
            assert_eq!(word(after, CONSUMER), self.consumer.wrapping_add(pending), "commands are left");
        }
    }
}

fn check(input: &[u8]) {
    FILES.with_borrow(|files| {
        files.clear();
        let regions = REGIONS.iter().enumerate().map(|(index, first)| RamRegion {
            first: RamFrame(*first),
            frames: REGION_FRAMES,
            file_frame: index as u64 * REGION_FRAMES,
        });
        let ram = GuestRam::open(&files.ram_path, regions.collect()).expect("the file is there");
        let geometry = Geometry::of_bar(BAR_BYTES as u64).expect("the size of a BAR");
        let mapping = Mapping::new(&files.bar, geometry, Some(ram)).expect("files can be mapped");
        let mut script = Script::new(input);
        let consumer = script.long();
        let (engine, writable) = (Engine::new(mapping, consumer, None), BTreeSet::new());
        let mut stage = Stage { files, engine, consumer, writable, attached: false, failed: false };
        stage.write(PRODUCER, &[consumer]);
        let mut turns = 0;
        while !script.is_over() && turns < MOST_TURNS && !stage.failed {
            match script.below(4) {
                0 => {
                    stage.turn();
                    turns += 1;
                }
                _ => stage.act(&mut script),
            }
        }
        if !stage.failed {
            stage.turn();
        }
    });
}

fn seeds() -> Vec<Vec<u8>> {
    const TURN: [u8; 1] = [0];
    let begin = |index: u64| index.to_le_bytes().to_vec();
    let command = |fields: [u8; 7]| [&[1, 1][..], &fields].concat();
    // Context 1, window of 8 pages from page 16 on, root in frame 0, leaf in frame 1.
    let attach = command([3, 0, 8, 1, 16, 0, 0]);
    let entry = |frame: u8, index: u8, value: u8, bits: u8| vec![1, 4, frame, index, 0, value, bits];
    let tables = [entry(0, 0, 1, 0b101), entry(1, 0, 2, 0b1011), entry(1, 1, 3, 0b011), entry(1, 2, 9, 0b111)].concat();
    let [read, write] = [6, 7].map(|opcode| command([opcode, 8, 3, 1, 16, 0, 0]));
    let add = command([8, 0, 1, 1, 16, 5, 7]);
    let invert = command([2, 3, 4, 0, 0, 0, 0]);
    let attach_again = attach.clone();
    let retry = vec![1, 2, 1, 1];
    let taken = vec![1, 3, 0, 0];
    let works = [begin(0), attach.clone(), tables, read, write, add, TURN.repeat(4)].concat();
    let misses =
        [begin(0), attach, command([6, 8, 3, 1, 16, 0, 0]), TURN.to_vec(), taken, retry, TURN.repeat(2)].concat();
    let inverts = [begin(u64::MAX - 1), invert.repeat(3), TURN.to_vec(), vec![1, 3, 0x7f, 1]].concat();
    // The last frame of the first region, and the one behind it.
    let border = [entry(0, 0, 1, 0b101), entry(1, 0, 7, 0b011), entry(1, 1, 8, 0b011)].concat();
    let beyond = [begin(0), attach_again, border, command([7, 8, 2, 1, 16, 0, 0]), TURN.repeat(3)].concat();
    vec![works, misses, inverts, beyond]
}
