//! The engine that sees nothing: seeds, changed at random.
//!
//! It has the mutations that every fuzzer has, on bytes and on numbers of all widths, and numbers near which limits lie.
use crate::Target;

/// Most changes between a seed and the input that is made of it.
const MOST_CHANGES: usize = 8;

/// Longest run of bytes that is inserted, removed or copied.
const MOST_RUN: usize = 64;

/// Inputs of a target, without end; one seed makes one sequence.
pub struct Inputs {
    seeds: Vec<Vec<u8>>,
    most_bytes: usize,
    random: fastrand::Rng,
}

impl Inputs {
    /// The inputs of `target` that follow from `seed`.
    pub fn new(target: Target, seed: u64) -> Self {
        let mut seeds = (target.seeds)();
        seeds.push(Vec::new());
        Self { seeds, most_bytes: target.most_bytes, random: fastrand::Rng::with_seed(seed) }
    }

    /// A number that is often near a limit, little-endian in `width` bytes.
    fn number(&mut self, width: usize) -> Vec<u8> {
        let power = 1u64.checked_shl(self.random.u32(0..=64)).unwrap_or(0);
        let number = match self.random.u8(0..4) {
            0 => self.random.u64(..),
            1 => self.random.u64(0..256),
            2 => power.wrapping_sub(self.random.u64(0..3)),
            _ => power.wrapping_neg().wrapping_add(self.random.u64(0..3)),
        };
        number.to_le_bytes()[..width].to_vec()
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let place = self.random.usize(0..=input.len());
        let run = place..input.len().min(place + self.random.usize(1..=MOST_RUN));
        match self.random.u8(0..8) {
            0 => drop(input.drain(run)),
            1 => drop(input.splice(place..place, std::iter::repeat_with(|| self.random.u8(..)).take(run.len() + 1))),
            2 => {
                let copied = input[run].to_vec();
                let target = self.random.usize(0..=input.len());
                drop(input.splice(target..target, copied));
            }
            3 => {
                let other = self.random.usize(0..self.seeds.len());
                let start = self.random.usize(0..=self.seeds[other].len());
                input.truncate(place);
                input.extend_from_slice(&self.seeds[other][start..]);
            }
            4 if place < input.len() => input[place] ^= 1 << self.random.u8(0..8),
            5 if place < input.len() => input[place] = input[place].wrapping_add(self.random.u8(..)),
            _ => {
                let width = 1 << self.random.u8(0..4);
                let number = self.number(width);
                let end = input.len().min(place + width);
                drop(input.splice(place..end, number));
            }
        }
        input.truncate(self.most_bytes);
    }
}

impl Iterator for Inputs {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let seed = self.random.usize(0..self.seeds.len());
        let mut input = self.seeds[seed].clone();
        for _ in 0..self.random.usize(1..=MOST_CHANGES) {
            self.change(&mut input);
        }
        Some(input)
    }
}
