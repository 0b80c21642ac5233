//! Counters: what happened, by cause, and why pages stayed.
use core::sync::atomic::{AtomicU64, Ordering};

/// Why a page of a migration's range stayed where it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
#[repr(u8)]
pub enum Reason {
    /// The device has no free frame.
    DeviceFull,
    /// The device died.
    DeviceLost,
    /// The copy failed.
    CopyFailed,
    /// No RAM frame for the way home.
    NoMemory,
    /// Somebody pinned the page, for long.
    Pinned,
    /// Somebody holds a reference to the page right now.
    Referenced,
    /// The page came home for an access that was not made yet.
    JustCameHome,
    /// Somebody else is moving the page.
    Busy,
    /// The page is on this device already (or, on the way home, in RAM already).
    AlreadyThere,
    /// The page is on another device.
    ForeignDevice,
    /// Nothing is here: on the way home an empty entry or the zero page has nothing to bring.
    Empty,
    /// The contents of the page are lost.
    Poisoned,
    /// The page has no frame, and one on the device would exceed the limit of its space.
    OverLimit,
    /// The page stands on the swap disk.
    SwappedOut,
    /// On the way to the swap disk: every slot is in use.
    SwapFull,
    /// On the way to the swap disk: the disk failed.
    DiskFailed,
    /// A CPU used the page not long ago.
    Used,
    /// Somebody stored to the page while it was copied in use.
    Written,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 18] = [
        Self::DeviceFull,
        Self::DeviceLost,
        Self::CopyFailed,
        Self::NoMemory,
        Self::Pinned,
        Self::Referenced,
        Self::JustCameHome,
        Self::Busy,
        Self::AlreadyThere,
        Self::ForeignDevice,
        Self::Empty,
        Self::Poisoned,
        Self::OverLimit,
        Self::SwappedOut,
        Self::SwapFull,
        Self::DiskFailed,
        Self::Used,
        Self::Written,
    ];

    /// The reason's name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DeviceFull => "device-full",
            Self::DeviceLost => "device-lost",
            Self::CopyFailed => "copy-failed",
            Self::NoMemory => "no-memory",
            Self::Pinned => "pinned",
            Self::Referenced => "referenced",
            Self::JustCameHome => "just-came-home",
            Self::Busy => "busy",
            Self::AlreadyThere => "already-there",
            Self::ForeignDevice => "foreign-device",
            Self::Empty => "empty",
            Self::Poisoned => "poisoned",
            Self::OverLimit => "over-limit",
            Self::SwappedOut => "swapped-out",
            Self::SwapFull => "swap-full",
            Self::DiskFailed => "disk-failed",
            Self::Used => "used",
            Self::Written => "written",
        }
    }
}

/// Who brought a page home.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// A CPU's access.
    Fault,
    /// A call that asked for it.
    Call,
    /// The eviction of its device.
    Eviction,
    /// A pin that needs the page in RAM.
    Pin,
    /// A fork that cannot share it.
    Fork,
}

/// Pages that stayed, counted by reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stayed {
    counts: [u64; Reason::ALL.len()],
}

impl Stayed {
    /// Counts one page.
    pub(crate) fn add(&mut self, reason: Reason) {
        self.counts[reason as usize] += 1;
    }

    /// Takes back what was counted for pages that went after all.
    pub(crate) fn remove(&mut self, reason: Reason, pages: u64) {
        self.counts[reason as usize] -= pages;
    }

    /// Pages that stayed for this reason.
    pub fn count(&self, reason: Reason) -> u64 {
        self.counts[reason as usize]
    }

    /// Pages that stayed in all.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The reasons that occurred, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.into_iter().map(|reason| (reason, self.count(reason))).filter(|(_, count)| *count > 0)
    }
}

impl core::ops::AddAssign for Stayed {
    fn add_assign(&mut self, other: Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
    }
}

