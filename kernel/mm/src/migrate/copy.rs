//! Phase three: a device frame for each page, and its contents.
use super::batch::{Batch, SlotState, Slots};
use super::{Held, Report, Unmapped};
use crate::frame::{AnyFrame, CopyFailed, DeviceFull};
use crate::machine::Machine;
use crate::stats::Reason;
use crate::trace::Phase;

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
        let machine = &manager.machine;
        for slot in batch.slots.iter_mut().filter(|slot| slot.state == SlotState::Taken) {
            let target = match device.allocate(machine, &manager.injector) {
                Ok(target) => target,
                Err(DeviceFull(_)) => {
                    let reason = if device.is_lost() { Reason::DeviceLost } else { Reason::DeviceFull };
                    slot.state = SlotState::GivingUp(reason);
                    continue;
                }
            };
            // A fresh device frame is zero already, which is all that an empty or a zero page needs.
            let source = slot.source(manager).filter(|source| *source != AnyFrame::System(manager.zero_frame));
            let copied = source.map_or(Ok(()), |source| manager.copy_page(source, target.frame().into()));
            slot.state = match copied {
                Ok(()) => SlotState::Copied(target.into_frame().into()),
                Err(CopyFailed) => SlotState::GivingUp(Reason::CopyFailed),
            };
        }
        machine.complete_copies();
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
