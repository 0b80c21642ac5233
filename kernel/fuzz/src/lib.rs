//! Wrong bytes for whatever reads bytes from outside.
//!
//! ```text
//!   seeds ──▶ engine: changes them ──▶ input ──▶ Target::check ──▶ the code under test
//!               ▲                                   │
//!               └── places of code reached          └──▶ an oracle that shares nothing with it
//! ```
//!
//! There are two engines. `./run.sh fuzz` uses libFuzzer, which sees the places of code that an input reaches and keeps
//! what reaches new ones. The tests use [`mutate`], which sees nothing and needs nothing: a short run of every target, the
//! same one each time.
//!
//! A check panics where something does not hold, so any panic of the code under test is a finding, too. What takes too long
//! is found by libFuzzer's own watch; where a bound is known, the check counts.
//!
//! Invariants:
//! 1. A check depends on its input alone: it has no clock, no random numbers and no memory of other inputs.
//! 2. An oracle reads the input on its own, as naively as it can, and knows nothing of the code under test but its types.
#![deny(unsafe_code)]

mod memory;
pub mod mutate;
mod oracle;
mod sample;
mod script;
pub mod targets;

use std::path::PathBuf;

/// Something that reads bytes from outside.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name of its file in `src/targets`, without the extension.
    pub name: &'static str,
    /// Checks one input; panics where something does not hold.
    pub check: fn(&[u8]),
    /// Inputs from which others are made: what is right, and what once was wrong in an interesting way.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Longest input that is worth a try, in bytes.
    pub most_bytes: usize,
}

impl Target {
    /// The target of this name.
    pub fn named(name: &str) -> Option<Self> {
        targets::ALL.iter().copied().find(|target| target.name == name)
    }

    /// The folder with inputs that once broke it.
    pub fn corpus(self) -> PathBuf {
        [env!("CARGO_MANIFEST_DIR"), "corpus", self.name].iter().collect()
    }
}