macro_rules! statistics {
    ($($(#[doc = $doc:literal])+ $field:ident;)+) => {
        /// Counters of a memory manager since it was made; each on its own, without a common moment.
        #[derive(Debug, Default)]
        pub struct Statistics {
            $($field: AtomicU64,)+
        }

        /// The counters, read one after the other.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct Counts {
            $($(#[doc = $doc])+ pub $field: u64,)+
        }

        impl Counts {
            /// Every counter with its name.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field),)+].into_iter()
            }
        }

        impl Statistics {
            /// Reads every counter.
            pub fn read(&self) -> Counts {
                Counts { $($field: self.$field.load(Ordering::Relaxed),)+ }
            }
        }
    };
}

statistics! {
    /// Page faults handed to the memory manager.
    faults;
    /// Page faults that found a special entry.
    special_faults;
    /// First touches that mapped the zero page.
    zero_pages_mapped;
    /// First touches, and stores to the zero page, that mapped a fresh frame.
    fresh_pages_mapped;
    /// Stores to shared pages, and pins of them, that mapped a copy.
    copied_pages_mapped;
    /// Pages that moved to a device.
    migrated;
    /// Pages that a CPU fault brought home.
    returned_by_fault;
    /// Pages that a call brought home.
    returned_by_call;
    /// Pages that an eviction brought home.
    returned_by_eviction;
    /// Pages that a pin brought home.
    returned_by_pin;
    /// Pages on a coherent device that a fork copied home for its child, because they are pinned there.
    returned_by_fork;
    /// Pages that ended on a device: unmapped or discarded there, or their space was destroyed.
    dropped_on_device;
    /// Pages whose contents were lost on the way home.
    poisoned;
    /// Pages that a device got for itself.
    made_exclusive;
    /// Announcements in spaces with listeners.
    announcements;
    /// Pages that left RAM for the swap disk.
    swapped_out;
    /// Those among them that the disk had already, so that nothing was written.
    swapped_out_clean;
    /// Pages that were dropped instead, because their contents need not be kept.
    dropped_unwanted;
    /// Pages that were read from the swap disk.
    swapped_in;
    /// Faults on swapped pages that found the page in the swap cache, without a read of their own.
    swap_cache_hits;
    /// Reads and writes that the swap disk failed.
    disk_errors;
    /// Flush requests, each for one range and any number of CPUs.
    flushes;
}

impl Statistics {
    #[inline]
    pub(crate) fn count_fault(&self, special: bool) {
        self.faults.fetch_add(1, Ordering::Relaxed);
        if special {
            self.special_faults.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(crate) fn count_zero_page(&self) {
        self.zero_pages_mapped.fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn count_fresh_page(&self) {
        self.fresh_pages_mapped.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_copied_page(&self) {
        self.copied_pages_mapped.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_migrated(&self, pages: u64) {
        self.migrated.fetch_add(pages, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn count_returned(&self, pages: u64, cause: Cause) {
        let counter = match cause {
            Cause::Fault => &self.returned_by_fault,
            Cause::Call => &self.returned_by_call,
            Cause::Eviction => &self.returned_by_eviction,
            Cause::Pin => &self.returned_by_pin,
            Cause::Fork => &self.returned_by_fork,
        };
        counter.fetch_add(pages, Ordering::Relaxed);
    }

    pub(crate) fn count_dropped_on_device(&self) {
        self.dropped_on_device.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_poisoned(&self, pages: u64) {
        self.poisoned.fetch_add(pages, Ordering::Relaxed);
    }

    pub(crate) fn count_made_exclusive(&self) {
        self.made_exclusive.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_announcement(&self) {
        self.announcements.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_swapped_out(&self, clean: bool) {
        self.swapped_out.fetch_add(1, Ordering::Relaxed);
        self.swapped_out_clean.fetch_add(u64::from(clean), Ordering::Relaxed);
    }

    pub(crate) fn count_dropped_unwanted(&self) {
        self.dropped_unwanted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_swapped_in(&self) {
        self.swapped_in.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_swap_cache_hit(&self) {
        self.swap_cache_hits.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_disk_error(&self) {
        self.disk_errors.fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn count_flush(&self) {
        self.flushes.fetch_add(1, Ordering::Relaxed);
    }
}
