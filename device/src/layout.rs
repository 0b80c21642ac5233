//! The control area: which byte stands where, in version 2 of the layout.
//!
//! ```text
//!   page  offset   writer   contents
//!   ────  ──────   ──────   ────────────────────────────────────────────────────────────
//!    0    0x0000   device   identification: magic, version, sizes, number, type
//!         0x0040   device   state, heartbeat
//!         0x0080   device   consumer index of the command ring
//!         0x00c0   device   producer index of the request ring
//!         0x0100   device   consumer index of the answer ring
//!    1    0x1000   guest    producer index of the command ring
//!         0x1040   guest    consumer index of the request ring
//!         0x1080   guest    producer index of the answer ring
//!    2–3  0x2000   guest    command ring:    128 entries of 64 bytes
//!    4    0x4000   device   completion ring: 128 entries of 32 bytes, slot for slot
//!    5    0x5000   device   request ring:     64 entries of 64 bytes
//!    6    0x6000   guest    answer ring:     128 entries of 32 bytes
//!    7    0x7000   nobody   zero
//!         0x8000            device frame 0
//! ```
//!
//! Commands and answers go to the device, completions and requests come from it. A command is completed in order and at
//! once; what it started goes on, and its misses and its end are requests.
//!
//! All integers are little endian. Invariants:
//! 1. Every page has one writer; the other side only reads it.
//! 2. The identification is complete before the guest starts and does not change.
//! 3. Indices count entries from the first on and never go back; entry `i` stands in slot `i % entries of its ring`.
//!    `consumer <= producer <= consumer + entries of the ring`, modulo 2^64.
//! 4. A ring's writer writes entry `i`, then publishes `producer = i + 1`; it does not touch slot `i`
//!    again before `consumer > i`. The reader reads entry `i` after it saw `producer > i`, then publishes
//!    `consumer = i + 1`; the device writes completion `i` before it does so. So each slot has one owner at a time, and
//!    a publication is a release, its observation an acquire.
use core::marker::PhantomData;
use core::mem::{offset_of, size_of};

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::geometry::{CONTROL_BYTES, FRAME_BYTES};

/// First eight bytes of the BAR: `FERRYDEV`.
pub const MAGIC: u64 = u64::from_le_bytes(*b"FERRYDEV");

/// Version of this layout; changes with every change in this file.
pub const LAYOUT_VERSION: u32 = 2;

/// Entries in the command ring and in the completion ring; a power of two, so that slots stay in
/// step when an index wraps around.
pub const RING_ENTRIES: u64 = 128;

/// Entries in the request ring.
pub const REQUEST_ENTRIES: u64 = 64;

/// Entries in the answer ring.
pub const ANSWER_ENTRIES: u64 = 128;

/// Bytes in an entry of the command ring.
pub const ENTRY_BYTES: usize = 64;

/// Who and how large the device is. Written once, before the guest starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Identification {
    /// [`MAGIC`].
    pub magic: U64,
    /// [`LAYOUT_VERSION`].
    pub version: U32,
    /// A [`DeviceType`](crate::identity::DeviceType).
    pub device_type: U32,
    /// Bytes of the whole BAR.
    pub bar_bytes: U64,
    /// Device frames in it.
    pub frames: U64,
    /// Pages of the control area.
    pub control_pages: U32,
    /// The device's number, which page-table entries carry.
    pub device_number: U32,
    /// [`RING_ENTRIES`].
    pub ring_entries: U32,
    /// [`ENTRY_BYTES`].
    pub entry_bytes: U32,
    /// Zero.
    pub reserved: [U64; 2],
}

/// Page 0: what the device writes outside its completion ring.
///
/// The parts that change stand on cache lines of their own, so that polling one is not slowed down
/// by the other.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DevicePage {
    /// Who and how large the device is.
    pub identification: Identification,
    /// A [`DeviceState`](crate::command::DeviceState).
    pub state: U64,
    /// Grows while the device looks at its ring; tells a slow device from a dead one.
    pub heartbeat: U64,
    reserved: [U64; 6],
    /// Commands completed since the device started.
    pub consumer: U64,
    reserved_after_consumer: [U64; 7],
    /// Requests posted since the device started.
    pub request_producer: U64,
    reserved_after_request_producer: [U64; 7],
    /// Answers taken since the device started.
    pub answer_consumer: U64,
}

/// Page 1: what the guest writes outside its command ring.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GuestPage {
    /// Commands submitted since the device started.
    pub producer: U64,
    reserved_after_producer: [U64; 7],
    /// Requests taken since the device started.
    pub request_consumer: U64,
    reserved_after_request_consumer: [U64; 7],
    /// Answers given since the device started.
    pub answer_producer: U64,
}

/// An entry of the command ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CommandEntry {
    /// The entry's index.
    pub sequence: U64,
    /// An [`opcode`](crate::command).
    pub opcode: U64,
    /// First device frame; zero for commands without frames.
    pub first_frame: U64,
    /// Number of device frames or pages; zero for commands without either.
    pub count: U64,
    /// A [`ContextId`](crate::context::ContextId); zero for commands without a context.
    pub context: U64,
    /// First page of the address space; zero for commands without pages.
    pub page: U64,
    /// What the command says more: see [`command`](crate::command).
    pub operand: U64,
    /// What the command says more: see [`command`](crate::command).
    pub word: U64,
}

