//! The audit: what the page tables say, compared with everything that anybody counts.
//!
//! It reads the tables out of RAM itself and believes no counter. Call it while no CPU is at work; a migration may be
//! open, if [`Expected`] says so. What must hold:
//! 1. Each frame's mappings, references and reverse map are those that the tables and the pins give it.
//!    A frame that several entries map is writable through none.
//! 2. No frame is both free and mapped; a free frame's descriptor is clean; a free device frame is zero.
//! 3. Every frame that is not free is a table that is in some path, a page, pinned, or the kernel's own.
//! 4. Each special entry names what exists: a `Device` entry a device frame of its own, a `Migrating` entry one of an open batch.
//! 5. Charges, table counts and free counts equal what is found. No lock is held, no frame locked.
//! 6. Each slot of the swap disk has the entries that it counts, and is held by the frame that names it. A frame in the swap
//!    cache is neither pinned nor writable through any entry, and equals its slot or is its only copy.
//! 7. No CPU caches a translation or a path that the tables do not grant, or has a store on its way to a frame that nobody maps.
mod caches;
mod frames;
mod swap;
mod tables;

use std::fmt;

use ferry_mm::frame::{AnyFrame, DeviceFrame, FrameKind, Origin};
use ferry_mm::machine::CpuId;
use ferry_mm::page_table::entry::{RawEntry, SwapSlot};
use ferry_mm::space::{AreaKind, Residency};
use x86_64::VirtAddr;
use x86_64::structures::paging::{Page, PhysFrame};

use crate::world::World;

/// What the caller knows to be going on.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// A batch is open: `Migrating` entries, locked frames, frames that only the batch owns, and areas held shared.
    pub open_batch: bool,
    /// The pinned frames, once for each pin.
    pub pins: Vec<AnyFrame>,
}

/// Something that must not be.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "each variant's name says what is wrong, its fields where")]
pub enum Violation {
    TableOnTwoPaths { table: PhysFrame },
    NotATable { table: PhysFrame, kind: FrameKind },
    UpperHalfDiffers { space: u16, index: usize },
    UnknownEntry { page: Page, entry: RawEntry },
    OutsideAreas { page: Page, entry: RawEntry },
    StrongerThanArea { page: Page, entry: RawEntry },
    SharedAndWritable { page: Page, frame: String },
    MemoryType { page: Page, entry: RawEntry },
    WritableZeroPage { page: Page, entry: RawEntry },
    UnexpectedMigrating { page: Page, entry: RawEntry },
    WrongArea { page: Page, entry: RawEntry, area: AreaKind },
    NotLocked { page: Page, entry: RawEntry },
    NoSuchFrame { page: Page, entry: RawEntry },
    Resident { space: u16, charged: Residency, found: Residency },
    TableCount { counted: u64, found: u64 },
    FreeCount { counted: u64, found: u64 },
    FreeDeviceCount { device: u8, counted: u64, found: u64 },
    KindOfPage { frame: String, kind: FrameKind, mappings: usize },
    Mappings { frame: String, counted: u32, found: usize },
    ReverseMap { frame: String, kept: Option<Origin>, found: Vec<Origin> },
    References { frame: String, counted: u32, mappings: u32, pins: u32, cached: bool },
    Pins { frame: String, counted: u32, expected: usize },
    FreeButUsed { frame: String, references: u32, mappings: u32, pins: u32, origin: Option<Origin>, found: usize },
    Locked { frame: String, kind: FrameKind },
    Lost { frame: String, kind: FrameKind },
    DirtyDeviceFrame { frame: DeviceFrame, byte: usize },
    SlotEntries { slot: u64, counted: u32, found: u32 },
    FreeSlotNamed { slot: u64, found: u32 },
    FreeSlotCount { counted: u64, found: u64 },
    SlotHolder { slot: u64, frame: String, names: Option<SwapSlot> },
    NamesNoSlot { frame: String, slot: SwapSlot },
    UselessSlot { slot: u64, frame: Option<String> },
    LostSlot { slot: u64 },
    DiffersFromSlot { slot: u64, frame: String, byte: usize },
    CachedAndWritable { page: Page, frame: String },
    CachedAndPinned { frame: String },
    HeldLocks { cpu: CpuId, count: u32 },
    UnknownRoot { cpu: CpuId, root: PhysFrame },
    StaleTranslation { cpu: CpuId, page: Page, cached: String, entry: RawEntry },
    StalePath { cpu: CpuId, level: u8, address: VirtAddr, cached: PhysFrame, found: Option<PhysFrame> },
    StoreToNobody { cpu: CpuId, frame: String, kind: FrameKind },
}

/// Everything that an audit found.
#[derive(Clone, PartialEq, Eq)]
pub struct Report(pub Vec<Violation>);

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the audit found {} violation(s)", self.0.len())?;
        self.0.iter().try_for_each(|violation| write!(f, "\n  {violation:x?}"))
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Report {}

/// Audits a world in which nothing is going on.
///
/// # Errors
/// What the audit found.
pub fn audit(world: &World) -> Result<(), Report> {
    audit_with(world, &Expected::default())
}

/// Audits a world in which the things `expected` are going on.
///
/// # Errors
/// What the audit found.
pub fn audit_with(world: &World, expected: &Expected) -> Result<(), Report> {
    let mut found = Vec::new();
    let uses = tables::check(world, expected, &mut found);
    frames::check_ram(world, expected, &uses, &mut found);
    frames::check_devices(world, expected, &uses, &mut found);
    swap::check(world, &uses, &mut found);
    caches::check(world, expected, &mut found);
    if found.is_empty() { Ok(()) } else { Err(Report(found)) }
}
