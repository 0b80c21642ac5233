//! Invalidation listeners: who is told what, when, and what follows for migrations and lookups.
mod every_path;
mod giving_way;
mod sequence;
mod watching;
