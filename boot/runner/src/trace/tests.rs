use super::replay::Replay;
use super::stream::{Stream, StreamError};
use ferry_protocol::link::encode;
use ferry_protocol::trace::{AreaKind, Event, FrameState, MAX_FRAME_BYTES, Record, Resident, VERSION};

const BEGIN: Event = Event::Begin { version: VERSION, ticks_per_millisecond: 1000 };
const ROOT: u64 = 2;

/// Some frames, a space, and one page that gets a frame.
fn story() -> Vec<Event<'static>> {
    let entry = |old, new| Event::Entry { space: Some(0), address: 0x40_0000, level: 1, old, new };
    vec![
        BEGIN,
        Event::Frames { first: 0, count: 1, state: FrameState::Reserved },
        Event::Frames { first: 1, count: 9, state: FrameState::Free },
        Event::FrameTaken { frame: ROOT, order: 0 },
        Event::SpaceCreated { space: 0, root: ROOT },
        Event::Areas { space: 0, start: 0x40_0000, pages: 2, area: Some((3, AreaKind::Anonymous)) },
        Event::Entered { space: 0 },
        Event::FrameTaken { frame: 5, order: 0 },
        entry(0, 0x5003),
        // The CPU has set the accessed and the dirty bit.
        entry(0x5063, 0),
        Event::Flush { space: 0, cpus: 1, pages: Some((0x40_0000, 1)) },
        Event::FrameFreed { frame: 5, order: 0 },
    ]
}

fn bytes(records: impl IntoIterator<Item = Record<'static>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in records {
        bytes.extend_from_slice(encode(&record, &mut [0; MAX_FRAME_BYTES]).unwrap());
    }
    bytes
}

