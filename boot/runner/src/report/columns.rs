//! The records as columns of numbers, which a browser reads without parsing: one byte array, in base64.
//!
//! ```text
//!   kind[n] u8 │ cpu[n] u8 │ pad to 4 │ time[n] u32 │ a[n] │ b[n] │ c[n] │ d[n] │ e[n] │ f[n]   u32 each, little-endian
//! ```
//!
//! What the operands of each kind mean stands beside its number in `encode`; `data.js` has the same list. A page number has up
//! to 36 bits: its low 32 are one operand, the rest are the bits from 16 on of the next, below which is a space or an offset.
use ferry_protocol::trace::{Access, Event, Frame, Phase, Record};

use crate::trace::stream::Stream;

/// Time in the columns is counted in units of 100 nanoseconds.
const UNITS_PER_MILLISECOND: u64 = 10_000;

/// The columns, and the names that operands refer to by index.
#[derive(Debug, Default)]
pub struct Columns {
    /// All columns, one after the other.
    pub bytes: Vec<u8>,
    /// How many records.
    pub length: usize,
    /// Outcomes and reasons.
    pub names: Vec<String>,
    /// Instructions that faulted.
    pub instructions: Vec<u64>,
}

/// Kind and operands of one record.
type Row = (u8, [u32; 6]);

/// The columns of the records after the state in which `stream` begins.
pub fn columns(stream: &Stream) -> Columns {
    let mut columns = Columns::default();
    let records = &stream.records[stream.first_event()..];
    let first = stream.first_event();
    let rows: Vec<Row> = (first..).zip(records).map(|(index, record)| columns.encode(stream, index, record)).collect();
    columns.length = rows.len();
    columns.bytes.extend(rows.iter().map(|(kind, _)| *kind));
    columns.bytes.extend(records.iter().map(|record| record.cpu));
    columns.bytes.resize(columns.bytes.len().next_multiple_of(4), 0);
    let per_millisecond = u128::from(stream.ticks_per_millisecond());
    let times = records.iter().map(|record| {
        (u128::from(record.time) * u128::from(UNITS_PER_MILLISECOND) / per_millisecond).min(u128::from(u32::MAX)) as u32
    });
    let mut numbers: Vec<u32> = times.collect();
    for operand in 0..6 {
        numbers.extend(rows.iter().map(|(_, operands)| operands[operand]));
    }
    columns.bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    columns
}

