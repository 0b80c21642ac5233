//! The lock that many CPUs may share, or one has for itself.
use core::ops::{Deref, DerefMut};

use super::{Held, Level, Taken};
use crate::machine::Machine;

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
        let (held, guard) = Held::acquire(machine, self.level, Taken::Shared, || self.inner.try_read());
        ReadGuard { guard, _held: held }
    }

    /// Reads where nobody changes the value right now. Never waits, so it is outside the order.
    #[inline(always)]
    pub fn try_read<'a, M: Machine>(&'a self, machine: &'a M) -> Option<ReadGuard<'a, T, M>> {
        let guard = self.inner.try_read()?;
        Some(ReadGuard { guard, _held: Held::note(machine, self.level, false) })
    }

    /// Changes the value of a lock that nobody holds for long but those who never wait: taken beside one of its level.
    ///
    /// Bounded by what those do, which is to look and go.
    pub fn write_beside<'a, M: Machine>(&'a self, machine: &'a M) -> WriteGuard<'a, T, M> {
        let (held, guard) = Held::acquire(machine, self.level, Taken::Beside, || self.inner.try_write());
        WriteGuard { guard, _held: held }
    }

    /// Waits until nobody else uses the value.
    #[inline]
    pub fn write<'a, M: Machine>(&'a self, machine: &'a M) -> WriteGuard<'a, T, M> {
        let (held, guard) = Held::acquire(machine, self.level, Taken::Exclusive, || self.inner.try_write());
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
