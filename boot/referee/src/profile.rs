//! Where the instructions of a window are: a count for each address under each chain of calls.
//!
//! Calls and returns are followed as they execute. A page fault is no call: its handler stands beside the code that faulted, and is
//! told by its addresses; it ends as it began, so the chain is right again when it returns.
use std::collections::HashMap;
use std::fmt::Write;

use crate::instruction::Kind;

/// A chain of calls, by its place in the table of chains.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
struct Chain(usize);

const ROOT: Chain = Chain(0);

/// Counts of one window.
pub struct Profile {
    /// The chain that each was called from, and the address of the call.
    chains: Vec<(Chain, u64)>,
    known: HashMap<(Chain, u64), Chain>,
    counts: HashMap<(Chain, u64), u64>,
    current: Chain,
}

impl Default for Profile {
    fn default() -> Self {
        Self { chains: vec![(ROOT, 0)], known: HashMap::new(), counts: HashMap::new(), current: ROOT }
    }
}

impl Profile {
    /// Takes note of an instruction that is about to execute. Those that are not `counted` still call and return.
    pub fn note(&mut self, address: u64, kind: Kind, counted: bool) {
        if counted {
            *self.counts.entry((self.current, address)).or_default() += 1;
        }
        match kind {
            Kind::Call => {
                let key = (self.current, address);
                let next = Chain(self.chains.len());
                self.current = *self.known.entry(key).or_insert(next);
                if self.current == next {
                    self.chains.push(key);
                }
            }
            Kind::Return => self.current = self.chains[self.current.0].0,
            _ => {}
        }
    }

    /// The lines of the file, in an order that depends on nothing but the run; nothing is left.
    pub fn take(&mut self) -> String {
        let Self { chains, counts, .. } = std::mem::take(self);
        let mut sorted: Vec<_> = counts.into_iter().collect();
        sorted.sort_unstable_by_key(|((chain, address), _)| (chain.0, *address));
        let mut text = String::new();
        for ((mut chain, address), count) in sorted {
            // Writing to a string does not fail.
            let _ = write!(text, "at {count} {address:x}");
            while chain != ROOT {
                let (caller, site) = chains[chain.0];
                let _ = write!(text, " {site:x}");
                chain = caller;
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_stand_under_their_calls() {
        let mut profile = Profile::default();
        for _ in 0..2 {
            profile.note(0x10, Kind::Call, true);
            profile.note(0x20, Kind::Call, true);
            profile.note(0x30, Kind::Other, true);
            profile.note(0x31, Kind::Return, false);
            profile.note(0x25, Kind::Return, true);
        }
        profile.note(0x15, Kind::Return, true);
        assert_eq!(profile.take(), "at 2 10\nat 1 15\nat 2 20 10\nat 2 25 10\nat 2 30 20 10\n");
        assert_eq!(profile.take(), "");
    }
}
