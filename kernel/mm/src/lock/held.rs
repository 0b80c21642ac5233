//! The locks that a CPU holds, and what it may do with them.
//!
//! Everything here is empty, and free of cost, without the feature `lock-order`.
#[cfg(feature = "lock-order")]
use core::sync::atomic::{AtomicU32, Ordering};

use super::level::{Level, Taken};
#[cfg(feature = "lock-order")]
use super::level::{Rules, Waits};
#[cfg(feature = "lock-order")]
use crate::machine::Context;
use crate::machine::{Code, Machine};

/// How many locks of each level one CPU holds. Shared ones may nest (a fault inside an open migration), so they are counted.
#[derive(Debug, Default)]
pub struct HeldLocks {
    #[cfg(feature = "lock-order")]
    held: [AtomicU32; Level::ALL.len()],
    /// Those among them that nobody shares.
    #[cfg(feature = "lock-order")]
    exclusive: [AtomicU32; Level::ALL.len()],
}

/// A rule of [`super::level`] that is about to be broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broken {
    /// This level is wanted inside of one that does not allow it.
    Order(Level, Level),
    /// This level is not taken in this way.
    Kind(Level, Taken),
    /// This level is not taken in this code.
    Code(Level, Code),
    /// This level is taken by interrupt handlers, and interrupts are on.
    Interrupts(Level),
    /// A frame is wanted while this level is held.
    Frames(Level),
    /// A disk or a device is waited for while this level is held.
    Waits(Level),
}

impl core::fmt::Display for Broken {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("lock order: ")?;
        match self {
            Self::Order(wanted, held) => write!(f, "{wanted:?} is wanted while {held:?} is held")?,
            Self::Kind(wanted, taken) => write!(f, "{wanted:?} is waited for ({taken:?})")?,
            Self::Code(wanted, Code::Fault) => write!(f, "{wanted:?} is wanted in a page fault")?,
            Self::Code(wanted, _) => write!(f, "{wanted:?} is wanted in an interrupt handler")?,
            Self::Interrupts(wanted) => write!(f, "{wanted:?} is wanted with interrupts on")?,
            Self::Frames(held) => write!(f, "a frame is wanted while {held:?} is held")?,
            Self::Waits(held) => write!(f, "a disk or a device is waited for while {held:?} is held")?,
        }
        f.write_str(", which its rules forbid; give locks up first (ferry_mm::lock::level)")
    }
}

impl core::error::Error for Broken {}

impl HeldLocks {
    /// No lock held.
    pub const fn new() -> Self {
        Self {
            #[cfg(feature = "lock-order")]
            held: [const { AtomicU32::new(0) }; Level::ALL.len()],
            #[cfg(feature = "lock-order")]
            exclusive: [const { AtomicU32::new(0) }; Level::ALL.len()],
        }
    }

    /// How many locks are held.
    pub fn count(&self) -> u32 {
        #[cfg(feature = "lock-order")]
        return self.held.iter().map(|held| held.load(Ordering::Relaxed)).sum();
        #[cfg(not(feature = "lock-order"))]
        0
    }
}

#[cfg(feature = "lock-order")]
impl HeldLocks {
    fn levels(&self) -> impl Iterator<Item = Level> {
        Level::ALL.into_iter().filter(|level| self.held[*level as usize].load(Ordering::Relaxed) > 0)
    }

    fn is_exclusive(&self, level: Level) -> bool {
        self.exclusive[level as usize].load(Ordering::Relaxed) > 0
    }

    /// Whether a CPU in this `context` that holds these locks may wait for one of `level`, whose rules are `rules`.
    ///
    /// # Errors
    /// The rule that it would break.
    pub fn may_take(&self, level: Level, rules: &Rules, taken: Taken, context: Context) -> Result<(), Broken> {
        if !rules.taken.contains(&taken) {
            return Err(Broken::Kind(level, taken));
        }
        if context.code > rules.innermost {
            return Err(Broken::Code(level, context.code));
        }
        if rules.innermost == Code::Interrupt && context.interrupts_on {
            return Err(Broken::Interrupts(level));
        }
        let nests = match taken {
            Taken::Exclusive => false,
            Taken::Shared => !self.is_exclusive(level),
            Taken::Beside => true,
        };
        let forbids = |held: &Level| !(held.rules().inside.contains(level) || *held == level && nests);
        self.levels().find(forbids).map_or(Ok(()), |held| Err(Broken::Order(level, held)))
    }

    pub(super) fn assert_may_take_frames(&self) {
        if let Some(held) = self.levels().find(|held| !held.rules().frames) {
            panic!("{}", Broken::Frames(held));
        }
    }

    pub(super) fn assert_may_wait(&self) {
        let forbids = |held: &Level| match held.rules().waits {
            Waits::Never => true,
            Waits::Shared => self.is_exclusive(*held),
            Waits::Always => false,
        };
        if let Some(held) = self.levels().find(forbids) {
            panic!("{}", Broken::Waits(held));
        }
    }

    fn note(&self, level: Level, exclusive: bool) {
        self.held[level as usize].fetch_add(1, Ordering::Relaxed);
        self.exclusive[level as usize].fetch_add(exclusive.into(), Ordering::Relaxed);
    }

    fn forget(&self, level: Level, exclusive: bool) {
        self.held[level as usize].fetch_sub(1, Ordering::Relaxed);
        self.exclusive[level as usize].fetch_sub(exclusive.into(), Ordering::Relaxed);
    }
}

/// Notes, for the length of its life, that this CPU holds a lock of a level.
pub(crate) struct Held<'m, M: Machine> {
    #[cfg(feature = "lock-order")]
    level: Level,
    #[cfg(feature = "lock-order")]
    exclusive: bool,
    #[cfg_attr(not(feature = "lock-order"), expect(dead_code, reason = "asked only where the order is asserted"))]
    machine: &'m M,
}

impl<'m, M: Machine> Held<'m, M> {
    /// Asserts the rules, then tries with `attempt` until it succeeds.
    #[inline]
    pub(crate) fn acquire<T>(
        machine: &'m M,
        level: Level,
        taken: Taken,
        mut attempt: impl FnMut() -> Option<T>,
    ) -> (Self, T) {
        #[cfg(feature = "lock-order")]
        if let Err(broken) = machine.held_locks().may_take(level, &level.rules(), taken, machine.context()) {
            panic!("{broken}");
        }
        loop {
            if let Some(value) = attempt() {
                return (Self::note(machine, level, taken != Taken::Shared), value);
            }
            machine.relax();
        }
    }

    /// Notes a lock that was taken without waiting.
    #[inline]
    pub(super) fn note(machine: &'m M, level: Level, exclusive: bool) -> Self {
        #[cfg(feature = "lock-order")]
        {
            machine.held_locks().note(level, exclusive);
            Self { machine, level, exclusive }
        }
        #[cfg(not(feature = "lock-order"))]
        {
            let _ = (level, exclusive);
            Self { machine }
        }
    }
}

impl<M: Machine> Drop for Held<'_, M> {
    #[inline]
    fn drop(&mut self) {
        #[cfg(feature = "lock-order")]
        self.machine.held_locks().forget(self.level, self.exclusive);
    }
}
