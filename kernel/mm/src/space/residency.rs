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
//! 3. Only a page that is new to a space is held against its limit. A page in motion may count twice for a moment, so that a
//!    limit is never passed; a new page may then be refused that early.
use core::sync::atomic::{AtomicU64, Ordering};

use crate::frame::AnyFrame;

/// Where a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resident {
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

/// One page more would be charged than the space's limit allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct OverLimit;

/// The counts behind a [`Residency`].
#[derive(Debug)]
pub(super) struct Charges {
    /// Pages in RAM and on devices. One count for both, so that the limit is held against one number.
    charged: AtomicU64,
    device: AtomicU64,
    zero: AtomicU64,
    swap: AtomicU64,
    limit: AtomicU64,
}

impl Charges {
    pub(super) const fn new() -> Self {
        Self {
            charged: AtomicU64::new(0),
            device: AtomicU64::new(0),
            zero: AtomicU64::new(0),
            swap: AtomicU64::new(0),
            limit: AtomicU64::new(u64::MAX),
        }
    }

    pub(super) fn read(&self) -> Residency {
        let [charged, device, zero, swap] = [Resident::Ram, Resident::Device, Resident::Zero, Resident::Swap]
            .map(|resident| self.count(resident).load(Ordering::Relaxed));
        // The two are read one after the other, and pages may go to a device in between.
        Residency { ram: charged.saturating_sub(device), zero, device, swap }
    }

    #[inline(always)]
    pub(super) fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    pub(super) fn set_limit(&self, pages: u64) {
        self.limit.store(pages, Ordering::Relaxed);
    }

    /// Charges `pages` new ones, all or none.
    #[inline(always)]
    pub(super) fn try_add(&self, resident: Resident, pages: u64) -> Result<(), OverLimit> {
        let limit = self.limit();
        let within = |charged: u64| charged.checked_add(pages).filter(|charged| *charged <= limit);
        self.charged.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).map_err(|_| OverLimit)?;
        if resident == Resident::Device {
            self.device.fetch_add(pages, Ordering::Relaxed);
        }
        Ok(())
    }

    #[inline(always)]
    pub(super) fn add(&self, resident: Resident, pages: u64) {
        self.count(resident).fetch_add(pages, Ordering::Relaxed);
        // Pages on devices are among the charged ones.
        if resident == Resident::Device {
            self.charged.fetch_add(pages, Ordering::Relaxed);
        }
    }

    #[inline(always)]
    pub(super) fn remove(&self, resident: Resident, pages: u64) {
        let before = self.count(resident).fetch_sub(pages, Ordering::Relaxed);
        debug_assert!(before >= pages, "{pages} pages uncharged as {resident:?} where {before} are charged");
        if resident == Resident::Device {
            let before = self.charged.fetch_sub(pages, Ordering::Relaxed);
            debug_assert!(before >= pages, "{pages} pages uncharged where {before} are charged");
        }
    }

    /// Counts pages as another kind than before.
    #[inline(always)]
    pub(super) fn change(&self, from: Resident, to: Resident, pages: u64) {
        match (from, to) {
            // Charged before and after.
            (Resident::Device, Resident::Ram) => self.device.fetch_sub(pages, Ordering::Relaxed),
            (Resident::Ram, Resident::Device) => self.device.fetch_add(pages, Ordering::Relaxed),
            _ => {
                // In this order: counted twice for a moment, never not at all.
                self.add(to, pages);
                self.remove(from, pages);
                pages
            }
        };
    }

    #[inline(always)]
    const fn count(&self, resident: Resident) -> &AtomicU64 {
        match resident {
            Resident::Ram => &self.charged,
            Resident::Device => &self.device,
            Resident::Zero => &self.zero,
            Resident::Swap => &self.swap,
        }
    }
}