fn numbered(events: Vec<Event<'static>>) -> Vec<Record<'static>> {
    (0..).zip(events).map(|(sequence, event)| Record { sequence, time: sequence * 10, cpu: 0, event }).collect()
}

#[test]
fn a_stream_that_goes_on_is_decoded_and_one_with_a_gap_is_not() {
    let records = numbered(story());
    let mut whole = bytes(records.clone());
    // The machine ended in the middle of a record.
    whole.extend_from_slice(&[3, 1, 2]);
    assert_eq!(Stream::decode(&mut whole).unwrap().records, records);
    let mut torn = bytes(records.iter().copied().filter(|record| record.sequence != 4));
    assert_eq!(Stream::decode(&mut torn).unwrap_err(), StreamError::Gap { expected: 4, found: 5 });
    let lost = Record { event: Event::Lost { records: 3 }, ..records[4] };
    let mut accounted = bytes([&records[..4], &[lost], &records[7..]].concat());
    let stream = Stream::decode(&mut accounted).unwrap();
    assert_eq!((stream.lost(), stream.records.len()), (3, records.len() - 2));
    assert_eq!(Stream::decode(&mut bytes(records[1..].iter().copied())).unwrap_err(), StreamError::Headless);
    assert_eq!(Stream::decode(&mut []).unwrap_err(), StreamError::Empty);
    assert_eq!(Stream::decode(&mut [9, 9, 0]).unwrap_err(), StreamError::Garbled(0));
    let other = Event::Begin { version: VERSION + 1, ticks_per_millisecond: 1 };
    assert_eq!(Stream::decode(&mut bytes(numbered(vec![other]))).unwrap_err(), StreamError::Version(VERSION + 1));
}

#[test]
fn a_replay_knows_pages_frames_and_what_a_cpu_may_still_hold() {
    let mut bytes = bytes(numbered(story()));
    let stream = Stream::decode(&mut bytes).unwrap();
    let at = |count| Replay::of(&stream, count).unwrap().dump(&[ferry_protocol::trace::Frame::Ram(5)]);
    assert_eq!(
        at(9),
        "space 0 0 0 0 0\npage 0 400 3 0 5003 3 0\npage 0 401 3 0 0 1 0\nram 5 4\n",
        "mapped, and a page beside it"
    );
    assert_eq!(
        at(10),
        "space 0 0 0 0 0\npage 0 400 3 0 0 1 1\npage 0 401 3 0 0 1 0\nram 5 2\n",
        "the CPU may hold what is gone"
    );
    assert_eq!(at(11), "space 0 0 0 0 0\npage 0 400 3 0 0 1 0\npage 0 401 3 0 0 1 0\nram 5 2\n", "it has forgotten");
    assert_eq!(
        at(12),
        "space 0 0 0 0 0\npage 0 400 3 0 0 1 0\npage 0 401 3 0 0 1 0\nram 5 1\n",
        "and the frame is free"
    );
}

#[test]
fn a_flush_that_was_lost_makes_nobody_forget() {
    let mut events = story();
    events.insert(11, Event::FlushLost);
    let mut bytes = bytes(numbered(events));
    let stream = Stream::decode(&mut bytes).unwrap();
    assert_eq!(
        Replay::of(&stream, 13).unwrap().dump(&[]),
        "space 0 0 0 0 0\npage 0 400 3 0 0 1 1\npage 0 401 3 0 0 1 0\n"
    );
}

#[test]
fn contradictions_are_named() {
    for (index, event) in [
        (9, Event::Entry { space: Some(0), address: 0x40_0000, level: 1, old: 0x6003, new: 0 }),
        (7, Event::FrameTaken { frame: ROOT, order: 0 }),
        (7, Event::FrameFreed { frame: 7, order: 0 }),
        (5, Event::Areas { space: 1, start: 0x40_0000, pages: 2, area: Some((3, AreaKind::Anonymous)) }),
        (9, Event::SpaceDestroyed { space: 0 }),
        (9, Event::Uncharged { space: 0, resident: Resident::Ram, pages: 1 }),
        (9, Event::AnnouncementEnds { space: 0, start: 0x40_0000, pages: 1 }),
    ] {
        let mut events = story();
        events[index] = event;
        let mut bytes = bytes(numbered(events));
        let stream = Stream::decode(&mut bytes).unwrap();
        let error = Replay::of(&stream, index + 1).unwrap_err();
        assert_eq!(error.sequence, index as u64, "{error}");
    }
}

#[test]
fn a_chrome_trace_is_json_whose_slices_nest() {
    let mut events = story();
    events.push(Event::FaultRaised { address: 0x40_0000, instruction: 1, code: 2 });
    events.push(Event::FaultHandled {
        space: 0,
        address: 0x40_0000,
        access: ferry_protocol::trace::Access::Write,
        resolved: true,
        outcome: "fresh-page",
    });
    let mut bytes = bytes(numbered(events));
    let stream = Stream::decode(&mut bytes).unwrap();
    let mut out = Vec::new();
    super::chrome::write(&stream, &mut out).unwrap();
    let json: tinyjson::JsonValue = String::from_utf8(out).unwrap().parse().unwrap();
    let events: &Vec<tinyjson::JsonValue> = json["traceEvents"].get().unwrap();
    let phases: Vec<&String> = events.iter().map(|event| event["ph"].get().unwrap()).collect();
    let count = |phase: &str| phases.iter().filter(|found| **found == phase).count();
    assert_eq!((count("B"), count("E"), count("C")), (1, 1, 3));
}

/// A kernel may send anything: what no machine can mean is an error, at once.
#[test]
fn numbers_that_no_machine_has_contradict_the_story() {
    let told = (3, AreaKind::Anonymous);
    for wrong in [
        Event::Frames { first: 10, count: u64::MAX, state: FrameState::Free },
        Event::FrameTaken { frame: 6, order: 64 },
        Event::FrameTaken { frame: u64::MAX, order: 1 },
        Event::Areas { space: 0, start: 0x80_0000, pages: u64::MAX, area: Some(told) },
    ] {
        let mut bytes = bytes(numbered([story(), vec![wrong]].concat()));
        let stream = Stream::decode(&mut bytes).unwrap();
        assert!(Replay::of(&stream, story().len()).is_ok());
        assert!(Replay::of(&stream, story().len() + 1).is_err(), "{wrong:?}");
    }
    let mut charged = bytes(numbered(
        [story(), vec![Event::Charged { space: 0, resident: Resident::Ram, pages: u64::MAX }; 2]].concat(),
    ));
    let stream = Stream::decode(&mut charged).unwrap();
    assert!(Replay::of(&stream, story().len() + 2).is_err());
    let mut elsewhere = numbered(story());
    elsewhere[6].cpu = 64;
    assert!(Replay::of(&Stream::decode(&mut bytes(elsewhere)).unwrap(), 7).is_err());
    // A range that wraps around is one that ends where addresses do.
    let flush = Event::Flush { space: 0, cpus: 1, pages: Some((u64::MAX, u64::MAX)) };
    let mut wrapped = bytes(numbered([story(), vec![flush]].concat()));
    let stream = Stream::decode(&mut wrapped).unwrap();
    assert!(Replay::of(&stream, stream.records.len()).is_ok());
    let lost = vec![BEGIN, Event::Lost { records: u64::MAX }];
    assert_eq!(Stream::decode(&mut bytes(numbered(lost))).unwrap_err(), StreamError::Lost(1));
}
