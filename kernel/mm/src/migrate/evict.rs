//! Eviction: bringing pages home by device frame, whoever maps them.
//!
//! The order is that of every migration, found from the other end: lock the frame, take all its mappings through the reverse
//! map, flush, check for other users, copy, write the new entries, free the device frame. Only coherent memory has entries to
//! flush, one flush for each space and turn.
//!
//! A device that died is evicted in the same way, without a copy: every page of it becomes poison, also a pinned one.
use super::others::{NotHeld, Others};
use crate::frame::{AnyFrame, CopyFailed, Descriptor, DeviceFrame, DeviceId, DeviceMemory, FrameKind, OutOfFrames};
use crate::machine::Machine;
use crate::manager::MemoryManager;
use crate::notify::{InvalidationReason, NoRoomForSharers};
use crate::page_table::entry::{Entry, LeafFlags};
use crate::space::{Protection, Resident};
use crate::stats::{Cause, Reason};
use crate::trace::{Event, record};

/// Device frames that are evicted while the spaces are held once, with one flush for each space. A bound on how long nobody can
/// map or unmap. They wait in an array, because eviction comes when memory is short.
const FRAMES_PER_TURN: usize = 64;

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
    /// Frames that are pinned, mapped or not; they stay on the device until their pins are dropped.
    pub pinned: u64,
}

impl Evicted {
    fn count(&mut self, end: End) {
        match end {
            End::Returned => self.returned += 1,
            End::Lost => self.lost += 1,
            End::NoMemory => self.no_memory += 1,
            End::Busy => self.busy += 1,
            End::Pinned => self.pinned += 1,
            End::Unused => {}
        }
    }
}

/// How one frame ended.
enum End {
    Returned,
    Lost,
    NoMemory,
    Busy,
    Pinned,
    /// Nothing to bring home.
    Unused,
}

