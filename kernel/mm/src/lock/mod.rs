//! Locks, and the one order in which they are taken.
//!
//! ```text
//!   Lock, SharedLock, Once ── which lock? ──▶ level::Level ──▶ level::Rules: what may happen while it is held
//!        │                                                          ▲
//!        └── each acquire, with the feature `lock-order` ──▶ held::HeldLocks of this CPU: broken? panic
//! ```
//!
//! [`level`] is the one file that says what each lock protects and what may happen while it is held: those of the memory manager
//! and those of the kernel around it, because the order is one. Nothing waits for a lock of any other type.
//!
//! Invariants:
//! 1. A CPU takes a lock only inside those whose rules allow it, and every rule allows only levels that come later. So there is
//!    no circle, and no deadlock. Areas of other spaces are only tried ([`SharedLock::try_read`]); a fork takes its child's beside
//!    its own ([`SharedLock::write_beside`]).
//! 2. Whoever waits for a lock calls [`Machine::relax`], so it serves shootdowns and cannot deadlock with a flush.
//! 3. A lock that interrupt handlers take is taken elsewhere only with interrupts off, so no handler waits for the code that it
//!    interrupted. A lock that faults take is never taken by a handler.
//! 4. The lock of a frame (`Descriptor::try_lock_page`) is only ever tried, but where a space lets go of a page on a device, of
//!    one in the swap cache or of the last mapping of a frame, each of which says why that wait ends.
//! 5. A CPU that holds a migration open asks for no areas exclusively (`MemoryManager::holds_migration_open`).
//!
//! With the feature `lock-order`, each acquire asserts rules 1 and 3 and the kind, and each CPU counts what it holds, so that a
//! test can find a lock that was left behind. Without it a lock costs what its word costs.
mod exclusive;
mod held;
pub mod level;
mod once;
mod shared;

pub use exclusive::{Lock, LockGuard};
pub(crate) use held::Held;
pub use held::{Broken, HeldLocks};
pub use level::{Level, Levels, Rules, Taken};
pub use once::Once;
pub use shared::{ReadGuard, SharedLock, WriteGuard};

use crate::machine::Machine;

/// Asserts, with the feature `lock-order`, that this CPU may take frames: whoever does may have to make room first, which needs
/// page tables itself (R11 in docs/rules.md).
///
/// # Panics
/// Where a lock is held whose rules forbid it.
#[inline]
pub fn assert_may_take_frames<M: Machine>(machine: &M) {
    #[cfg(feature = "lock-order")]
    machine.held_locks().assert_may_take_frames();
    let _ = machine;
}

/// Asserts, with the feature `lock-order`, that this CPU may wait for a disk or a device, which may take seconds.
///
/// # Panics
/// Where a lock is held whose rules forbid it.
#[inline]
pub fn assert_may_wait<M: Machine>(machine: &M) {
    #[cfg(feature = "lock-order")]
    machine.held_locks().assert_may_wait();
    let _ = machine;
}
