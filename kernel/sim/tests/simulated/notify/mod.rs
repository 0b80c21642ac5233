//! Invalidation listeners: who is told what, when, and what follows for migrations and lookups.
mod coming_and_going;
mod every_path;
mod exclusive;
mod giving_way;
mod latecomers;
mod livelock;
mod mirror;
mod sequence;
mod swapping;
pub mod watching;
