//! Why a scenario did not go as its story tells.
use crate::disk::DiskProblem;
use crate::memory::device::DeviceProblem;
use core::fmt;
use ferry_device::driver::DeviceError;
use ferry_mm::address::RangeError;
use ferry_mm::migrate::MigrateError;
use ferry_mm::space::{CreateError, DestroyError, FaultError, ForkError, MapError};
use ferry_mm::swap::SwapOutError;

#[derive(Debug)]
pub(super) enum ScenarioError {
    /// There is no device to use.
    Device(DeviceProblem),
    /// The device did not do its work.
    Work(DeviceError),
    /// There is no address space.
    Create(CreateError),
    /// The pages have no place.
    Range(RangeError),
    /// The area was not mapped.
    Map(MapError),
    /// A migration did nothing.
    Migrate(MigrateError),
    /// There is no child.
    Fork(ForkError),
    /// The swap disk cannot be used.
    Disk(DiskProblem),
    /// Pages were not swapped out.
    SwapOut(SwapOutError),
    /// A page was not pinned.
    Pin(FaultError),
    /// A space cannot be removed.
    TearDown(DestroyError),
    /// Other pages moved than must.
    Moved { moved: u64, expected: u64 },
    /// A page holds another byte than it must.
    Byte { page: u64, found: u8, expected: u8 },
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(error) => error.fmt(f),
            Self::Work(error) => error.fmt(f),
            Self::Create(error) => error.fmt(f),
            Self::Range(error) => error.fmt(f),
            Self::Map(error) => error.fmt(f),
            Self::Migrate(error) => error.fmt(f),
            Self::Fork(error) => error.fmt(f),
            Self::Disk(error) => error.fmt(f),
            Self::SwapOut(error) => error.fmt(f),
            Self::Pin(error) => error.fmt(f),
            Self::TearDown(error) => error.fmt(f),
            Self::Moved { moved, expected } => write!(f, "{moved} pages moved where {expected} must; see the trace"),
            Self::Byte { page, found, expected } => {
                write!(f, "page {page} holds {found:#04x} where the story has {expected:#04x}; see the trace")
            }
        }
    }
}

impl core::error::Error for ScenarioError {}
