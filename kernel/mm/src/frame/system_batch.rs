//! Many RAM frames at once: one turn of a cache's lock for all of them.
use super::cache::{self, FreedFrames};
use super::descriptor::{Descriptor, FrameKind, NO_FRAME};
use super::system::{OwnedFrame, SystemMemory, frame_of, number};
use crate::lock::assert_may_take_frames;
use crate::machine::Machine;
use crate::trace::{Event, record};
use x86_64::structures::paging::PhysFrame;

/// Frames that were taken and have no page yet: a list through their links.
#[must_use]
pub(crate) struct TakenFrames<'m, M: Machine> {
    memory: &'m SystemMemory<M::Descriptors>,
    machine: &'m M,
    next: u32,
}

impl<'m, M: Machine> TakenFrames<'m, M> {
    /// One of them; `None` where there are no more.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Option<OwnedFrame<'m, M>> {
        let index = self.next;
        let descriptor = self.memory.descriptors().get(index as usize)?;
        self.next = descriptor.link().1;
        descriptor.set_kind(FrameKind::Owned, 0);
        descriptor.set_first_reference();
        let frame = frame_of(index);
        record(self.machine, || Event::FrameTaken { frame, order: 0 });
        Some(OwnedFrame::new(self.memory, self.machine, frame))
    }
}

impl<M: Machine> Drop for TakenFrames<'_, M> {
    #[inline]
    fn drop(&mut self) {
        if self.next != NO_FRAME {
            self.memory.give_to_lists(self.machine, cache::Moved::from(self.next));
        }
    }
}

impl<D: core::ops::Deref<Target = [Descriptor]>> SystemMemory<D> {
    /// Takes up to `count` frames, whose contents are whatever they were: fewer where there are no more.
    pub(crate) fn take_many<'m, M: Machine<Descriptors = D>>(
        &'m self,
        machine: &'m M,
        count: u64,
    ) -> TakenFrames<'m, M> {
        assert_may_take_frames(machine);
        let cache = self.cache_of(machine);
        let mut taken = cache.take_many(machine, self.descriptors(), count);
        while taken.count < count
            && let Some(first) = self.fetch(machine, cache)
        {
            // What was fetched beside it is in the cache now.
            taken.push(self.descriptors(), first);
            let more = cache.take_many(machine, self.descriptors(), count - taken.count);
            taken.append(self.descriptors(), more);
        }
        TakenFrames { memory: self, machine, next: taken.first }
    }

    /// Adds a frame, which has no reference any more, to those that are freed together.
    #[inline(always)]
    pub(crate) fn free_later<M: Machine>(
        &self,
        machine: &M,
        freed: &mut FreedFrames,
        frame: PhysFrame,
        descriptor: &Descriptor,
    ) {
        debug_assert_eq!((descriptor.references(), descriptor.pins()), (0, 0), "frame {frame:?} freed in use");
        record(machine, || Event::FrameFreed { frame, order: 0 });
        freed.push(descriptor, number(frame));
    }

    /// Frees them.
    #[inline]
    pub(crate) fn free_all<M: Machine>(&self, machine: &M, freed: FreedFrames) {
        if let Some(spilled) = self.cache_of(machine).put_all(machine, self.descriptors(), freed) {
            self.give_to_lists(machine, spilled);
        }
    }
}
