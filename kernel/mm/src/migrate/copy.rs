//! Phase three: a device frame for each page, and its contents.
use super::batch::{Batch, SlotState, Slots};
use super::{Held, Report, Unmapped};
use crate::frame::{AnyFrame, CopyFailed, DeviceFull, DeviceMemory};
use crate::machine::Machine;
use crate::manager::MemoryManager;
use crate::stats::Reason;
use crate::trace::Phase;

impl<M: Machine> MemoryManager<M> {
    /// A frame of `device` with the contents of `source`, or with zeros where there is none. Complete for others after
    /// [`Machine::complete_copies`].
    pub(super) fn copy_to_device(
        &self,
        device: &DeviceMemory<M::Descriptors>,
        source: Option<AnyFrame>,
    ) -> Result<AnyFrame, Reason> {
        let target = device
            .allocate(&self.machine, &self.injector)
            .map_err(|DeviceFull(_)| if device.is_lost() { Reason::DeviceLost } else { Reason::DeviceFull })?;
        // A fresh device frame is zero already, which is all that an empty or a zero page needs.
        let source = source.filter(|source| *source != AnyFrame::System(self.zero_frame));
        let copied = source.map_or(Ok(()), |source| self.copy_page(source, target.frame().into()));
        copied.map_err(|CopyFailed| Reason::CopyFailed)?;
        Ok(target.into_frame().into())
    }
}

/// A batch whose contents stand on the device, as far as it had room.
#[must_use = "dropping it gives every page back"]
pub struct Copied<'m, M: Machine> {
    pub(super) batch: Batch<'m, M, Slots>,
}

impl<'m, M: Machine> Copied<'m, M> {
    pub(super) fn copy(unmapped: Unmapped<'m, M>) -> Self {
        let Unmapped { mut batch, device } = unmapped;
        batch.tell(Phase::Copy);
        let manager = batch.space.manager;
        for slot in batch.slots.iter_mut().filter(|slot| slot.state == SlotState::Taken) {
            slot.state = match manager.copy_to_device(device, slot.source(manager)) {
                Ok(target) => SlotState::Copied(target),
                Err(reason) => SlotState::GivingUp(reason),
            };
        }
        manager.machine.complete_copies();
        Self { batch }
    }

    /// How each page of the range stands, in order.
    pub fn standings(&mut self) -> impl Iterator<Item = Held> {
        self.batch.standings()
    }

    /// Phase four: the new entries are written, or the old ones again; RAM frames are freed.
    pub fn finalize(self) -> Report {
        super::finalize::finalize(self)
    }
}
