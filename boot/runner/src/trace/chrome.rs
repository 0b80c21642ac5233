//! The stream as a Chrome trace, which Perfetto and `chrome://tracing` open.
//!
//! The format is the "Trace Event Format": one JSON object with an array of events. Faults, the phases of migrations and
//! evictions become slices on the track of their CPU; counters show how many pages are where; the rest are instants.
use std::io::{self, Write};

use ferry_protocol::trace::{Event, Phase, Record};

use super::stream::Stream;
use crate::json::Json;

/// The one process of the trace: the machine.
const PROCESS: u32 = 1;

/// Writes `stream` to `out`.
///
/// # Errors
/// Those of `out`.
pub fn write(stream: &Stream, mut out: impl Write) -> io::Result<()> {
    let per_millisecond = stream.ticks_per_millisecond() as f64;
    write!(out, "{{\"displayTimeUnit\":\"ns\",\"traceEvents\":[")?;
    write!(out, "{{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":{PROCESS},\"args\":{{\"name\":\"Ferry\"}}}}")?;
    let mut counters = Counters::default();
    // A slice that was never begun, because its begin was lost, must not be ended.
    let mut depth = [0_u32; 256];
    for record in &stream.records {
        let at = record.time as f64 * 1000.0 / per_millisecond;
        let cpu = record.cpu;
        let mut line = |phase: char, name: &str, arguments: &str| {
            write!(
                out,
                ",\n{{\"name\":\"{name}\",\"ph\":\"{phase}\",\"ts\":{at:.3},\"pid\":{PROCESS},\"tid\":{cpu}{}\
                 ,\"args\":{{{arguments}}}}}",
                if phase == 'i' { ",\"s\":\"t\"" } else { "" }
            )
        };
        let open = &mut depth[usize::from(cpu)];
        match slice(record) {
            Slice::Begins(name) => {
                *open += 1;
                line('B', &name, &arguments(record))?;
            }
            Slice::Ends if *open > 0 => {
                *open -= 1;
                line('E', "", &arguments(record))?;
            }
            Slice::Turns(name) => {
                if *open > 0 {
                    line('E', "", "")?;
                } else {
                    *open += 1;
                }
                line('B', &name, &arguments(record))?;
            }
            Slice::Instant(name) => line('i', name, &arguments(record))?,
            Slice::Ends | Slice::None => {}
        }
        if counters.take(record) {
            let Counters { ram, device } = counters;
            line('C', "frames taken", &format!("\"RAM\":{ram},\"device\":{device}"))?;
        }
    }
    writeln!(out, "]}}")?;
    out.flush()
}

enum Slice {
    Begins(String),
    /// The slice that is open ends and another begins.
    Turns(String),
    Ends,
    Instant(&'static str),
    None,
}

fn slice(record: &Record) -> Slice {
    match record.event {
        Event::FaultRaised { address, .. } => Slice::Begins(format!("fault {address:#x}")),
        Event::FaultHandled { .. } => Slice::Ends,
        Event::Migration { phase: Phase::Collect, .. } => Slice::Begins("collect".to_owned()),
        Event::Migration { phase: Phase::Unmap, .. } => Slice::Turns("unmap".to_owned()),
        Event::Migration { phase: Phase::Copy, .. } => Slice::Turns("copy".to_owned()),
        Event::Migration { phase: Phase::Finalize, .. } => Slice::Turns("finalize".to_owned()),
        Event::Migration { phase: Phase::GiveBack | Phase::Done(..), .. } => Slice::Ends,
        Event::EvictionBegins { device } => Slice::Begins(format!("eviction of device {device}")),
        Event::EvictionEnds { .. } => Slice::Ends,
        Event::Flush { .. } => Slice::Instant("flush"),
        Event::FlushLost => Slice::Instant("flush lost"),
        Event::Copied { .. } => Slice::Instant("copy of a page"),
        Event::Cleared { .. } => Slice::Instant("frame cleared"),
        Event::Moved { .. } => Slice::Instant("page moved"),
        Event::Announced { .. } => Slice::Instant("listeners told"),
        Event::AnnouncementEnds { .. } => Slice::Instant("listeners may go on"),
        Event::Stays { .. } => Slice::Instant("page stays"),
        Event::Forked { .. } => Slice::Instant("fork"),
        Event::Pinned { .. } => Slice::Instant("pin"),
        Event::Unpinned { .. } => Slice::Instant("unpin"),
        Event::DeviceWorked { .. } => Slice::Instant("device worked"),
        Event::DiskWritten { .. } => Slice::Instant("page written to the swap disk"),
        Event::DiskRead { .. } => Slice::Instant("page read from the swap disk"),
        Event::Entry { .. } => Slice::Instant("entry"),
        Event::Lost { .. } => Slice::Instant("records lost"),
        _ => Slice::None,
    }
}

fn arguments(record: &Record) -> String {
    match record.event {
        Event::FaultRaised { address, instruction, code } => {
            format!("\"address\":\"{address:#x}\",\"instruction\":\"{instruction:#x}\",\"code\":{code}")
        }
        Event::FaultHandled { outcome, .. } => format!("\"outcome\":{}", quoted(outcome)),
        Event::Migration { pages, phase: Phase::Done(moved, stayed), .. } => {
            format!("\"pages\":{pages},\"moved\":{moved},\"stayed\":{stayed}")
        }
        Event::Migration { start, pages, .. } => format!("\"start\":\"{start:#x}\",\"pages\":{pages}"),
        Event::Entry { address, level, old, new, .. } => {
            format!("\"address\":\"{address:#x}\",\"level\":{level},\"old\":\"{old:#x}\",\"new\":\"{new:#x}\"")
        }
        Event::Stays { address, reason, .. } => format!("\"address\":\"{address:#x}\",\"reason\":{}", quoted(reason)),
        Event::Flush { cpus, pages, .. } => match pages {
            Some((start, pages)) => format!("\"cpus\":{cpus},\"start\":\"{start:#x}\",\"pages\":{pages}"),
            None => format!("\"cpus\":{cpus},\"pages\":\"all of the lower half\""),
        },
        _ => String::new(),
    }
}

/// A text as JSON: names come from the guest.
fn quoted(text: &str) -> String {
    Json::Text(text.to_owned()).to_string()
}

/// Frames in use, for the counter tracks.
#[derive(Clone, Copy, Default)]
struct Counters {
    ram: i64,
    device: i64,
}

impl Counters {
    /// Whether the record changes a counter.
    fn take(&mut self, record: &Record) -> bool {
        match record.event {
            Event::FrameTaken { order, .. } => self.ram = self.ram.saturating_add(frames(order)),
            Event::FrameFreed { order, .. } => self.ram = self.ram.saturating_sub(frames(order)),
            Event::DeviceFrameTaken { .. } => self.device += 1,
            Event::DeviceFrameFreed { .. } => self.device -= 1,
            _ => return false,
        }
        true
    }
}

/// Frames of a block; a block that no machine has counts as the largest number.
fn frames(order: u8) -> i64 {
    1i64.checked_shl(order.into()).filter(|frames| *frames > 0).unwrap_or(i64::MAX)
}
