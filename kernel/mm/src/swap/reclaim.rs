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
//! room. That ends: each time frames became free, and after [`MOST_ROUNDS`] times it is out of memory all the same.
use x86_64::structures::paging::PhysFrame;

use super::out::{BATCH, SwappedOut};
use crate::frame::{FrameKind, frame_of};
use crate::machine::Machine;
use crate::manager::MemoryManager;

/// How often one operation is tried again with frames that others took before it.
const MOST_ROUNDS: u32 = 64;

/// Turns of the hands for one request: in the first, every page may have been used.
const MOST_TURNS: usize = 2;

/// The hands are one part in so many of RAM apart.
const HANDS_APART: usize = 4;

/// One part in so many of RAM is made free at once, and a batch at most.
const PARTS_OF_RAM: u64 = 16;

impl<M: Machine> MemoryManager<M> {
    /// Tries `attempt`, and again for as long as it finds no frame (`is_out_of_frames`) and swapping makes room. It gives up
    /// everything it holds before it returns an error; nothing of the memory manager is locked between two attempts.
    pub(crate) fn with_reclaim<T, E>(
        &self,
        is_out_of_frames: impl Fn(&E) -> bool,
        mut attempt: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        for _ in 0..MOST_ROUNDS {
            match attempt() {
                Err(error) if is_out_of_frames(&error) && self.reclaim(self.shortage()) > 0 => {}
                result => return result,
            }
        }
        attempt()
    }

    /// Makes `frames` frames free, as far as there are pages to swap out; for work that cannot give up what it holds later.
    pub(crate) fn make_room(&self, frames: u64) {
        if self.swap().is_none() {
            return;
        }
        loop {
            let missing = frames.saturating_sub(self.memory.free(&self.machine));
            if missing == 0 || self.reclaim(missing) == 0 {
                return;
            }
        }
    }

    /// Swaps pages out until about `wanted` frames became free, or the hands have been round; returns how many did. Without a
    /// disk that is none.
    pub(crate) fn reclaim(&self, wanted: u64) -> u64 {
        let Some(swap) = self.swap() else { return 0 };
        let frames = self.memory.descriptors().len();
        let mut left = frames * MOST_TURNS;
        let mut out = SwappedOut::default();
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
                found += usize::from(behind[found].is_some());
            }
            if found == 0 && ahead.iter().all(Option::is_none) {
                continue;
            }
            self.swap_out_unused(&behind, &ahead, &mut out);
        }
        out.freed
    }

    /// How many frames are made free for one that is missing: so few that a page in use is used again before the hand comes
    /// back to it, so many that a flush is shared.
    fn shortage(&self) -> u64 {
        (self.memory.descriptors().len() as u64 / PARTS_OF_RAM).clamp(1, BATCH as u64)
    }

    /// The frame of this number, if it may hold a page that can go.
    fn candidate(&self, number: usize) -> Option<PhysFrame> {
        let descriptor = &self.memory.descriptors()[number];
        let is_page = descriptor.kind() == FrameKind::Anonymous && !descriptor.is_locked() && descriptor.pins() == 0;
        is_page.then(|| frame_of(number as u32))
    }
}
