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
use x86_64::VirtAddr;
use x86_64::structures::paging::{Page, PhysFrame};

use super::{Area, AreaKind, OverLimit, Protection, Resident, Space};
use crate::address::PageRange;
use crate::frame::{AnyFrame, CopyFailed, DeviceId, Origin, OutOfFrames, OwnedFrame};
use crate::machine::Machine;
use crate::migrate::BringHomeError;
use crate::notify::{Announcement, InvalidationReason};
use crate::page_table::entry::{Entry, LeafFlags, RawEntry, SwapSlot};
use crate::page_table::flush::{FlushRequest, FlushScope, OwedFlush};
use crate::page_table::leaf_table::{LeafTable, peek};
use crate::page_table::walk;
use crate::stats::Cause;
use crate::swap::SwapIn;
use crate::trace::{Event, record};

/// What a CPU wanted to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Load.
    Read,
    /// Store.
    Write,
    /// Fetch an instruction.
    Execute,
}

/// What a fault did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resolution {
    /// The entry allowed the access already; this CPU had an older translation.
    Stale,
    /// The zero page was mapped.
    ZeroPage,
    /// A fresh frame was mapped.
    FreshPage,
    /// A copy of a shared page was mapped.
    Copied,
    /// The page may now be written in place.
    Writable,
    /// The page came home from a device.
    CameHome,
    /// The page was taken back from a device that had it for itself.
    TakenBack,
    /// The page was swapped in.
    SwappedIn,
}

impl Resolution {
    /// What was done, as one word for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::ZeroPage => "zero-page",
            Self::FreshPage => "fresh-page",
            Self::Copied => "copied",
            Self::Writable => "writable",
            Self::CameHome => "came-home",
            Self::TakenBack => "taken-back",
            Self::SwappedIn => "swapped-in",
        }
    }
}

/// Why an access cannot succeed. The text of each says what to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultError {
    /// No area holds the address.
    NoArea(VirtAddr),
    /// The area forbids this access.
    Forbidden(VirtAddr, Access, Protection),
    /// There is no RAM frame for the page; nothing is lost, the access may be tried again.
    OutOfMemory(VirtAddr),
    /// The page's contents are lost: a bus error.
    Poisoned(VirtAddr),
    /// The page's contents were on a device that died: a bus error, and from now on [`Self::Poisoned`].
    DeviceLost(VirtAddr, DeviceId),
    /// The page is wanted in RAM, and somebody has pinned it in the memory of a coherent device.
    PinnedOnDevice(VirtAddr),
    /// The page is new to its space, which has as many as its limit allows.
    OverLimit(VirtAddr),
    /// A guard is here.
    Guard(VirtAddr),
    /// Addresses of a device are here, whose frames cannot be pinned.
    NotMemory(VirtAddr),
    /// The swap disk failed to read the page; nothing is lost, the access may be tried again.
    Disk(VirtAddr),
    /// The page is being migrated by this very CPU, for this space or for one that shares it: it would wait for itself.
    WaitsForItself(VirtAddr),
    /// The entry is none that the memory manager makes.
    Damaged(VirtAddr, RawEntry),
}

impl FaultError {
    /// Why, as one word for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoArea(_) => "no-area",
            Self::Forbidden(..) => "forbidden",
            Self::OutOfMemory(_) => "out-of-memory",
            Self::OverLimit(_) => "over-limit",
            Self::Guard(_) => "guard",
            Self::NotMemory(_) => "not-memory",
            Self::Poisoned(_) => "poisoned",
            Self::DeviceLost(..) => "device-lost",
            Self::PinnedOnDevice(_) => "pinned-on-device",
            Self::Disk(_) => "disk",
            Self::WaitsForItself(_) => "waits-for-itself",
            Self::Damaged(..) => "damaged",
        }
    }
}

impl core::fmt::Display for FaultError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoArea(address) => {
                write!(f, "no area is mapped at v{address:#x}; map one there, or mend the pointer")
            }
            Self::Forbidden(address, access, protection) => {
                write!(
                    f,
                    "the area at v{address:#x} allows {protection:?} and forbids {access:?}; change its protection"
                )
            }
            Self::OutOfMemory(address) => {
                write!(f, "no RAM frame is left for v{address:#x}; give the machine more with --memory")
            }
            Self::OverLimit(address) => {
                write!(
                    f,
                    "the page at v{address:#x} would exceed the limit of its space; unmap pages or raise the limit"
                )
            }
            Self::NotMemory(address) => {
                write!(f, "v{address:#x} maps addresses of a device; use them as they are, without a pin")
            }
            Self::Guard(address) => {
                write!(f, "v{address:#x} is in a guard: something ran over the end of the area beside it")
            }
            Self::Poisoned(address) => {
                write!(f, "bus error: the contents of v{address:#x} were lost on the way home from its device")
            }
            Self::DeviceLost(address, device) => {
                write!(
                    f,
                    "bus error: the contents of v{address:#x} were on device {}, which died; unmap the page",
                    device.number()
                )
            }
            Self::PinnedOnDevice(address) => {
                write!(f, "v{address:#x} is pinned in its device's memory; try again when that pin is dropped")
            }
            Self::Disk(address) => {
                write!(
                    f,
                    "the swap disk could not read v{address:#x}; see what the host says about its disk, and try again"
                )
            }
            Self::WaitsForItself(address) => {
                write!(
                    f,
                    "v{address:#x} is being migrated by this CPU; finish or drop the migration before touching it"
                )
            }
            Self::Damaged(address, entry) => {
                write!(f, "the entry {entry:?} of v{address:#x} is none of ours; the page table is damaged")
            }
        }
    }
}

