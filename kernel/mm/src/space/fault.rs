//! Page faults: what a CPU's access to an area needs, made so.
//!
//! ```text
//!   entry                      read                        write
//!   ─────                      ────                        ─────
//!   empty                      zero page, read-only        fresh zeroed frame
//!   zero page                  (stale translation)         fresh zeroed frame, zero page flushed
//!   present, not shared        (stale translation)         writable in place
//!   present, shared            (stale translation)         a copy of its own, in RAM
//!   Migrating                  wait, look again            wait, look again
//!   Device                     comes home                  comes home
//!   Exclusive                  taken back                  taken back
//!   Swap                       swapped in                  swapped in
//!   Poison                     bus error                   bus error
//! ```
//!
//! In a shared area everybody writes in place; a guard is an error.
//!
//! The order is always the same: look at the entry without a lock, allocate what its kind needs, then lock the table
//! and look again. Where the entry changed meanwhile, what was allocated goes back and the look begins anew; whoever
//! changed it made progress.
use core::sync::atomic::Ordering;

use x86_64::VirtAddr;
use x86_64::structures::paging::{Page, PhysFrame};

use super::{Access, Area, AreaKind, FaultError, OverLimit, Resident, Resolution, Space, SpaceState};
use crate::address::PageRange;
use crate::frame::{Origin, OutOfFrames, OwnedFrame};
use crate::machine::Machine;
use crate::notify::{Announcement, InvalidationReason};
use crate::page_table::entry::{Entry, LeafFlags, RawEntry, SwapSlot};
use crate::page_table::flush::{FlushRequest, FlushScope, OwedFlush};
use crate::page_table::leaf_table::{LeafTable, peek};
use crate::page_table::walk;
use crate::stats::Cause;
use crate::swap::SwapIn;
use crate::trace::{Event, record};

/// One look at the entry: done, or the entry changed meanwhile, or listeners must be told before it may change.
pub(super) enum Attempt {
    Done(Resolution),
    LookAgain,
    /// The page is on its way by somebody else's hand.
    Wait,
    Announce(InvalidationReason),
    /// The page of this slot and origin must be read first, without a lock.
    Read(SwapSlot, Origin),
}

/// A fault that waits, without a lock or a reference. Whoever brings its page home lets it stay until the access was made: a fault that
/// looks now and then might otherwise find the page on its way each time.
struct WaitingFault<'m>(&'m SpaceState);

impl<'m> WaitingFault<'m> {
    fn begin(state: &'m SpaceState) -> Self {
        state.waiting.fetch_add(1, Ordering::Relaxed);
        Self(state)
    }
}

impl Drop for WaitingFault<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<'m, M: Machine> Space<'m, M> {
    /// Makes an access possible that faulted. On success the access can be tried again, and may fault again where
    /// another CPU changes the page in between.
    ///
    /// Takes no heap memory. Waits only for other CPUs' migrations, for listeners and for the swap disk, without a lock or a
    /// reference. Where no frame is free, other pages are swapped out.
    ///
    /// # Errors
    /// See [`FaultError`]; the page is as it was, except that a failed copy poisons it.
    #[inline(always)]
    pub fn fault(self, address: VirtAddr, access: Access) -> Result<Resolution, FaultError> {
        let resolution = match access {
            Access::Read => self.fault_straight::<false>(address),
            Access::Write => self.fault_straight::<true>(address),
            Access::Execute => None,
        };
        match resolution {
            Some(resolution) => Ok(resolution),
            None => self.fault_for(address, access, Cause::Fault),
        }
    }

    /// The same by the long way, also for others than a CPU who need the page to be there.
    #[inline(never)]
    pub(super) fn fault_for(self, address: VirtAddr, access: Access, cause: Cause) -> Result<Resolution, FaultError> {
        let outcome = self.resolve(address, access, cause, true);
        record(&self.manager.machine, || Event::Fault { space: self.id(), address, access, outcome });
        outcome
    }

    /// Does what a fault does on behalf of the memory manager itself, which counts no fault of a CPU.
    pub(crate) fn make_readable(self, address: VirtAddr) -> Result<Resolution, FaultError> {
        self.resolve(address, Access::Read, Cause::Call, false)
    }

    #[inline]
    fn resolve(self, address: VirtAddr, access: Access, cause: Cause, counted: bool) -> Result<Resolution, FaultError> {
        let mut first = counted;
        let is_out_of_frames = |error: &FaultError| matches!(error, FaultError::OutOfMemory(_));
        self.manager.with_reclaim(is_out_of_frames, || self.resolve_with_frames(address, access, cause, &mut first))
    }