/// An entry of the completion ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CompletionEntry {
    /// The index of the command that this completes.
    pub sequence: U64,
    /// A [`Status`](crate::command::Status).
    pub status: U64,
    /// Device frames that the command changed.
    pub frames: U64,
    /// Zero.
    pub reserved: U64,
}

/// An entry of the request ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RequestEntry {
    /// The entry's index.
    pub sequence: U64,
    /// A [`kind`](crate::request).
    pub kind: U64,
    /// The command that started the operation.
    pub operation: U64,
    /// First page that misses; zero where the operation has ended.
    pub page: U64,
    /// Pages from there to the end of the operation; or pages done where the operation has ended.
    pub count: U64,
    /// An [`Access`](crate::request::Access); or an [`OperationStatus`](crate::request::OperationStatus).
    pub detail: U64,
    /// How many misses have been answered so far.
    pub faults: U64,
    /// What an addition found, where that has ended; else zero.
    pub value: U64,
}

/// An entry of the answer ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AnswerEntry {
    /// The entry's index.
    pub sequence: U64,
    /// The command that started the operation.
    pub operation: U64,
    /// A [`Verdict`](crate::request::Verdict).
    pub verdict: U64,
    /// Zero.
    pub reserved: U64,
}

/// A place in the control area that holds a `T`.
///
/// It can only be made in this file, and only inside the control area and on an 8-byte boundary:
/// that is what lets [`Bar`](crate::Bar) go there without a check.
pub struct Place<T> {
    offset: usize,
    holds: PhantomData<fn() -> T>,
}

impl<T> Clone for Place<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Place<T> {}

impl<T> Place<T> {
    const fn at(offset: usize) -> Self {
        assert!(offset.is_multiple_of(size_of::<u64>()), "the control area is accessed in aligned words");
        assert!(size_of::<T>().is_multiple_of(size_of::<u64>()), "the control area is accessed in whole words");
        assert!(offset <= CONTROL_BYTES && size_of::<T>() <= CONTROL_BYTES - offset, "outside the control area");
        Self { offset, holds: PhantomData }
    }

    /// Offset from the start of the BAR, in bytes.
    pub const fn offset(self) -> usize {
        self.offset
    }
}

const DEVICE_PAGE: usize = 0;
const GUEST_PAGE: usize = FRAME_BYTES;
const COMMAND_RING: usize = 2 * FRAME_BYTES;
const COMPLETION_RING: usize = 4 * FRAME_BYTES;
const REQUEST_RING: usize = 5 * FRAME_BYTES;
const ANSWER_RING: usize = 6 * FRAME_BYTES;

/// Where the identification stands.
pub const IDENTIFICATION: Place<Identification> = Place::at(DEVICE_PAGE + offset_of!(DevicePage, identification));
/// Where the device's state stands.
pub const STATE: Place<U64> = Place::at(DEVICE_PAGE + offset_of!(DevicePage, state));
/// Where the device's heartbeat stands.
pub const HEARTBEAT: Place<U64> = Place::at(DEVICE_PAGE + offset_of!(DevicePage, heartbeat));
/// Where the consumer index of the command ring stands.
pub const CONSUMER: Place<U64> = Place::at(DEVICE_PAGE + offset_of!(DevicePage, consumer));
/// Where the producer index of the request ring stands.
pub const REQUEST_PRODUCER: Place<U64> = Place::at(DEVICE_PAGE + offset_of!(DevicePage, request_producer));
/// Where the consumer index of the answer ring stands.
pub const ANSWER_CONSUMER: Place<U64> = Place::at(DEVICE_PAGE + offset_of!(DevicePage, answer_consumer));
/// Where the producer index of the command ring stands.
pub const PRODUCER: Place<U64> = Place::at(GUEST_PAGE + offset_of!(GuestPage, producer));
/// Where the consumer index of the request ring stands.
pub const REQUEST_CONSUMER: Place<U64> = Place::at(GUEST_PAGE + offset_of!(GuestPage, request_consumer));
/// Where the producer index of the answer ring stands.
pub const ANSWER_PRODUCER: Place<U64> = Place::at(GUEST_PAGE + offset_of!(GuestPage, answer_producer));

/// Where the command with this index stands.
pub const fn command_place(index: u64) -> Place<CommandEntry> {
    Place::at(COMMAND_RING + slot(index) * size_of::<CommandEntry>())
}

/// Where the completion of the command with this index stands.
pub const fn completion_place(index: u64) -> Place<CompletionEntry> {
    Place::at(COMPLETION_RING + slot(index) * size_of::<CompletionEntry>())
}

/// Where the request with this index stands.
pub const fn request_place(index: u64) -> Place<RequestEntry> {
    Place::at(REQUEST_RING + (index % REQUEST_ENTRIES) as usize * size_of::<RequestEntry>())
}

