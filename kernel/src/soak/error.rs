//! What a soak can find wrong.
use crate::arch::probe::ProbeError;
use crate::disk::DiskProblem;
use crate::memory::device::DeviceProblem;
use crate::memory::mirror::MirrorProblem;
use core::fmt;
use ferry_device::request::OperationStatus;
use ferry_mm::address::RangeError;
use ferry_mm::manager::Census;
use ferry_mm::migrate::MigrateError;
use ferry_mm::space::{CreateError, DestroyError, FaultError, ForkError, MapError, RelocateError, Residency};
use ferry_mm::swap::SwapOutError;
use x86_64::VirtAddr;

/// What may stand in a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// This value.
    Exactly(u64),
    /// This value, or zero: the page need not be kept.
    OrZero(u64),
}

impl Expected {
    /// Whether `found` may stand there.
    pub(super) fn allows(self, found: u64) -> bool {
        match self {
            Self::Exactly(value) => found == value,
            Self::OrZero(value) => found == value || found == 0,
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(value) => write!(f, "{value:#x}"),
            Self::OrZero(value) => write!(f, "{value:#x} or 0"),
        }
    }
}

/// What a soak found wrong, or could not do.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the fields are the values that the variant's sentence names")]
pub enum SoakError {
    /// A word is not what its only writer stored.
    Word { address: VirtAddr, found: u64, expected: Expected },
    /// A word that only grows got smaller.
    WentBack { address: VirtAddr, found: u64, seen: u64 },
    /// A store to a read-only page succeeded, or failed for another reason.
    ReadOnly { address: VirtAddr, found: Option<ProbeError> },
    /// A pinned page left its frame.
    PinnedMoved(VirtAddr),
    /// Contents were lost on the way home.
    Lost(u64),
    /// The counts of the space are not those of its entries.
    Counts { counted: Residency, found: Residency },
    /// Something is left over, or missing, when the space is gone.
    Leak { before: Census, after: Census },
    /// A device's operation ended otherwise than it had to.
    Operation(OperationStatus),
    /// There is no device to use.
    Device(DeviceProblem),
    /// The disk cannot be used.
    Disk(DiskProblem),
    /// An access failed.
    Access(ProbeError),
    /// A call failed.
    Create(CreateError),
    /// As above.
    Range(RangeError),
    /// As above.
    Map(MapError),
    /// As above.
    Relocate(RelocateError),
    /// As above.
    Fork(ForkError),
    /// As above.
    Migrate(MigrateError),
    /// As above.
    SwapOut(SwapOutError),
    /// As above.
    Pin(FaultError),
    /// As above.
    Mirror(MirrorProblem),
    /// As above.
    Destroy(DestroyError),
}

impl fmt::Display for SoakError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word { address, found, expected } => {
                write!(f, "the word at v{address:#x} is {found:#x}, but {expected} was stored there last")
            }
            Self::WentBack { address, found, seen } => {
                write!(f, "the word at v{address:#x} only grows, but was {seen:#x} and is {found:#x}")
            }
            Self::ReadOnly { address, found: None } => {
                write!(f, "a store to the read-only page at v{address:#x} succeeded")
            }
            Self::ReadOnly { address, found: Some(error) } => {
                write!(f, "a store to the read-only page at v{address:#x} failed for another reason: {error}")
            }
            Self::PinnedMoved(address) => write!(f, "the pinned page at v{address:#x} left its frame"),
            Self::Lost(pages) => write!(f, "{pages} pages lost their contents on the way home"),
            Self::Counts { counted, found } => write!(f, "the space counts {counted:?}, its entries are {found:?}"),
            Self::Leak { before, after } => write!(f, "before the round: {before:?}; after it: {after:?}"),
            Self::Operation(status) => write!(f, "the device's operation ended with {status:?}"),
            Self::Device(error) => error.fmt(f),
            Self::Disk(error) => error.fmt(f),
            Self::Access(error) => error.fmt(f),
            Self::Create(error) => error.fmt(f),
            Self::Range(error) => error.fmt(f),
            Self::Map(error) => error.fmt(f),
            Self::Relocate(error) => error.fmt(f),
            Self::Fork(error) => error.fmt(f),
            Self::Migrate(error) => error.fmt(f),
            Self::SwapOut(error) => error.fmt(f),
            Self::Pin(error) => error.fmt(f),
            Self::Mirror(error) => error.fmt(f),
            Self::Destroy(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for SoakError {}

macro_rules! from {
    ($($error:ty => $variant:ident),+ $(,)?) => {
        $(impl From<$error> for SoakError {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        })+
    };
}
from! {
    DeviceProblem => Device, DiskProblem => Disk, ProbeError => Access, CreateError => Create, RangeError => Range,
    MapError => Map, RelocateError => Relocate, ForkError => Fork, MigrateError => Migrate, SwapOutError => SwapOut,
    FaultError => Pin, MirrorProblem => Mirror, DestroyError => Destroy,
}
