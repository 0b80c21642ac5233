//! Tests of the engine against guests of every kind, one turn at a time.
//!
//! The expected outcome is computed on a plain copy of the file by code that shares nothing with
//! the engine: raw offsets and literal values.
use super::*;
use crate::support::Directory;
use ferry_device::Geometry;
use proptest::prelude::*;
use std::fs::File;
use std::os::unix::fs::FileExt;

const BAR_BYTES: u64 = 1 << 20;
const FRAMES: u64 = 248;

struct Bench {
    _directory: Directory,
    file: File,
    engine: Engine,
    transformed: AtomicU64,
}

impl Bench {
    fn new(consumer: u64) -> Self {
        let directory = Directory::new();
        let path = directory.path().join("bar");
        let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
        let pattern: Vec<u8> = (0..BAR_BYTES).map(|offset| (offset ^ (offset >> 12) ^ (offset >> 7)) as u8).collect();
        file.write_all_at(&pattern, 0).unwrap();
        file.write_all_at(&[0; 8], 0x1040).unwrap();
        file.write_all_at(&[0; 8], 0x1080).unwrap();
        let mapping = Mapping::new(&file, Geometry::of_bar(BAR_BYTES).unwrap(), None).unwrap();
        let engine = Engine::new(mapping, consumer, None);
        Self { _directory: directory, file, engine, transformed: AtomicU64::new(0) }
    }

    fn write(&self, offset: u64, words: &[u64]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.file.write_all_at(&bytes, offset).unwrap();
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; BAR_BYTES as usize];
        self.file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn turn(&mut self) -> Result<u64, GuestError> {
        self.engine.turn(&self.transformed)
    }
}

fn word(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

/// What the bytes of the BAR must be after a turn, and how many frames were changed.
fn expected_turn(bytes: &mut [u8], consumer: u64) -> u64 {
    let set = |bytes: &mut [u8], offset: usize, value: u64| {
        bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
    };
    set(bytes, 0x48, 1);
    let producer = word(bytes, 0x1000);
    if producer.wrapping_sub(consumer) > 128 {
        set(bytes, 0x40, 3);
        return 0;
    }
    let mut changed = 0;
    let mut index = consumer;
    while index != producer {
        let slot = (index & 127) as usize * 64;
        let [sequence, opcode, first, count] = [0, 8, 16, 24].map(|field| word(bytes, 0x2000 + slot + field));
        let (status, frames) = if sequence != index {
            (5, 0)
        } else if opcode == 1 {
            (1, 0)
        } else if opcode != 2 {
            (2, 0)
        } else if !(1..=1024).contains(&count) {
            (4, 0)
        } else if u128::from(first) + u128::from(count) > u128::from(FRAMES) {
            (3, 0)
        } else {
            let start = 0x8000 + first as usize * 4096;
            bytes[start..start + count as usize * 4096].iter_mut().for_each(|byte| *byte ^= 0xff);
            (1, count)
        };
        changed += frames;
        for (field, value) in [(0, index), (8, status), (16, frames), (24, 0)] {
            set(bytes, 0x4000 + slot / 2 + field, value);
        }
        index = index.wrapping_add(1);
    }
    if producer != consumer {
        set(bytes, 0x80, producer);
    }
    changed
}

#[test]
fn a_turn_does_exactly_what_was_submitted() {
    let start = u64::MAX - 1;
    let mut bench = Bench::new(start);
    bench.write(0x2000 + 126 * 64, &[start, 2, 3, 2, start.wrapping_add(1), 1, 0, 0]);
    bench.write(0x2000, &[0, 2, 247, 1]);
    bench.write(0x1000, &[1]);
    let mut expected = bench.bytes();
    assert_eq!(expected_turn(&mut expected, start), 3);
    assert_eq!(bench.turn(), Ok(3));
    assert!(bench.bytes() == expected);
    assert_eq!(bench.transformed.load(Ordering::Relaxed), 3);
    assert_eq!(bench.turn(), Ok(0), "nothing is done twice");
}

#[test]
fn a_producer_index_out_of_range_stops_the_device_before_it_does_anything() {
    for producer in [5 + 129, 4, 0, u64::MAX, 1 << 63] {
        let mut bench = Bench::new(5);
        bench.write(0x2000 + 5 * 64, &[5, 2, 0, 1]);
        bench.write(0x1000, &[producer]);
        let mut expected = bench.bytes();
        expected_turn(&mut expected, 5);
        assert_eq!(bench.turn(), Err(GuestError::Commands { producer, consumer: 5 }));
        assert!(bench.bytes() == expected);
        assert_eq!(word(&expected, 0x40), DeviceState::Failed.to_wire());
    }
}

/// An entry that is often nearly right.
fn entry() -> impl Strategy<Value = [Option<u64>; 4]> {
    // Commands on contexts have tests of their own.
    let other = || prop_oneof![Just(0u64), 10u64..20, any::<u64>().prop_filter("contexts", |code| *code > 9)];
    let odd = || prop_oneof![0u64..4, 240u64..260, 1020u64..1030, any::<u64>()];
    (
        prop_oneof![6 => Just(None), 1 => odd().prop_map(Some)],
        prop_oneof![6 => Just(Some(2)), 1 => Just(Some(1)), 1 => other().prop_map(Some)],
        prop_oneof![4 => (0u64..FRAMES).prop_map(Some), 1 => odd().prop_map(Some)],
        prop_oneof![4 => (1u64..20).prop_map(Some), 1 => odd().prop_map(Some)],
    )
        .prop_map(Into::into)
}

proptest! {
    /// Whatever stands in the control area: the engine does what the rules say and nothing else.
    #[test]
    fn a_hostile_guest_gets_what_the_rules_say(
        consumer in prop_oneof![0u64..200, any::<u64>(), Just(u64::MAX - 3)],
        pending in prop_oneof![9 => 0u64..=128, 1 => any::<u64>()],
        entries in proptest::collection::vec(entry(), 1..129),
        noise in proptest::collection::vec((0u64..0x8000 / 8, any::<u64>()), 0..64),
    ) {
        let mut bench = Bench::new(consumer);
        for (place, value) in noise {
            bench.write(place * 8, &[value]);
        }
        bench.write(0x1000, &[consumer.wrapping_add(pending)]);
        // The indices of the other two rings have tests of their own.
        bench.write(0x1040, &[0]);
        bench.write(0x1080, &[0]);
        for (index, fields) in entries.iter().enumerate() {
            let sequence = consumer.wrapping_add(index as u64);
            let [named, opcode, first, count] = fields.map(|field| field.unwrap_or(sequence));
            bench.write(0x2000 + (sequence % 128) * 64, &[named, opcode, first, count]);
        }
        let mut expected = bench.bytes();
        let changed = expected_turn(&mut expected, consumer);
        prop_assert_eq!(bench.turn().is_ok(), pending <= 128);
        prop_assert!(bench.bytes() == expected);
        prop_assert_eq!(bench.transformed.load(Ordering::Relaxed), changed);
    }
}
