//! Address spaces: a level-4 table, the areas that say what may be touched, and the faults that make it so.
//!
//! Invariants:
//! 1. Areas lie in the lower half, do not overlap, and are sorted. Every non-empty entry of the lower half lies in an area.
//! 2. Areas are held shared by faults and migrations, for as long as these work on the tables, and exclusively by
//!    whoever adds, changes or removes areas. So an open migration keeps its range from being unmapped under it.
//! 3. A CPU is in a space's set of CPUs from before it loads the space's root until after it has loaded another one.
//! 4. The upper half of every space is the kernel's, and the same in all.
mod accounting;
pub mod area;
mod copy_on_write;
mod exclusive;
mod fault;
mod fork;
mod last_table;
mod lazy;
mod map;
mod outcome;
mod pin;
mod protect;
mod relocate;
mod residency;
mod reverse_map;
mod special_areas;
mod straight;

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use x86_64::structures::paging::{Page, PageTableIndex, PhysFrame};
use x86_64::{PhysAddr, VirtAddr};

use crate::address::{PAGE_BYTES, PageRange};
use crate::frame::OutOfFrames;
use crate::lock::{Level, SharedLock};
use crate::machine::{CpuSet, Machine};
use crate::manager::MemoryManager;
use crate::notify::Listening;
use crate::page_table::entry::RawEntry;
use crate::page_table::slot::EntrySlot;
use crate::page_table::walk::{self, Path};
use crate::trace::{Event, record};
use area::AreaList;
pub use area::{Area, AreaKind, Protection};
pub(crate) use exclusive::taken_back;
pub use exclusive::{ExclusiveError, ExclusivePage};
pub use fork::ForkError;
use last_table::LastTable;
pub use map::MapError;
pub use outcome::{Access, FaultError, Resolution};
pub use pin::{Pin, Term};
pub use relocate::{Leave, RelocateError};
use residency::Charges;
pub(crate) use residency::OverLimit;
pub use residency::{Residency, Resident};
pub(crate) use reverse_map::HeldSpace;

/// How many address spaces there may be at a time.
pub const MAX_SPACES: usize = 64;

/// First index of the upper half in a level-4 table.
const UPPER_HALF: u16 = 256;

/// An address space, by its number. The number is reused after the space is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpaceId(u16);

impl SpaceId {
    /// The space of this number, or `None` from [`MAX_SPACES`] on.
    pub const fn new(number: u16) -> Option<Self> {
        if (number as usize) < MAX_SPACES { Some(Self(number)) } else { None }
    }

    /// The space's number, below [`MAX_SPACES`].
    pub const fn number(self) -> u16 {
        self.0
    }

    /// The bit of the space in a set of spaces that is a word.
    #[inline]
    pub(crate) const fn bit(self) -> u64 {
        1 << self.0
    }
}

const _: () = assert!(MAX_SPACES <= u64::BITS as usize, "a set of spaces is a word");

/// What is known about one address space; reused when the space is gone.
pub struct SpaceState {
    id: SpaceId,
    root: AtomicU64,
    cpus: AtomicU64,
    pub(crate) areas: SharedLock<AreaList>,
    last_table: LastTable,
    charges: Charges,
    pub(crate) listening: Listening,
    /// Faults that wait for a page on its way.
    waiting: AtomicU32,
}

impl SpaceState {
    pub(crate) const fn new(id: SpaceId) -> Self {
        Self {
            id,
            root: AtomicU64::new(0),
            cpus: AtomicU64::new(0),
            areas: SharedLock::new(Level::Areas, AreaList::new()),
            last_table: LastTable::new(),
            charges: Charges::new(),
            listening: Listening::new(),
            waiting: AtomicU32::new(0),
        }
    }

    /// The number of the space that this is the state of.
    #[inline]
    pub(crate) fn id(&self) -> SpaceId {
        self.id
    }