impl<M: Machine> MemoryManager<M> {
    /// Closes `device` for new pages and brings home every page that is on it, whoever maps it.
    ///
    /// Bounded: pages that are busy are tried again a limited number of times; what then is left is in the report.
    /// `None` where there is no such device.
    ///
    /// # Examples
    /// ```
    /// # use ferry_mm::address::PageRange;
    /// # use ferry_mm::frame::DeviceId;
    /// # use ferry_mm::space::Protection;
    /// # use ferry_sim::World;
    /// # use x86_64::VirtAddr;
    /// # let world = World::builder().device(8).swap(8).build();
    /// # let space = world.manager().create_space()?;
    /// # let range = PageRange::covering(VirtAddr::new(0x4000_0000), 4 * 4096)?;
    /// # space.map_anonymous(range, Protection::READ_WRITE)?;
    /// # let cpu = world.cpu(0);
    /// # cpu.enter(space);
    /// # let device = DeviceId::new(0).expect("a number of a device");
    /// # let first = range.start_address();
    /// let manager = world.manager();
    /// assert_eq!(space.migrate_to_device(range, device)?.moved, 4);
    /// let evicted = manager.evict_device(device).expect("there is a device 0");
    /// assert_eq!((evicted.returned, space.resident().device), (4, 0));
    ///
    /// // It takes no new pages until it is opened again.
    /// assert_eq!(space.migrate_to_device(range, device)?.moved, 0);
    /// manager.device(device).expect("there is a device 0").reopen();
    /// assert_eq!(space.migrate_to_device(range, device)?.moved, 4);
    /// # world.assert_all_free();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
        self.statistics.count_returned(evicted.returned, Cause::Eviction);
        record(&self.machine, || Event::EvictionEnds {
            device: device.id(),
            returned: evicted.returned,
            failed: evicted.lost + evicted.no_memory + evicted.busy + evicted.pinned,
        });
        Some(evicted)
    }

    /// Notes that `device` died: nothing is copied from it or allocated on it any more, and its memory is not touched.
    ///
    /// A page on it is poisoned when somebody needs it: by an access, a call that wants it home, or an eviction, which may follow
    /// at once. CPUs reach the pages of a coherent device without asking, so those are poisoned before this returns, but
    /// for what others keep busy, as the report says. `None` where there is no such device.
    pub fn device_lost(&self, device: DeviceId) -> Option<Evicted> {
        let lost = self.device(device)?;
        lost.lose();
        if lost.window().is_some() { self.evict_device(device) } else { Some(Evicted::default()) }
    }

    fn evict_frames(
        &self,
        device: &DeviceMemory<M::Descriptors>,
        indices: core::ops::Range<u32>,
        evicted: &mut Evicted,
    ) {
        let frames = indices.map(|index| DeviceFrame::new(device.id(), index));
        let mut used = frames.filter(|frame| device.descriptor(*frame).kind() != FrameKind::Free).peekable();
        if used.peek().is_none() {
            return;
        }
        // Beforehand: nothing can be swapped out while the spaces are held.
        self.make_room(used.clone().count() as u64);
        let told = self.tell_sharers(None, InvalidationReason::Migrate, None, |sharer| {
            used.clone().for_each(|frame| sharer.look_for(frame.into()));
        });
        let told = told.map_err(|NoRoomForSharers| NotHeld::NoMemory);
        let mut others = match told.and_then(|told| Others::hold(self, None, told)) {
            Ok(others) => others,
            Err(NotHeld::NoMemory) => {
                evicted.no_memory += used.count() as u64;
                return;
            }
        };
        let mut taken = [None; FRAMES_PER_TURN];
        for (place, frame) in taken.iter_mut().zip(used) {
            match self.take_frame(frame, &mut others) {
                Ok(()) => *place = Some(frame),
                Err(end) => evicted.count(end),
            }
        }
        others.flush();
        for frame in taken.into_iter().flatten() {
            evicted.count(self.evict_taken(frame, &others));
        }
    }

    /// Locks a frame and takes every mapping of it; a frame that is not taken is as it was.
    fn take_frame(&self, frame: DeviceFrame, others: &mut Others<'_, M>) -> Result<(), End> {
        let descriptor = self.device_descriptor(frame);
        if !descriptor.try_lock_page() {
            return Err(match descriptor.kind() {
                FrameKind::Free => End::Unused,
                FrameKind::Owned if descriptor.pins() > 0 => End::Pinned,
                // In the hands of a fault, or of a migration that will map it yet.
                _ => End::Busy,
            });
        }
        let end = if descriptor.pins() > 0 && !self.is_lost(frame.into()) {
            End::Pinned
        } else {
            let (origin, mappings) = descriptor.holding();
            if others.take(frame.into(), origin) == mappings {
                return Ok(());
            }
            others.give_back(frame.into(), origin);
            End::Busy
        };
        descriptor.unlock();
        Err(end)
    }

    /// Gives a taken page a RAM frame, or poison, or its entries back; unlocks the device frame.
    fn evict_taken(&self, frame: DeviceFrame, others: &Others<'_, M>) -> End {
        let descriptor = self.device_descriptor(frame);
        let end = self.replace_taken(frame, descriptor, others);
        let gone = match end {
            End::Returned | End::Lost => descriptor.mappings(),
            _ => {
                others.give_back(frame.into(), descriptor.holding().0);
                0
            }
        };
        // In this order: without a mapping nobody can lock the frame any more.
        if gone > 0 {
            descriptor.remove_mappings(gone);
        }
        descriptor.unlock();
        if gone > 0 {
            self.release_frame(frame.into(), gone);
        }
        end
    }

    /// Writes the new entries of a taken page, or says why not.
    fn replace_taken(&self, frame: DeviceFrame, descriptor: &Descriptor, others: &Others<'_, M>) -> End {
        let (origin, mappings) = descriptor.holding();
        let source = AnyFrame::Device(frame);
        let poison = || {
            others.replace(source, origin, |space, _, _| {
                space.uncharge(Resident::Device, 1);
                Entry::Poison.encode()
            });
            self.statistics.count_poisoned(1);
            End::Lost
        };
        if self.is_lost(source) {
            return poison();
        }
        match descriptor.other_user() {
            Some(Reason::Pinned) => return End::Pinned,
            Some(_) => return End::Busy,
            None => {}
        }
        let target = match self.memory.allocate(&self.machine, &self.injector) {
            Ok(target) => target,
            Err(OutOfFrames) => return End::NoMemory,
        };
        if let Err(CopyFailed) = self.copy_page(source, target.frame().into()) {
            return poison();
        }
        self.machine.complete_copies();
        let target = target.into_frame();
        self.memory.descriptor(target).map(origin, mappings);
        others.replace(source, origin, |space, area, saved| {
            space.recharge(Resident::Device, Resident::Ram, 1);
            let mut flags = area.protection.read_only_flags() | LeafFlags::ACCESSED | LeafFlags::DIRTY;
            if saved.contains(LeafFlags::WRITABLE) && area.protection.contains(Protection::WRITE) {
                flags |= LeafFlags::WRITABLE;
            }
            self.entry_at_rest(target.into(), flags, area.protection)
        });
        End::Returned
    }
}
