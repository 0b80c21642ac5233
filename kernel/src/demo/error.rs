//! Why the demo ended without its result.
use super::SPARE_FRAMES;
use crate::disk::DiskProblem;
use crate::fw_cfg::FwCfgError;
use crate::link::NoAnswer;
use crate::memory::device::{self, DeviceProblem};
use core::fmt;
use ferry_device::driver::DeviceError;
use ferry_mm::address::RangeError;
use ferry_mm::migrate::MigrateError;
use ferry_mm::space::{CreateError, DestroyError, MapError};
use ferry_mm::stats::Reason;
use ferry_protocol::exit::ExitCode;
use ferry_protocol::link::Stage;

/// Why the demo ended without its result.
#[derive(Debug)]
#[allow(missing_docs, reason = "the fields are the values that the variant's sentence names")]
pub enum DemoError {
    /// The input cannot be read.
    Input(FwCfgError),
    /// The input has more pages than RAM has free frames and the swap disk slots.
    InputTooLarge { pages: u64, frames: u64, slots: u64 },
    /// There is a swap disk that cannot be used.
    Disk(DiskProblem),
    /// There is no device to use.
    Device(DeviceProblem),
    /// The device did not do its work.
    Work(DeviceError),
    /// There is no address space.
    Space(CreateError),
    /// The input has no place in the address space.
    Range(RangeError),
    /// The input's area cannot be mapped.
    Map(MapError),
    /// A migration did nothing.
    Migrate(MigrateError),
    /// No room in the heap for the list of pages.
    HeapFull(u64),
    /// A round moved no page, though some are left.
    NoProgress(u64),
    /// So many pages did not come home when they were called, for this reason.
    StayedAway(u64, Reason),
    /// The address space cannot be torn down.
    TearDown(DestroyError),
    /// The host did not answer.
    NoAnswer(NoAnswer),
    /// The host says that the checkpoint does not hold.
    Stopped(Stage),
}

impl fmt::Display for DemoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(error) => error.fmt(f),
            Self::InputTooLarge { pages, frames, slots } => write!(
                f,
                "the input has {pages} pages, RAM has {frames} free frames, of which {SPARE_FRAMES} must be spared, and \
                 swap has {slots} slots; give the machine more with --memory or --swap"
            ),
            Self::Disk(error) => error.fmt(f),
            Self::Device(error) => error.fmt(f),
            Self::Work(error) => error.fmt(f),
            Self::Space(error) => error.fmt(f),
            Self::Range(error) => error.fmt(f),
            Self::Map(error) => error.fmt(f),
            Self::Migrate(error) => error.fmt(f),
            Self::HeapFull(bytes) => write!(f, "the heap has no room for {bytes} bytes; use a smaller input"),
            Self::NoProgress(left) => write!(f, "a round moved no page while {left} are left; see the reasons above"),
            Self::StayedAway(pages, reason) => {
                write!(f, "{pages} pages did not come home from a coherent device: {}", reason.name())
            }
            Self::TearDown(error) => error.fmt(f),
            Self::NoAnswer(error) => error.fmt(f),
            Self::Stopped(stage) => write!(f, "the host stopped the demo at the checkpoint {stage:?}; see its message"),
        }
    }
}

impl core::error::Error for DemoError {}

impl DemoError {
    /// The exit code that tells the host which of them it was.
    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            Self::InputTooLarge { .. } => ExitCode::InputTooLarge,
            Self::Disk(_) => ExitCode::BadDisk,
            Self::Device(problem) => problem.exit_code(),
            Self::Work(error) => device::code_of(error),
            Self::Space(_) | Self::HeapFull(_) => ExitCode::OutOfMemory,
            Self::Migrate(MigrateError::NoMemory) => ExitCode::OutOfMemory,
            Self::StayedAway(_, Reason::NoMemory) => ExitCode::OutOfMemory,
            Self::NoAnswer(_) => ExitCode::HostTimeout,
            Self::Input(_)
            | Self::Range(_)
            | Self::Map(_)
            | Self::Migrate(_)
            | Self::NoProgress(_)
            | Self::StayedAway(..)
            | Self::TearDown(_)
            | Self::Stopped(_) => ExitCode::Failed,
        }
    }
}
