//! What a device needs to follow an address space with a page table of its own (`hmm_range_fault`'s role in Linux).
//!
//! ```text
//!   since = manager.sequence(listener)?
//!   space.range_fault(range, &request, &mut entries)?     faults in what the request asks for; no lock is held afterwards
//!   device's own lock
//!     manager.has_moved(listener, since)?                 yes: give the lock up, begin again
//!     write the device's page table from `entries`
//! ```
//!
//! Invariants:
//! 1. No reference to a frame is taken: an entry holds until the listener is told about its page, or its sequence moves.
//! 2. What is reported writable to a request that faults is dirty: nobody sees the device's stores. Whoever
//!    makes such an entry clean again tells the listeners.
//! 3. Nothing is reported stronger than the entry and the area allow.
mod range_fault;

use x86_64::VirtAddr;
use x86_64::structures::paging::PhysFrame;

use crate::address::PageRange;
use crate::frame::DeviceFrame;
use crate::notify::{ListenerId, Sequence};

/// What a device wants of each page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// To know what is there; nothing is faulted in (a snapshot).
    Look,
    /// To read: pages are faulted in as for a load.
    Read,
    /// To write: pages are faulted in as for a store.
    Write,
}

/// Who asks, since when, and for what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MirrorRequest {
    /// The listener that is told when an entry changes. Its device says which pages are its own.
    pub listener: ListenerId,
    /// The listener's sequence from before the request.
    pub since: Sequence,
    /// What for.
    pub want: Want,
}

/// One page, as a device may use it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MirrorEntry {
    /// Nothing that could be used without a fault.
    #[default]
    None,
    /// Nothing that could be used at all.
    Error,
    /// The page is in RAM.
    Ram {
        /// Where.
        frame: PhysFrame,
        /// Whether the device may write it.
        writable: bool,
        /// Whether it is the zero page.
        zero: bool,
    },
    /// The page is on a device: in private memory of the device that asks, or in coherent memory of any.
    Device {
        /// Where.
        frame: DeviceFrame,
        /// Whether the device may write it.
        writable: bool,
        /// Whose it is, seen from the device that asks.
        place: Place,
    },
}

/// On which device a page is, seen from the one that asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Its own.
    Local,
    /// Another, which it reaches behind that one's BAR.
    Remote,
}

/// What a request did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Faulted {
    /// Faults that were taken for it.
    pub faults: u64,
}

/// Why a request has no result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MirrorError {
    /// There is no area, it may not be read, the contents are lost, or the swap disk failed to read them (the peer suite:
    /// `-EFAULT`).
    Fault(VirtAddr),
    /// The device wants to write where stores are forbidden (the peer suite: `-EPERM`).
    NotPermitted(VirtAddr),
    /// There is no RAM frame for the page; it may be tried again (the peer suite: `-ENOMEM`).
    NoMemory(VirtAddr),
    /// Pages of the range changed meanwhile; begin again with a new sequence (the peer suite: `-EBUSY`).
    Again,
    /// The page is being migrated by this very CPU, which would wait for itself.
    WaitsForItself(VirtAddr),
    /// The listener does not watch the whole range, so it could not be told when an entry changes.
    NotWatched(PageRange),
    /// There is not one entry for each page.
    WrongLength {
        /// Pages of the range.
        pages: u64,
        /// Entries that were given.
        entries: usize,
    },
}

impl core::fmt::Display for MirrorError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Fault(address) => write!(f, "the device cannot use v{address:#x}; map it, or mend its pointer"),
            Self::NotPermitted(address) => write!(f, "the area at v{address:#x} forbids stores; change its protection"),
            Self::NoMemory(address) => write!(f, "no RAM frame is left for v{address:#x}; free some and try again"),
            Self::Again => f.write_str("pages of the range changed meanwhile; begin again"),
            Self::WaitsForItself(address) => {
                write!(f, "v{address:#x} is being migrated by this CPU; finish or drop the migration first")
            }
            Self::NotWatched(range) => write!(
                f,
                "the listener does not watch all of v{:#x}..v{:#x}; let one listen there",
                range.start_address(),
                range.end()
            ),
            Self::WrongLength { pages, entries } => {
                write!(f, "{entries} entries for {pages} pages; give one for each page")
            }
        }
    }
}

impl core::error::Error for MirrorError {}
