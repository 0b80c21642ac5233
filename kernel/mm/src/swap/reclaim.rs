//! Memory pressure: which pages leave RAM where a frame is needed and none is free.
//!
//! ```text
//!        RAM   ┌─────────────────────────────────────────────────┐
//!              └──────▲──────────────▲───────────────────────────┘
//!                 back hand      front hand            both go round, a fixed distance apart
//!          unused since? goes    marked unused
//! ```
//!
//! A clock with two hands: the front one takes the accessed bits from a page's entries; where none was set again by the time
//! the back one comes, the page goes. Frames that are locked (somebody's migration, R25), pinned, tables or anything but pages
//! of areas are passed by.
//!
//! Whoever finds no frame gives up every lock and what it holds, and is tried again after [`MemoryManager::with_reclaim`] has made
//! room. That ends: each time frames became free, or somebody else was at work on pages that could have gone, and after
//! [`MOST_ROUNDS`] times it is out of memory all the same.
use x86_64::structures::paging::PhysFrame;

use super::out::{BATCH, SwappedOut};
use crate::frame::{FrameKind, frame_of};
use crate::machine::Machine;
use crate::manager::MemoryManager;
use crate::stats::Reason;

/// How often one operation is tried again with frames that others took before it, or pages that others kept busy.
const MOST_ROUNDS: u32 = 64;

/// Turns of the hands for one request: in the first, every page may have been used.
const MOST_TURNS: usize = 2;

/// The hands are one part in so many of RAM apart.
const HANDS_APART: usize = 4;

/// One part in so many of RAM is made free at once, and a batch at most.
const PARTS_OF_RAM: u64 = 16;

/// What making room came to.
struct Reclaimed {
    /// Frames that became free.
    freed: u64,
    /// Whether there were pages that somebody else was at work on, or whose space somebody was changing: they may go later.
    met_busy: bool,
}

impl<M: Machine> MemoryManager<M> {
    /// Tries `attempt`, and again for as long as it finds no frame (`is_out_of_frames`) and swapping makes room. It gives up
    /// everything it holds before it returns an error; nothing of the memory manager is locked between two attempts.
    pub(crate) fn with_reclaim<T, E>(
        &self,
        is_out_of_frames: impl Fn(&E) -> bool,
        mut attempt: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        for _ in 0..MOST_ROUNDS {
            let result = attempt();
            if !result.as_ref().is_err_and(&is_out_of_frames) {
                return result;
            }
            let reclaimed = self.reclaim(self.shortage());
            if reclaimed.freed == 0 {
                if !reclaimed.met_busy {
                    return result;
                }
                self.machine.relax();
            }
        }
        attempt()
    }

    /// Makes `frames` frames free, as far as there are pages to swap out; for work that cannot give up what it holds later.
    /// Bounded: others may take what became free, and then it was not enough.
    pub(crate) fn make_room(&self, frames: u64) {
        if self.swap().is_none() {
            return;
        }
        for _ in 0..MOST_ROUNDS {
            let missing = frames.saturating_sub(self.memory.free(&self.machine));
            if missing == 0 || self.reclaim(missing).freed == 0 {
                return;
            }
        }
    }

    /// Swaps pages out until about `wanted` frames became free, or the hands have been round. Without a disk that is none.
    fn reclaim(&self, wanted: u64) -> Reclaimed {
        let Some(swap) = self.swap() else { return Reclaimed { freed: 0, met_busy: false } };
        let frames = self.memory.descriptors().len();
        let mut left = frames * MOST_TURNS;
        let mut out = SwappedOut::default();
        let mut met_locked = false;
        while out.freed < wanted && left > 0 {
            let (mut behind, mut ahead) = ([None; BATCH], [None; BATCH]);
            let mut found = 0;
            let most = (wanted - out.freed).min(BATCH as u64) as usize;
            // The front hand finds no more than the back one, or what it found would be forgotten.
            for place in &mut ahead {
                if found == most || left == 0 {
                    break;
                }
                let hand = swap.advance_hand(frames);
                left -= 1;
                *place = self.candidate((hand + frames / HANDS_APART) % frames);
                behind[found] = self.candidate(hand);
                met_locked |= self.is_locked_page(hand);
                found += usize::from(behind[found].is_some());
            }
            if found == 0 && ahead.iter().all(Option::is_none) {
                continue;
            }
            self.swap_out_unused(&behind, &ahead, &mut out);
        }
        Reclaimed { freed: out.freed, met_busy: met_locked || out.stayed.count(Reason::Busy) > 0 }
    }

    /// How many frames are made free for one that is missing: so few that a page in use is used again before the hand comes
    /// back to it, so many that a flush is shared.
    fn shortage(&self) -> u64 {
        (self.memory.descriptors().len() as u64 / PARTS_OF_RAM).clamp(1, BATCH as u64)
    }

    /// Whether somebody is at work on a page in the frame of this number.
    fn is_locked_page(&self, number: usize) -> bool {
        let descriptor = &self.memory.descriptors()[number];
        descriptor.kind() == FrameKind::Anonymous && descriptor.is_locked()
    }

    /// The frame of this number, if it may hold a page that can go.
    fn candidate(&self, number: usize) -> Option<PhysFrame> {
        let descriptor = &self.memory.descriptors()[number];
        let is_page = descriptor.kind() == FrameKind::Anonymous && !descriptor.is_locked() && descriptor.pins() == 0;
        is_page.then(|| frame_of(number as u32))
    }
}
