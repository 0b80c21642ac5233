//! What the memory manager does with a frame of either kind, whatever it is used for.
use super::{AnyFrame, Descriptor, DeviceFrame, DeviceMemory};
use crate::address::PAGE_BYTES;
use crate::inject::Step;
use crate::machine::Machine;
use crate::manager::MemoryManager;
use crate::migrate::BringHomeError;

/// The contents of a page did not arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CopyFailed;

/// The lock of a frame, given back on drop. See [`Descriptor`].
pub(crate) struct LockedFrame<'m, M: Machine> {
    manager: &'m MemoryManager<M>,
    frame: AnyFrame,
}

impl<M: Machine> LockedFrame<'_, M> {
    /// What is known about the frame.
    pub(crate) fn descriptor(&self) -> &Descriptor {
        self.manager.any_descriptor(self.frame)
    }
}

impl<M: Machine> Drop for LockedFrame<'_, M> {
    fn drop(&mut self) {
        match self.frame {
            AnyFrame::System(frame) => self.manager.unlock_page(frame),
            AnyFrame::Device(_) => self.descriptor().unlock(),
        }
    }
}

/// Looks up the devices of frames, most of which are of the same device as the one before.
pub(crate) struct LastDevice<'m, M: Machine> {
    manager: &'m MemoryManager<M>,
    last: Option<&'m DeviceMemory<M::Descriptors>>,
}

impl<'m, M: Machine> LastDevice<'m, M> {
    #[inline(always)]
    pub(crate) fn new(manager: &'m MemoryManager<M>) -> Self {
        Self { manager, last: None }
    }

    /// The device of a frame that an entry names.
    #[inline(always)]
    pub(crate) fn of(&mut self, frame: DeviceFrame) -> &'m DeviceMemory<M::Descriptors> {
        match self.last {
            Some(device) if device.id() == frame.device() => device,
            _ => self.last.insert(self.manager.device_of(frame)),
        }
    }
}

impl<M: Machine> MemoryManager<M> {
    /// Tries to lock a frame that holds a page.
    pub(crate) fn try_lock_frame(&self, frame: AnyFrame) -> Option<LockedFrame<'_, M>> {
        // Made only where the lock was taken: dropping one gives it back.
        self.any_descriptor(frame).try_lock_page().then(|| LockedFrame { manager: self, frame })
    }

    /// Drops `count` references to a frame, and frees it with the last.
    pub(crate) fn release_frame(&self, frame: AnyFrame, count: u32) {
        if self.any_descriptor(frame).release(count) {
            self.free_any(frame);
        }
    }

    /// The device of a frame that an entry names.
    #[inline(always)]
    pub(crate) fn device_of(&self, frame: DeviceFrame) -> &DeviceMemory<M::Descriptors> {
        self.device(frame.device()).expect("an entry names a registered device")
    }

    /// The descriptor of a device frame that an entry names.
    #[inline(always)]
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

    /// Copies a page from one frame to another. Complete for others after [`Machine::complete_copies`].
    #[inline]
    pub(crate) fn copy_page(&self, source: AnyFrame, target: AnyFrame) -> Result<(), CopyFailed> {
        let crosses = |frame| matches!(frame, AnyFrame::Device(_));
        if (crosses(source) || crosses(target)) && self.injector.fails(Step::Copy) {
            return Err(CopyFailed);
        }
        // A device that died is not touched; one that dies meanwhile is found out afterwards.
        if self.is_lost(source) || self.is_lost(target) {
            return Err(CopyFailed);
        }
        self.machine.copy(source, target);
        if self.is_lost(source) || self.is_lost(target) { Err(CopyFailed) } else { Ok(()) }
    }

    /// The same between RAM and `device`, which one of the frames is of.
    #[inline(always)]
    pub(crate) fn copy_with(
        &self,
        device: &DeviceMemory<M::Descriptors>,
        source: AnyFrame,
        target: AnyFrame,
    ) -> Result<(), CopyFailed> {
        // A device that died is not touched; one that dies meanwhile is found out afterwards.
        if self.injector.fails(Step::Copy) || device.is_lost() {
            return Err(CopyFailed);
        }
        self.machine.copy(source, target);
        if device.is_lost() { Err(CopyFailed) } else { Ok(()) }
    }

    /// Whether the contents of a frame went with its device.
    #[inline]
    pub(crate) fn is_lost(&self, frame: AnyFrame) -> bool {
        match frame {
            AnyFrame::System(_) => false,
            AnyFrame::Device(frame) => self.device_of(frame).is_lost(),
        }
    }

    /// Why the contents of a page that was in `frame` are lost.
    pub(crate) fn why_lost(&self, frame: AnyFrame) -> BringHomeError {
        match frame {
            AnyFrame::Device(frame) if self.device_of(frame).is_lost() => BringHomeError::DeviceLost(frame.device()),
            _ => BringHomeError::Lost,
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
