//! The swap disk: a virtio block device whose pages are slots.
//!
//! ```text
//!   slot      0        1        2            pages() - 1
//!          ┬────────┬────────┬────────┬─ … ─┬────────┬
//!   disk   │ 4 KiB  │        │        │     │        │   8 sectors each, slot 0 at sector 0
//!          ┴────────┴────────┴────────┴─ … ─┴────────┴
//! ```
//!
//! Invariants:
//! 1. An access that is not `Ok` has left the caller's frame as it was. What a slot holds after a write that failed is
//!    not known, and no other slot has changed.
//! 2. A wait is bounded by [`PATIENCE`]. A disk that did not answer in time is never asked again: its late answer
//!    could be taken for that to a later request.
//!
//! Locks: [`Level::Disk`](ferry_mm::lock::Level::Disk), held for one access, and `DiskFailure` around its last error, held for a copy;
//! whoever waits for the first or for the disk serves what other CPUs ask.
//! Callers hold no lock that another CPU spins on: an access can take [`PATIENCE`]. No heap memory is taken.
#![deny(unsafe_code)]
mod find;
mod swap;
#[cfg(feature = "tests")]
mod tests;

pub use find::{DiskProblem, find};
pub use swap::{attach, last_failure};

use crate::arch::machine::Hardware;
use crate::arch::virtio_block::{BlockDevice, Transfer};
use crate::clock::Deadline;
use core::fmt;
use core::time::Duration;
use ferry_mm::lock::{Lock, assert_may_wait};
use ferry_mm::machine::Machine;
use x86_64::structures::paging::PhysFrame;

/// How long the disk may take for one page.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Looks at the queue between two looks at the clock, which is far slower to read.
const POLLS_PER_TICK: u32 = 64;

/// Why a page was not read or written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the fields are the values that the variant's sentence names")]
pub enum DiskError {
    /// The disk has no such slot.
    OutOfRange { slot: u64, pages: u64 },
    /// The disk could not read or write this slot; others may work.
    Io { slot: u64 },
    /// The disk did not answer within [`PATIENCE`] when it was asked for this slot, now or earlier; it is lost.
    TimedOut { slot: u64 },
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange { slot, pages } => {
                write!(f, "the swap disk has no slot {slot}, only {pages} of them; give it more with --swap")
            }
            Self::Io { slot } => write!(
                f,
                "the swap disk reports an error in slot {slot}; see that the host's file system has room and no errors"
            ),
            Self::TimedOut { slot } => write!(
                f,
                "the swap disk did not answer within {PATIENCE:?} when asked for slot {slot} and is not used any more; \
                 see whether the host's disk hangs"
            ),
        }
    }
}

impl core::error::Error for DiskError {}

/// The swap disk. Copies name the same one.
#[derive(Clone, Copy)]
pub struct Disk(&'static Shared);

struct Shared {
    pages: u64,
    driver: Lock<Driver>,
    /// Why an access failed last.
    failure: Lock<Option<DiskError>>,
}

struct Driver {
    device: BlockDevice,
    /// The slot for which the disk did not answer in time.
    lost: Option<u64>,
}

impl Disk {
    /// How many slots the disk has, a page each.
    pub fn pages(&self) -> u64 {
        self.0.pages
    }

    /// Reads a slot into `frame`, a frame in RAM that the caller owns and nobody else uses meanwhile.
    ///
    /// # Errors
    /// See [`DiskError`]; the frame is as it was.
    pub fn read_page(&self, slot: u64, frame: PhysFrame) -> Result<(), DiskError> {
        self.access(slot, Transfer::Read(frame))
    }

    /// Writes `frame`, a frame in RAM that nobody changes meanwhile, into a slot.
    ///
    /// # Errors
    /// See [`DiskError`]; what the slot holds is not known then.
    pub fn write_page(&self, slot: u64, frame: PhysFrame) -> Result<(), DiskError> {
        self.access(slot, Transfer::Write(frame))
    }

    fn access(&self, slot: u64, transfer: Transfer) -> Result<(), DiskError> {
        if slot >= self.0.pages {
            return Err(DiskError::OutOfRange { slot, pages: self.0.pages });
        }
        assert_may_wait(&Hardware);
        // Bounded by `PATIENCE` for each CPU that is before this one.
        let mut driver = self.0.driver.lock(&Hardware);
        if let Some(slot) = driver.lost {
            return Err(DiskError::TimedOut { slot });
        }
        let failed = |_| DiskError::Io { slot };
        driver.device.begin(slot, transfer).map_err(failed)?;
        let mut deadline = Deadline::after(PATIENCE);
        loop {
            for _ in 0..POLLS_PER_TICK {
                if let Some(result) = driver.device.poll() {
                    return result.map_err(failed);
                }
                Hardware.relax();
            }
            if deadline.expired() {
                driver.lost = Some(slot);
                return Err(DiskError::TimedOut { slot });
            }
        }
    }
}
