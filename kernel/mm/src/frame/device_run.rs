//! Neighbouring frames of a device, for whoever drives it: its page tables, and the buffers that it works on.
//!
//! Such frames hold no page: no entry names them, and an eviction passes them by.
use super::descriptor::{FrameKind, NO_FRAME};
use super::{DeviceFrame, DeviceFull, DeviceId, DeviceMemory};
use crate::machine::Machine;
use crate::manager::MemoryManager;
use crate::trace::{Event, record};

/// Neighbouring frames of a device, full of zeros when they are taken; dropping them clears and frees them.
#[must_use]
pub struct DeviceRun<'m, M: Machine> {
    manager: &'m MemoryManager<M>,
    first: DeviceFrame,
    count: u32,
}

impl<M: Machine> MemoryManager<M> {
    /// Takes `count` neighbouring frames of `device`. Looks at every descriptor of the device: not for paths that are walked often.
    ///
    /// # Errors
    /// [`DeviceFull`] where there are not so many neighbours, no such device, or none that hands frames out.
    pub fn take_device_run(&self, device: DeviceId, count: u32) -> Result<DeviceRun<'_, M>, DeviceFull> {
        let first =
            self.device(device).and_then(|device| device.take_run(&self.machine, count)).ok_or(DeviceFull(device))?;
        Ok(DeviceRun { manager: self, first: DeviceFrame::new(device, first), count })
    }
}

impl<M: Machine> DeviceRun<'_, M> {
    /// The frames, ascending.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = DeviceFrame> + use<M> {
        let DeviceFrame { device, index } = self.first;
        (index..index + self.count).map(move |index| DeviceFrame::new(device, index))
    }
}

impl<M: Machine> Drop for DeviceRun<'_, M> {
    fn drop(&mut self) {
        let memory = self.manager.device_of(self.first);
        // The lowest comes out first again.
        for index in (self.first.index..self.first.index + self.count).rev() {
            memory.free_frame(&self.manager.machine, DeviceFrame::new(self.first.device, index));
        }
    }
}

impl<D: core::ops::Deref<Target = [super::Descriptor]>> DeviceMemory<D> {
    /// Takes the first `count` neighbours that are free out of the free list.
    fn take_run<M: Machine<Descriptors = D>>(&self, machine: &M, count: u32) -> Option<u32> {
        crate::lock::assert_may_take_frames(machine);
        if !self.is_open() {
            return None;
        }
        let mut head = self.head.lock(machine);
        let first = self.free_neighbours(count)?;
        let run = first..first + count;
        let (mut previous, mut current) = (NO_FRAME, *head);
        while current != NO_FRAME {
            let next = self.descriptors[current as usize].link().1;
            match (run.contains(&current), self.descriptors.get(previous as usize)) {
                (false, _) => previous = current,
                (true, Some(before)) => before.set_link(NO_FRAME, next),
                (true, None) => *head = next,
            }
            current = next;
        }
        for index in run {
            let descriptor = &self.descriptors[index as usize];
            descriptor.set_kind(FrameKind::Owned, 0);
            descriptor.set_first_reference();
            record(machine, || Event::DeviceFrameTaken { frame: DeviceFrame::new(self.id(), index) });
        }
        self.note_taken(u64::from(count));
        Some(first)
    }

    fn free_neighbours(&self, count: u32) -> Option<u32> {
        let mut length = 0;
        for (index, descriptor) in (0..).zip(self.descriptors.iter()) {
            length = if descriptor.kind() == FrameKind::Free { length + 1 } else { 0 };
            if count > 0 && length == count {
                return Some(index + 1 - count);
            }
        }
        None
    }
}
