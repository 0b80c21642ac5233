//! Mapping and unmapping of areas.
use super::area::{AreaList, NoRoom};
use super::{Area, AreaKind, OverLimit, Protection, Resident, Space};
use crate::address::PageRange;
use crate::frame::{AnyFrame, DeviceFrame, FreedFrames, NO_FRAME, OutOfFrames, frame_of, number};
use crate::machine::Machine;
use crate::manager::MemoryManager;
use crate::notify::InvalidationReason;
use crate::page_table::entry::{Entry, RawEntry};
use crate::page_table::flush::{OwedFlush, Weakened};
use crate::page_table::leaf_table::{LeafTable, Place};
use crate::page_table::walk;
use crate::trace::{Event, record};

/// Why an area was not mapped, unmapped or protected. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// The range shares pages with this area.
    Overlaps(PageRange),
    /// Part of the range is in no area.
    NotMapped(PageRange),
    /// The heap has no room for one more area.
    HeapFull,
    /// This CPU holds a migration open, here or in another space, for whose end it might have to wait.
    WouldWaitForItself(PageRange),
    /// This area is of a kind that does not allow the call.
    WrongKind(PageRange, AreaKind),
    /// No frame for a page of a shared area, or for a table.
    OutOfFrames,
    /// The pages of a shared area would exceed the limit of the space.
    OverLimit,
}

impl From<OutOfFrames> for MapError {
    fn from(OutOfFrames: OutOfFrames) -> Self {
        Self::OutOfFrames
    }
}

impl From<OverLimit> for MapError {
    fn from(OverLimit: OverLimit) -> Self {
        Self::OverLimit
    }
}

impl From<NoRoom> for MapError {
    fn from(NoRoom: NoRoom) -> Self {
        Self::HeapFull
    }
}

impl core::fmt::Display for MapError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (range, text) = match self {
            Self::Overlaps(area) => (area, "is an area already; unmap it or choose another range"),
            Self::NotMapped(range) => (range, "is not all mapped; map it first"),
            Self::WouldWaitForItself(range) => {
                (range, "would wait for a migration that this CPU holds open; finish or drop it first")
            }
            Self::HeapFull => return f.write_str("the heap has no room for one more area; unmap one"),
            Self::WrongKind(area, kind) => {
                let (start, end) = (area.start_address(), area.end());
                return write!(f, "v{start:#x}..v{end:#x} is an area of kind {kind:?}; choose a range without it");
            }
            Self::OutOfFrames => return OutOfFrames.fmt(f),
            Self::OverLimit => return f.write_str("the space would exceed its limit; unmap pages or raise the limit"),
        };
        write!(f, "v{:#x}..v{:#x} {text}", range.start_address(), range.end())
    }
}

impl core::error::Error for MapError {}

/// How many shared frames wait for a flush at most.
const MOST_SHARED: usize = 32;

/// Frames of RAM and of coherent devices whose entries are gone, but that a CPU may still reach through a stale translation.
///
/// Their references are dropped by [`ZappedFrames::pay`] only, which pays the flush first. RAM frames that nobody else maps are in
/// a list through their descriptors' links, which takes no memory. A shared frame may be in such a list of another space at the
/// same time, so those wait in an array, as do device frames; where it is full, the flush is paid early.
struct ZappedFrames {
    owed: OwedFlush,
    head: u32,
    shared: [Option<AnyFrame>; MOST_SHARED],
    shared_count: usize,
}

impl ZappedFrames {
    fn new() -> Self {
        Self { owed: OwedFlush::new(), head: NO_FRAME, shared: [None; MOST_SHARED], shared_count: 0 }
    }

    /// Takes the frame that a removed entry mapped, where that was its only mapping and it is RAM and no zero page.
    #[inline(always)]
    fn push_sole<M: Machine>(&mut self, manager: &MemoryManager<M>, old: RawEntry) -> bool {
        let Entry::Present { frame, .. } = old.decode() else { return false };
        let Some(descriptor) = manager.memory.descriptor_of(frame) else { return false };
        // Neither the zero page nor what is no RAM has one.
        if descriptor.mappings() != 1 {
            return false;
        }
        descriptor.set_link(NO_FRAME, self.head);
        self.head = number(frame);
        true
    }

    fn push<M: Machine>(&mut self, space: Space<'_, M>, frame: AnyFrame) {
        let descriptor = space.manager.any_descriptor(frame);
        // A sole mapping stays sole: only a fork of this space could share it, and the areas are ours. So nobody else uses the link.
        if let AnyFrame::System(frame) = frame
            && descriptor.mappings() == 1
        {
            descriptor.set_link(NO_FRAME, self.head);
            self.head = number(frame);
            return;
        }
        if self.shared_count == MOST_SHARED {
            self.pay(space);
        }
        self.shared[self.shared_count] = Some(frame);
        self.shared_count += 1;
    }

