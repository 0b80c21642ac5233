//! Swap: pages whose contents stand on a disk.
//!
//! ```text
//!   slot      0        1        2            slots() - 1
//!          ┬────────┬────────┬────────┬─ … ─┬────────┬
//!   disk   │ a page │        │        │     │        │
//!          ┴────────┴────────┴────────┴─ … ─┴────────┴
//! ```
//!
//! Invariants:
//! 1. A disk is attached once and stays.
//! 2. It is called without any lock of the memory manager.
mod disk;
mod map;

pub use disk::{DiskFailure, SwapDisk};
pub use map::{AttachError, MAX_SLOTS, SwapMap};