    /// Whether a fault waits for a page of this space that is on its way.
    #[inline]
    pub(crate) fn has_waiting_faults(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// The CPUs that may hold translations of this space.
    #[inline]
    pub fn cpus(&self) -> CpuSet {
        CpuSet::from_bits(self.cpus.load(Ordering::SeqCst))
    }

    #[inline(always)]
    fn root(&self) -> PhysFrame {
        PhysFrame::containing_address(PhysAddr::new_truncate(self.root.load(Ordering::Relaxed)))
    }
}

/// A handle to a living address space.
pub struct Space<'m, M: Machine> {
    pub(crate) manager: &'m MemoryManager<M>,
    pub(crate) state: &'m SpaceState,
}

impl<M: Machine> Clone for Space<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Machine> Copy for Space<'_, M> {}

/// Why there is no new address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CreateError {
    /// No frame for its level-4 table.
    OutOfFrames,
    /// There are [`MAX_SPACES`] already.
    TooMany,
}

impl core::fmt::Display for CreateError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::OutOfFrames => OutOfFrames.fmt(f),
            Self::TooMany => write!(f, "there are {MAX_SPACES} address spaces already; destroy one first"),
        }
    }
}

impl core::error::Error for CreateError {}

/// Why a space was not destroyed. It is as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DestroyError {
    /// These CPUs are in it.
    StillEntered(CpuSet),
    /// This CPU holds a migration open, for whose end it might have to wait.
    WouldWaitForItself,
}

impl core::fmt::Display for DestroyError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::StillEntered(cpus) => {
                write!(f, "the CPUs {:#b} are in the address space; leave it on each of them first", cpus.bits())
            }
            Self::WouldWaitForItself => {
                f.write_str("this CPU holds a migration open; finish or drop it before destroying an address space")
            }
        }
    }
}

impl core::error::Error for DestroyError {}

impl<M: Machine> MemoryManager<M> {
    /// Makes an empty address space.
    ///
    /// # Errors
    /// See [`CreateError`].
    pub fn create_space(&self) -> Result<Space<'_, M>, CreateError> {
        let is_out_of_frames = |error: &CreateError| *error == CreateError::OutOfFrames;
        self.with_reclaim(is_out_of_frames, || self.create_space_once())
    }

    fn create_space_once(&self) -> Result<Space<'_, M>, CreateError> {
        let root = self
            .memory
            .allocate_zeroed(&self.machine, &self.injector)
            .map_err(|OutOfFrames| CreateError::OutOfFrames)?;
        let mut in_use = self.spaces_in_use.lock(&self.machine);
        let number = in_use.iter().position(|used| !used).ok_or(CreateError::TooMany)?;
        in_use[number] = true;
        let root = root.into_frame();
        let id = SpaceId(number as u16);
        self.memory.make_table(root, Some(id));
        for index in (UPPER_HALF..512).map(PageTableIndex::new) {
            let shared = self.machine.load_entry(EntrySlot::new(self.kernel_root, index));
            self.machine.swap_entry(EntrySlot::new(root, index), shared);
        }
        let state = &self.spaces[number];
        state.charges.set_limit(u64::MAX);
        state.root.store(root.start_address().as_u64(), Ordering::Release);
        self.living.fetch_or(id.bit(), Ordering::AcqRel);
        record(&self.machine, || Event::SpaceCreated { space: id, root });
        Ok(Space { manager: self, state })
    }

    /// The living space of this number.
    #[inline(always)]
    pub fn space(&self, id: SpaceId) -> Option<Space<'_, M>> {
        let state = self.spaces.get(usize::from(id.0))?;
        (state.root.load(Ordering::Acquire) != 0).then_some(Space { manager: self, state })
    }

    /// Every living space.
    pub fn spaces(&self) -> impl Iterator<Item = Space<'_, M>> {
        let mut left = self.living.load(Ordering::Acquire);
        core::iter::from_fn(move || {
            while left != 0 {
                let number = left.trailing_zeros() as u16;
                left &= left - 1;
                if let Some(space) = self.space(SpaceId(number)) {
                    return Some(space);
                }
            }
            None
        })
    }

    /// Makes this CPU leave `space` for the kernel's own tables.
    pub fn leave(&self, space: Space<'_, M>) {
        self.machine.load_root(self.kernel_root);
        record(&self.machine, || Event::Left { space: space.id() });
        let cpu = CpuSet::of(self.machine.cpu());
        space.state.cpus.fetch_and(!cpu.bits(), Ordering::SeqCst);
    }
}

