//! Eviction: bringing pages home by device frame, whoever maps them.
//!
//! The order is that of every migration, found from the other end: lock the frame, take all its mappings through the reverse
//! map, copy, write the new entries, free the device frame. Nothing is flushed: no CPU maps device memory.
use super::others::{NotHeld, Others};
use crate::frame::{AnyFrame, Descriptor, DeviceFrame, DeviceId, DeviceMemory, FrameKind, OutOfFrames};
use crate::inject::Step;
use crate::machine::Machine;
use crate::manager::MemoryManager;
use crate::page_table::entry::{Entry, LeafFlags};
use crate::space::{Protection, Resident};
use crate::trace::{Event, record};

/// Device frames that are evicted while the spaces are held once. A bound on how long nobody can map or unmap.
const FRAMES_PER_TURN: usize = 512;

/// How often a device is gone over again for the pages that were busy the time before.
const MOST_PASSES: u32 = 16;

/// What an eviction did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use = "pages may have stayed"]
pub struct Evicted {
    /// Pages that came home.
    pub returned: u64,
    /// Pages whose copy failed: poisoned everywhere.
    pub lost: u64,
    /// Pages for which there was no RAM; they stay on the device.
    pub no_memory: u64,
    /// Pages that others kept busy to the end; they stay on the device.
    pub busy: u64,
}

/// How one frame ended.
enum End {
    Returned,
    Lost,
    NoMemory,
    Busy,
    /// Nothing to bring home.
    Unused,
}

impl<M: Machine> MemoryManager<M> {
    /// Closes `device` for new pages and brings home every page that is on it, whoever maps it.
    ///
    /// Bounded: pages that are busy are tried again a limited number of times; what then is left is in the report.
    /// `None` where there is no such device.
    pub fn evict_device(&self, device: DeviceId) -> Option<Evicted> {
        let device = self.device(device)?;
        device.close();
        record(&self.machine, || Event::EvictionBegins { device: device.id() });
        let mut evicted = Evicted::default();
        for _ in 0..MOST_PASSES {
            evicted = Evicted { returned: evicted.returned, lost: evicted.lost, ..Evicted::default() };
            let mut next = 0;
            while next < device.descriptors().len() {
                let end = device.descriptors().len().min(next + FRAMES_PER_TURN);
                self.evict_frames(device, next as u32..end as u32, &mut evicted);
                next = end;
            }
            if evicted.busy == 0 {
                break;
            }
            self.machine.relax();
        }
        self.statistics.count_evicted(evicted.returned);
        record(&self.machine, || Event::EvictionEnds {
            device: device.id(),
            returned: evicted.returned,
            failed: evicted.lost + evicted.no_memory + evicted.busy,
        });
        Some(evicted)
    }

    fn evict_frames(
        &self,
        device: &DeviceMemory<M::Descriptors>,
        indices: core::ops::Range<u32>,
        evicted: &mut Evicted,
    ) {
        let frames = indices.map(|index| DeviceFrame::new(device.id(), index));
        let mut used = frames.filter(|frame| device.descriptor(*frame).kind() == FrameKind::Anonymous).peekable();
        if used.peek().is_none() {
            return;
        }
        let told = self.tell_sharers(None, None, |sharers| {
            used.clone().for_each(|frame| sharers.look_for(frame.into()));
        });
        let mut others = match told.and_then(|told| Others::hold(self, None, told)) {
            Ok(others) => others,
            Err(NotHeld::NoMemory) => {
                evicted.no_memory += used.count() as u64;
                return;
            }
        };
        for frame in used {
            match self.evict_frame(device, frame, &mut others) {
                End::Returned => evicted.returned += 1,
                End::Lost => evicted.lost += 1,
                End::NoMemory => evicted.no_memory += 1,
                End::Busy => evicted.busy += 1,
                End::Unused => {}
            }
        }
    }

    fn evict_frame(
        &self,
        device: &DeviceMemory<M::Descriptors>,
        frame: DeviceFrame,
        others: &mut Others<'_, M>,
    ) -> End {
        let descriptor = device.descriptor(frame);
        if !descriptor.try_lock_page() {
            return if descriptor.is_locked() { End::Busy } else { End::Unused };
        }
        let end = self.evict_locked(frame, descriptor, others);
        let gone = if let End::Returned | End::Lost = end { descriptor.mappings() } else { 0 };
        // In this order: without a mapping nobody can lock the frame any more.
        if gone > 0 {
            descriptor.remove_mappings(gone);
        }
        descriptor.unlock();
        if gone > 0 && descriptor.release(gone) {
            device.free_frame(&self.machine, frame);
        }
        end
    }

    /// Takes every mapping of a locked frame and gives the page a RAM frame.
    fn evict_locked(&self, frame: DeviceFrame, descriptor: &Descriptor, others: &mut Others<'_, M>) -> End {
        let (origin, mappings) = descriptor.holding();
        let source = AnyFrame::Device(frame);
        if others.take(source, origin) != mappings {
            others.give_back(source, origin);
            return End::Busy;
        }
        let target = match self.memory.allocate(&self.machine, &self.injector) {
            Ok(target) => target,
            Err(OutOfFrames) => {
                others.give_back(source, origin);
                return End::NoMemory;
            }
        };
        if self.injector.fails(Step::Copy) {
            others.replace(source, origin, |space, _, _| {
                space.state.uncharge(Resident::Device, 1);
                Entry::Poison.encode()
            });
            self.statistics.count_poisoned(1);
            return End::Lost;
        }
        self.machine.copy(source, target.frame().into());
        self.machine.complete_copies();
        let target = target.into_frame();
        self.memory.descriptor(target).map(origin, mappings);
        others.replace(source, origin, |space, area, saved| {
            space.state.uncharge(Resident::Device, 1);
            space.state.charge(Resident::Ram, 1);
            let mut flags = area.protection.read_only_flags() | LeafFlags::ACCESSED | LeafFlags::DIRTY;
            if saved.contains(LeafFlags::WRITABLE) && area.protection.contains(Protection::WRITE) {
                flags |= LeafFlags::WRITABLE;
            }
            if area.protection.is_accessible() {
                Entry::Present { frame: target, flags }.encode()
            } else {
                Entry::NoAccess { frame: target, flags }.encode()
            }
        });
        End::Returned
    }
}
