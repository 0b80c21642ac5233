//! Explores what several CPUs may do to the memory manager at the same time.
//!
//! - [`schedules`]: the real source, in the simulator, under a scheduler that interleaves its CPUs at every step. Some orders of a
//!   large machine.
//! - [`model`]: the protocol written down once more, for a small machine. Every order.
#![forbid(unsafe_code)]

pub mod arguments;
pub mod model;
pub mod schedules;
