//! Swap: pages whose contents stand on a disk.
//!
//! ```text
//!   out:  Present ─▶ Swap{slot}, flushed ─▶ frame in the swap cache ─▶ written ─▶ frame freed
//!                                                  │ where the write fails, a fault finds it here
//!   in:   Swap{slot} ─▶ frame in the swap cache, locked ─▶ read ─▶ unlocked ─▶ mapped, still in the cache
//!   a store, a pin, a migration: out of the cache; the slot is freed where no entry names it
//! ```
//!
//! Invariants:
//! 1. A slot is in use for as long as an entry names it or a frame in the swap cache holds it.
//! 2. A frame in the swap cache equals its slot, or is the only copy and says so.
//! 3. Nobody waits for the disk with a lock other than that of a frame that nobody maps. Others find this frame in the
//!    cache, see that it is locked, and look again: bounded by the disk.
//! 4. A disk error is the error of the access that needed the page; nothing is lost by it, and it may be tried again.
//! 5. A disk is attached once and stays.
//!
//! In reading order: `disk`, `map`, `cache`, `fault`, `out`, `reclaim`.
mod cache;
mod disk;
mod fault;
mod map;
mod out;
mod reclaim;

pub use disk::{DiskFailure, SwapDisk};
pub(crate) use fault::SwapIn;
pub use map::{AttachError, MAX_SLOTS, SlotUse, SwapMap};
pub use out::{SwapOutError, SwappedOut};
