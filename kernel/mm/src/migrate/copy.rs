//! Phase three: a device frame for each page, and its contents.
use super::batch::{Batch, Slots};
use super::slot::{Held, Slot, SlotState};
use super::{Report, Unmapped};
use crate::frame::{CopyFailed, DeviceMemory};
use crate::inject::Step;
use crate::machine::Machine;
use crate::stats::Reason;
use crate::trace::Phase;

/// A batch whose contents stand on the device, as far as it had room.
#[must_use = "dropping it gives every page back"]
pub struct Copied<'m, M: Machine> {
    pub(super) batch: Batch<'m, M, Slots>,
    pub(super) device: &'m DeviceMemory<M::Descriptors>,
}

impl<'m, M: Machine> Copied<'m, M> {
    pub(super) fn copy(unmapped: Unmapped<'m, M>) -> Self {
        let Unmapped { mut batch, device } = unmapped;
        batch.tell(Phase::Copy);
        batch.copy_to_device(device, |slot| slot.state == SlotState::Taken, SlotState::Copied, SlotState::GivingUp);
        batch.space.manager.machine.complete_copies();
        Self { batch, device }
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

impl<M: Machine> Batch<'_, M, Slots> {
    /// Puts the contents of the pages that are `wanted` into frames of `device`, which it takes all at once; each page becomes what
    /// `copied` makes of its frame, or what `failed` makes of the reason for which it has none. Complete for others after
    /// [`Machine::complete_copies`].
    #[inline(always)]
    pub(super) fn copy_to_device(
        &mut self,
        device: &DeviceMemory<M::Descriptors>,
        wanted: impl Fn(&Slot) -> bool,
        copied: impl Fn(u32) -> SlotState,
        failed: impl Fn(Reason) -> SlotState,
    ) {
        let manager = self.space.manager;
        let count = self.slots.iter().filter(|slot| wanted(slot)).count();
        let mut frames = device.take_many(&manager.machine, count as u64);
        for slot in self.slots.iter_mut().filter(|slot| wanted(slot)) {
            let frame = if manager.injector.fails(Step::DeviceAlloc) { None } else { frames.next() };
            let Some(frame) = frame else {
                slot.state = failed(if device.is_lost() { Reason::DeviceLost } else { Reason::DeviceFull });
                continue;
            };
            // A fresh device frame is zero already, which is all that an empty or a zero page needs.
            let source = slot.source.system().filter(|source| *source != manager.zero_frame);
            let arrived =
                source.map_or(Ok(()), |source| manager.copy_with(device, source.into(), frame.frame().into()));
            slot.state = match arrived {
                Ok(()) => copied(frame.into_frame().index()),
                Err(CopyFailed) => failed(Reason::CopyFailed),
            };
        }
    }
}
