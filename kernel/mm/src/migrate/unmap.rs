//! Phase two: is the migration the only user of each page?
//!
//! After the flush no CPU reaches the page through this entry, and nobody can take a new reference through it. A page
//! has one reference per mapping; whatever is above that is somebody who uses the frame by its address: the page stays.
use super::batch::{Batch, SlotState, Slots};
use super::others::{NotHeld, Others};
use super::{Collected, Copied, Held};
use crate::frame::{AnyFrame, DeviceMemory};
use crate::machine::Machine;
use crate::stats::Reason;
use crate::trace::Phase;

/// A batch whose pages nobody else uses.
#[must_use = "dropping it gives every page back"]
pub struct Unmapped<'m, M: Machine> {
    pub(super) batch: Batch<'m, M, Slots>,
    pub(super) device: &'m DeviceMemory<M::Descriptors>,
}

impl<'m, M: Machine> Unmapped<'m, M> {
    pub(super) fn check(collected: Collected<'m, M>) -> Self {
        let Collected { mut batch, device } = collected;
        batch.tell(Phase::Unmap);
        take_other_mappings(&mut batch);
        let manager = batch.space.manager;
        for slot in batch.slots.iter_mut().filter(|slot| slot.is_taken()) {
            let Some(AnyFrame::System(frame)) = slot.source(manager) else { continue };
            if frame == manager.zero_frame {
                continue;
            }
            if let Some(reason) = manager.memory.descriptor(frame).other_user() {
                slot.give_up(manager, reason);
            }
        }
        Self { batch, device }
    }

    /// How each page of the range stands, in order.
    pub fn standings(&mut self) -> impl Iterator<Item = Held> {
        self.batch.standings()
    }

    /// Phase three: see [`Copied`].
    pub fn copy(self) -> Copied<'m, M> {
        Copied::copy(self)
    }
}

/// Takes the entries of other spaces that map pages of the batch, then flushes each such space once. A page whose
/// mappings cannot all be taken is given up.
fn take_other_mappings<M: Machine>(batch: &mut Batch<'_, M, Slots>) {
    let manager = batch.space.manager;
    for slot in batch.slots.iter_mut().filter(|slot| slot.state == SlotState::Taken) {
        let Some(AnyFrame::System(frame)) = slot.source(manager) else { continue };
        let descriptor = manager.memory.descriptor(frame);
        let (mappings, Some(origin)) = (descriptor.mappings(), descriptor.origin()) else { continue };
        if mappings == 1 {
            continue;
        }
        if batch.others.is_none() {
            let told = core::mem::take(&mut batch.told.sharers);
            match Others::hold(manager, Some(batch.space.id()), told) {
                Ok(others) => batch.others = Some(others),
                Err(NotHeld::NoMemory) => {
                    slot.state = SlotState::GivingUp(Reason::NoMemory);
                    continue;
                }
            }
        }
        let Some(others) = &mut batch.others else { continue };
        // Our own entry is one of them. Where all are `Migrating`, nobody can add one.
        if others.take(frame.into(), origin) + 1 != mappings {
            slot.state = SlotState::GivingUp(Reason::Busy);
        }
    }
    if let Some(others) = &mut batch.others {
        others.flush();
    }
    // Told until here, whether or not somebody shares pages: the flush of the range is paid, too.
    drop(core::mem::take(&mut batch.told));
}
