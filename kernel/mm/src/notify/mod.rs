//! Invalidation listeners: whoever keeps translations of its own, such as a device with its own page table, is told before an
//! entry that it may have copied gets weaker (`mmu_notifier`'s and `mmu_interval_notifier`'s role in Linux; v11 mirror patches
//! 01, 02 and 04).
//!
//! ```text
//!   whoever weakens entries                                   a listener
//!   ───────────────────────                                   ──────────
//!   announce: active up, sequence moves ── invalidate() ────▶ stops the device's use of the range, waits until it has
//!   lock, change entries, flush                               (a lookup that runs meanwhile fails: the sequence moved)
//!   announcement dropped: active down                         may look up again
//! ```
//!
//! Invariants:
//! 1. Every path that weakens a present entry, or takes a `Device` or `Exclusive` entry away, holds an `Announcement` over the
//!    page from before it takes the lock of the areas until after its flush (R12, R13).
//! 2. Listeners are called without any lock of the memory manager. (One exception is the caller's own: a batch that the
//!    announcing CPU holds open keeps its areas, shared.)
//! 3. With the areas held, an announcement counts only while it is current: a listener that registered since was not
//!    told. Registering takes the areas once, exclusively, so it waits for whoever did not see it.
//! 4. What a listener copied from the tables counts only while its sequence has not moved: [`Sequence`].
//! 5. The initiator of a migration is not told about it. It must have stopped its own use of the pages before the call.
//!
//! The locks: [`crate::lock::Level::Listeners`], a leaf, for the table of listeners; the sequence is read without a lock. Without
//! listeners in a space, an announcement costs one load.
mod announcement;
mod registry;
mod sequence;
mod sharers;

pub(crate) use announcement::Announcement;
pub use registry::{ListenError, ListenerId, MAX_LISTENERS, Watch};
pub(crate) use registry::{Listening, Registry};
pub use sequence::{Invalidating, Sequence};
pub(crate) use sharers::{NoRoomForSharers, Places, SharersToldOf};

use crate::address::PageRange;
use crate::space::SpaceId;

/// Why entries get weaker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InvalidationReason {
    /// The pages are unmapped.
    Unmap,
    /// The pages stay mapped and lose their contents.
    Discard,
    /// The pages keep their contents only if they are written again.
    FreeLazily,
    /// The pages lose rights.
    Protect,
    /// The space's page moves to another frame, because somebody stores to a shared page.
    CopyOnWrite,
    /// The pages become shared with a child: they are read-only from now on.
    Fork,
    /// The pages move to a device, or home from one.
    Migrate,
    /// A device gets a page for itself, or a CPU takes it back.
    Exclusive,
    /// The pages are swapped out.
    SwapOut,
    /// The pages move to other addresses.
    Move,
    /// The whole space goes.
    Release,
}

impl InvalidationReason {
    /// The reason's name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unmap => "unmap",
            Self::Discard => "discard",
            Self::FreeLazily => "free-lazily",
            Self::Protect => "protect",
            Self::CopyOnWrite => "copy-on-write",
            Self::Fork => "fork",
            Self::Migrate => "migrate",
            Self::Exclusive => "exclusive",
            Self::SwapOut => "swap-out",
            Self::Move => "move",
            Self::Release => "release",
        }
    }

    /// Whether it waits until no migration is open in the space, so that one in its range should give way (v11: the
    /// event's backoff flag). The other reasons work page by page beside migrations.
    pub(crate) fn asks_migrations_to_back_off(self) -> bool {
        match self {
            Self::Unmap | Self::Discard | Self::Protect | Self::Fork | Self::Move | Self::Release => true,
            Self::FreeLazily | Self::CopyOnWrite | Self::Migrate | Self::Exclusive | Self::SwapOut => false,
        }
    }
}

/// What a listener is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Invalidation {
    /// In which space.
    pub space: SpaceId,
    /// Which pages; within what the listener watches.
    pub range: PageRange,
    /// Why.
    pub reason: InvalidationReason,
}

/// Somebody who keeps translations of a space.
pub trait Listener: Send + Sync {
    /// Must have stopped every use of `event.range` when it returns, with nothing of it kept.
    ///
    /// Called by the CPU that is about to weaken entries, without any lock of the memory manager; it may wait, bounded. It may
    /// be called on several CPUs at once. It must not fault on the range, and must neither register nor remove a listener.
    fn invalidate(&self, event: &Invalidation);
}