/// Where the answer with this index stands.
pub const fn answer_place(index: u64) -> Place<AnswerEntry> {
    Place::at(ANSWER_RING + (index % ANSWER_ENTRIES) as usize * size_of::<AnswerEntry>())
}

/// The slot of a command and of its completion.
pub const fn slot(index: u64) -> usize {
    (index % RING_ENTRIES) as usize
}

const _: () = {
    assert!(RING_ENTRIES.is_power_of_two() && REQUEST_ENTRIES.is_power_of_two() && ANSWER_ENTRIES.is_power_of_two());
    assert!(size_of::<CommandEntry>() == ENTRY_BYTES);
    assert!(RING_ENTRIES as usize * size_of::<CommandEntry>() == COMPLETION_RING - COMMAND_RING, "fills its pages");
    assert!(RING_ENTRIES as usize * size_of::<CompletionEntry>() == FRAME_BYTES, "fills its page");
    assert!(REQUEST_ENTRIES as usize * size_of::<RequestEntry>() == FRAME_BYTES, "fills its page");
    assert!(ANSWER_ENTRIES as usize * size_of::<AnswerEntry>() == FRAME_BYTES, "fills its page");
    assert!(size_of::<Identification>() == 0x40);
    assert!(STATE.offset() == 0x40 && HEARTBEAT.offset() == 0x48 && CONSUMER.offset() == 0x80);
    assert!(REQUEST_PRODUCER.offset() == 0xc0 && ANSWER_CONSUMER.offset() == 0x100);
    assert!(PRODUCER.offset() == 0x1000 && REQUEST_CONSUMER.offset() == 0x1040 && ANSWER_PRODUCER.offset() == 0x1080);
    assert!(command_place(0).offset() == 0x2000 && command_place(RING_ENTRIES - 1).offset() == 0x3fc0);
    assert!(completion_place(0).offset() == 0x4000 && completion_place(RING_ENTRIES - 1).offset() == 0x4fe0);
    assert!(request_place(0).offset() == 0x5000 && request_place(REQUEST_ENTRIES - 1).offset() == 0x5fc0);
    assert!(answer_place(0).offset() == 0x6000 && answer_place(ANSWER_ENTRIES - 1).offset() == 0x6fe0);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identification_is_these_bytes() {
        let identification = Identification {
            magic: U64::new(MAGIC),
            version: U32::new(0x0403_0201),
            device_type: U32::new(0x1413_1211),
            bar_bytes: U64::new(0x2827_2625_2423_2221),
            frames: U64::new(0x3837_3635_3433_3231),
            control_pages: U32::new(0x4443_4241),
            device_number: U32::new(0x5453_5251),
            ring_entries: U32::new(0x6463_6261),
            entry_bytes: U32::new(0x7473_7271),
            reserved: [U64::ZERO; 2],
        };
        let mut expected = [0; 64];
        expected[..8].copy_from_slice(b"FERRYDEV");
        expected[0x08..0x10].copy_from_slice(&[0x01, 0x02, 0x03, 0x04, 0x11, 0x12, 0x13, 0x14]);
        expected[0x10..0x18].copy_from_slice(&[0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28]);
        expected[0x18..0x20].copy_from_slice(&[0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38]);
        expected[0x20..0x28].copy_from_slice(&[0x41, 0x42, 0x43, 0x44, 0x51, 0x52, 0x53, 0x54]);
        expected[0x28..0x30].copy_from_slice(&[0x61, 0x62, 0x63, 0x64, 0x71, 0x72, 0x73, 0x74]);
        assert_eq!(identification.as_bytes(), expected);
    }

    #[test]
    fn entries_are_these_bytes() {
        let word = |value| U64::new(value);
        let [sequence, count, page, operation] = [word(1), word(4), word(6), word(3)];
        let (opcode, first_frame, context) = (word(2), word(3), word(5));
        let command =
            CommandEntry { sequence, opcode, first_frame, count, context, page, operand: word(7), word: word(8) };
        let completion = CompletionEntry { sequence, status: word(2), frames: word(3), reserved: word(4) };
        let (kind, detail, faults) = (word(2), word(6), word(7));
        let request =
            RequestEntry { sequence, kind, operation, page: word(4), count: word(5), detail, faults, value: word(8) };
        let answer = AnswerEntry { sequence, operation: word(2), verdict: word(3), reserved: word(4) };
        let expected: std::vec::Vec<u8> = (1u64..=8).flat_map(u64::to_le_bytes).collect();
        assert_eq!(command.as_bytes(), expected);
        assert_eq!(completion.as_bytes(), &expected[..32]);
        assert_eq!(request.as_bytes(), expected);
        assert_eq!(answer.as_bytes(), &expected[..32]);
    }

    #[test]
    fn slots_stay_in_step_when_an_index_wraps_around() {
        assert_eq!(slot(u64::MAX), RING_ENTRIES as usize - 1);
        assert_eq!(slot(u64::MAX.wrapping_add(1)), 0);
        assert_eq!(command_place(RING_ENTRIES + 3).offset(), 0x20c0);
        assert_eq!(completion_place(u64::MAX).offset(), 0x4fe0);
    }
}
