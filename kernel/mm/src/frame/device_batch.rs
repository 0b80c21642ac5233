//! Many frames of a device at once: one turn of its lock for all of them.
//!
//! ```text
//!   free list ──take_many──▶ TakenDeviceFrames ──next──▶ one page each; the rest goes back when it is dropped
//!   free list ◀──free_all─── FreedDeviceFrames ◀──free_later── cleared, without owner
//! ```
use super::descriptor::{Descriptor, FrameKind, NO_FRAME};
use super::device::DeviceMemory;
use super::{AnyFrame, DeviceFrame, OwnedDeviceFrame};
use crate::lock::assert_may_take_frames;
use crate::machine::Machine;
use crate::trace::{Event, record};

/// Frames, full of zeros, that were taken from a device and have no page yet: a list through their links.
#[must_use]
pub(crate) struct TakenDeviceFrames<'m, M: Machine> {
    memory: &'m DeviceMemory<M::Descriptors>,
    machine: &'m M,
    next: u32,
}

impl<'m, M: Machine> TakenDeviceFrames<'m, M> {
    /// One of them; `None` where there are no more.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Option<OwnedDeviceFrame<'m, M>> {
        let index = self.next;
        self.next = self.memory.descriptors().get(index as usize)?.link().1;
        let frame = DeviceFrame::new(self.memory.id(), index);
        record(self.machine, || Event::DeviceFrameTaken { frame });
        Some(OwnedDeviceFrame::new(self.memory, self.machine, frame))
    }
}

impl<M: Machine> Drop for TakenDeviceFrames<'_, M> {
    #[inline]
    fn drop(&mut self) {
        if self.next != NO_FRAME {
            self.memory.give_back(self.machine, self.next);
        }
    }
}

/// Frames of a device that are freed together, cleared when all of them are there.
#[must_use = "frames that are not given to DeviceMemory::free_all are lost"]
pub(crate) struct FreedDeviceFrames {
    first: u32,
}

impl FreedDeviceFrames {
    pub(crate) const fn new() -> Self {
        Self { first: NO_FRAME }
    }
}

impl<D: core::ops::Deref<Target = [Descriptor]>> DeviceMemory<D> {
    /// Takes up to `count` frames: fewer where there are no more, none where none are handed out.
    pub(crate) fn take_many<'m, M: Machine<Descriptors = D>>(
        &'m self,
        machine: &'m M,
        count: u64,
    ) -> TakenDeviceFrames<'m, M> {
        assert_may_take_frames(machine);
        let mut taken = TakenDeviceFrames { memory: self, machine, next: NO_FRAME };
        if count == 0 || !self.is_open() {
            return taken;
        }
        let mut head = self.head.lock(machine);
        let (mut next, mut last, mut left) = (*head, NO_FRAME, count);
        while left > 0
            && let Some(descriptor) = self.descriptors().get(next as usize)
        {
            // Still under the lock: whoever looks for free neighbours must not find this one.
            descriptor.set_kind(FrameKind::Owned, 0);
            descriptor.set_first_reference();
            last = next;
            next = descriptor.link().1;
            left -= 1;
        }
        if let Some(last) = self.descriptors().get(last as usize) {
            taken.next = *head;
            *head = next;
            last.set_link(NO_FRAME, NO_FRAME);
            self.note_taken(count - left);
        }
        taken
    }

    /// Puts frames back that nobody has used, from `first` on.
    #[cold]
    fn give_back<M: Machine<Descriptors = D>>(&self, machine: &M, first: u32) {
        self.put_back(machine, first, |descriptor| descriptor.clear_last_reference());
    }

    /// Clears a frame, which has no reference any more, and adds it to those that are freed together. The memory of a device that
    /// died is left alone.
    #[inline(always)]
    pub(crate) fn free_later<M: Machine>(
        &self,
        machine: &M,
        freed: &mut FreedDeviceFrames,
        frame: DeviceFrame,
        descriptor: &Descriptor,
    ) {
        debug_assert_eq!((descriptor.references(), descriptor.pins()), (0, 0), "{frame} freed in use");
        if !self.is_lost() {
            machine.clear(AnyFrame::Device(frame));
        }
        descriptor.set_link(NO_FRAME, freed.first);
        freed.first = frame.index();
    }

    /// Frees them, once everybody sees that they are clear.
    #[inline]
    pub(crate) fn free_all<M: Machine<Descriptors = D>>(&self, machine: &M, freed: FreedDeviceFrames) {
        if freed.first == NO_FRAME {
            return;
        }
        machine.complete_copies();
        self.tell_freed(machine, freed.first);
        self.put_back(machine, freed.first, |_| ());
    }

    #[inline]
    fn tell_freed<M: Machine>(&self, machine: &M, first: u32) {
        if machine.is_traced() {
            let mut next = first;
            while let Some(descriptor) = self.descriptors().get(next as usize) {
                let frame = DeviceFrame::new(self.id(), next);
                record(machine, || Event::DeviceFrameFreed { frame });
                next = descriptor.link().1;
            }
        }
    }

    /// Puts the list of frames that begins with `first` into the free list.
    #[inline]
    fn put_back<M: Machine<Descriptors = D>>(&self, machine: &M, first: u32, each: impl Fn(&Descriptor)) {
        let mut head = self.head.lock(machine);
        let (mut next, mut last, mut count) = (first, None, 0);
        while let Some(descriptor) = self.descriptors().get(next as usize) {
            each(descriptor);
            descriptor.set_kind(FrameKind::Free, 0);
            next = descriptor.link().1;
            last = Some(descriptor);
            count += 1;
        }
        if let Some(last) = last {
            last.set_link(NO_FRAME, *head);
            *head = first;
            drop(head);
            self.note_freed(count);
        }
    }
}
