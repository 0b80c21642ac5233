//! Oracles that more than one target needs.
pub mod layout;