impl Columns {
    fn name(&mut self, name: &str) -> u32 {
        let index = self.names.iter().position(|known| known == name).unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.names.len() - 1
        });
        index as u32
    }

    fn instruction(&mut self, address: u64) -> u32 {
        let index = self.instructions.iter().position(|known| *known == address).unwrap_or_else(|| {
            self.instructions.push(address);
            self.instructions.len() - 1
        });
        index as u32
    }

    fn encode(&mut self, stream: &Stream, index: usize, record: &Record) -> Row {
        let row = |kind, operands| (kind, operands);
        match record.event {
            // A: space. B: root.
            Event::SpaceCreated { space, root } => row(1, [space.into(), root as u32, 0, 0, 0, 0]),
            // A: space.
            Event::SpaceDestroyed { space } => row(2, [space.into(), 0, 0, 0, 0, 0]),
            // A: parent. B: child.
            Event::Forked { parent, child } => row(3, [parent.into(), child.into(), 0, 0, 0, 0]),
            // A: space.
            Event::Entered { space } => row(4, [space.into(), 0, 0, 0, 0, 0]),
            Event::Left { space } => row(5, [space.into(), 0, 0, 0, 0, 0]),
            // A, B: page, space. C: pages. D: protection plus one, 0 for none. E: kind.
            Event::Areas { space, start, pages, area } => {
                let [a, b] = page(start, space.into());
                let (rights, kind) = area.map_or((0, 0), |(bits, kind)| (u32::from(bits) + 1, kind as u32));
                row(6, [a, b, pages as u32, rights, kind, 0])
            }
            // A, B: page, space and level. C, D: the old entry. E, F: the new one.
            Event::Entry { space, address, level, old, new } => {
                let space = space.map_or(0xff, u32::from);
                let [a, b] = page(address, space | u32::from(level) << 8);
                row(7, [a, b, low(old), high(old), low(new), high(new)])
            }
            // A, B: page, offset. C: the instruction's index. D: the error code.
            Event::FaultRaised { address, instruction, code } => {
                let [a, b] = page(address, (address & 0xfff) as u32);
                row(8, [a, b, self.instruction(instruction), code as u32, 0, 0])
            }
            // A, B: page, space. C: access, and 256 where it was resolved. D: the outcome.
            Event::FaultHandled { space, address, access, resolved, outcome } => {
                let [a, b] = page(address, space.into());
                let access = match access {
                    Access::Read => 0,
                    Access::Write => 1,
                    Access::Execute => 2,
                };
                row(9, [a, b, access | u32::from(resolved) << 8, self.name(outcome), 0, 0])
            }
            // A, B: page, space. C: pages, 0 for the lower half. D: CPUs. F: whether it was lost.
            Event::Flush { space, cpus, pages } => {
                let (start, pages) = pages.unwrap_or((0, 0));
                let [a, b] = page(start, space.into());
                row(10, [a, b, pages as u32, low(cpus), 0, stream.flush_is_lost(index).into()])
            }
            Event::FlushLost => row(11, [0; 6]),
            // A, B: page, space. C: pages. D: device plus one. E: phase. F: pages that moved.
            Event::Migration { space, start, pages, device, phase } => {
                let [a, b] = page(start, space.into());
                let (phase, moved) = match phase {
                    Phase::Collect => (0, 0),
                    Phase::Unmap => (1, 0),
                    Phase::Copy => (2, 0),
                    Phase::Finalize => (3, 0),
                    Phase::GiveBack => (4, 0),
                    Phase::Done(moved, _) => (5, moved as u32),
                };
                row(12, [a, b, pages as u32, device.map_or(0, |device| u32::from(device) + 1), phase, moved])
            }
            // A, B: page, space. D: the reason.
            Event::Stays { space, address, reason } => {
                let [a, b] = page(address, space.into());
                row(13, [a, b, 0, self.name(reason), 0, 0])
            }
            // A: device. B: pages that came home. C: others.
            Event::EvictionBegins { device } => row(14, [device.into(), 0, 0, 0, 0, 0]),
            Event::EvictionEnds { device, returned, failed } => {
                row(15, [device.into(), returned as u32, failed as u32, 0, 0, 0])
            }
            // A: frame. B: order.
            Event::FrameTaken { frame, order } => row(16, [frame as u32, order.into(), 0, 0, 0, 0]),
            Event::FrameFreed { frame, order } => row(17, [frame as u32, order.into(), 0, 0, 0, 0]),
            // A: device. B: frames. C: where CPUs map it, plus one.
            Event::Device { device, frames, window } => {
                row(18, [device.into(), frames as u32, window.map_or(0, |window| window as u32 + 1), 0, 0, 0])
            }
            // A: device. B: frame.
            Event::DeviceFrameTaken { device, frame } => row(19, [device.into(), frame, 0, 0, 0, 0]),
            Event::DeviceFrameFreed { device, frame } => row(20, [device.into(), frame, 0, 0, 0, 0]),
            // A, B: from. C, D: to.
            Event::Copied { source, target } => {
                let ([a, b], [c, d]) = (frame(source), frame(target));
                row(21, [a, b, c, d, 0, 0])
            }
            // A, B: page, space. C, D: frame.
            Event::Pinned { space, address, frame: pinned } => {
                let ([a, b], [c, d]) = (page(address, space.into()), frame(pinned));
                row(22, [a, b, c, d, 0, 0])
            }
            // C, D: frame.
            Event::Unpinned { frame: pinned } => {
                let [c, d] = frame(pinned);
                row(23, [0, 0, c, d, 0, 0])
            }
            // A: device. B: frames.
            Event::DeviceWorked { device, frames } => row(24, [device.into(), frames as u32, 0, 0, 0, 0]),
            // A: number.
            Event::Step { number } => row(25, [number.into(), 0, 0, 0, 0, 0]),
            // A, B: page, offset. C: value.
            Event::Loaded { address, value } => {
                let [a, b] = page(address, (address & 0xfff) as u32);
                row(26, [a, b, value.into(), 0, 0, 0])
            }
            Event::Stored { address, value } => {
                let [a, b] = page(address, (address & 0xfff) as u32);
                row(27, [a, b, value.into(), 0, 0, 0])
            }
            // A: how many.
            Event::Lost { records } => row(28, [records as u32, 0, 0, 0, 0, 0]),
            // A: slot. B: frame.
            Event::DiskWritten { slot, frame } => row(29, [slot as u32, frame as u32, 0, 0, 0, 0]),
            Event::DiskRead { slot, frame } => row(30, [slot as u32, frame as u32, 0, 0, 0, 0]),
            // A, B: page, space.
            Event::Moved { space, address } => {
                let [a, b] = page(address, space.into());
                row(31, [a, b, 0, 0, 0, 0])
            }
            // C, D: frame.
            Event::Cleared { frame: cleared } => {
                let [c, d] = frame(cleared);
                row(32, [0, 0, c, d, 0, 0])
            }
            // B: space. C: pages. D: kind.
            Event::Charged { space, resident, pages } => {
                row(33, [0, space.into(), pages as u32, resident as u32, 0, 0])
            }
            Event::Uncharged { space, resident, pages } => {
                row(34, [0, space.into(), pages as u32, resident as u32, 0, 0])
            }
            // A, B: page, space. C: pages. D: the reason.
            Event::Announced { space, start, pages, reason } => {
                let [a, b] = page(start, space.into());
                row(35, [a, b, pages as u32, self.name(reason), 0, 0])
            }
            Event::AnnouncementEnds { space, start, pages } => {
                let [a, b] = page(start, space.into());
                row(36, [a, b, pages as u32, 0, 0, 0])
            }
            // They belong to the state in which the stream begins.
            Event::Begin { .. } | Event::Frames { .. } => row(0, [0; 6]),
        }
    }
}

/// The page of an address in two operands, the second shared with `beside`, which has at most 16 bits.
fn page(address: u64, beside: u32) -> [u32; 2] {
    let number = address >> 12 & 0xf_ffff_ffff;
    [low(number), beside | high(number) << 16]
}

/// A frame: 0 and its number in RAM, or a device's number plus one and the index there.
fn frame(frame: Frame) -> [u32; 2] {
    match frame {
        Frame::Ram(number) => [0, number as u32],
        Frame::Device(device, index) => [u32::from(device) + 1, index],
    }
}

fn low(word: u64) -> u32 {
    word as u32
}

fn high(word: u64) -> u32 {
    (word >> 32) as u32
}
