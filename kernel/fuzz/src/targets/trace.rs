//! The event stream as the host tool reads, replays and writes it
//!
//! The input is the stream byte by byte; or events, each a length, a CPU and what `postcard` makes of it, to which right sequence
//! numbers are given, and one of which may be lost on the way.
//!
//! Oracle: whether the records follow each other is decided by hand. A replay may end with a contradiction, and must end; what is
//! written for other tools must be JSON to another reader.
use ferry::trace::replay::Replay;
use ferry::trace::stream::Stream;
use ferry_protocol::link::encode;
use ferry_protocol::trace::{AreaKind, Event, Frame, FrameState, MAX_FRAME_BYTES, Record, Resident, VERSION};
use tinyjson::JsonValue;

use crate::Target;
use crate::script::Script;

/// See the module.
pub const TARGET: Target = Target { name: "trace", check, seeds, most_bytes: 1024 };

/// Flag: the rest is the stream as it is.
const RAW: u8 = 1;

/// Flag: the next byte says which record is lost.
const LOSES: u8 = 2;

/// Pages and frames that are told of, all records together; more are right, and take long.
const MOST_TOLD: u64 = 1 << 16;

/// Whether a replay of this takes long for a good reason.
fn is_large(stream: &Stream) -> bool {
    let told = stream.records.iter().map(|record| match record.event {
        Event::Areas { pages, area: Some(_), .. } if pages < 1 << 40 => pages,
        Event::Frames { count, .. } if count < 1 << 40 => count,
        _ => 0,
    });
    told.fold(0, u64::saturating_add) > MOST_TOLD
}

fn check_stream(bytes: &mut [u8], expected: Option<bool>) {
    let stream = Stream::decode(bytes);
    if let Some(expected) = expected {
        assert_eq!(stream.is_ok(), expected, "{:?}", stream.err());
    }
    let stream = match stream {
        Ok(stream) => stream,
        Err(error) => return assert!(!error.to_string().is_empty(), "an error has a text"),
    };
    assert!(stream.ticks_per_millisecond() > 0 && stream.first_event() <= stream.records.len());
    let _ = stream.lost();
    if !is_large(&stream)
        && let Err(error) = Replay::of(&stream, stream.records.len())
    {
        assert!(!error.to_string().is_empty(), "an error has a text");
    }
    let mut written = Vec::new();
    ferry::trace::chrome::write(&stream, &mut written).expect("memory takes everything");
    let text = String::from_utf8(written).expect("JSON is text");
    assert!(text.parse::<JsonValue>().is_ok(), "that is no JSON: {text}");
}

/// Numbers that a record takes up.
fn numbers(event: &Event) -> u64 {
    if let Event::Lost { records } = event { *records } else { 1 }
}

/// Whether records follow each other: the first begins, no other version does, and no number is missing.
fn follow_each_other(records: &[(u64, Event)]) -> bool {
    let begins = matches!(records.first(), Some((0, Event::Begin { .. })));
    let is_ours = |(_, event): &(u64, Event)| !matches!(event, Event::Begin { version, .. } if *version != VERSION);
    let is_next = |pair: &[(u64, Event)]| pair[0].0 + numbers(&pair[0].1) == pair[1].0;
    begins && records.iter().all(is_ours) && records.windows(2).all(is_next)
}

fn check(input: &[u8]) {
    let mut script = Script::new(input);
    let flags = script.byte();
    if flags & RAW != 0 {
        return check_stream(&mut script.rest().to_vec(), None);
    }
    let lost = (flags & LOSES != 0).then(|| usize::from(script.byte()));
    let (mut bytes, mut sequence, mut records, mut count) = (Vec::new(), 0u64, Vec::new(), 0);
    while !script.is_over() {
        let (length, cpu) = (script.byte(), script.byte());
        let Ok(event) = postcard::from_bytes::<Event>(script.bytes(length.into())) else { continue };
        let mut buffer = [0; MAX_FRAME_BYTES];
        let record = Record { sequence, time: sequence, cpu, event };
        // A name that is too long is one that the kernel would have cut.
        let Ok(frame) = encode(&record, &mut buffer) else { continue };
        let Some(next) = sequence.checked_add(numbers(&event)) else { break };
        if lost != Some(count) {
            bytes.extend_from_slice(frame);
            records.push((sequence, event));
        }
        (sequence, count) = (next, count + 1);
    }
    check_stream(&mut bytes, Some(follow_each_other(&records)));
}

/// The input of these events, after `head`.
fn events(head: &[u8], events: &[Event]) -> Vec<u8> {
    let mut input = head.to_vec();
    for event in events {
        let mut buffer = [0; MAX_FRAME_BYTES];
        let bytes = postcard::to_slice(event, &mut buffer).expect("a sample fits");
        input.extend([bytes.len() as u8, 0]);
        input.extend_from_slice(bytes);
    }
    input
}

fn seeds() -> Vec<Vec<u8>> {
    let entry = |old, new| Event::Entry { space: Some(0), address: 0x40_0000, level: 1, old, new };
    let pages = Some((0x40_0000, 1));
    let resident = Resident::Ram;
    let story = [
        Event::Begin { version: VERSION, ticks_per_millisecond: 1000 },
        Event::Frames { first: 0, count: 1, state: FrameState::Reserved },
        Event::Frames { first: 1, count: 9, state: FrameState::Free },
        Event::Device { device: 0, frames: 8, window: Some(64) },
        Event::FrameTaken { frame: 2, order: 0 },
        Event::SpaceCreated { space: 0, root: 2 },
        Event::Areas { space: 0, start: 0x40_0000, pages: 2, area: Some((3, AreaKind::Anonymous)) },
        Event::Entered { space: 0 },
        Event::FrameTaken { frame: 5, order: 0 },
        entry(0, 0x5003),
        Event::Charged { space: 0, resident, pages: 1 },
        Event::Pinned { space: 0, address: 0x40_0000, frame: Frame::Ram(5) },
        Event::Unpinned { frame: Frame::Ram(5) },
        Event::FaultHandled {
            space: 0,
            address: 1,
            access: ferry_protocol::trace::Access::Read,
            resolved: true,
            outcome: "mapped",
        },
        entry(0x5063, 0),
        Event::Flush { space: 0, cpus: 1, pages },
        Event::FlushLost,
        Event::Uncharged { space: 0, resident, pages: 1 },
        Event::FrameFreed { frame: 5, order: 0 },
        Event::DeviceFrameTaken { device: 0, frame: 3 },
        Event::DeviceFrameFreed { device: 0, frame: 3 },
        Event::Announced { space: 0, start: 0x40_0000, pages: 1, reason: "unmap" },
        Event::AnnouncementEnds { space: 0, start: 0x40_0000, pages: 1 },
        Event::Areas { space: 0, start: 0x40_0000, pages: 2, area: None },
        Event::Left { space: 0 },
        Event::SpaceDestroyed { space: 0 },
        Event::Lost { records: 7 },
    ];
    let mut raw = vec![RAW];
    for (sequence, event) in (0..).zip(&story[..9]) {
        let record = Record { sequence, time: sequence, cpu: 0, event: *event };
        raw.extend_from_slice(encode(&record, &mut [0; MAX_FRAME_BYTES]).expect("a sample fits"));
    }
    vec![events(&[0], &story), events(&[0], &story[..12]), events(&[LOSES, 4], &story[..12]), raw]
}
