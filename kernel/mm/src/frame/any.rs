//! What the memory manager does with a frame of either kind, whatever it is used for.
use super::{AnyFrame, Descriptor, DeviceFrame, DeviceMemory};
use crate::address::PAGE_BYTES;
use crate::machine::Machine;
use crate::manager::MemoryManager;

/// The lock of a frame, given back on drop. See [`Descriptor`].
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
    /// Tries to lock a frame that holds a page.
    pub(crate) fn try_lock_frame(&self, frame: AnyFrame) -> Option<LockedFrame<'_>> {
        let descriptor = self.any_descriptor(frame);
        descriptor.try_lock_page().then_some(LockedFrame { descriptor })
    }

    /// Drops `count` references to a frame, and frees it with the last.
    pub(crate) fn release_frame(&self, frame: AnyFrame, count: u32) {
        if self.any_descriptor(frame).release(count) {
            self.free_any(frame);
        }
    }

    /// The device of a frame that an entry names.
    #[inline]
    pub(crate) fn device_of(&self, frame: DeviceFrame) -> &DeviceMemory<M::Descriptors> {
        self.device(frame.device()).expect("an entry names a registered device")
    }

    /// The descriptor of a device frame that an entry names.
    #[inline]
    pub(crate) fn device_descriptor(&self, frame: DeviceFrame) -> &Descriptor {
        self.device_of(frame).descriptor(frame)
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

    /// The descriptor of a frame, where there is such a frame. For reports, which believe no entry.
    pub fn descriptor(&self, frame: AnyFrame) -> Option<&Descriptor> {
        match frame {
            AnyFrame::System(frame) => {
                self.memory.descriptors().get((frame.start_address().as_u64() / PAGE_BYTES) as usize)
            }
            AnyFrame::Device(frame) => self.device(frame.device())?.descriptors().get(frame.index() as usize),
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

    /// Frees a frame that nobody uses: of a device, cleared.
    pub(crate) fn free_any(&self, frame: AnyFrame) {
        match frame {
            AnyFrame::System(frame) => self.memory.free_frame(&self.machine, frame),
            AnyFrame::Device(frame) => self.device_of(frame).free_frame(&self.machine, frame),
        }
    }
}
