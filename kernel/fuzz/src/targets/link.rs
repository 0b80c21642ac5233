//! The frames of the link, as each side receives them: records, commands of the shell, noise
//!
//! The first byte says who listens; the rest is what comes over the line.
//!
//! Oracle: frames are split by hand and their COBS is taken off by hand. What is decoded must have been a whole frame of valid
//! COBS, must be decoded from its own encoding as the same record, and must not be longer than what it came from. The kernel's
//! receiver keeps at most one frame.
use std::fmt::Debug;

use ferry_protocol::link::{
    FrameBuffer, FromHost, FromKernel, LinkError, MAX_FRAME_BYTES, Measured, TestEnd, ToShell, VERSION, decode, encode,
};
use ferry_protocol::trace::{self, Event, Frame, Record};
use serde::{Deserialize, Serialize};

use crate::Target;

/// See the module.
pub const TARGET: Target = Target { name: "link", check, seeds, most_bytes: 2048 };

/// Who listens.
const HOST: u8 = 0;
const KERNEL: u8 = 1;
const SHELL: u8 = 2;
const TRACE: u8 = 3;

/// Takes the COBS off a frame, whose zero is taken off already; `None` where it is none.
fn without_cobs(frame: &[u8]) -> Option<Vec<u8>> {
    let (mut bytes, mut rest) = (Vec::new(), frame);
    while let Some((count, behind)) = rest.split_first() {
        let run = behind.get(..usize::from(*count).checked_sub(1)?)?;
        if run.contains(&0) {
            return None;
        }
        bytes.extend_from_slice(run);
        rest = &behind[run.len()..];
        if *count != u8::MAX && !rest.is_empty() {
            bytes.push(0);
        }
    }
    Some(bytes)
}

fn check_frame<R: for<'r> Received<'r>>(frame: &[u8]) {
    let mut bytes = frame.to_vec();
    let naive = without_cobs(frame.split(|byte| *byte == 0).next().unwrap_or_default());
    R::check(&mut bytes, naive.map(|bytes| bytes.len()));
}

/// Something that a frame may hold.
trait Received<'r>: Sized {
    fn check(frame: &'r mut [u8], bytes: Option<usize>);
}

/// Checks what was decoded of a frame whose record has so many bytes.
fn check_record<'r, R: Deserialize<'r> + Serialize + PartialEq + Debug>(
    decoded: Result<R, LinkError>,
    bytes: Option<usize>,
    again: impl FnOnce(&[u8], &R) -> bool,
) {
    let Ok(record) = decoded else { return };
    let bytes = bytes.unwrap_or_else(|| panic!("{record:?} from no frame"));
    let mut buffer = vec![0; bytes + bytes / 254 + 2];
    let encoded = encode(&record, &mut buffer).unwrap_or_else(|_| panic!("{record:?} is longer than it was"));
    assert!(again(encoded, &record), "{record:?} is another record once more");
}

macro_rules! received {
    ($($name:ident: $record:ty),+) => {
        $(struct $name;

        impl<'r> Received<'r> for $name {
            fn check(frame: &'r mut [u8], bytes: Option<usize>) {
                check_record::<$record>(decode(frame), bytes, |encoded, record| {
                    let mut encoded = encoded.to_vec();
                    decode::<$record>(&mut encoded).is_ok_and(|again| format!("{again:?}") == format!("{record:?}"))
                });
            }
        })+
    };
}

received! { ByHost: FromKernel, ByKernel: FromHost, ByShell: ToShell, ByTrace: Record }

/// The frames of a stream as the kernel receives them: until one is complete, or too long.
fn check_receiver(stream: &[u8]) {
    let mut buffer = FrameBuffer::default();
    let mut expected = Vec::new();
    for byte in stream {
        expected.push(*byte);
        match buffer.push(*byte) {
            Ok(false) => assert!(*byte != 0 && expected.len() < MAX_FRAME_BYTES, "a frame is over and nobody says so"),
            Ok(true) => {
                assert_eq!(buffer.frame(), expected, "another frame was received");
                assert!(*byte == 0 && expected.len() <= MAX_FRAME_BYTES);
                expected.clear();
            }
            Err(error) => {
                assert!(error == LinkError::TooLong && expected.len() == MAX_FRAME_BYTES && *byte != 0);
                expected.clear();
            }
        }
    }
}

fn check(input: &[u8]) {
    let Some((listener, stream)) = input.split_first() else { return };
    check_receiver(stream);
    for frame in stream.split_inclusive(|byte| *byte == 0).flat_map(|frame| frame.chunks(MAX_FRAME_BYTES)) {
        match *listener {
            HOST => check_frame::<ByHost>(frame),
            KERNEL => check_frame::<ByKernel>(frame),
            SHELL => check_frame::<ByShell>(frame),
            _ => check_frame::<ByTrace>(frame),
        }
    }
}

fn seed<'r, R: Serialize + 'r>(listener: u8, records: impl IntoIterator<Item = R>) -> Vec<u8> {
    let mut input = vec![listener];
    for record in records {
        let mut buffer = [0; MAX_FRAME_BYTES];
        input.extend_from_slice(encode(&record, &mut buffer).expect("a sample fits"));
    }
    input
}

fn seeds() -> Vec<Vec<u8>> {
    let long = "a text that has more than a few bytes, and an é".repeat(6);
    let measured = Measured { name: "fork", pages: 512, instructions: u64::MAX, ..Measured::default() };
    let event = Event::Entry { space: Some(7), address: 1 << 40, level: 1, old: 0, new: u64::MAX };
    let copied = Event::Copied { source: Frame::Ram(9), target: Frame::Device(0, u32::MAX) };
    let begin = Event::Begin { version: trace::VERSION, ticks_per_millisecond: 1 << 20 };
    let record = |sequence, event| Record { sequence, time: 1 << 33, cpu: 3, event };
    vec![
        seed(HOST, [FromKernel::Hello { version: VERSION }, FromKernel::Text { text: &long }, FromKernel::Done]),
        seed(HOST, [FromKernel::Measured(measured), FromKernel::TestEnded(TestEnd::Leaked("1 frame"))]),
        seed(KERNEL, [FromHost::Continue, FromHost::Stop]),
        seed(SHELL, [ToShell::Line("migrate heap 4"), ToShell::Line(""), ToShell::End]),
        seed(TRACE, [record(0, begin), record(1, event), record(2, copied)]),
    ]
}