    /// The same without making room; `first` is whether no look was counted yet.
    #[inline]
    fn resolve_with_frames(
        self,
        address: VirtAddr,
        access: Access,
        cause: Cause,
        first: &mut bool,
    ) -> Result<Resolution, FaultError> {
        let manager = self.manager;
        let range = PageRange::of_page(Page::containing_address(address));
        let (mut announced, mut waiting) = (None, None);
        let mut read = false;
        loop {
            match self.fault_once(address, access, cause, core::mem::take(first), announced.as_ref())? {
                Attempt::Done(resolution) => {
                    if resolution == Resolution::SwappedIn && !read {
                        manager.statistics.count_swap_cache_hit();
                    }
                    return Ok(resolution);
                }
                Attempt::LookAgain => manager.machine.relax(),
                Attempt::Wait => {
                    waiting.get_or_insert_with(|| WaitingFault::begin(self.state));
                    manager.machine.relax();
                }
                Attempt::Announce(reason) => announced = Some(self.announce(range, reason, None)),
                Attempt::Read(slot, origin) => match self.read_swapped(address, slot, origin)? {
                    true => read = true,
                    // Somebody else is at work on the page, and may still have to write the entry.
                    false => manager.machine.relax(),
                },
            }
        }
    }

    fn fault_once(
        self,
        address: VirtAddr,
        access: Access,
        cause: Cause,
        first: bool,
        announced: Option<&Announcement<'m, M>>,
    ) -> Result<Attempt, FaultError> {
        let manager = self.manager;
        let machine = &manager.machine;
        let page = Page::containing_address(address);
        let areas = self.state.areas.read(machine);
        let area = areas.find(page).ok_or(FaultError::NoArea(address))?;
        if area.kind == AreaKind::Guard {
            return Err(FaultError::Guard(address));
        }
        if !area.protection.allows(access) {
            return Err(FaultError::Forbidden(address, access, area.protection));
        }
        let out_of_memory = |OutOfFrames| FaultError::OutOfMemory(address);
        let table = walk::populate(machine, &manager.memory, self.root(), page, || {
            manager.memory.allocate_zeroed(machine, &manager.injector)
        })
        .map_err(out_of_memory)?;
        let entry = peek(machine, table, page);
        if first {
            manager.statistics.count_fault(entry.is_special());
        }
        let write = access == Access::Write;
        let weakened = self.weakened_by_fault(area, entry, write);
        if let Some(reason) = weakened.filter(|_| !self.is_told(announced)) {
            return Ok(Attempt::Announce(reason));
        }
        match entry.decode() {
            // Every other area had its entries from the start.
            Entry::Empty if area.kind != AreaKind::Anonymous => Err(FaultError::Damaged(address, entry)),
            Entry::Empty if !write => Ok(self.map_zero_page(table, page, area)),
            Entry::Empty => {
                let fresh = manager.memory.allocate_zeroed(machine, &manager.injector).map_err(out_of_memory)?;
                self.map_fresh(table, page, area, entry, fresh).map_err(|OverLimit| FaultError::OverLimit(address))
            }
            Entry::Present { frame, flags } if !write || flags.contains(LeafFlags::WRITABLE) => {
                let _ = frame;
                self.forget_here(page);
                Ok(Attempt::Done(Resolution::Stale))
            }
            Entry::Present { frame, .. } if frame == manager.zero_frame => {
                let fresh = manager.memory.allocate_zeroed(machine, &manager.injector).map_err(out_of_memory)?;
                self.map_fresh(table, page, area, entry, fresh).map_err(|OverLimit| FaultError::OverLimit(address))
            }
            Entry::Present { .. } if weakened.is_some() => self
                .copy_on_write(table, page, area, entry, LeafFlags::WRITABLE | LeafFlags::DIRTY)
                .map_err(|error| error.at(address)),
            Entry::Present { .. } => Ok(self.make_writable(table, page, area, entry)),
            Entry::Device { .. } => match self.bring_home(table, page, area, cause) {
                Ok(true) => Ok(Attempt::Done(Resolution::CameHome)),
                Ok(false) => Ok(Attempt::LookAgain),
                Err(error) => Err(error.at(address)),
            },
            Entry::Migrating { owner, .. } if owner == machine.cpu() => Err(FaultError::WaitsForItself(address)),
            Entry::Migrating { .. } => Ok(Attempt::Wait),
            Entry::Poison => Err(FaultError::Poisoned(address)),
            // The area allows the access, so `protect` has made its entries accessible; it is at work right now.
            Entry::NoAccess { .. } => Ok(Attempt::LookAgain),
            Entry::Exclusive { .. } => Ok(self.take_back(table, page, entry)),
            Entry::Swap { slot } => Ok(match self.map_swapped(table, page, area, entry, slot, write) {
                SwapIn::Mapped => Attempt::Done(Resolution::SwappedIn),
                SwapIn::LookAgain => Attempt::LookAgain,
                SwapIn::Read => Attempt::Read(slot, area.origin_of(page)),
            }),
            Entry::Unknown(_) => Err(FaultError::Damaged(address, entry)),
        }
    }

