//! Tests of the accessor: every byte arrives, and none beside it is touched.
use super::*;
use crate::layout::{CONSUMER, IDENTIFICATION, command_place};
use crate::testing::{Memory, Page};
use std::boxed::Box;
use std::vec::Vec;

/// Bytes of which no two frames, and no two 16-byte chunks of a frame, are alike.
fn pattern(seed: u64) -> Box<Page> {
    let mut page = Box::new(Page([0; FRAME_BYTES]));
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for byte in &mut page.0 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = (state >> 56) as u8;
    }
    page
}

#[test]
fn a_written_frame_stands_at_its_offset_and_nowhere_else() {
    let memory = Memory::new();
    let bar = memory.bar();
    for (frame, offset) in [(0, 0x8000), (1, 0x9000), (247, 0xff000)] {
        let page = pattern(frame);
        let mut expected = memory.bytes();
        expected[offset..offset + 4096].copy_from_slice(&page.0);
        // SAFETY: a page of RAM of this test.
        unsafe { bar.write_frame(FrameIndex(frame), page.0.as_ptr()) }.unwrap();
        bar.finish_writes();
        assert!(memory.bytes() == expected, "frame {frame}");
    }
    assert!(memory.canaries_live());
}

#[test]
fn both_ways_to_read_a_frame_bring_every_byte() {
    let memory = Memory::new();
    let page = pattern(5);
    memory.fill(0x8000 + 5 * 4096, &page.0);
    let routines: Vec<(&str, ReadFrame)> = if std::is_x86_feature_detected!("sse4.1") {
        std::vec![("streaming", copy::read_streaming), ("plain", copy::read_plain)]
    } else {
        std::vec![("plain", copy::read_plain)]
    };
    for (name, read_frame) in routines {
        let bar = Bar { read_frame, ..memory.bar() };
        let mut around = Box::new([const { Page([0x55; FRAME_BYTES]) }; 3]);
        bar.begin_reads();
        // SAFETY: a page of RAM of this test.
        unsafe { bar.read_frame(FrameIndex(5), around[1].0.as_mut_ptr()) }.unwrap();
        assert!(around[1].0 == page.0, "{name}");
        assert!([&around[0], &around[2]].iter().all(|beside| beside.0 == [0x55; FRAME_BYTES]), "{name}");
    }
}

#[test]
fn a_cleared_frame_is_zero_and_its_neighbours_are_not() {
    let memory = Memory::new();
    memory.fill(0, &[0xff; 1 << 20]);
    memory.bar().clear_frame(FrameIndex(100)).unwrap();
    memory.bar().finish_writes();
    let start = 0x8000 + 100 * 4096;
    for (offset, byte) in memory.bytes().into_iter().enumerate() {
        let cleared = (start..start + 4096).contains(&offset);
        assert_eq!(byte, if cleared { 0 } else { 0xff }, "offset {offset:#x}");
    }
}

#[test]
fn a_frame_that_does_not_exist_is_an_error_and_nothing_moves() {
    let memory = Memory::new();
    let bar = memory.bar();
    let mut page = pattern(1);
    let before = page.0;
    for frame in [248, 249, 1 << 52, u64::MAX] {
        let none = Err(NoSuchFrame { frame: FrameIndex(frame), frames: 248 });
        // SAFETY: a page of RAM of this test.
        unsafe {
            assert_eq!(bar.read_frame(FrameIndex(frame), page.0.as_mut_ptr()), none);
            assert_eq!(bar.write_frame(FrameIndex(frame), page.0.as_ptr()), none);
        }
        assert_eq!(bar.clear_frame(FrameIndex(frame)), none);
    }
    assert!(page.0 == before && memory.bytes().iter().all(|byte| *byte == 0) && memory.canaries_live());
}

#[test]
fn words_and_entries_stand_where_the_layout_says() {
    let memory = Memory::ready(0);
    let bar = memory.bar();
    bar.publish(CONSUMER, 0x0102_0304_0506_0708);
    assert_eq!(memory.bytes()[0x80..0x88], [8, 7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(bar.observe(CONSUMER), 0x0102_0304_0506_0708);
    memory.fill(0x2040, &(1..=64).collect::<Vec<u8>>());
    let entry = bar.load(command_place(1));
    assert_eq!(entry.as_bytes(), (1..=64).collect::<Vec<u8>>());
    bar.store(command_place(127), &entry);
    assert_eq!(memory.bytes()[0x3fc0..0x4000], *entry.as_bytes());
    assert_eq!(bar.load(IDENTIFICATION).as_bytes(), &memory.bytes()[..64]);
}

#[test]
fn a_mapping_that_cannot_be_the_bar_is_refused_before_it_is_touched() {
    let misaligned = NonNull::new(core::ptr::without_provenance_mut::<u8>(0x1010)).unwrap();
    // SAFETY: `new` refuses these and returns no `Bar`; it touches nothing on the way.
    unsafe {
        assert_eq!(Bar::new(misaligned, 1 << 20).unwrap_err(), BarError::Misaligned(0x1010));
        assert_eq!(Bar::new(misaligned, 1 << 16).unwrap_err(), BarError::Size(SizeError::TooSmall(1 << 16)));
    }
}
