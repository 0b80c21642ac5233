//! Migration: the way of a page to a device and home.
//!
//! ```text
//!                 collect             unmap               copy                finalize
//!   Present ───▶ Migrating ── flush ── check references ── device frame, ───▶ Device      ──▶ RAM frame freed
//!   zero page ─▶ Migrating             alone? else back    copied             or the old entry, bit for bit
//!   empty ─────▶ Migrating
//!
//!   Device ────▶ Migrating ─────────── RAM frame, copied ───────────────────▶ Present     ──▶ device frame cleared, freed
//!
//!   in coherent memory:
//!   Present ───▶ Migrating ── flush ── check references ── RAM frame, copied ─▶ Present   ──▶ device frame cleared, freed
//! ```
//!
//! Where the caller asks for it, the copy is made first, while the page is still in use ([`Mode::Transactional`], [`Protected`]).
//!
//! Each phase towards the device is a type ([`Collected`], [`Unmapped`], [`Copied`]); dropping one at any point gives every
//! page it still holds back. Going home is the same batch the other way; for private memory with nothing to flush and nobody to
//! check. To a coherent device, *finalize* writes a present entry that names the device's frame.
//!
//! Invariants:
//! 1. Only the batch that wrote a `Migrating` entry changes it. The entry names the owning CPU, the batch remembers which entries are its own.
//! 2. While an entry is `Migrating`, the frame it names is locked, so no other batch takes another mapping of it. (The zero page is
//!    shared by everybody and not locked; it is never freed.)
//! 3. The flush comes after all entries are `Migrating` and before the reference check: from then on no CPU can reach the page,
//!    and none can take a reference through this entry. One flush per call.
//! 4. A page is copied only where its mapping holds its only reference.
//! 5. The areas of the space are held shared from the first entry taken to the last entry written.
//! 6. Listeners of every space that is touched are told before the first entry is taken ([`crate::notify`]), and a migration gives
//!    everything back where somebody waits who would change its range ([`MigrateError::Again`]).
//! 7. What a batch needs to give its pages back is allocated before it takes the first.
mod ahead;
mod back;
mod batch;
mod came_home;
mod collect;
mod copy;
mod evict;
mod finalize;
mod in_progress;
mod options;
mod others;
mod prepare;
mod slot;
mod swapped;
mod unmap;

pub use ahead::{CopiedAhead, Protected};
pub use back::BringHomeError;
pub use collect::Collected;
pub use copy::Copied;
pub use evict::Evicted;
pub(crate) use in_progress::OpenBatches;
pub use options::{Busy, Foreign, MigrateOptions, Mode};
pub(crate) use others::Everybody;
pub use slot::Held;
pub use unmap::Unmapped;

use crate::address::PageRange;
use crate::frame::DeviceId;
use crate::stats::Stayed;
use x86_64::VirtAddr;

/// The largest number of pages in one call: 1 GiB. A bound on what one call may keep from everybody else.
pub const MAX_PAGES_PER_CALL: u64 = 1 << 18;

/// Why a migration call did nothing. Every entry is what it was before the call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MigrateError {
    /// The request makes no sense (v11: `-EINVAL`).
    Invalid(Invalid),
    /// No memory for the batch or for a page table (v11: `-ENOMEM`).
    NoMemory,
    /// A page of the range cannot be accessed: a guard is there, its contents are lost, or its entry is damaged (v11: `-EFAULT`).
    Fault(VirtAddr),
    /// Somebody waits for the range who would change it, or too many migrations are open; try again (v11: `-EAGAIN`).
    Again(PageRange),
}

/// What makes no sense about a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Invalid {
    /// The range is not inside one area.
    OutsideArea(PageRange),
    /// The area is no private anonymous memory.
    NotAnonymous(PageRange),
    /// The area may not be read.
    NotReadable(PageRange),
    /// The range has more than [`MAX_PAGES_PER_CALL`] pages.
    TooLong(PageRange),
    /// There is no such device.
    NoDevice(DeviceId),
    /// The device died.
    DeviceLost(DeviceId),
}

impl core::fmt::Display for MigrateError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (range, text) = match self {
            Self::Invalid(Invalid::OutsideArea(range)) => {
                (range, "is not inside one mapped area; migrate area by area")
            }
            Self::Invalid(Invalid::NotAnonymous(range)) => {
                (range, "is shared memory or belongs to a device; only private anonymous memory migrates")
            }
            Self::Invalid(Invalid::NotReadable(range)) => {
                (range, "may not be read; give it a protection that allows it")
            }
            Self::Invalid(Invalid::TooLong(range)) => (range, "is longer than one call may be; migrate it in parts"),
            Self::Invalid(Invalid::NoDevice(device)) => {
                return write!(f, "there is no device {}; register it first", device.number());
            }
            Self::Again(range) => (range, "is wanted by somebody else right now; try again"),
            Self::Invalid(Invalid::DeviceLost(device)) => {
                return write!(f, "device {} died; use another one, or reset it and readmit it", device.number());
            }
            Self::NoMemory => {
                return f.write_str("no memory for the migration itself; free some or migrate fewer pages");
            }
            Self::Fault(address) => {
                return write!(
                    f,
                    "the page at v{address:#x} is a guard, is lost, or cannot be read from the swap disk; leave it out, or unmap it"
                );
            }
        };
        write!(f, "v{:#x}..v{:#x} {text}", range.start_address(), range.end())
    }
}

impl core::error::Error for MigrateError {}

/// What a migration did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use = "pages may have stayed"]
pub struct Report {
    /// Pages that moved.
    pub moved: u64,
    /// Pages that stayed, by reason.
    pub stayed: Stayed,
}

impl core::ops::AddAssign for Report {
    fn add_assign(&mut self, other: Self) {
        self.moved += other.moved;
        self.stayed += other.stayed;
    }
}
