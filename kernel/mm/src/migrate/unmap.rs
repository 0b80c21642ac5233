//! Phase two: is the migration the only user of each page?
//!
//! After the flush no CPU reaches the page through this entry, and nobody can take a new reference through it. A page
//! has one reference per mapping; whatever is above that is somebody who uses the frame by its address: the page stays.
use super::batch::{Batch, Slots};
use super::others::{NotHeld, Others};
use super::slot::{Held, Slot, SlotState};
use super::{Collected, Copied};
use crate::frame::DeviceMemory;
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
        let manager = batch.space.manager;
        let is_ours_alone = |slot: &Slot| match slot.source.system() {
            Some(frame) if slot.is_taken() => {
                manager.memory.descriptor(frame).has_sole_mapping() || frame == manager.zero_frame
            }
            _ => true,
        };
        // Most batches: one look at each page, and nothing to be done.
        if !batch.slots.iter().all(is_ours_alone) {
            give_up_used(&mut batch);
        }
        // Told until here, whether or not somebody shares pages: the flush of the range is paid, too.
        drop(core::mem::take(&mut batch.told));
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

/// Takes the other mappings of shared pages, and gives up the pages that have other users.
#[cold]
fn give_up_used<M: Machine>(batch: &mut Batch<'_, M, Slots>) {
    take_other_mappings(batch);
    let manager = batch.space.manager;
    batch.give_up(|slot| {
        let frame = slot.source.system().filter(|frame| slot.is_taken() && *frame != manager.zero_frame)?;
        manager.memory.descriptor(frame).other_user()
    });
}

/// Takes the entries of other spaces that map pages of the batch, then flushes each such space once. A page whose
/// mappings cannot all be taken is given up.
fn take_other_mappings<M: Machine>(batch: &mut Batch<'_, M, Slots>) {
    let manager = batch.space.manager;
    for slot in batch.slots.iter_mut().filter(|slot| slot.state == SlotState::Taken) {
        let Some(frame) = slot.source.system() else { continue };
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
}
