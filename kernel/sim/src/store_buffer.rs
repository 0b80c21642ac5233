//! The store buffer of one CPU: stores that were made and that nobody else sees yet.
//!
//! Stores leave in the order in which they came (x86-TSO: Sewell et al., CACM 2010; Intel SDM 3A 9.2.3.4), to the physical address that
//! was translated when they were made. So a store through a stale translation lands in the old frame, however late.
//! A locked instruction, a serializing instruction and the acknowledgement of a flush wait until the buffer is empty.
use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use crate::memory::{FRAME_WORDS, Memory};

/// Stores that a buffer holds at most; the oldest leaves for the next one. (56 on a Skylake core.)
const CAPACITY: usize = 56;

/// A store to some bytes of one word of RAM.
#[derive(Clone, Copy)]
struct Store {
    word: usize,
    /// All ones in the bytes that are stored.
    mask: u64,
    value: u64,
}

impl Store {
    fn over(self, word: u64) -> u64 {
        (word & !self.mask) | (self.value & self.mask)
    }
}

/// The stores of one CPU that are still to reach memory, oldest first.
#[derive(Default)]
pub(crate) struct StoreBuffer {
    stores: VecDeque<Store>,
}

impl StoreBuffer {
    /// Takes a store to the bytes of `mask` in a word.
    pub(crate) fn push(&mut self, memory: &Memory, word: usize, mask: u64, value: u64) {
        if self.stores.len() == CAPACITY {
            self.drain_one(memory);
        }
        self.stores.push_back(Store { word, mask, value });
    }

    /// What this CPU reads in a word: memory, and over it this CPU's own stores.
    pub(crate) fn load(&self, memory: &Memory, word: usize) -> u64 {
        let in_memory = memory.physical(word).load(Ordering::SeqCst);
        let own = self.stores.iter().filter(|store| store.word == word);
        own.fold(in_memory, |seen, store| store.over(seen))
    }

    /// Lets the oldest store reach memory.
    pub(crate) fn drain_one(&mut self, memory: &Memory) {
        let Some(store) = self.stores.pop_front() else { return };
        let word = memory.physical(store.word);
        if store.mask == u64::MAX {
            word.store(store.value, Ordering::SeqCst);
        } else {
            let _ = word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| Some(store.over(old)));
        }
    }

    /// Lets every store reach memory.
    pub(crate) fn drain(&mut self, memory: &Memory) {
        while !self.stores.is_empty() {
            self.drain_one(memory);
        }
    }

    /// The numbers of the frames that a store in the buffer goes to.
    pub(crate) fn frames(&self) -> impl Iterator<Item = usize> {
        self.stores.iter().map(|store| store.word / FRAME_WORDS)
    }
}
