//! Why the bench gives up.
use crate::disk::DiskProblem;
use crate::memory::device::DeviceProblem;
use core::fmt;
use ferry_mm::address::RangeError;
use ferry_mm::frame::OutOfFrames;
use ferry_mm::migrate::MigrateError;
use ferry_mm::space::{CreateError, DestroyError, ForkError, MapError};
use ferry_mm::swap::{AttachError, SwapOutError};

/// What went wrong; nothing that is measured may fail.
#[derive(Debug)]
#[allow(missing_docs, reason = "the fields are the values that the variant's sentence names")]
pub enum BenchError {
    Disk(DiskProblem),
    Device(DeviceProblem),
    Create(CreateError),
    Range(RangeError),
    Map(MapError),
    Migrate(MigrateError),
    Fork(ForkError),
    Destroy(DestroyError),
    SwapOut(SwapOutError),
    AttachDisk(AttachError),
    OutOfFrames(OutOfFrames),
    /// The clock does not count instructions: a loop of a known length took another time.
    Clock {
        instructions: u64,
        time: u64,
    },
    /// A call moved another number of pages than it was given.
    Moved {
        moved: u64,
        expected: u64,
    },
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(error) => error.fmt(f),
            Self::Device(error) => error.fmt(f),
            Self::Create(error) => error.fmt(f),
            Self::Range(error) => error.fmt(f),
            Self::Map(error) => error.fmt(f),
            Self::Migrate(error) => error.fmt(f),
            Self::Fork(error) => error.fmt(f),
            Self::Destroy(error) => error.fmt(f),
            Self::SwapOut(error) => error.fmt(f),
            Self::AttachDisk(error) => error.fmt(f),
            Self::OutOfFrames(error) => error.fmt(f),
            Self::Clock { instructions, time } => write!(
                f,
                "{instructions} instructions took the clock {time} ticks, so it does not count instructions; start the machine \
                 with ./run.sh bench"
            ),
            Self::Moved { moved, expected } => {
                write!(f, "{moved} pages moved where {expected} should; give the machine more memory")
            }
        }
    }
}

impl core::error::Error for BenchError {}

macro_rules! from {
    ($($error:ty => $variant:ident),+ $(,)?) => {
        $(impl From<$error> for BenchError {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        })+
    };
}

from! {
    CreateError => Create,
    RangeError => Range,
    MapError => Map,
    MigrateError => Migrate,
    ForkError => Fork,
    DestroyError => Destroy,
    SwapOutError => SwapOut,
    AttachError => AttachDisk,
    OutOfFrames => OutOfFrames,
}
