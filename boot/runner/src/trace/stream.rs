//! Bytes of the third serial port as records, checked for continuity.
//!
//! Invariants of a [`Stream`]:
//! 1. Its first record is `Begin` of our version.
//! 2. Sequence numbers are without a gap, but for those that a `Lost` record accounts for.
//! 3. An unfinished last frame, of a machine that ended while it sent, is left out.
use ferry_protocol::link;
use ferry_protocol::trace::{Event, Record, VERSION};

/// Why bytes are no event stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StreamError {
    /// Not a single record.
    #[error("no record has come; was the kernel started with a trace?")]
    Empty,
    /// The first record is another one.
    #[error("it does not begin with its beginning")]
    Headless,
    /// The kernel speaks another version.
    #[error("its records have version {0}, this tool knows {VERSION}; rebuild kernel and host tool together")]
    Version(u16),
    /// A frame is no record.
    #[error("the frame after record {0} is no record")]
    Garbled(u64),
    /// More records are lost than can be numbered.
    #[error("record {0} claims that more are lost than there can be")]
    Lost(u64),
    /// A record is missing, or came twice.
    #[error("record {found} follows where {expected} is due")]
    Gap {
        /// The number that is due.
        expected: u64,
        /// The number that came.
        found: u64,
    },
}

/// The records of a run.
#[derive(Clone, Debug)]
pub struct Stream<'b> {
    /// In their order, `Begin` first.
    pub records: Vec<Record<'b>>,
}

impl<'b> Stream<'b> {
    /// Decodes `bytes`, which are overwritten on the way.
    ///
    /// # Errors
    /// [`StreamError`]: the first thing that does not hold.
    pub fn decode(bytes: &'b mut [u8]) -> Result<Self, StreamError> {
        let mut records: Vec<Record> = Vec::new();
        let mut due = 0;
        let whole = bytes.iter().rposition(|byte| *byte == 0).map_or(0, |last| last + 1);
        for frame in bytes[..whole].split_inclusive_mut(|byte| *byte == 0) {
            let record: Record = link::decode(frame).map_err(|_| StreamError::Garbled(due))?;
            match record.event {
                Event::Begin { version, .. } if version != VERSION => return Err(StreamError::Version(version)),
                Event::Begin { .. } => {}
                _ if records.is_empty() => return Err(StreamError::Headless),
                _ => {}
            }
            if record.sequence != due {
                return Err(StreamError::Gap { expected: due, found: record.sequence });
            }
            let more = if let Event::Lost { records } = record.event { records } else { 1 };
            due = due.checked_add(more).ok_or(StreamError::Lost(due))?;
            records.push(record);
        }
        if records.is_empty() { Err(StreamError::Empty) } else { Ok(Self { records }) }
    }

    /// Ticks of the time stamps in a millisecond, at least 1.
    pub fn ticks_per_millisecond(&self) -> u64 {
        match self.records.first().map(|record| record.event) {
            Some(Event::Begin { ticks_per_millisecond, .. }) => ticks_per_millisecond.max(1),
            _ => 1,
        }
    }

    /// Records that are missing.
    pub fn lost(&self) -> u64 {
        let lost =
            self.records.iter().map(|record| if let Event::Lost { records } = record.event { records } else { 0 });
        lost.sum()
    }

    /// Where the first thing happens: what comes before is the state in which the stream begins.
    pub fn first_event(&self) -> usize {
        let is_state = |record: &&Record| {
            matches!(record.event, Event::Begin { .. } | Event::Frames { .. } | Event::Device { .. })
        };
        self.records.iter().take_while(is_state).count()
    }

    /// Whether the flush told in this record was lost: the same CPU says so next.
    pub fn flush_is_lost(&self, index: usize) -> bool {
        let cpu = self.records[index].cpu;
        let next = self.records[index + 1..].iter().find(|record| record.cpu == cpu);
        next.is_some_and(|record| record.event == Event::FlushLost)
    }
}
