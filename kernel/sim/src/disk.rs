//! The swap disk: slots of bytes behind the machine, and transfers that can be made to fail.
//!
//! It is as mean as a disk may be: a transfer that fails has changed half of its target, other CPUs act before each part, and
//! a fresh disk is full of garbage. It asserts that nobody waits for it with a lock.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ferry_mm::frame::AnyFrame;
use ferry_mm::machine::Machine;
use ferry_mm::page_table::entry::SwapSlot;
use ferry_mm::swap::{DiskFailure, SwapDisk};
use x86_64::structures::paging::PhysFrame;

use crate::machine::{CHUNK_WORDS, Moment, Sim};
use crate::memory::{FRAME_WORDS, GARBAGE};

/// The direction of a transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transfer {
    /// From the disk.
    Read,
    /// To the disk.
    Write,
}

/// The simulated swap disk.
pub struct SimDisk {
    words: Box<[AtomicU64]>,
    /// Transfers of each direction that were asked for.
    asked: [AtomicU64; 2],
    /// Transfers of each direction until one fails, counting that one; 0 where none does.
    until_failure: [AtomicU64; 2],
}

impl SimDisk {
    pub(crate) fn new(slots: usize) -> Self {
        let counters = || [const { AtomicU64::new(0) }; 2];
        Self {
            words: (0..slots * FRAME_WORDS).map(|_| AtomicU64::new(!GARBAGE)).collect(),
            asked: counters(),
            until_failure: counters(),
        }
    }

    /// Number of slots.
    pub fn slots(&self) -> u64 {
        (self.words.len() / FRAME_WORDS) as u64
    }

    /// The bytes of a slot, as the host sees them.
    pub fn bytes(&self, slot: SwapSlot) -> Vec<u8> {
        self.slot(slot).iter().flat_map(|word| word.load(Ordering::SeqCst).to_le_bytes()).collect()
    }

    /// How many transfers of one direction were asked for so far.
    pub fn asked(&self, transfer: Transfer) -> u64 {
        self.asked[transfer as usize].load(Ordering::SeqCst)
    }

    /// Makes the `count`-th transfer of one direction from now fail; 0 makes none fail.
    pub fn fail(&self, transfer: Transfer, count: u64) {
        self.until_failure[transfer as usize].store(count, Ordering::SeqCst);
    }

    /// Whether a failure is still to come.
    pub fn will_fail(&self, transfer: Transfer) -> bool {
        self.until_failure[transfer as usize].load(Ordering::SeqCst) != 0
    }

    fn slot(&self, slot: SwapSlot) -> &[AtomicU64] {
        let first = slot.number() as usize * FRAME_WORDS;
        self.words.get(first..first + FRAME_WORDS).unwrap_or_else(|| panic!("the disk has no {slot:?}"))
    }

    fn transfer(
        &self,
        sim: &Sim,
        transfer: Transfer,
        source: &[AtomicU64],
        target: &[AtomicU64],
    ) -> Result<(), DiskFailure> {
        assert_eq!(sim.held_by(sim.cpu()).count(), 0, "{:?} waits for the disk with a lock", sim.cpu());
        self.asked[transfer as usize].fetch_add(1, Ordering::SeqCst);
        let counter = &self.until_failure[transfer as usize];
        let fails = counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) == Ok(1);
        let end = if fails { FRAME_WORDS / 2 } else { FRAME_WORDS };
        for start in (0..end).step_by(CHUNK_WORDS) {
            sim.announce(Moment::Disk);
            for index in start..start + CHUNK_WORDS {
                let word = if fails { GARBAGE } else { source[index].load(Ordering::SeqCst) };
                target[index].store(word, Ordering::SeqCst);
            }
        }
        sim.announce(Moment::Disk);
        if fails { Err(DiskFailure) } else { Ok(()) }
    }
}

impl SwapDisk<Sim> for Arc<SimDisk> {
    fn slots(&self) -> u64 {
        SimDisk::slots(self)
    }

    fn read(&self, sim: &Sim, slot: SwapSlot, frame: PhysFrame) -> Result<(), DiskFailure> {
        self.transfer(sim, Transfer::Read, self.slot(slot), sim.memory().frame(AnyFrame::System(frame)))
    }

    fn write(&self, sim: &Sim, slot: SwapSlot, frame: PhysFrame) -> Result<(), DiskFailure> {
        self.transfer(sim, Transfer::Write, sim.memory().frame(AnyFrame::System(frame)), self.slot(slot))
    }
}
