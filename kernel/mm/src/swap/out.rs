//! Swap-out: frames are taken from everybody who maps them, written, and freed.
//!
//! ```text
//!   lock the frame ─▶ every entry, in every space: Migrating ─▶ one flush per space ─▶ references checked
//!     ─▶ entries: Swap{slot}, frame in the swap cache, areas given back ─▶ written, without a lock but the frame's ─▶ freed
//! ```
//!
//! A frame whose slot is written already is only freed. A write that fails loses nothing: the frame stays in the swap
//! cache as the only copy, where a fault finds it and the next round tries again.
//!
//! Up to [`BATCH`] frames go together. No heap memory is taken, since a fault that found no frame may be the caller. Other spaces
//! are tried, never waited for; a page that cannot be taken from all of them stays.
use x86_64::structures::paging::{Page, PhysFrame};

use super::DiskFailure;
use crate::address::PageRange;
use crate::frame::{AnyFrame, Origin};
use crate::inject::Step;
use crate::lock::assert_may_wait;
use crate::machine::Machine;
use crate::manager::MemoryManager;
use crate::migrate::Everybody;
use crate::notify::InvalidationReason;
use crate::page_table::entry::{Entry, LeafFlags, RawEntry, SwapSlot};
use crate::page_table::leaf_table::peek;
use crate::page_table::walk;
use crate::space::area::AreaList;
use crate::space::{AreaKind, Resident, Space};
use crate::stats::{Reason, Stayed};

/// Frames that are swapped out together: what a flush per space is shared by, and a bound on how long nobody can map or unmap.
pub(super) const BATCH: usize = 32;

/// The frames of a batch.
pub(super) type Frames = [Option<PhysFrame>; BATCH];

/// What a swap-out did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use = "pages may have stayed"]
pub struct SwappedOut {
    /// Frames that became free.
    pub freed: u64,
    /// Pages that stayed in RAM, by reason.
    pub stayed: Stayed,
}

/// Why nothing can be swapped out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SwapOutError {
    /// No disk is attached.
    NoDisk,
}

impl core::fmt::Display for SwapOutError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoDisk => f.write_str("no swap disk is attached; give the machine one with --swap"),
        }
    }
}

impl core::error::Error for SwapOutError {}

/// A locked frame in the swap cache that nobody maps, and the slot of its page.
#[derive(Clone, Copy)]
struct Victim {
    frame: PhysFrame,
    slot: SwapSlot,
}

impl<M: Machine> Space<'_, M> {
    /// Moves the pages of `range` that are in RAM to the swap disk, from every space that shares them.
    ///
    /// Waits for the disk; the caller holds no lock of the memory manager.
    ///
    /// # Errors
    /// See [`SwapOutError`].
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
    /// cpu.store(first, b"out and in")?;
    /// assert_eq!(space.swap_out(range)?.freed, 1, "the others have no frame");
    /// assert_eq!((space.resident().swap, space.resident().ram), (1, 0));
    /// assert_eq!(&cpu.read(first)?, b"out and in");
    /// # world.assert_all_free();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn swap_out(self, range: PageRange) -> Result<SwappedOut, SwapOutError> {
        let manager = self.manager;
        if manager.swap().is_none() {
            return Err(SwapOutError::NoDisk);
        }
        let mut out = SwappedOut::default();
        let mut next = 0;
        while next < range.pages() {
            let mut frames = [None; BATCH];
            let mut found = 0;
            {
                let areas = self.state.areas.read(&manager.machine);
                while next < range.pages() && found < BATCH {
                    frames[found] = self.frame_in_ram(&areas, range.page(next));
                    found += usize::from(frames[found].is_some());
                    next += 1;
                }
            }
            manager.swap_out_frames(&frames, &mut out);
        }
        Ok(out)
    }

    /// The RAM frame of a page's own, where the page is in private memory: what other areas map stays, and need be no RAM.
    /// A hint: what is found may be another page's by the time it is used, which then goes.
    fn frame_in_ram(self, areas: &AreaList, page: Page) -> Option<PhysFrame> {
        let manager = self.manager;
        areas.find(page).filter(|area| area.kind == AreaKind::Anonymous)?;
        let table = walk::leaf_table(&manager.machine, self.root(), page)?;
        match manager.mapped_frame(peek(&manager.machine, table, page))? {
            AnyFrame::System(frame) if frame != manager.zero_frame() => Some(frame),
            _ => None,
        }
    }
}