impl<'m, M: Machine> Space<'m, M> {
    /// The space's number.
    #[inline]
    pub fn id(self) -> SpaceId {
        self.state.id
    }

    /// The frame of the level-4 table.
    #[inline]
    pub fn root(self) -> PhysFrame {
        self.state.root()
    }

    /// Makes this CPU use the space for the lower half. The CPU must have left the space it was in.
    pub fn enter(self) {
        // Marked first: a flush that misses the mark wrote its entry before this CPU could read it (see docs/lock-order.md).
        let cpu = CpuSet::of(self.manager.machine.cpu());
        self.state.cpus.fetch_or(cpu.bits(), Ordering::SeqCst);
        self.manager.machine.load_root(self.root());
        record(&self.manager.machine, || Event::Entered { space: self.id() });
    }

    /// Removes the space with all its areas.
    ///
    /// Waits for listeners, and for whoever is at work in this space; bounded by their work.
    ///
    /// # Errors
    /// See [`DestroyError`].
    pub fn destroy(self) -> Result<(), DestroyError> {
        let cpus = self.state.cpus();
        if !cpus.is_empty() {
            return Err(DestroyError::StillEntered(cpus));
        }
        self.unmap_all().map_err(|_| DestroyError::WouldWaitForItself)?;
        self.manager.forget_listeners(self.id());
        debug_assert_eq!(self.resident(), Residency::default(), "pages are counted in a space that has none");
        let root = self.root();
        self.manager.living.fetch_and(!self.id().bit(), Ordering::AcqRel);
        self.state.root.store(0, Ordering::Release);
        record(&self.manager.machine, || Event::SpaceDestroyed { space: self.id() });
        self.manager.memory.free_table(&self.manager.machine, root);
        self.manager.spaces_in_use.lock(&self.manager.machine)[usize::from(self.id().0)] = false;
        Ok(())
    }

    /// The entries on the path of `address`, as they are now. Takes no lock.
    pub fn path(self, address: VirtAddr) -> Path {
        walk::path(&self.manager.machine, self.root(), address)
    }

    /// The level-1 entry of the page at `address`, empty where the path ends above it.
    pub fn entry(self, address: VirtAddr) -> RawEntry {
        self.path(address).leaf().map_or(RawEntry::EMPTY, |step| step.entry)
    }

    /// The pages of the space, by kind.
    pub fn resident(self) -> Residency {
        self.state.charges.read()
    }

    /// Limits the pages that are charged to the space ([`Residency::charged`]) to `pages`.
    ///
    /// A new page over the limit is refused; a page that comes home from a device never is. Below what is charged already, the
    /// limit takes nothing away. A child starts with its parent's limit; a space without one has `u64::MAX`.
    pub fn set_limit(self, pages: u64) {
        self.state.charges.set_limit(pages);
    }

    /// The limit of [`Self::set_limit`].
    pub fn limit(self) -> u64 {
        self.state.charges.limit()
    }

    /// The area that holds `page`.
    pub fn area(self, page: Page) -> Option<Area> {
        self.state.areas.read(&self.manager.machine).find(page).copied()
    }

    /// Calls `visit` with every non-empty level-1 entry in the areas, ascending.
    pub fn for_each_entry(self, mut visit: impl FnMut(Page, RawEntry)) {
        let machine = &self.manager.machine;
        let areas = self.state.areas.read(machine);
        for part in areas.iter().flat_map(|area| area.range.by_leaf_table()) {
            let Some(table) = walk::leaf_table(machine, self.root(), part.start()) else { continue };
            for page in (0..part.pages()).map(|index| part.page(index)) {
                let entry = machine.load_entry(EntrySlot::new(table, page.p1_index()));
                if entry != RawEntry::EMPTY {
                    visit(page, entry);
                }
            }
        }
    }

    /// The range of a page count from an address; a convenience for tests and examples.
    ///
    /// # Errors
    /// See [`crate::address::RangeError`].
    pub fn pages(self, start: VirtAddr, pages: u64) -> Result<PageRange, crate::address::RangeError> {
        PageRange::covering(start, pages.saturating_mul(PAGE_BYTES))
    }
}