    /// Why a fault on `entry` weakens it, if it does.
    #[inline]
    fn weakened_by_fault(self, area: &Area, entry: RawEntry, write: bool) -> Option<InvalidationReason> {
        let manager = self.manager;
        // The pages of other areas stay where they are, and a store to a shared one is for everybody.
        if area.kind != AreaKind::Anonymous {
            return None;
        }
        match entry.decode() {
            Entry::Present { frame, flags } if write && !flags.contains(LeafFlags::WRITABLE) => {
                let moves = frame == manager.zero_frame || self.must_copy(manager.frame_behind(frame));
                moves.then_some(InvalidationReason::CopyOnWrite)
            }
            Entry::Device { .. } => Some(InvalidationReason::Migrate),
            Entry::Exclusive { .. } => Some(InvalidationReason::Exclusive),
            _ => None,
        }
    }

    /// Maps the zero page where nothing is.
    #[inline(always)]
    pub(super) fn map_zero_page(self, table: PhysFrame, page: Page, area: &Area) -> Attempt {
        let manager = self.manager;
        let leaf = LeafTable::lock(&manager.machine, &manager.memory, table);
        if leaf.load(page) != RawEntry::EMPTY {
            return Attempt::LookAgain;
        }
        let flags = area.protection.read_only_flags() | LeafFlags::ACCESSED;
        leaf.swap(page, Entry::Present { frame: manager.zero_frame, flags }.encode());
        self.charge(Resident::Zero, 1);
        manager.statistics.count_zero_page();
        Attempt::Done(Resolution::ZeroPage)
    }

    /// Maps a fresh frame for a store, where nothing or the zero page is.
    #[inline(always)]
    pub(super) fn map_fresh(
        self,
        table: PhysFrame,
        page: Page,
        area: &Area,
        seen: RawEntry,
        fresh: OwnedFrame<'_, M>,
    ) -> Result<Attempt, OverLimit> {
        let manager = self.manager;
        let machine = &manager.machine;
        machine.complete_copies();
        let leaf = LeafTable::lock(machine, &manager.memory, table);
        // A CPU may set the zero page's accessed bit at any time; that changes nothing for us.
        let now = leaf.load(page);
        if now != seen && without_accessed(now) != without_accessed(seen) {
            return Ok(Attempt::LookAgain);
        }
        self.try_charge(Resident::Ram, 1)?;
        fresh.descriptor().map(area.origin_of(page), 1);
        let frame = fresh.into_frame();
        let flags = area.protection.read_only_flags() | LeafFlags::WRITABLE | LeafFlags::ACCESSED | LeafFlags::DIRTY;
        leaf.swap(page, Entry::Present { frame, flags }.encode());
        if seen.is_present() {
            self.uncharge(Resident::Zero, 1);
            // Others may still read the zero page; they must see this CPU's store once it is made.
            let mut owed = OwedFlush::new();
            owed.owe(PageRange::of_page(page));
            owed.pay(machine, self.state, &manager.statistics);
        }
        manager.statistics.count_fresh_page();
        Ok(Attempt::Done(Resolution::FreshPage))
    }

    /// Makes this CPU forget one translation that is weaker than the entry.
    pub(super) fn forget_here(self, page: Page) {
        let machine = &self.manager.machine;
        let cpus = crate::machine::CpuSet::of(machine.cpu());
        let request = FlushRequest { cpus, scope: FlushScope::Pages(PageRange::of_page(page)) };
        record(machine, || Event::Flush { space: self.id(), request });
        machine.flush(request);
    }
}

#[inline(always)]
pub(super) fn without_accessed(entry: RawEntry) -> RawEntry {
    if entry.is_present() { RawEntry(entry.0 & !LeafFlags::ACCESSED.bits()) } else { entry }
}
