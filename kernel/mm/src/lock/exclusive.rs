//! The lock that one CPU has at a time.
use core::ops::{Deref, DerefMut};

use super::{Held, Level, Taken};
use crate::machine::Machine;

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
        let (held, guard) = Held::acquire(machine, self.level, Taken::Exclusive, || self.inner.try_lock());
        LockGuard { guard, _held: held }
    }

    /// Takes the lock where nobody has it right now. Never waits, so it is outside the order.
    pub fn try_lock<'a, M: Machine>(&'a self, machine: &'a M) -> Option<LockGuard<'a, T, M>> {
        let guard = self.inner.try_lock()?;
        Some(LockGuard { guard, _held: Held::note(machine, self.level, true) })
    }

    /// The value, where nobody else can have the lock.
    pub fn into_inner(self) -> T {
        self.inner.into_inner()
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
