//! The sequence of a listener: whether what it read from the tables still holds (`mmu_interval_read_begin` and `_retry`).
//!
//! ```text
//!   since = sequence(listener)      fails while an invalidation is under way
//!   read the tables
//!   take the lock that invalidate() takes
//!   has_moved(listener, since)?     yes: give the lock up and begin again
//!   use what was read, give the lock up
//! ```
use core::sync::atomic::Ordering;

use super::ListenerId;
use crate::machine::Machine;
use crate::manager::MemoryManager;

/// A moment at which no invalidation was under way for a listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sequence(u64);

/// There is no such moment now: an invalidation is under way for the listener, or it is gone. Try again later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Invalidating(pub ListenerId);

impl core::fmt::Display for Invalidating {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "pages of listener {} are being invalidated; begin again", self.0.place)
    }
}

impl core::error::Error for Invalidating {}

impl<M: Machine> MemoryManager<M> {
    /// Begins a lookup for a listener. Takes no lock and does not wait.
    ///
    /// # Errors
    /// [`Invalidating`].
    pub fn sequence(&self, listener: ListenerId) -> Result<Sequence, Invalidating> {
        let place = self.listeners.place(listener).ok_or(Invalidating(listener))?;
        // In this order, see `Registry::begin`.
        let sequence = place.sequence.load(Ordering::SeqCst);
        if place.active.load(Ordering::SeqCst) > 0 { Err(Invalidating(listener)) } else { Ok(Sequence(sequence)) }
    }

    /// Whether an invalidation began for the listener after `since`. Takes no lock and does not wait.
    pub fn has_moved(&self, listener: ListenerId, since: Sequence) -> bool {
        self.sequence(listener) != Ok(since)
    }
}
