//! Many RAM frames freed at once: one turn of a cache's lock for all of them.
use super::cache::FreedFrames;
use super::descriptor::Descriptor;
use super::system::{SystemMemory, number};
use crate::machine::Machine;
use crate::trace::{Event, record};
use x86_64::structures::paging::PhysFrame;

impl<D: core::ops::Deref<Target = [Descriptor]>> SystemMemory<D> {
    /// Adds a frame, whose last reference was dropped, to those that are freed together.
    #[inline(always)]
    pub(crate) fn free_later<M: Machine>(&self, machine: &M, freed: &mut FreedFrames, frame: PhysFrame) {
        let descriptor = self.descriptor(frame);
        debug_assert_eq!((descriptor.mappings(), descriptor.pins()), (0, 0), "frame {frame:?} freed in use");
        descriptor.clear_last_reference();
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
