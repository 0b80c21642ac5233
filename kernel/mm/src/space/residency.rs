//! How many pages a space has of each kind.
//!
//! ```text
//!   entry                                    counted as    charged
//!   ─────                                    ──────────    ───────
//!   Present, NoAccess: a RAM frame           ram           yes
//!   Present, NoAccess: a coherent device's   device        yes
//!   Present, NoAccess: the zero page         zero          no
//!   Device                                   device        yes
//!   Swap                                     swap          no
//!   Migrating                                what its page was before
//!   empty, Poison                            -             -
//! ```
//!
//! Invariants:
//! 1. A count changes where the entry changes: under the lock of its table, or with the areas held exclusively.
//! 2. A page that goes to a device stays charged, so that its way home needs no leave from anybody (R24 in docs/rules.md).
use core::sync::atomic::{AtomicU64, Ordering};

use crate::frame::AnyFrame;

/// Where a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Resident {
    /// In a RAM frame of its own, or one that it shares with other spaces.
    Ram,
    /// Nowhere: the zero page stands for it.
    Zero,
    /// On a device.
    Device,
    /// In a slot of the swap disk.
    Swap,
}

impl Resident {
    /// Where a page is whose contents stand in `frame`.
    #[inline]
    pub(crate) const fn of(frame: AnyFrame) -> Self {
        match frame {
            AnyFrame::System(_) => Self::Ram,
            AnyFrame::Device(_) => Self::Device,
        }
    }
}

/// The pages of a space by kind; each count on its own, so together they are exact only while nobody works in the space.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Residency {
    /// Pages in RAM frames.
    pub ram: u64,
    /// Pages that the zero page stands for.
    pub zero: u64,
    /// Pages on devices.
    pub device: u64,
    /// Pages in slots of the swap disk.
    pub swap: u64,
}

impl Residency {
    /// Pages that are charged to the space: those in RAM and those on devices.
    pub const fn charged(self) -> u64 {
        self.ram + self.device
    }
}

/// The counts behind a [`Residency`].
#[derive(Debug)]
pub(super) struct Charges {
    pages: [AtomicU64; 4],
}

impl Charges {
    pub(super) const fn new() -> Self {
        Self { pages: [const { AtomicU64::new(0) }; 4] }
    }

    pub(super) fn read(&self) -> Residency {
        let [ram, zero, device, swap] = [Resident::Ram, Resident::Zero, Resident::Device, Resident::Swap]
            .map(|resident| self.pages[resident as usize].load(Ordering::Relaxed));
        Residency { ram, zero, device, swap }
    }

    #[inline]
    pub(super) fn add(&self, resident: Resident, pages: u64) {
        self.pages[resident as usize].fetch_add(pages, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn remove(&self, resident: Resident, pages: u64) {
        let before = self.pages[resident as usize].fetch_sub(pages, Ordering::Relaxed);
        debug_assert!(before >= pages, "{pages} pages uncharged as {resident:?} where {before} are charged");
    }
}
