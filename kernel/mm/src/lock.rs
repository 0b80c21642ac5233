//! Locks, and the one order in which they are taken.
//!
//! | level | lock | protects | while it is held |
//! |---|---|---|---|
//! | 1 | [`Level::Areas`] | the areas of one space; shared by faults and migrations | anything below; the heap |
//! | 2 | [`Level::PageTable`] | the entries of one level-1 table | entry accesses, flushes; no allocation |
//! | 3 | [`Level::Spaces`] | which address spaces exist | nothing else |
//! | 3 | [`Level::Frames`] | the free lists of RAM | nothing else |
//! | 3 | [`Level::DeviceFrames`] | the free list of one device | nothing else |
//! | 3 | [`Level::Listeners`] | the tables of listeners and of open migrations | nothing else |
//! | 3 | [`Level::Swap`] | the swap map | nothing else |
//!
//! Invariants:
//! 1. A CPU takes locks in ascending level, and waits for at most one of a level. Two page tables are never locked at once.
//!    Areas of other spaces are only tried ([`SharedLock::try_read`]); a fork takes its child's beside its own ([`SharedLock::write_beside`]).
//! 2. Whoever waits for a lock calls [`Machine::relax`], so it serves shootdowns and cannot deadlock with a flush.
//! 3. The lock of a frame (`Descriptor::try_lock_page`) is not in this table: it is only ever tried, but where a space lets go
//!    of a page on a device, of one in the swap cache or of the last mapping of a frame, each of which says why that wait ends.
//! 4. A CPU that holds a migration open asks for no areas exclusively (`MemoryManager::holds_migration_open`).
//!
//! With the feature `lock-order`, each acquire asserts rule 1 and each CPU counts what it holds, so that a
//! test can find a lock that was left behind.
use core::ops::{Deref, DerefMut};
#[cfg(feature = "lock-order")]
use core::sync::atomic::{AtomicU32, Ordering};

use crate::machine::Machine;

/// The kinds of locks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// The areas of a space.
    Areas,
    /// A level-1 page table.
    PageTable,
    /// The table of address spaces.
    Spaces,
    /// The free lists of RAM frames.
    Frames,
    /// The free list of a device's frames.
    DeviceFrames,
    /// The table of listeners, and that of open migrations.
    Listeners,
    /// The swap map.
    Swap,
}

impl Level {
    /// Locks of one rank exclude each other on a CPU.
    #[cfg(feature = "lock-order")]
    const fn rank(self) -> u32 {
        match self {
            Self::Areas => 0,
            Self::PageTable => 1,
            Self::Spaces | Self::Frames | Self::DeviceFrames | Self::Listeners | Self::Swap => 2,
        }
    }
}

/// The locks that one CPU holds; empty, and free of cost, without the feature `lock-order`.
///
/// Shared acquires of [`Level::Areas`] may nest (a fault inside an open migration): they are counted.
#[derive(Debug, Default)]
pub struct HeldLocks {
    #[cfg(feature = "lock-order")]
    ranks: [AtomicU32; 3],
}

impl HeldLocks {
    /// No lock held.
    pub const fn new() -> Self {
        Self {
            #[cfg(feature = "lock-order")]
            ranks: [const { AtomicU32::new(0) }; 3],
        }
    }

    /// How many locks are held.
    pub fn count(&self) -> u32 {
        #[cfg(feature = "lock-order")]
        return self.ranks.iter().map(|rank| rank.load(Ordering::Relaxed)).sum();
        #[cfg(not(feature = "lock-order"))]
        0
    }

    #[cfg(feature = "lock-order")]
    fn assert_order(&self, level: Level, shared: bool) {
        let rank = level.rank() as usize;
        let first_forbidden = if shared { rank + 1 } else { rank };
        for (held, count) in self.ranks.iter().enumerate().skip(first_forbidden) {
            assert!(
                count.load(Ordering::Relaxed) == 0,
                "lock order: {level:?} wanted while a lock of rank {held} is held"
            );
        }
    }

    /// Asserts, with the feature `lock-order`, that no page table is locked: whoever allocates may have to make room first, which
    /// needs page tables itself (R11 in docs/rules.md).
    #[inline]
    pub fn assert_may_allocate(&self) {
        #[cfg(feature = "lock-order")]
        {
            let tables = self.ranks[Level::PageTable.rank() as usize].load(Ordering::Relaxed);
            assert!(tables == 0, "lock order: an allocation while a page table is locked");
        }
    }

    #[inline]
    fn acquire(&self, level: Level) {
        #[cfg(feature = "lock-order")]
        self.ranks[level.rank() as usize].fetch_add(1, Ordering::Relaxed);
        #[cfg(not(feature = "lock-order"))]
        let _ = level;
    }

