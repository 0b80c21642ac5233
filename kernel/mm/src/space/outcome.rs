//! What an access wanted, and what became of it.
use x86_64::VirtAddr;

use super::Protection;
use crate::frame::DeviceId;
use crate::page_table::entry::RawEntry;

/// What a CPU wanted to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Load.
    Read,
    /// Store.
    Write,
    /// Fetch an instruction.
    Execute,
}

/// What a fault did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resolution {
    /// The entry allowed the access already; this CPU had an older translation.
    Stale,
    /// The zero page was mapped.
    ZeroPage,
    /// A fresh frame was mapped.
    FreshPage,
    /// A copy of a shared page was mapped.
    Copied,
    /// The page may now be written in place.
    Writable,
    /// The page came home from a device.
    CameHome,
    /// The page was taken back from a device that had it for itself.
    TakenBack,
    /// The page was swapped in.
    SwappedIn,
}

impl Resolution {
    /// What was done, as one word for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::ZeroPage => "zero-page",
            Self::FreshPage => "fresh-page",
            Self::Copied => "copied",
            Self::Writable => "writable",
            Self::CameHome => "came-home",
            Self::TakenBack => "taken-back",
            Self::SwappedIn => "swapped-in",
        }
    }
}

/// Why an access cannot succeed. The text of each says what to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultError {
    /// No area holds the address.
    NoArea(VirtAddr),
    /// The area forbids this access.
    Forbidden(VirtAddr, Access, Protection),
    /// There is no RAM frame for the page; nothing is lost, the access may be tried again.
    OutOfMemory(VirtAddr),
    /// The page's contents are lost: a bus error.
    Poisoned(VirtAddr),
    /// The page's contents were on a device that died: a bus error, and from now on [`Self::Poisoned`].
    DeviceLost(VirtAddr, DeviceId),
    /// The page is wanted in RAM, and somebody has pinned it in the memory of a coherent device.
    PinnedOnDevice(VirtAddr),
    /// The page is new to its space, which has as many as its limit allows.
    OverLimit(VirtAddr),
    /// A guard is here.
    Guard(VirtAddr),
    /// Addresses of a device are here, whose frames cannot be pinned.
    NotMemory(VirtAddr),
    /// The swap disk failed to read the page; nothing is lost, the access may be tried again.
    Disk(VirtAddr),
    /// The page is being migrated by this very CPU, for this space or for one that shares it: it would wait for itself.
    WaitsForItself(VirtAddr),
    /// The entry is none that the memory manager makes.
    Damaged(VirtAddr, RawEntry),
}

impl FaultError {
    /// Why, as one word for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoArea(_) => "no-area",
            Self::Forbidden(..) => "forbidden",
            Self::OutOfMemory(_) => "out-of-memory",
            Self::OverLimit(_) => "over-limit",
            Self::Guard(_) => "guard",
            Self::NotMemory(_) => "not-memory",
            Self::Poisoned(_) => "poisoned",
            Self::DeviceLost(..) => "device-lost",
            Self::PinnedOnDevice(_) => "pinned-on-device",
            Self::Disk(_) => "disk",
            Self::WaitsForItself(_) => "waits-for-itself",
            Self::Damaged(..) => "damaged",
        }
    }
}

impl core::fmt::Display for FaultError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoArea(address) => {
                write!(f, "no area is mapped at v{address:#x}; map one there, or mend the pointer")
            }
            Self::Forbidden(address, access, protection) => {
                write!(
                    f,
                    "the area at v{address:#x} allows {protection:?} and forbids {access:?}; change its protection"
                )
            }
            Self::OutOfMemory(address) => {
                write!(f, "no RAM frame is left for v{address:#x}; give the machine more with --memory")
            }
            Self::OverLimit(address) => {
                write!(
                    f,
                    "the page at v{address:#x} would exceed the limit of its space; unmap pages or raise the limit"
                )
            }
            Self::NotMemory(address) => {
                write!(f, "v{address:#x} maps addresses of a device; use them as they are, without a pin")
            }
            Self::Guard(address) => {
                write!(f, "v{address:#x} is in a guard: something ran over the end of the area beside it")
            }
            Self::Poisoned(address) => {
                write!(f, "bus error: the contents of v{address:#x} were lost on the way home from its device")
            }
            Self::DeviceLost(address, device) => {
                write!(
                    f,
                    "bus error: the contents of v{address:#x} were on device {}, which died; unmap the page",
                    device.number()
                )
            }
            Self::PinnedOnDevice(address) => {
                write!(f, "v{address:#x} is pinned in its device's memory; try again when that pin is dropped")
            }
            Self::Disk(address) => {
                write!(
                    f,
                    "the swap disk could not read v{address:#x}; see what the host says about its disk, and try again"
                )
            }
            Self::WaitsForItself(address) => {
                write!(
                    f,
                    "v{address:#x} is being migrated by this CPU; finish or drop the migration before touching it"
                )
            }
            Self::Damaged(address, entry) => {
                write!(f, "the entry {entry:?} of v{address:#x} is none of ours; the page table is damaged")
            }
        }
    }
}

impl core::error::Error for FaultError {}
