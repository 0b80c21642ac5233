//! A value that is written once.
use super::{Level, Lock};
use crate::machine::Machine;

/// A value that is made once and then read by everybody, without a lock.
///
/// Who makes it has a lock meanwhile, so that a second CPU which wants it made waits like for any other lock.
pub struct Once<T> {
    making: Lock<()>,
    value: spin::Once<T>,
}

impl<T> Once<T> {
    /// No value yet; a lock of this level is held while it is made.
    pub const fn new(level: Level) -> Self {
        Self { making: Lock::new(level, ()), value: spin::Once::new() }
    }

    /// The value, where there is one. Never waits.
    #[inline]
    pub fn get(&self) -> Option<&T> {
        self.value.get()
    }

    /// Makes this the value.
    ///
    /// # Errors
    /// There is one already; `value` is given back.
    pub fn set<M: Machine>(&self, machine: &M, value: T) -> Result<(), T> {
        let _making = self.making.lock(machine);
        let mut value = Some(value);
        self.value.call_once(|| value.take().expect("called once"));
        value.map_or(Ok(()), Err)
    }

    /// The value; made by `make` where there is none. Waits for whoever makes it.
    pub fn get_or_init<M: Machine>(&self, machine: &M, make: impl FnOnce() -> T) -> &T {
        if let Some(value) = self.get() {
            return value;
        }
        let _making = self.making.lock(machine);
        self.value.call_once(make)
    }
}
