//! The buddy lists of RAM: free blocks of 2^order frames, aligned to their size.
//!
//! Two neighbouring blocks of one order that form an aligned block of the next order are buddies;
//! where both are free, they are one free block. (Knowlton 1965; Linux `mm/page_alloc.c`.)
//!
//! ```text
//!   order 0  ▪ ▪ ▪ ▪ ▪ ▪ ▪ ▪       frame 5's buddy at order 0 is 4   (number ^ 1)
//!   order 1  ━━━ ━━━ ━━━ ━━━       block 4's buddy at order 1 is 6   (number ^ 2)
//!   order 2  ━━━━━━━ ━━━━━━━       block 4's buddy at order 2 is 0   (number ^ 4)
//! ```
//!
//! Invariants, under the lock of the lists:
//! 1. A block is in exactly one list, that of its order; its first frame is [`FrameKind::Free`], the others [`FrameKind::FreeTail`].
//! 2. No two free buddies of one order, except at [`MAX_ORDER`].
//! 3. `free` is the number of frames in all lists.
//!
//! The lists run through the descriptors' links, so allocation and freeing take no memory.
use super::descriptor::{Descriptor, FrameKind, NO_FRAME};

/// The largest order: 2^10 frames are 4 MiB.
pub const MAX_ORDER: u8 = 10;

const LISTS: usize = MAX_ORDER as usize + 1;

/// The heads of the lists, and how much is in them.
pub(crate) struct BuddyLists {
    heads: [u32; LISTS],
    free: u64,
}

impl BuddyLists {
    /// Empty lists.
    pub(crate) const fn new() -> Self {
        Self { heads: [NO_FRAME; LISTS], free: 0 }
    }

    /// Frames in all lists.
    pub(crate) fn free(&self) -> u64 {
        self.free
    }

    /// Takes a block of 2^`order` frames out of the lists; returns its first frame's number.
    pub(crate) fn allocate(&mut self, frames: &[Descriptor], order: u8) -> Option<u32> {
        let mut from = order;
        while self.heads.get(usize::from(from))? == &NO_FRAME {
            from += 1;
        }
        let block = self.heads[usize::from(from)];
        self.unlink(frames, block, from);
        // Give back the upper halves until the block has the size that was asked for.
        while from > order {
            from -= 1;
            self.push(frames, block + (1 << from), from);
        }
        self.free -= 1 << order;
        Some(block)
    }

    /// Puts a block back and joins it with its free buddies.
    pub(crate) fn free_block(&mut self, frames: &[Descriptor], mut block: u32, mut order: u8) {
        self.free += 1 << order;
        while order < MAX_ORDER {
            let buddy = block ^ (1 << order);
            let is_free = frames
                .get(buddy as usize)
                .is_some_and(|descriptor| descriptor.is(FrameKind::Free) && descriptor.order() == order);
            if !is_free {
                break;
            }
            self.unlink(frames, buddy, order);
            frames[block.max(buddy) as usize].set_kind(FrameKind::FreeTail, 0);
            block = block.min(buddy);
            order += 1;
        }
        self.push(frames, block, order);
    }

    fn push(&mut self, frames: &[Descriptor], block: u32, order: u8) {
        let head = &mut self.heads[usize::from(order)];
        let descriptor = &frames[block as usize];
        descriptor.set_kind(FrameKind::Free, order);
        descriptor.set_link(NO_FRAME, *head);
        if let Some(next) = frames.get(*head as usize) {
            let (_, after) = next.link();
            next.set_link(block, after);
        }
        *head = block;
    }

    fn unlink(&mut self, frames: &[Descriptor], block: u32, order: u8) {
        let (previous, next) = frames[block as usize].link();
        match frames.get(previous as usize) {
            Some(descriptor) => {
                let (before, _) = descriptor.link();
                descriptor.set_link(before, next);
            }
            None => self.heads[usize::from(order)] = next,
        }
        if let Some(descriptor) = frames.get(next as usize) {
            let (_, after) = descriptor.link();
            descriptor.set_link(previous, after);
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    const FRAMES: u32 = 64;

    fn lists() -> (Vec<Descriptor>, BuddyLists) {
        let frames: Vec<Descriptor> = (0..FRAMES).map(|_| Descriptor::new()).collect();
        let mut lists = BuddyLists::new();
        for frame in 0..FRAMES {
            lists.free_block(&frames, frame, 0);
        }
        (frames, lists)
    }

    #[test]
    fn single_frames_join_to_one_block_and_split_again() {
        let (frames, mut lists) = lists();
        assert_eq!(lists.heads.iter().filter(|head| **head != NO_FRAME).count(), 1, "all joined into one block");
        assert_eq!(lists.allocate(&frames, 6), Some(0));
        assert_eq!(lists.allocate(&frames, 0), None);
        lists.free_block(&frames, 0, 6);
        assert_eq!(lists.free(), u64::from(FRAMES));
    }

    proptest! {
        /// Against a model that knows only which frames are taken.
        #[test]
        fn blocks_never_overlap_and_all_come_back(steps in prop::collection::vec((any::<bool>(), 0u8..5, any::<usize>()), 1..200)) {
            let (frames, mut lists) = lists();
            let mut taken = [false; FRAMES as usize];
            let mut blocks: Vec<(u32, u8)> = Vec::new();
            for (allocate, order, pick) in steps {
                if allocate || blocks.is_empty() {
                    if let Some(block) = lists.allocate(&frames, order) {
                        prop_assert_eq!(block % (1 << order), 0, "aligned to its size");
                        for frame in block..block + (1 << order) {
                            prop_assert!(!taken[frame as usize], "frame {} handed out twice", frame);
                            taken[frame as usize] = true;
                            frames[frame as usize].set_kind(FrameKind::Owned, 0);
                        }
                        blocks.push((block, order));
                    }
                } else {
                    let (block, order) = blocks.swap_remove(pick % blocks.len());
                    taken[block as usize..][..1 << order].fill(false);
                    lists.free_block(&frames, block, order);
                }
                let free = taken.iter().filter(|taken| !**taken).count() as u64;
                prop_assert_eq!(lists.free(), free);
            }
            for (block, order) in blocks {
                lists.free_block(&frames, block, order);
            }
            prop_assert_eq!(lists.allocate(&frames, 6), Some(0), "everything joined again");
        }
    }
}
