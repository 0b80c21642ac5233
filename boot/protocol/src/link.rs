//! The link: typed records over the second serial port.
//!
//! The console stays for people; what a program must understand goes here. A record is encoded with
//! `postcard`, framed with COBS (so a zero byte ends each frame and nothing else is zero) and needs
//! neither heap nor formatting in the guest.
//!
//! Invariants:
//! 1. The first record of a run is [`FromKernel::Hello`]; the host refuses another [`VERSION`].
//! 2. The kernel waits, bounded, for exactly one [`FromHost`] after each [`FromKernel::Checkpoint`] and each
//!    [`FromKernel::SoakRound`], for one [`ToShell`] after each [`FromKernel::Prompt`], and after nothing else. While it waits, it changes no page table and no migratable page.
//! 3. A frame is at most [`MAX_FRAME_BYTES`] long.
mod frame_buffer;

pub use frame_buffer::FrameBuffer;
use serde::{Deserialize, Serialize};

/// Version of this record set; changes with every change of a type in this file.
pub const VERSION: u16 = 9;

/// Longest encoded frame in bytes, the closing zero included.
pub const MAX_FRAME_BYTES: usize = 512;

/// Longest text that a record may carry; the kernel cuts longer ones.
pub const MAX_TEXT_BYTES: usize = 384;

/// A moment in the demo at which the host looks at the guest's memory from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Stage {
    /// The input stands in anonymous memory; nothing has migrated yet.
    Populated,
    /// One round of migration to the device is complete; the device has not been asked to work yet.
    Migrated,
    /// The device has changed the migrated pages in its memory; no page has come home yet.
    Transformed,
    /// Every page of this round has come home.
    Returned,
    /// The address space is gone.
    TornDown,
}

/// Where the host shall look at a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Which moment this is.
    pub stage: Stage,
    /// Round of migration, from 1; 0 for stages outside the rounds.
    pub round: u32,
    /// Physical address of the level-4 table of the address space (as in CR3, without flags); 0 where the space is gone.
    pub root: u64,
    /// First virtual address of the memory that holds the input.
    pub start: u64,
    /// Pages that hold the input.
    pub pages: u64,
}

/// What the demo counted; the host checks it against what it saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// CPUs that took part.
    pub cpus: u32,
    /// Pages of the input.
    pub pages: u64,
    /// Rounds of migration.
    pub rounds: u32,
    /// Pages that reached the device, over all rounds.
    pub migrated: u64,
    /// Page faults on special entries of pages that were on a device.
    pub faults: u64,
    /// Pages that came home from a device, over all rounds.
    pub returned: u64,
    /// Pages that were swapped out.
    pub swapped_out: u64,
    /// Pages that were read back from the swap disk.
    pub swapped_in: u64,
    /// RAM frames that were free before and are not free after.
    pub leaked_frames: i64,
    /// Device frames that were free before and are not free after.
    pub leaked_device_frames: i64,
    /// Table frames that did not exist before and exist after.
    pub leaked_table_frames: i64,
    /// Slots of the swap disk that were free before and are not free after.
    pub leaked_swap_slots: i64,
    /// Accesses that brought a page home and found no place to be noted, in strict mode.
    pub lost_homecomings: u64,
    /// A step was to fail and has not come by: the demo was over before.
    pub inject_pending: bool,
}

/// What the kernel counted while it did one thing, once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Measured<'a> {
    /// What was done, such as `fork`.
    pub name: &'a str,
    /// On how many pages.
    pub pages: u64,
    /// How many CPUs were in the address space.
    pub cpus: u32,
    /// Whether bulk copying was timed apart, which itself takes instructions.
    pub metered: bool,
    /// Instructions in all, those of the metering included.
    pub instructions: u64,
    /// Instructions of bulk copying and clearing, where metered.
    pub copy_instructions: u64,
    /// Page faults.
    pub faults: u64,
    /// Interrupts sent to other CPUs.
    pub ipis: u64,
    /// INVLPG executed, by all CPUs.
    pub invlpg: u64,
    /// Writes to CR3, by all CPUs.
    pub cr3_writes: u64,
    /// Bytes written to device frames, where metered.
    pub bar_bytes_written: u64,
    /// Bytes read from device frames, where metered.
    pub bar_bytes_read: u64,
}

