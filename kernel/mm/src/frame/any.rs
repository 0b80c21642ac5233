//! What the memory manager does with a frame of either kind, whatever it is used for.
use x86_64::structures::paging::PhysFrame;

use super::{AnyFrame, Descriptor, DeviceFrame};
use crate::machine::Machine;
use crate::manager::MemoryManager;

/// The lock of a RAM frame, given back on drop. See [`Descriptor`].
pub(crate) struct LockedFrame<'m> {
    descriptor: &'m Descriptor,
}

impl LockedFrame<'_> {
    /// What is known about the frame.
    pub(crate) fn descriptor(&self) -> &Descriptor {
        self.descriptor
    }
}

impl Drop for LockedFrame<'_> {
    fn drop(&mut self) {
        self.descriptor.unlock();
    }
}

impl<M: Machine> MemoryManager<M> {
    /// Tries to lock a RAM frame.
    pub(crate) fn try_lock_frame(&self, frame: PhysFrame) -> Option<LockedFrame<'_>> {
        let descriptor = self.memory.descriptor(frame);
        descriptor.try_lock_page().then_some(LockedFrame { descriptor })
    }

    /// Drops one reference to a RAM frame, and frees it with the last.
    pub(crate) fn release_frame(&self, frame: PhysFrame) {
        if self.memory.descriptor(frame).release(1) {
            self.memory.free_frame(&self.machine, frame);
        }
    }

    /// The descriptor of a device frame that an entry names.
    #[inline]
    pub(crate) fn device_descriptor(&self, frame: DeviceFrame) -> &Descriptor {
        self.device(frame.device()).expect("an entry names a registered device").descriptor(frame)
    }

    /// Gives the lock of a frame back; the zero page is never locked.
    #[inline]
    pub(crate) fn unlock_frame(&self, frame: AnyFrame) {
        match frame {
            AnyFrame::System(frame) if frame == self.zero_frame => {}
            AnyFrame::System(frame) => self.memory.descriptor(frame).unlock(),
            AnyFrame::Device(frame) => self.device_descriptor(frame).unlock(),
        }
    }

    /// The descriptor of any frame that an entry names.
    #[inline]
    pub(crate) fn any_descriptor(&self, frame: AnyFrame) -> &Descriptor {
        match frame {
            AnyFrame::System(frame) => self.memory.descriptor(frame),
            AnyFrame::Device(frame) => self.device_descriptor(frame),
        }
    }

    /// Frees a frame that a batch allocated and did not use.
    pub(crate) fn free_any(&self, frame: AnyFrame) {
        match frame {
            AnyFrame::System(frame) => self.memory.free_frame(&self.machine, frame),
            AnyFrame::Device(frame) => {
                self.device(frame.device()).expect("allocated from it").free_frame(&self.machine, frame);
            }
        }
    }
}
