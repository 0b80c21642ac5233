//! The swap cache: frames that hold the page of a slot.
//!
//! A page is in it while it is written, while it is read, and afterwards for as long as nobody stores to it: a fault that
//! finds it there needs no disk, and it can leave RAM again without being written. (Linux: `mm/swap_state.c`.)
//!
//! Invariants:
//! 1. A frame in the swap cache has one reference for that, beside those of its mappings (R15), names its slot, and the slot
//!    names it.
//! 2. Frames enter and leave it under their own lock.
//! 3. No entry gives leave to write a frame in the swap cache, and nobody pins one. Whoever wants to, takes it out first.
//! 4. An unlocked frame in it is mapped, or an entry names its slot.
use x86_64::structures::paging::PhysFrame;

use crate::frame::AnyFrame;
use crate::machine::Machine;
use crate::manager::MemoryManager;
use crate::page_table::entry::SwapSlot;

impl<M: Machine> MemoryManager<M> {
    /// Takes a locked frame that is mapped out of the swap cache, where it is in it; from then on nobody else can come to map
    /// it. `false` where it is the only copy of a page that other entries name by its slot: it must be copied instead.
    pub(crate) fn leave_swap_cache(&self, frame: PhysFrame) -> bool {
        let descriptor = self.memory.descriptor(frame);
        let Some(slot) = descriptor.swap_slot() else { return true };
        if !self.slots().let_go_if(&self.machine, slot, |slot| slot.written || slot.entries == 0) {
            return false;
        }
        descriptor.leave_swap_cache();
        let was_last = descriptor.release(1);
        debug_assert!(!was_last, "a mapped frame has its mapping's reference");
        true
    }

    /// Whether a store to a frame in the swap cache must go to a copy, because other entries name its slot and only this
    /// frame has the contents. A hint, without the frame's lock.
    pub(crate) fn is_only_copy(&self, frame: AnyFrame) -> bool {
        let AnyFrame::System(frame) = frame else { return false };
        let Some(slot) = self.memory.descriptor(frame).swap_slot() else { return false };
        self.slots().slot_use(&self.machine, slot).is_some_and(|slot| !slot.written && slot.entries > 0)
    }

    /// Whether a frame is in the swap cache.
    #[inline]
    pub(crate) fn is_swap_cached(&self, frame: AnyFrame) -> bool {
        matches!(frame, AnyFrame::System(frame) if self.memory.descriptor(frame).swap_slot().is_some())
    }

    /// Gives the lock of a RAM frame back. A frame in the swap cache that is of no use there any more is freed.
    #[inline]
    pub(crate) fn unlock_page(&self, frame: PhysFrame) {
        let descriptor = self.memory.descriptor(frame);
        if descriptor.swap_slot().is_none() {
            descriptor.unlock();
        } else {
            self.unlock_cached(frame);
        }
    }

    fn unlock_cached(&self, frame: PhysFrame) {
        let descriptor = self.memory.descriptor(frame);
        loop {
            let slot = descriptor.swap_slot();
            if let Some(slot) = slot
                && descriptor.mappings() == 0
                && self.slots().let_go_if(&self.machine, slot, |slot| slot.entries == 0)
            {
                self.free_uncached(frame);
                return;
            }
            descriptor.unlock();
            // Whoever removed the last entry in the meantime found the frame locked, and left it to us.
            let useless = |slot| {
                descriptor.mappings() == 0
                    && self
                        .slots()
                        .slot_use(&self.machine, slot)
                        .is_some_and(|slot| slot.entries == 0 && slot.frame == Some(frame))
            };
            if !slot.is_some_and(useless) || !descriptor.try_lock_page() {
                return;
            }
        }
    }

    /// Drops the reference that the swap cache had to a locked frame that nobody maps and whose slot was taken from it.
    pub(super) fn free_uncached(&self, frame: PhysFrame) {
        let descriptor = self.memory.descriptor(frame);
        // In this order: a frame that holds no page cannot be locked any more.
        descriptor.leave_swap_cache();
        descriptor.unlock();
        self.release_frame(frame.into(), 1);
    }

    /// Drops the mapping of a RAM frame by an entry that is gone and flushed.
    ///
    /// Waits for the lock of a frame in the swap cache, and of one that loses its last mapping: whoever has it is a fault of
    /// another space or looks for pages to swap out, and waits for nothing of ours; nobody waits for the disk with a frame that is
    /// mapped. Not for a migration that is open: it took the frame out of the swap cache, and has a mapping of its own.
    pub(crate) fn drop_mapping(&self, frame: PhysFrame) {
        let descriptor = self.memory.descriptor(frame);
        loop {
            // Once out of the swap cache it stays out: to enter it takes every mapping, and one has no entry.
            if descriptor.swap_slot().is_none() {
                if descriptor.try_remove_mapping() {
                    break;
                }
            } else if descriptor.try_lock_page() {
                descriptor.remove_mappings(1);
                self.unlock_page(frame);
                break;
            }
            self.machine.relax();
        }
        self.release_frame(frame.into(), 1);
    }

    /// Lets go of a slot that an entry named which is gone.
    pub(crate) fn drop_swap_entry(&self, slot: SwapSlot) {
        // Locked, where somebody is at work on it: who then finds it useless when the lock is given back.
        if let Some(frame) = self.slots().remove_entry(&self.machine, slot)
            && self.memory.descriptor(frame).try_lock_page()
        {
            self.unlock_page(frame);
        }
    }
}
