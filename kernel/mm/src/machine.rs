//! The machine underneath: everything the memory manager may ask of hardware, in one trait.
//!
//! The kernel implements it with instructions, the simulator with data structures. Above it the same
//! source runs in both. It is small on purpose: what is not in this file, `mm` cannot do.
//!
//! Invariants an implementation keeps:
//! 1. Entry accesses are atomic, and ordered like the CPU's own: a `swap` or a successful
//!    `compare_exchange` is a full barrier (Intel SDM 3A 9.2.3: locked instructions), a `load` has acquire order.
//! 2. After [`Machine::flush`] returns, no CPU named in the request uses a translation of the
//!    requested pages that it read from the tables before the call (Intel SDM 3A 4.10.4, 4.10.5).
//! 3. [`Machine::copy`] and [`Machine::clear`] are complete and visible to every CPU and to the device when
//!    [`Machine::complete_copies`] has returned on the CPU that made them.
//! 4. [`Machine::relax`] serves what other CPUs ask of this one (shootdowns), so a CPU may wait with it for another.
use core::ops::Deref;

use crate::frame::{AnyFrame, Descriptor};
use crate::lock::HeldLocks;
use crate::page_table::entry::RawEntry;
use crate::page_table::flush::FlushRequest;
use crate::page_table::slot::EntrySlot;
use crate::trace::Event;
use x86_64::structures::paging::PhysFrame;

/// The largest number of CPUs: [`CpuSet`] has one bit for each, a `Migrating` entry has seven bits for its owner.
pub const MAX_CPUS: usize = 64;

/// A CPU, numbered from 0 in the order in which the CPUs were started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash)]
pub struct CpuId(u8);

impl CpuId {
    /// The CPU that booted.
    pub const BOOT: Self = Self(0);

    /// The CPU of this number, or `None` from [`MAX_CPUS`] on.
    #[inline]
    pub const fn new(number: usize) -> Option<Self> {
        if number < MAX_CPUS { Some(Self(number as u8)) } else { None }
    }

    /// The CPU's number.
    #[inline]
    pub const fn number(self) -> usize {
        self.0 as usize
    }
}

/// A set of CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuSet(u64);

impl CpuSet {
    /// No CPU.
    pub const EMPTY: Self = Self(0);

    /// The set of this one CPU.
    #[inline]
    pub const fn of(cpu: CpuId) -> Self {
        Self(1 << cpu.0)
    }

    /// The set whose bit `n` stands for CPU `n`.
    #[inline]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Bit `n` is set where CPU `n` is in the set.
    #[inline]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether `cpu` is in the set.
    #[inline]
    pub const fn contains(self, cpu: CpuId) -> bool {
        self.0 & (1 << cpu.0) != 0
    }

    /// Whether there is no CPU in the set.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The CPUs that are in this set or in `other`.
    #[inline]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The CPUs of the set, in ascending order.
    pub fn iter(self) -> impl Iterator<Item = CpuId> {
        (0..MAX_CPUS as u8).map(CpuId).filter(move |cpu| self.contains(*cpu))
    }
}

/// What kind of code a CPU runs, innermost last: each may interrupt those before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Code {
    /// What was started and runs until it ends.
    Ordinary,
    /// The handling of a page fault.
    Fault,
    /// The handling of an interrupt.
    Interrupt,
}

/// What a CPU is doing, as far as it matters to which locks it may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context {
    /// The innermost code.
    pub code: Code,
    /// Whether an interrupt may come.
    pub interrupts_on: bool,
}

/// What the memory manager needs of hardware. See the module's invariants.
pub trait Machine: Sync {
    /// How the machine holds an array of frame descriptors: the kernel a static slice, the simulator a box.
    type Descriptors: Deref<Target = [Descriptor]> + Send + Sync;

    /// Reads a page-table entry.
    fn load_entry(&self, slot: EntrySlot) -> RawEntry;

    /// Writes a page-table entry and returns what stood there, in one step, so that accessed and
    /// dirty bits set by a CPU meanwhile are never lost.
    fn swap_entry(&self, slot: EntrySlot, new: RawEntry) -> RawEntry;

    /// Writes `new` if the entry still is `current`.
    ///
    /// # Errors
    /// The entry as it is, where it is not `current`.
    fn compare_exchange_entry(&self, slot: EntrySlot, current: RawEntry, new: RawEntry) -> Result<(), RawEntry>;

    /// Fills a frame with zeros.
    fn clear(&self, frame: AnyFrame);

    /// Copies the 4096 bytes of one frame to another.
    fn copy(&self, source: AnyFrame, target: AnyFrame);

    /// Waits until the copies and clears of this CPU are visible everywhere. Once per batch.
    fn complete_copies(&self);

    /// Makes the CPUs of the request forget translations, and waits until all have.
    fn flush(&self, request: FlushRequest);

    /// Makes this CPU translate lower-half addresses through `root` from now on, and forget what it
    /// cached of the lower half (a write to CR3).
    fn load_root(&self, root: PhysFrame);

    /// The CPU this code runs on.
    fn cpu(&self) -> CpuId;

    /// One turn of a wait for another CPU: a pause, and service of what other CPUs ask.
    fn relax(&self);

    /// The locks that this CPU holds. Asked with the feature `lock-order` only, at each acquire and release.
    fn held_locks(&self) -> &HeldLocks;

    /// What this CPU is doing. Asked with the feature `lock-order` only, at each acquire.
    fn context(&self) -> Context {
        Context { code: Code::Ordinary, interrupts_on: true }
    }

    /// Whether anybody wants to hear of events. Asked before each, so it must cost next to nothing.
    #[inline]
    fn is_traced(&self) -> bool {
        false
    }

    /// Takes note of an event; called where [`Self::is_traced`] says so. May be called in the fault path and with any lock held: it
    /// takes no lock of the memory manager, nothing from the heap, and may wait only for whoever else takes note of one.
    fn trace(&self, _event: &Event) {}
}