    /// Pays the flush, then drops the mapping and the reference of each frame. A sharer who finds itself alone then may write the
    /// frame in place: no CPU of this space can see it.
    fn pay<M: Machine>(&mut self, space: Space<'_, M>) {
        let manager = space.manager;
        core::mem::take(&mut self.owed).pay(&manager.machine, space.state, &manager.statistics);
        for frame in self.shared.iter_mut().filter_map(Option::take) {
            match frame {
                AnyFrame::System(frame) => manager.drop_mapping(frame),
                AnyFrame::Device(frame) => space.drop_page_on_device(frame),
            }
        }
        self.shared_count = 0;
        let mut freed = FreedFrames::new();
        while let Some(descriptor) = manager.memory.descriptors().get(self.head as usize) {
            let frame = frame_of(self.head);
            self.head = descriptor.link().1;
            if descriptor.end_sole_mapping() {
                manager.memory.free_later(&manager.machine, &mut freed, frame, descriptor);
            } else {
                manager.drop_mapping(frame);
            }
        }
        manager.memory.free_all(&manager.machine, freed);
    }
}

impl<M: Machine> Space<'_, M> {
    /// Makes `range` an area of anonymous memory: zeros until written, without a frame until touched.
    ///
    /// # Errors
    /// See [`MapError`].
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
    /// cpu.store(first, b"ferry")?;
    /// assert_eq!(&cpu.read(first)?, b"ferry");
    /// assert_eq!(cpu.read(first + 4096)?, [0], "zeros until written");
    /// assert_eq!((space.resident().ram, space.resident().zero), (1, 1));
    /// # world.assert_all_free();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn map_anonymous(self, range: PageRange, protection: Protection) -> Result<(), MapError> {
        self.map(Area::new(range, protection, AreaKind::Anonymous), || Ok(()))
    }

    /// Adds `area` with the entries that `fill` makes, which may fail half-way.
    pub(super) fn map(self, area: Area, fill: impl FnOnce() -> Result<(), MapError>) -> Result<(), MapError> {
        let range = area.range;
        if self.manager.holds_migration_open() {
            return Err(MapError::WouldWaitForItself(range));
        }
        let mut areas = self.state.areas.write(&self.manager.machine);
        if let Some(there) = areas.overlapping(area.range) {
            return Err(MapError::Overlaps(there.range));
        }
        // Inserted last, so that a failure leaves the neighbours as they were; nobody looks while the areas are ours.
        areas.reserve(1)?;
        self.tell_areas(area.range, Some(&area));
        if let Err(error) = fill() {
            let mut zapped = ZappedFrames::new();
            self.zap_piece(&area, area.range, &mut zapped);
            zapped.pay(self);
            self.tell_areas(area.range, None);
            self.free_tables(area.range, areas.gap_around(area.range));
            return Err(error);
        }
        Ok(areas.insert(area)?)
    }

    /// Removes every page of `range`, in whatever areas, and forgets its contents. Holes are allowed.
    ///
    /// Waits for listeners, and for faults and migrations that are at work in this space; bounded by their work.
    ///
    /// # Errors
    /// [`MapError::HeapFull`] where an area would have to be split and there is no room, and
    /// [`MapError::WouldWaitForItself`].
    pub fn unmap(self, range: PageRange) -> Result<(), MapError> {
        let (_announcement, mut areas) = self.announce_and_hold(range, InvalidationReason::Unmap)?;
        areas.split_around(range)?;
        self.zap(&areas, range);
        areas.remove_inside(range);
        self.tell_areas(range, None);
        self.free_tables(range, areas.gap_around(range));
        Ok(())
    }

    /// Forgets the contents of every page of `range`, which stays mapped: it reads as zeros again (`MADV_DONTNEED`).
    ///
    /// # Errors
    /// [`MapError::NotMapped`] where part of the range is in no area, [`MapError::WrongKind`] where it is not anonymous, and
    /// [`MapError::WouldWaitForItself`].
    pub fn discard(self, range: PageRange) -> Result<(), MapError> {
        let (_announcement, areas) = self.announce_and_hold(range, InvalidationReason::Discard)?;
        if !areas.covers(range) {
            return Err(MapError::NotMapped(range));
        }
        areas.require_anonymous(range)?;
        self.zap(&areas, range);
        Ok(())
    }

    /// Removes every area. No CPU is in the space, but devices may be.
    ///
    /// # Errors
    /// [`MapError::WouldWaitForItself`].
    pub(super) fn unmap_all(self) -> Result<(), MapError> {
        let (_announcement, mut areas) =
            self.announce_and_hold(PageRange::everything(), InvalidationReason::Release)?;
        for area in areas.iter() {
            self.zap(&areas, area.range);
            self.tell_areas(area.range, None);
        }
        drop(areas.take_all());
        self.free_tables(PageRange::everything(), 0..u64::MAX);
        Ok(())
    }

    /// Tells what the areas say about `range` now.
    pub(super) fn tell_areas(self, range: PageRange, area: Option<&Area>) {
        let area = area.map(|area| (area.protection, area.kind));
        record(&self.manager.machine, || Event::Areas { space: self.id(), range, area });
    }

    /// Frees the tables that map part of `range`, where no area is any more, and nothing outside of `gap`, the gap around it. There are
    /// no others: where an area ends, its tables go or map another one. The caller holds the areas exclusively.
    pub(super) fn free_tables(self, range: PageRange, gap: core::ops::Range<u64>) {
        let manager = self.manager;
        self.state.last_table.forget();
        // A CPU may have cached the path to a table (Intel SDM 3A 4.10.3), also where it cached no leaf below it.
        let forget_paths = || {
            let mut owed = OwedFlush::new();
            owed.owe_lower_half();
            owed.pay(&manager.machine, self.state, &manager.statistics);
        };
        let part = range.start_address().as_u64()..range.end();
        walk::free_tables(&manager.machine, &manager.memory, self.root(), part, gap, forget_paths);
    }

    /// Empties the entries of `range`: one flush, then the frames go.
    fn zap(self, areas: &AreaList, range: PageRange) {
        let mut zapped = ZappedFrames::new();
        for area in areas.within(range) {
            if let Some(piece) = area.range.intersection(range) {
                self.zap_piece(area, piece, &mut zapped);
            }
        }
        zapped.pay(self);
    }

    /// Empties the entries of `piece`, which lies in `area`; `zapped` owes the flush.
    fn zap_piece(self, area: &Area, piece: PageRange, zapped: &mut ZappedFrames) {
        let manager = self.manager;
        for part in piece.by_leaf_table() {
            let Some(table) = walk::leaf_table(&manager.machine, self.root(), part.start()) else { continue };
            let leaf = LeafTable::lock(&manager.machine, &manager.memory, table);
            let (mut weakened, mut in_ram) = (Weakened::NONE, 0);
            for index in 0..part.pages() {
                let place = Place::of(part, index);
                if leaf.load(place) == RawEntry::EMPTY {
                    continue;
                }
                let old = leaf.swap(place, RawEntry::EMPTY);
                if old.is_present() {
                    weakened.note(index);
                }
                if !area.kind.has_counted_frames() {
                    continue;
                }
                // Most pages: in a frame of RAM that nobody else maps.
                if zapped.push_sole(manager, old) {
                    in_ram += 1;
                } else {
                    // A shared frame may have the flush paid early.
                    weakened.owe(part, &mut zapped.owed);
                    self.drop_entry(old, zapped);
                }
            }
            weakened.owe(part, &mut zapped.owed);
            if in_ram > 0 {
                self.uncharge(Resident::Ram, in_ram);
            }
        }
    }

    /// Lets go of what an entry that was just removed named.
    fn drop_entry(self, old: RawEntry, zapped: &mut ZappedFrames) {
        match old.decode() {
            Entry::Present { frame, .. } | Entry::NoAccess { frame, .. } if frame == self.manager.zero_frame => {
                self.uncharge(Resident::Zero, 1);
            }
            Entry::Present { frame, .. } | Entry::NoAccess { frame, .. } | Entry::Exclusive { frame, .. } => {
                let frame = self.manager.frame_behind(frame);
                if let AnyFrame::System(_) = frame {
                    self.uncharge(Resident::Ram, 1);
                }
                zapped.push(self, frame);
            }
            Entry::Device { frame, .. } => self.drop_page_on_device(frame),
            Entry::Empty | Entry::Poison => {}
            // A migration holds the areas shared for as long as it owns an entry, and we hold them exclusively.
            Entry::Migrating { .. } => unreachable!("a Migrating entry outlived its migration: {old:?}"),
            Entry::Swap { slot } => {
                self.uncharge(Resident::Swap, 1);
                self.manager.drop_swap_entry(slot);
            }
            Entry::Unknown(_) => {
                unreachable!("an entry of a kind that nothing makes: {old:?}")
            }
        }
    }

    /// Drops the mapping of a device frame by an entry that is gone, and the frame with its last one.
    ///
    /// Waits for the frame's lock, the one place that does while it holds other locks: whoever has it is an eviction or a fault of
    /// another space at work on this page, which never waits for ours.
    fn drop_page_on_device(self, frame: DeviceFrame) {
        let descriptor = self.manager.device_descriptor(frame);
        while !descriptor.try_lock_page() {
            self.manager.machine.relax();
        }
        self.drop_locked_device_mapping(frame);
        self.manager.statistics.count_dropped_on_device();
    }

    /// The same for a frame whose lock the caller has; it is given back.
    pub(crate) fn drop_locked_device_mapping(self, frame: DeviceFrame) {
        self.uncharge(Resident::Device, 1);
        self.drop_locked_device_frame(frame);
    }

    /// The same where the page is counted as another one's already.
    pub(crate) fn drop_locked_device_frame(self, frame: DeviceFrame) {
        let descriptor = self.manager.device_descriptor(frame);
        // In this order: without a mapping nobody can lock the frame any more.
        descriptor.remove_mappings(1);
        descriptor.unlock();
        self.manager.release_frame(frame.into(), 1);
    }
}
