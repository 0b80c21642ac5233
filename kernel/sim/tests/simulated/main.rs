//! The memory manager on the simulated machine, and the simulated machine itself.
#![allow(clippy::unwrap_used, reason = "all of this is tests, helpers included")]
mod allocator;
mod areas;
mod coherent;
mod coherent_pins;
mod death;
mod defects;
mod every_kind;
mod eviction;
mod faults;
mod in_flight;
mod injection;
mod kinds;
mod lessons;
mod locks;
mod machine;
mod migration;
mod notify;
mod pins;
mod races;
mod random;
mod replay;
mod residency;
mod restore;
mod seams;
mod support;
mod swap;
