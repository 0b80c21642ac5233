//! What happens, told as it happens: one [`Event`] for each change of the memory manager's state.
//!
//! ```text
//!   areas ─┐
//!   faults ─┤                        is_traced()?        kernel: a record on a serial port
//!   entries ─┼──▶ record(machine, ..) ─────────▶ trace ─▶ simulator: a list
//!   flushes ─┤         no: nothing is put together
//!   charges ─┤
//!   frames ─┘
//! ```
//!
//! Invariants:
//! 1. Who has seen every event since the memory manager was made knows every leaf entry (but for the accessed and dirty
//!    bits that a CPU sets by itself), every table, every area,
//!    how many pages each space is charged for, and which frames are free.
//! 2. Events of one leaf table come in the order of its changes: they are told while its lock is held. A frame is told to
//!    be free before it can be taken, and to be taken before it can be used.
//! 3. An event holds the old entry as the exchange found it, so two changes of one entry can be told apart from a lost event.
//! 4. Telling takes no lock of the memory manager and changes nothing of it; it may be done while any of its locks is held.
//!
//! Locks: none. Cost where nobody listens: one call of [`Machine::is_traced`], which is a relaxed load in the kernel and a
//! constant where a machine does not override it; the event is not even put together.
use x86_64::VirtAddr;
use x86_64::structures::paging::page_table::PageTableLevel;
use x86_64::structures::paging::{Page, PhysFrame};

use crate::address::PageRange;
use crate::frame::{AnyFrame, CpuWindow, DeviceFrame, DeviceId};
use crate::machine::Machine;
use crate::notify::InvalidationReason;
use crate::page_table::entry::RawEntry;
use crate::page_table::flush::FlushRequest;
use crate::space::{Access, AreaKind, FaultError, Protection, Resident, Resolution, SpaceId};
use crate::stats::Reason;

/// Something that happened, on the CPU that tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// There is a new address space, without areas; its level-4 table is `root`.
    SpaceCreated {
        /// The space.
        space: SpaceId,
        /// Its level-4 table.
        root: PhysFrame,
    },
    /// The space is gone; its number may be used again.
    SpaceDestroyed {
        /// The space.
        space: SpaceId,
    },
    /// `child` has the areas of `parent` from now on; the entries that they share follow one by one.
    Forked {
        /// The older space.
        parent: SpaceId,
        /// The new one, created just before.
        child: SpaceId,
    },
    /// This CPU uses the space for the lower half from now on.
    Entered {
        /// The space.
        space: SpaceId,
    },
    /// This CPU uses the space no more, and has forgotten its translations.
    Left {
        /// The space.
        space: SpaceId,
    },
    /// What the areas say about a range.
    Areas {
        /// In which space.
        space: SpaceId,
        /// Which pages.
        range: PageRange,
        /// What is allowed and what kind of area it is; `None` where no area is any more.
        area: Option<(Protection, AreaKind)>,
    },
    /// An entry was replaced.
    Entry {
        /// The space whose table it is in; `None` for a table of the kernel.
        space: Option<SpaceId>,
        /// First address that the entry maps.
        address: VirtAddr,
        /// The level of its table.
        level: PageTableLevel,
        /// What stood there.
        old: RawEntry,
        /// What stands there now.
        new: RawEntry,
    },
    /// A fault was dealt with.
    Fault {
        /// The space.
        space: SpaceId,
        /// What was accessed.
        address: VirtAddr,
        /// How.
        access: Access,
        /// What was done, or why the access cannot succeed.
        outcome: Result<Resolution, FaultError>,
    },
    /// CPUs are about to forget translations; done when this CPU tells its next event.
    Flush {
        /// The space whose translations they are.
        space: SpaceId,
        /// Who forgets what.
        request: FlushRequest,
    },
    /// A migration goes on, or ends.
    Migration {
        /// The space that it was called for.
        space: SpaceId,
        /// Its pages.
        range: PageRange,
        /// Where to.
        direction: Direction,
        /// How far it is.
        phase: Phase,
    },
    /// A page of the call at work on this CPU has moved; its entry says where to.
    Moved {
        /// The space.
        space: SpaceId,
        /// The page.
        page: Page,
    },
    /// A page of the migration at work on this CPU stays where it is.
    Stays {
        /// The space.
        space: SpaceId,
        /// The page.
        page: Page,
        /// Why.
        reason: Reason,
    },
    /// An eviction begins: every page of the device shall come home.
    EvictionBegins {
        /// The device.
        device: DeviceId,
    },
    /// An eviction has ended.
    EvictionEnds {
        /// The device.
        device: DeviceId,
        /// Pages that came home.
        returned: u64,
        /// Pages that did not, or whose contents were lost.
        failed: u64,
    },
    /// Listeners have stopped using a range, and look nothing up there until the announcement ends.
    Announced {
        /// The space.
        space: SpaceId,
        /// The pages.
        range: PageRange,
        /// Why.
        reason: InvalidationReason,
    },
    /// An announcement is over: listeners may look again.
    AnnouncementEnds {
        /// The space.
        space: SpaceId,
        /// The pages.
        range: PageRange,
    },
    /// A space counts more pages of a kind.
    Charged {
        /// The space.
        space: SpaceId,
        /// The kind.
        resident: Resident,
        /// How many more.
        pages: u64,
    },
    /// A space counts fewer pages of a kind.
    Uncharged {
        /// The space.
        space: SpaceId,
        /// The kind.
        resident: Resident,
        /// How many fewer.
        pages: u64,
    },
    /// A block of 2^`order` RAM frames was taken.
    FrameTaken {
        /// Its first frame.
        frame: PhysFrame,
        /// How many, as a power of two.
        order: u8,
    },
    /// A block of RAM frames is free again.
    FrameFreed {
        /// Its first frame.
        frame: PhysFrame,
        /// How many, as a power of two.
        order: u8,
    },
    /// There is a new device; its frames are free.
    DeviceRegistered {
        /// The device.
        device: DeviceId,
        /// How many frames it has.
        frames: u64,
        /// Where CPUs map the first of them, where they map them at all.
        window: Option<CpuWindow>,
    },
    /// A device frame was taken.
    DeviceFrameTaken {
        /// Which one.
        frame: DeviceFrame,
    },
    /// A device frame is free again.
    DeviceFrameFreed {
        /// Which one.
        frame: DeviceFrame,
    },
    /// A page was pinned in its frame.
    Pinned {
        /// The space.
        space: SpaceId,
        /// The page.
        page: Page,
        /// The frame.
        frame: AnyFrame,
    },
    /// One pin of the frame ended.
    Unpinned {
        /// The frame.
        frame: AnyFrame,
    },
}

/// Where a migration goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// To this device.
    ToDevice(DeviceId),
    /// To RAM.
    Home,
}

/// How far a migration is. Each phase is told when it begins; `Done` or `GiveBack` is the last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Entries become `Migrating`, then one flush.
    Collect,
    /// Nobody else may use the pages.
    Unmap,
    /// New frames, and the contents.
    Copy,
    /// The new entries, or the old ones again.
    Finalize,
    /// Nothing more is tried: the batch gives every page back that it holds.
    GiveBack,
    /// It is over.
    Done {
        /// Pages that moved.
        moved: u64,
        /// Pages that did not.
        stayed: u64,
    },
}

/// Tells `machine` what `event` puts together, where somebody listens.
#[inline(always)]
pub(crate) fn record<M: Machine>(machine: &M, event: impl FnOnce() -> Event) {
    if machine.is_traced() {
        machine.trace(&event());
    }
}