impl core::error::Error for FaultError {}

/// One look at the entry: done, or the entry changed meanwhile, or listeners must be told before it may change.
pub(super) enum Attempt {
    Done(Resolution),
    LookAgain,
    Announce(InvalidationReason),
    /// The page of this slot and origin must be read first, without a lock.
    Read(SwapSlot, Origin),
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
    pub fn fault(self, address: VirtAddr, access: Access) -> Result<Resolution, FaultError> {
        self.fault_for(address, access, Cause::Fault)
    }

    /// The same, for whoever needs the page to be there.
    pub(super) fn fault_for(self, address: VirtAddr, access: Access, cause: Cause) -> Result<Resolution, FaultError> {
        let outcome = self.resolve(address, access, cause, true);
        record(&self.manager.machine, || Event::Fault { space: self.id, address, access, outcome });
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
        let mut announced = None;
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
                Attempt::Announce(reason) => announced = Some(self.announce(range, reason, None)),
                Attempt::Read(slot, origin) => read |= self.read_swapped(address, slot, origin)?,
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
        let allowed = match access {
            Access::Read => area.protection.is_accessible(),
            Access::Write => area.protection.contains(Protection::WRITE),
            Access::Execute => false,
        };
        if !allowed {
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
            Entry::Present { .. } if area.kind == AreaKind::Shared => Ok(self.make_writable(table, page, area, entry)),
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
            Entry::Migrating { .. } => Ok(Attempt::LookAgain),
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
        // The pages of other areas stay where they are.
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
    fn map_zero_page(self, table: PhysFrame, page: Page, area: &Area) -> Attempt {
        let manager = self.manager;
        let leaf = LeafTable::lock(&manager.machine, &manager.memory, table);
        if leaf.load(page) != RawEntry::EMPTY {
            return Attempt::LookAgain;
        }
        let flags = area.protection.read_only_flags() | LeafFlags::ACCESSED;
        leaf.swap(page, Entry::Present { frame: manager.zero_frame, flags }.encode());
        self.state.charge(Resident::Zero, 1);
        manager.statistics.count_zero_page();
        Attempt::Done(Resolution::ZeroPage)
    }

    /// Maps a fresh frame for a store, where nothing or the zero page is.
    fn map_fresh(
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
        if without_accessed(leaf.load(page)) != without_accessed(seen) {
            return Ok(Attempt::LookAgain);
        }
        self.state.try_charge(Resident::Ram, 1)?;
        let frame = fresh.into_frame();
        manager.memory.descriptor(frame).map(area.origin_of(page), 1);
        let flags = area.protection.read_only_flags() | LeafFlags::WRITABLE | LeafFlags::ACCESSED | LeafFlags::DIRTY;
        let old = leaf.swap(page, Entry::Present { frame, flags }.encode());
        if old.is_present() {
            self.state.uncharge(Resident::Zero, 1);
            // Others may still read the zero page; they must see this CPU's store once it is made.
            let mut owed = OwedFlush::new();
            owed.owe(PageRange::of_page(page));
            owed.pay(machine, self.state, &manager.statistics);
        }
        manager.statistics.count_fresh_page();
        Ok(Attempt::Done(Resolution::FreshPage))
    }

    /// Whether somebody else may read the frame: through another entry, or by the slot of its page, of which it is the only
    /// copy. A hint, until it is looked at under the table's lock.
    pub(super) fn must_copy(self, frame: AnyFrame) -> bool {
        self.manager.any_descriptor(frame).mappings() > 1 || self.manager.is_only_copy(frame)
    }

    /// Makes the frame of an entry, whose table the caller has locked, this space's alone: no other entry maps it, and none can
    /// find it in the swap cache. `false` where it must be copied, or somebody is at work on it.
    ///
    /// It stays so until a fork of this space, which needs the areas for itself, or a swap-out, which needs the entry.
    pub(super) fn make_sole(self, frame: AnyFrame) -> bool {
        let manager = self.manager;
        let descriptor = manager.any_descriptor(frame);
        if !manager.is_swap_cached(frame) {
            return descriptor.mappings() <= 1;
        }
        let AnyFrame::System(frame) = frame else { return false };
        if !descriptor.try_lock_page() {
            return false;
        }
        let sole = descriptor.mappings() == 1 && manager.leave_swap_cache(frame);
        manager.unlock_page(frame);
        sole
    }

    /// Lets a page that is ours alone, or that a shared area maps, be written where it is. Others that still have the older
    /// translation fault and find it stale.
    fn make_writable(self, table: PhysFrame, page: Page, area: &Area, seen: RawEntry) -> Attempt {
        let manager = self.manager;
        let leaf = LeafTable::lock(&manager.machine, &manager.memory, table);
        let now = leaf.load(page);
        let sole = |frame| self.make_sole(manager.frame_behind(frame));
        if without_accessed(now) != without_accessed(seen) {
            return Attempt::LookAgain;
        }
        if area.kind != AreaKind::Shared && !now.named_frame().is_some_and(sole) {
            return Attempt::LookAgain;
        }
        leaf.update(page, |raw| match raw.decode() {
            Entry::Present { frame, flags } => {
                Entry::Present { frame, flags: flags | LeafFlags::WRITABLE | LeafFlags::ACCESSED | LeafFlags::DIRTY }
                    .encode()
            }
            _ => raw,
        });
        drop(leaf);
        self.forget_here(page);
        Attempt::Done(Resolution::Writable)
    }

    /// Gives this space a copy of its own of a page that it shares, with `more` flags than a read-only page has.
    ///
    /// The frame's lock keeps a migration from taking the shared frame while it is copied; its contents stand still, because
    /// nobody writes a shared frame. Bounded: whoever holds the lock is at work on this page. Where the shared frame is a coherent
    /// device's and its contents do not arrive, this space's page is poisoned; the other sharers keep theirs.
    pub(super) fn copy_on_write(
        self,
        table: PhysFrame,
        page: Page,
        area: &Area,
        seen: RawEntry,
        more: LeafFlags,
    ) -> Result<Attempt, BringHomeError> {
        let manager = self.manager;
        let machine = &manager.machine;
        let Some(shared) = seen.named_frame().map(|frame| manager.frame_behind(frame)) else {
            return Ok(Attempt::LookAgain);
        };
        let fresh = manager.memory.allocate(machine, &manager.injector)?;
        let Some(locked) = manager.try_lock_frame(shared) else {
            let is_in_vain = manager.is_locked_by_own_migration(shared);
            return if is_in_vain { Err(BringHomeError::HeldHere) } else { Ok(Attempt::LookAgain) };
        };
        // Looked at again now that nobody can take it away.
        if without_accessed(peek(machine, table, page)) != without_accessed(seen) {
            return Ok(Attempt::LookAgain);
        }
        let copied = manager.copy_page(shared, fresh.frame().into());
        machine.complete_copies();
        {
            let leaf = LeafTable::lock(machine, &manager.memory, table);
            if without_accessed(leaf.load(page)) != without_accessed(seen) {
                return Ok(Attempt::LookAgain);
            }
            let entry = match copied {
                Ok(()) => {
                    let frame = fresh.into_frame();
                    manager.memory.descriptor(frame).map(area.origin_of(page), 1);
                    self.state.charge(Resident::Ram, 1);
                    let flags = area.protection.read_only_flags() | LeafFlags::ACCESSED | more;
                    Entry::Present { frame, flags }
                }
                Err(CopyFailed) => Entry::Poison,
            };
            leaf.swap(page, entry.encode());
            // Other CPUs in this space must not read the shared frame any more once this CPU has stored to its copy; and the
            // mapping keeps its reference until none can.
            let mut owed = OwedFlush::new();
            owed.owe(PageRange::of_page(page));
            owed.pay(machine, self.state, &manager.statistics);
        }
        locked.descriptor().remove_mappings(1);
        drop(locked);
        self.state.uncharge(Resident::of(shared), 1);
        let why = manager.why_lost(shared);
        manager.release_frame(shared, 1);
        match copied {
            Ok(()) => {
                manager.statistics.count_copied_page();
                Ok(Attempt::Done(Resolution::Copied))
            }
            Err(CopyFailed) => {
                manager.statistics.count_poisoned(1);
                Err(why)
            }
        }
    }

    /// Makes this CPU forget one translation that is weaker than the entry.
    fn forget_here(self, page: Page) {
        let machine = &self.manager.machine;
        let cpus = crate::machine::CpuSet::of(machine.cpu());
        let request = FlushRequest { cpus, scope: FlushScope::Pages(PageRange::of_page(page)) };
        record(machine, || Event::Flush { space: self.id, request });
        machine.flush(request);
    }
}

pub(super) fn without_accessed(entry: RawEntry) -> RawEntry {
    if entry.is_present() { RawEntry(entry.0 & !LeafFlags::ACCESSED.bits()) } else { entry }
}