    #[inline]
    fn release(&self, level: Level) {
        #[cfg(feature = "lock-order")]
        self.ranks[level.rank() as usize].fetch_sub(1, Ordering::Relaxed);
        #[cfg(not(feature = "lock-order"))]
        let _ = level;
    }
}

/// Notes, for the length of its life, that this CPU holds a lock of a level.
pub(crate) struct Held<'m, M: Machine> {
    machine: &'m M,
    level: Level,
}

impl<'m, M: Machine> Held<'m, M> {
    /// Asserts the order, then tries with `attempt` until it succeeds.
    #[inline]
    pub(crate) fn acquire<T>(
        machine: &'m M,
        level: Level,
        shared: bool,
        mut attempt: impl FnMut() -> Option<T>,
    ) -> (Self, T) {
        #[cfg(feature = "lock-order")]
        machine.held_locks().assert_order(level, shared);
        let _ = shared;
        loop {
            if let Some(value) = attempt() {
                machine.held_locks().acquire(level);
                return (Self { machine, level }, value);
            }
            machine.relax();
        }
    }
}

impl<'m, M: Machine> Held<'m, M> {
    /// Notes a lock that was taken without waiting.
    fn note(machine: &'m M, level: Level) -> Self {
        machine.held_locks().acquire(level);
        Self { machine, level }
    }
}

impl<M: Machine> Drop for Held<'_, M> {
    #[inline]
    fn drop(&mut self) {
        self.machine.held_locks().release(self.level);
    }
}

/// A value that one CPU at a time may use.
pub struct Lock<T> {
    level: Level,
    inner: spin::Mutex<T>,
}

impl<T> Lock<T> {
    /// A lock of this level around `value`.
    pub const fn new(level: Level, value: T) -> Self {
        Self { level, inner: spin::Mutex::new(value) }
    }

    /// Waits for the lock. Bounded by the time for which others hold it.
    #[inline]
    pub fn lock<'a, M: Machine>(&'a self, machine: &'a M) -> LockGuard<'a, T, M> {
        let (held, guard) = Held::acquire(machine, self.level, false, || self.inner.try_lock());
        LockGuard { guard, _held: held }
    }
}

/// The right to use the value of a [`Lock`].
pub struct LockGuard<'a, T, M: Machine> {
    guard: spin::MutexGuard<'a, T>,
    _held: Held<'a, M>,
}

impl<T, M: Machine> Deref for LockGuard<'_, T, M> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T, M: Machine> DerefMut for LockGuard<'_, T, M> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// A value that many CPUs may read or one may change.
pub struct SharedLock<T> {
    level: Level,
    inner: spin::RwLock<T>,
}

impl<T> SharedLock<T> {
    /// A lock of this level around `value`.
    pub const fn new(level: Level, value: T) -> Self {
        Self { level, inner: spin::RwLock::new(value) }
    }

    /// Waits until no CPU changes the value. Readers may nest on one CPU.
    #[inline]
    pub fn read<'a, M: Machine>(&'a self, machine: &'a M) -> ReadGuard<'a, T, M> {
        let (held, guard) = Held::acquire(machine, self.level, true, || self.inner.try_read());
        ReadGuard { guard, _held: held }
    }

    /// Reads where nobody changes the value right now. Never waits, so it is outside the order.
    pub fn try_read<'a, M: Machine>(&'a self, machine: &'a M) -> Option<ReadGuard<'a, T, M>> {
        let guard = self.inner.try_read()?;
        Some(ReadGuard { guard, _held: Held::note(machine, self.level) })
    }

    /// Changes the value of a lock that nobody holds for long but those who never wait: taken beside one of its level.
    ///
    /// Bounded by what those do, which is to look and go.
    pub fn write_beside<'a, M: Machine>(&'a self, machine: &'a M) -> WriteGuard<'a, T, M> {
        loop {
            if let Some(guard) = self.inner.try_write() {
                return WriteGuard { guard, _held: Held::note(machine, self.level) };
            }
            machine.relax();
        }
    }

    /// Waits until nobody else uses the value.
    #[inline]
    pub fn write<'a, M: Machine>(&'a self, machine: &'a M) -> WriteGuard<'a, T, M> {
        let (held, guard) = Held::acquire(machine, self.level, false, || self.inner.try_write());
        WriteGuard { guard, _held: held }
    }
}

/// The right to read the value of a [`SharedLock`].
pub struct ReadGuard<'a, T, M: Machine> {
    guard: spin::RwLockReadGuard<'a, T>,
    _held: Held<'a, M>,
}

impl<T, M: Machine> Deref for ReadGuard<'_, T, M> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}

/// The right to change the value of a [`SharedLock`].
pub struct WriteGuard<'a, T, M: Machine> {
    guard: spin::RwLockWriteGuard<'a, T>,
    _held: Held<'a, M>,
}

impl<T, M: Machine> Deref for WriteGuard<'_, T, M> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T, M: Machine> DerefMut for WriteGuard<'_, T, M> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}