impl<M: Machine> MemoryManager<M> {
    /// Swaps out up to [`BATCH`] frames. Those that hold no page any more stay as busy.
    fn swap_out_frames(&self, frames: &Frames, out: &mut SwappedOut) {
        let others = self.hold_told(frames);
        self.swap_out_held(frames, others, |_, _, _| false, out);
    }

    /// The same for those frames that no CPU has used since they were marked; marks those of `ahead`.
    pub(super) fn swap_out_unused(&self, frames: &Frames, ahead: &Frames, out: &mut SwappedOut) {
        let mut others = self.hold_told(frames);
        for frame in ahead.iter().flatten().copied() {
            // The lock keeps the page in its frame; a page that somebody is at work on is marked the next time.
            if let Some(locked) = self.try_lock_frame(frame.into()) {
                let (origin, _) = locked.descriptor().holding();
                others.forget_use(frame.into(), origin);
            }
        }
        self.swap_out_held(frames, others, Everybody::is_used, out);
    }

    /// Holds every space, after its listeners have been told of its pages in `frames`.
    fn hold_told(&self, frames: &Frames) -> Everybody<'_, M> {
        let told = self.tell_sharers_from_stack(InvalidationReason::SwapOut, |sharer| {
            frames.iter().flatten().for_each(|frame| sharer.look_for((*frame).into()));
        });
        Everybody::hold_all(self, told)
    }

    fn swap_out_held<'m>(
        &'m self,
        frames: &Frames,
        mut others: Everybody<'m, M>,
        is_used: impl Fn(&Everybody<'m, M>, AnyFrame, Origin) -> bool,
        out: &mut SwappedOut,
    ) {
        let mut victims = [None; BATCH];
        {
            let mut taken = [None; BATCH];
            for (frame, place) in frames.iter().flatten().copied().zip(&mut taken) {
                if !self.memory.descriptor(frame).try_lock_page() {
                    out.stayed.add(Reason::Busy);
                    continue;
                }
                match self.take_from_all(frame, &is_used, &mut others) {
                    Ok(()) => *place = Some(frame),
                    Err(reason) => {
                        self.unlock_page(frame);
                        out.stayed.add(reason);
                    }
                }
            }
            // Now no CPU reaches the pages any more.
            others.flush();
            for (frame, place) in taken.into_iter().flatten().zip(&mut victims) {
                if self.drop_unwanted(frame, &others) {
                    out.freed += 1;
                    continue;
                }
                match self.enter_slot(frame, &others) {
                    Ok(slot) => *place = Some(Victim { frame, slot }),
                    Err(reason) => {
                        self.unlock_page(frame);
                        out.stayed.add(reason);
                    }
                }
            }
            drop(others);
        }
        for Victim { frame, slot } in victims.into_iter().flatten() {
            match self.write_and_free(frame, slot) {
                Ok(()) => out.freed += 1,
                Err(DiskFailure) => out.stayed.add(Reason::DiskFailed),
            }
        }
    }

    /// Takes every entry that maps a locked frame, or none.
    fn take_from_all<'m>(
        &'m self,
        frame: PhysFrame,
        is_used: impl Fn(&Everybody<'m, M>, AnyFrame, Origin) -> bool,
        others: &mut Everybody<'m, M>,
    ) -> Result<(), Reason> {
        let descriptor = self.memory.descriptor(frame);
        if descriptor.pins() > 0 {
            return Err(Reason::Pinned);
        }
        let (origin, mappings) = descriptor.holding();
        if is_used(others, frame.into(), origin) {
            return Err(Reason::Used);
        }
        if others.take(frame.into(), origin) != mappings {
            others.give_back(frame.into(), origin);
            return Err(Reason::Busy);
        }
        Ok(())
    }

    /// Empties the entries of a page that need not be kept and that nobody has written since, and frees its frame (`MADV_FREE`).
    fn drop_unwanted(&self, frame: PhysFrame, others: &Everybody<'_, M>) -> bool {
        let descriptor = self.memory.descriptor(frame);
        if !descriptor.is_unwanted() || descriptor.swap_slot().is_some() {
            return false;
        }
        let (origin, mappings) = descriptor.holding();
        // The entries are ours and flushed: no CPU can set a dirty bit any more.
        let is_written = others.saved_flags(frame.into(), origin).contains(LeafFlags::DIRTY);
        if is_written || descriptor.references() != mappings {
            return false;
        }
        others.replace(frame.into(), origin, |space, _, _| {
            space.uncharge(Resident::Ram, 1);
            RawEntry::EMPTY
        });
        // In this order: a frame that holds no page cannot be locked any more.
        descriptor.remove_mappings(mappings);
        descriptor.unlock();
        self.release_frame(frame.into(), mappings);
        self.statistics.count_dropped_unwanted();
        true
    }

    /// Gives the page of a frame a slot, and every entry that was taken the slot's number; or gives the entries back.
    fn enter_slot(&self, frame: PhysFrame, others: &Everybody<'_, M>) -> Result<SwapSlot, Reason> {
        let descriptor = self.memory.descriptor(frame);
        let (origin, mappings) = descriptor.holding();
        let cached = descriptor.swap_slot();
        // R15: whatever is above the mappings and the swap cache is somebody who uses the frame by its address.
        let alone = descriptor.references() == mappings + u32::from(cached.is_some());
        let slot = if alone { cached.or_else(|| self.slots().take(&self.machine, frame)) } else { None };
        let Some(slot) = slot else {
            others.give_back(frame.into(), origin);
            return Err(if alone { Reason::SwapFull } else { Reason::Referenced });
        };
        if cached.is_none() {
            // It was written since, and will be clean when it comes back: wanted, for all that anybody can see then.
            descriptor.clear_unwanted();
            descriptor.enter_swap_cache(slot);
        }
        // Counted before the first entry can be seen by a fault.
        self.slots().add_entries(&self.machine, slot, mappings);
        others.replace(frame.into(), origin, |space, _, _| {
            space.uncharge(Resident::Ram, 1);
            space.charge(Resident::Swap, 1);
            Entry::Swap { slot }.encode()
        });
        if mappings > 0 {
            descriptor.remove_mappings(mappings);
            let was_last = descriptor.release(mappings);
            debug_assert!(!was_last, "the swap cache has a reference");
        }
        Ok(slot)
    }

    /// Writes a locked frame in the swap cache, where its slot does not have the page yet, and frees it.
    fn write_and_free(&self, frame: PhysFrame, slot: SwapSlot) -> Result<(), DiskFailure> {
        let machine = &self.machine;
        let has_it = self.slots().slot_use(machine, slot).is_some_and(|slot| slot.written);
        if !has_it {
            assert_may_wait(machine);
            let written = if self.injector.fails(Step::DiskWrite) {
                Err(DiskFailure)
            } else {
                self.slots().disk().write(machine, slot, frame)
            };
            if let Err(failure) = written {
                self.statistics.count_disk_error();
                self.unlock_page(frame);
                return Err(failure);
            }
            self.slots().set_written(machine, slot);
        }
        self.statistics.count_swapped_out(has_it);
        self.slots().let_go_if(machine, slot, |_| true);
        self.free_uncached(frame);
        Ok(())
    }
}