/// How a test in the kernel ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum TestEnd<'a> {
    /// It passed and left everything as it found it.
    Passed,
    /// It returned an error; the text says which.
    Failed(&'a str),
    /// It passed, but counts differ before and after; the text is the difference.
    Leaked(&'a str),
    /// This machine cannot run it; the text is what it lacks.
    Ignored(&'a str),
}

/// A record from the kernel to the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FromKernel<'a> {
    /// The first record: which record set this kernel speaks.
    Hello {
        /// [`VERSION`] as the kernel was built with.
        version: u16,
    },
    /// The host shall look now and answer.
    Checkpoint(Checkpoint),
    /// How far a long step is, for the progress bar.
    Progress {
        /// The stage that is being worked towards.
        stage: Stage,
        /// Pages done.
        done: u64,
        /// Pages in all.
        total: u64,
    },
    /// Pages that stayed in a round of the demo, for one reason.
    Stayed {
        /// The round, from 1.
        round: u32,
        /// The reason's name, such as `device-full`.
        reason: &'a str,
        /// How many pages.
        pages: u64,
    },
    /// A device that the demo uses, before the first checkpoint.
    Device {
        /// Its number.
        number: u8,
        /// Physical address of its BAR.
        bar: u64,
    },
    /// A swapped page whose write failed, so that its contents stand in RAM, at the checkpoint that follows.
    Unwritten {
        /// The slot that the page's entry names.
        slot: u64,
        /// Physical address of the frame.
        frame: u64,
    },
    /// An access of a CPU that brought a page home, in strict mode.
    Homecoming {
        /// The address that was accessed.
        address: u64,
        /// The address of the instruction.
        instruction: u64,
        /// Whether it was a store.
        write: bool,
    },
    /// What the demo counted for one device, before the rest of its counts.
    DeviceOutcome {
        /// Its number.
        number: u8,
        /// Pages that reached it, over all rounds.
        migrated: u64,
        /// Pages that came home from it.
        returned: u64,
    },
    /// What a CPU has counted, after the last checkpoint; in ascending order of the CPUs.
    CpuOutcome {
        /// Its number.
        cpu: u32,
        /// Page faults of it that brought a page home from a device.
        faults: u64,
        /// Interrupts that other CPUs sent it for a flush.
        ipis: u64,
        /// Times at which it has forgotten translations.
        flushes: u64,
    },
    /// The demo's own counts, after the last checkpoint.
    Outcome(Outcome),
    /// What one thing has cost.
    Measured(Measured<'a>),
    /// Answer to the option `list`: one test there is.
    Test {
        /// Full path of the test, such as `frame::buddy::splits`.
        name: &'a str,
    },
    /// A test is about to run.
    TestStarted {
        /// Full path of the test.
        name: &'a str,
    },
    /// The test started last has ended.
    TestEnded(TestEnd<'a>),
    /// The shell has printed this line.
    Text {
        /// Without its end.
        text: &'a str,
    },
    /// The shell waits for a [`ToShell`].
    Prompt {
        /// Whether the line before was done as it should be.
        done: bool,
    },
    /// A round of a soak is over, and everything in it holds. Shall there be another?
    SoakRound {
        /// Its number, from 0.
        round: u64,
        /// Actions of all CPUs in all rounds so far.
        actions: u64,
    },
    /// Something did not hold in a soak, which ends.
    SoakViolation {
        /// The round.
        round: u64,
        /// What was found.
        text: &'a str,
    },
    /// How often something was done in a soak, at its end.
    SoakCount {
        /// The action's name.
        action: &'a str,
        /// Times it was done.
        done: u64,
        /// Times it was refused: others had the pages, or there was no memory.
        refused: u64,
    },
    /// The kernel has run to its end and will exit next.
    Done,
}

/// A record from the host to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FromHost {
    /// The checkpoint was looked at; go on.
    Continue,
    /// The checkpoint does not hold; end the run as failed.
    Stop,
}

/// What the shell is told to do next: the answer to [`FromKernel::Prompt`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ToShell<'a> {
    /// Do this; at most [`crate::shell::MAX_LINE_BYTES`] long.
    Line(&'a str),
    /// There is nothing more to do.
    End,
}

/// Why a record could not be encoded or decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkError {
    /// The buffer is too small for the record.
    TooLong,
    /// The frame is not a record of this [`VERSION`].
    Malformed,
}

/// Encodes `record` into `buffer`, as one frame with its closing zero, and returns the frame.
///
/// # Errors
/// [`LinkError::TooLong`] where `buffer` is too small.
pub fn encode<'b>(record: &impl Serialize, buffer: &'b mut [u8]) -> Result<&'b [u8], LinkError> {
    match postcard::to_slice_cobs(record, buffer) {
        Ok(frame) => Ok(frame),
        Err(_) => Err(LinkError::TooLong),
    }
}

/// Decodes one frame (with or without its closing zero), which is overwritten on the way.
///
/// # Errors
/// [`LinkError::Malformed`] where the bytes are no record of this version.
pub fn decode<'b, R: Deserialize<'b>>(frame: &'b mut [u8]) -> Result<R, LinkError> {
    postcard::from_bytes_cobs(frame).map_err(|_| LinkError::Malformed)
}

/// Cuts `text` to at most [`MAX_TEXT_BYTES`], at a character's border.
pub fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::String;

    #[test]
    fn records_survive_the_frame() {
        let text: String = "é".repeat(MAX_TEXT_BYTES);
        let outcome = Outcome { leaked_frames: -3, pages: u64::MAX, ..Outcome::default() };
        for record in [
            FromKernel::Hello { version: VERSION },
            FromKernel::Outcome(outcome),
            FromKernel::TestEnded(TestEnd::Failed(cut(&text))),
            FromKernel::Checkpoint(Checkpoint {
                stage: Stage::Migrated,
                round: 1,
                root: u64::MAX,
                start: u64::MAX,
                pages: u64::MAX,
            }),
        ] {
            let mut buffer = [0; MAX_FRAME_BYTES];
            let length = encode(&record, &mut buffer).unwrap().len();
            assert_eq!(buffer[..length].iter().filter(|byte| **byte == 0).count(), 1, "one zero ends the frame");
            assert_eq!(decode::<FromKernel>(&mut buffer[..length]), Ok(record));
        }
    }

    #[test]
    fn garbage_and_short_buffers_are_errors() {
        assert_eq!(decode::<FromHost>(&mut [3, 200, 1, 0]), Err(LinkError::Malformed));
        assert_eq!(encode(&FromKernel::Test { name: "long" }, &mut [0; 3]), Err(LinkError::TooLong));
    }
}
