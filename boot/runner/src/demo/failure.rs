//! Everything that can be wrong with a run, each with the values that show it.
use std::time::Duration;

use ferry_device::DeviceType;
use ferry_device_model::MemoryError;
use ferry_mm::frame::DeviceFrame;
use ferry_mm::page_table::entry::{Entry, SwapSlot};
use ferry_protocol::link::{Stage, VERSION};
use x86_64::{PhysAddr, VirtAddr};

use crate::bench::failure::BenchFailure;
use crate::experiment::session::ExperimentFailure;
use crate::guest::walk::WalkError;
use crate::input::Hash;
use crate::qemu::End;
use crate::size::grouped;
use crate::trace::TraceError;

/// Where contents were read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In guest RAM.
    Ram(PhysAddr),
    /// In this device frame.
    DeviceFrame(DeviceFrame),
    /// In this slot of the swap disk.
    Slot(SwapSlot),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ram(address) => write!(f, "RAM at p{:#x}", address.as_u64()),
            Self::DeviceFrame(frame) => write!(f, "device frame {frame}"),
            Self::Slot(slot) => write!(f, "slot {} of the swap disk", slot.number()),
        }
    }
}

/// What the host saw at a checkpoint and should not have seen.
#[derive(Debug, thiserror::Error)]
pub enum Mismatch {
    /// The tables themselves are damaged.
    #[error("the guest's page tables are damaged: {0}")]
    Tables(#[from] WalkError),
    /// The memory is of another size than the input.
    #[error("the kernel holds the input in {found} pages, but it has {expected}")]
    Pages {
        /// As the kernel says.
        found: u64,
        /// As the file has.
        expected: u64,
    },
    /// A checkpoint came when another was due.
    #[error("the kernel came to {found:?} of round {round} when that was not due: the last one was {last}")]
    Order {
        /// The stage it came to.
        found: Stage,
        /// And its round.
        round: u32,
        /// The one before.
        last: String,
    },
    /// A page should be at home.
    #[error("page {page} at v{address:#x} should be in RAM or swapped out, but is on device frame {frame}")]
    NotHome {
        /// Index in the input.
        page: u64,
        /// Its address.
        address: VirtAddr,
        /// Where it is.
        frame: DeviceFrame,
    },
    /// A page should be somewhere.
    #[error("page {page} at v{address:#x} should be in RAM, swapped out or on a device, but its entry says {entry:?}")]
    Nowhere {
        /// Index in the input.
        page: u64,
        /// Its address.
        address: VirtAddr,
        /// What stands there; `Empty` also where a table is missing.
        entry: Entry,
    },
    /// A page should be on the device.
    #[error("page {page} at v{address:#x} should be on device frame {frame}, but is not there any more")]
    Moved {
        /// Index in the input.
        page: u64,
        /// Its address.
        address: VirtAddr,
        /// Where it was.
        frame: DeviceFrame,
    },
    /// The entry names a device that there is not.
    #[error("page {page} is said to be on device {device}, but the machine has no such device")]
    NoSuchDevice {
        /// Index in the input.
        page: u64,
        /// The device's number.
        device: u8,
    },
    /// A page on a device that the CPU reaches in the other way.
    #[error("page {page} is on device frame {frame} by an entry of a {as_on} device, but the device is {device_type}")]
    WrongType {
        /// Index in the input.
        page: u64,
        /// Where it is.
        frame: DeviceFrame,
        /// What the device is.
        device_type: DeviceType,
        /// What the entry is for.
        as_on: DeviceType,
    },
    /// The entry names a slot on a machine without a swap disk.
    #[error("page {0} is said to be swapped out, but the machine has no swap disk")]
    NoSwap(u64),
    /// The entry names a slot that the disk does not have.
    #[error("page {page} is said to be in slot {slot}, but the swap disk has no such slot")]
    NoSlot {
        /// Index in the input.
        page: u64,
        /// The slot.
        slot: u64,
    },
    /// The swap disk's image cannot be read.
    #[error("page {page} cannot be read from the swap disk's image: {source}")]
    Swap {
        /// Index in the input.
        page: u64,
        /// Why.
        source: std::io::Error,
    },
    /// The entry names a frame that the device does not have, or its memory cannot be read.
    #[error("page {page} is not to be found on the device: {source}")]
    Device {
        /// Index in the input.
        page: u64,
        /// Why.
        source: MemoryError,
    },
    /// Device memory cannot be read.
    #[error("cannot look for what was left on the device: {0}")]
    Scan(#[source] MemoryError),
    /// Two pages on one frame.
    #[error("device frame {frame} holds page {first} and page {second}; each page must have its own")]
    Shared {
        /// The frame.
        frame: DeviceFrame,
        /// One page.
        first: u64,
        /// The other.
        second: u64,
    },
    /// A page that had been there and back is on the device again.
    #[error("page {0} went to the device a second time")]
    WentTwice(u64),
    /// A byte is wrong.
    #[error("byte {offset} of page {page} is {found:#04x} in {place}, but must be {expected:#04x}")]
    Contents {
        /// Index in the input.
        page: u64,
        /// Where it was read.
        place: Place,
        /// Offset in the page.
        offset: usize,
        /// What is there.
        found: u8,
        /// What must be.
        expected: u8,
    },
    /// A page's frame is not in RAM.
    #[error("page {page} is said to be at p{address:#x}, where there is no RAM")]
    NoRam {
        /// Index in the input.
        page: u64,
        /// Where it is said to be.
        address: PhysAddr,
    },
}

/// Why a run that started did not end verified.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The bench's figures are not to be believed.
    #[error(transparent)]
    Bench(#[from] BenchFailure),
    /// An experiment did not pass.
    #[error(transparent)]
    Experiment(#[from] ExperimentFailure),
    /// The event stream does not hold.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The machine ended before the demo was over, or other than with success.
    #[error("{0}")]
    Ended(End),
    /// It did not end in time.
    #[error(
        "the run did not end within {} s; the last that happened: {last}; a slow machine may need a larger --timeout{}",
        limit.as_secs(), console_tail(.lines)
    )]
    TimedOut {
        /// The bound.
        limit: Duration,
        /// What had happened last.
        last: String,
        /// The last console lines.
        lines: Vec<String>,
    },
    /// The kernel speaks another version of the link.
    #[error("the kernel speaks version {0} of the link and this tool version {VERSION}; rebuild both with ./run.sh")]
    Version(u16),
    /// A frame on the link is no record.
    #[error("the kernel sent {bytes} bytes that are no record of the link; rebuild kernel and tool together")]
    Garbled {
        /// Length of the frame.
        bytes: usize,
    },
    /// A record that has no place in this conversation.
    #[error("the kernel sent {0}, which has no place here; rebuild kernel and tool together")]
    Unexpected(String),
    /// Something seen from outside is wrong.
    #[error("seen from outside, at {stage:?}{}: {mismatch}", round_text(*.round))]
    Mismatch {
        /// The checkpoint.
        stage: Stage,
        /// Its round, from 1; 0 outside the rounds.
        round: u32,
        /// What is wrong.
        mismatch: Mismatch,
    },
    /// The kernel ended with success, but without some record.
    #[error("the kernel ended as if all were well, but without {0}")]
    Incomplete(&'static str),
    /// Two counts that must be the same are not.
    #[error("{first_name} is {}, but {second_name} is {}; the two must be the same", signed(*.first), signed(*.second))]
    Counts {
        /// What the first number counts.
        first_name: &'static str,
        /// The number.
        first: i128,
        /// What the second number counts.
        second_name: &'static str,
        /// The number.
        second: i128,
    },
    /// More pages were seen on the swap disk than were ever written there.
    #[error(
        "the kernel says that it swapped out {kernel} pages, but the host has seen {host} at once on the swap disk"
    )]
    Swapped {
        /// The kernel's count.
        kernel: u64,
        /// The host's.
        host: u64,
    },
    /// What came home is not what the device made.
    #[error("SHA-256 of what came home is {found}, but that of the inverted file is {expected}")]
    Hashes {
        /// Of guest memory.
        found: Hash,
        /// Of the file.
        expected: Hash,
    },
    /// A line of the shell's script was not done.
    #[error("line {number}, {line:?}, was not done; its error is above")]
    NotDone {
        /// Its number, from 1.
        number: usize,
        /// The line.
        line: String,
    },
    /// A round of a soak found something.
    #[error("{found}; play the round again with {again}")]
    Soak {
        /// What was found.
        found: String,
        /// The command.
        again: String,
    },
    /// A command of the debugger's batch failed; it has said which.
    #[error("a command for gdb failed; its message is above")]
    Debugger,
}

fn round_text(round: u32) -> String {
    if round == 0 { String::new() } else { format!(" of round {round}") }
}

fn console_tail(lines: &[String]) -> String {
    match lines {
        [] => "; the console was silent".to_owned(),
        lines => format!("; the last console lines:\n    {}", lines.join("\n    ")),
    }
}

fn signed(number: i128) -> String {
    let sign = if number < 0 { "-" } else { "" };
    format!("{sign}{}", grouped(u64::try_from(number.unsigned_abs()).unwrap_or(u64::MAX)))
}
