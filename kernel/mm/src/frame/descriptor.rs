//! What is known about one frame, in 32 bytes: two descriptors share a cache line.
//!
//! ```text
//!  0          4            8          12        16               24             32
//!  ┌──────────┬────────────┬──────────┬─────────┬────────────────┬──────────────┐
//!  │ state    │ references │ mappings │ pins    │ reverse map    │ list link    │
//!  └──────────┴────────────┴──────────┴─────────┴────────────────┴──────────────┘
//!    state: kind (bits 0-7), order (8-15), LOCKED (31)
//! ```
//!
//! Every field is atomic; which lock protects a change of which field:
//! 1. Kind, order and list link of a free frame: the free-list lock of its allocator.
//! 2. Mappings and reverse map: the lock of the page table whose entry maps the frame, or the frame's own lock.
//! 3. The LOCKED bit is the frame's own lock. A migration tries it and gives the page up where it is taken;
//!    nobody waits for it while holding anything. On a table frame the same bit is the lock of the page table.
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use x86_64::VirtAddr;
use x86_64::structures::paging::Page;

use crate::address::PAGE_BYTES;
use crate::space::SpaceId;

/// What a frame is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FrameKind {
    /// Not ours to use: firmware, the kernel's image, holes.
    Reserved = 0,
    /// In a free list.
    Free = 1,
    /// Inside a free block of a higher order, whose first frame is in a free list.
    FreeTail = 2,
    /// Allocated; used by the kernel itself or not yet mapped.
    Owned = 3,
    /// A page table.
    Table = 4,
    /// Holds an anonymous page.
    Anonymous = 5,
    /// The zero page.
    Zero = 6,
}

impl FrameKind {
    const fn from_bits(bits: u32) -> Self {
        match bits & KIND_MASK {
            1 => Self::Free,
            2 => Self::FreeTail,
            3 => Self::Owned,
            4 => Self::Table,
            5 => Self::Anonymous,
            6 => Self::Zero,
            _ => Self::Reserved,
        }
    }
}

const KIND_MASK: u32 = 0xff;
const ORDER_SHIFT: u32 = 8;
const ORDER_MASK: u32 = 0xff << ORDER_SHIFT;
const LOCKED: u32 = 1 << 31;

/// Where a frame is mapped: which page of which space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// The address space.
    pub space: SpaceId,
    /// The page.
    pub page: Page,
}

const MAPPED: u64 = 1 << 63;
const SPACE_SHIFT: u32 = 40;
const PAGE_NUMBER_MASK: u64 = (1 << SPACE_SHIFT) - 1;

impl Mapping {
    #[inline]
    fn encode(self) -> u64 {
        let page_number = self.page.start_address().as_u64() / PAGE_BYTES;
        MAPPED | (self.space.number() as u64) << SPACE_SHIFT | page_number
    }

    #[inline]
    fn decode(word: u64) -> Option<Self> {
        if word & MAPPED == 0 {
            return None;
        }
        let address = VirtAddr::new_truncate((word & PAGE_NUMBER_MASK) * PAGE_BYTES);
        let space = SpaceId::from_number(((word & !MAPPED) >> SPACE_SHIFT) as u16);
        Some(Self { space, page: Page::containing_address(address) })
    }
}

/// The end of a list, as a frame's number.
pub(crate) const NO_FRAME: u32 = u32::MAX;

/// What is known about one frame. All zero is a reserved frame, so zeroed memory is a valid array of them.
#[derive(Default)]
#[repr(C, align(32))]
pub struct Descriptor {
    state: AtomicU32,
    references: AtomicU32,
    mappings: AtomicU32,
    pins: AtomicU32,
    reverse_map: AtomicU64,
    link: AtomicU64,
}

const _: () = assert!(size_of::<Descriptor>() == 32);

impl Descriptor {
    /// A reserved frame.
    pub const fn new() -> Self {
        Self {
            state: AtomicU32::new(0),
            references: AtomicU32::new(0),
            mappings: AtomicU32::new(0),
            pins: AtomicU32::new(0),
            reverse_map: AtomicU64::new(0),
            link: AtomicU64::new(0),
        }
    }

    /// What the frame is used for.
    #[inline]
    pub fn kind(&self) -> FrameKind {
        FrameKind::from_bits(self.state.load(Ordering::Relaxed))
    }

    /// The order of the free block that begins here.
    #[inline]
    pub(crate) fn order(&self) -> u8 {
        ((self.state.load(Ordering::Relaxed) & ORDER_MASK) >> ORDER_SHIFT) as u8
    }

    /// Sets kind and order of an unlocked frame.
    #[inline]
    pub(crate) fn set_kind(&self, kind: FrameKind, order: u8) {
        self.state.store(kind as u32 | u32::from(order) << ORDER_SHIFT, Ordering::Relaxed);
    }

    /// Changes the kind of a frame that may be locked.
    #[inline]
    pub(crate) fn change_kind(&self, kind: FrameKind) {
        let locked = self.state.load(Ordering::Relaxed) & LOCKED;
        self.state.store(kind as u32 | locked, Ordering::Relaxed);
    }

    /// References: one for each mapping, one for each pin, and those of code that works on the frame right now.
    #[inline]
    pub fn references(&self) -> u32 {
        self.references.load(Ordering::Acquire)
    }

    /// Entries that map the frame, `Migrating` ones included.
    #[inline]
    pub fn mappings(&self) -> u32 {
        self.mappings.load(Ordering::Acquire)
    }

    /// Pins: references that were taken to use the frame by its physical address for long.
    #[inline]
    pub fn pins(&self) -> u32 {
        self.pins.load(Ordering::Acquire)
    }

    /// The frame's only mapping.
    #[inline]
    pub fn mapping(&self) -> Option<Mapping> {
        Mapping::decode(self.reverse_map.load(Ordering::Relaxed))
    }

    /// Whether somebody holds the frame's lock.
    #[inline]
    pub fn is_locked(&self) -> bool {
        self.state.load(Ordering::Relaxed) & LOCKED != 0
    }

    /// Tries to take the frame's lock.
    #[inline]
    pub(crate) fn try_lock(&self) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        state & LOCKED == 0
            && self.state.compare_exchange(state, state | LOCKED, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Gives the frame's lock back.
    #[inline]
    pub(crate) fn unlock(&self) {
        self.state.fetch_and(!LOCKED, Ordering::Release);
    }

    /// The first mapping of a frame that one owner holds: its reference becomes the mapping's.
    #[inline]
    pub(crate) fn map_first(&self, mapping: Mapping) {
        self.change_kind(FrameKind::Anonymous);
        self.reverse_map.store(mapping.encode(), Ordering::Relaxed);
        self.mappings.store(1, Ordering::Release);
    }

    /// Takes the mapping away; its reference stays with the caller.
    #[inline]
    pub(crate) fn unmap_last(&self) {
        self.reverse_map.store(0, Ordering::Relaxed);
        self.mappings.store(0, Ordering::Release);
        self.change_kind(FrameKind::Owned);
    }

    /// Drops one reference and returns whether it was the last.
    #[inline]
    pub(crate) fn release(&self) -> bool {
        self.references.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Takes a pin, with its reference.
    pub(crate) fn pin(&self) {
        self.references.fetch_add(1, Ordering::AcqRel);
        self.pins.fetch_add(1, Ordering::AcqRel);
    }

    /// Drops a pin; its reference stays with the caller.
    pub(crate) fn unpin(&self) {
        self.pins.fetch_sub(1, Ordering::AcqRel);
    }

    /// The one reference of a frame that was just allocated.
    #[inline]
    pub(crate) fn set_first_reference(&self) {
        self.references.store(1, Ordering::Release);
    }

    /// The last reference of a frame that is about to be freed.
    #[inline]
    pub(crate) fn clear_last_reference(&self) {
        self.references.store(0, Ordering::Release);
    }

    /// Previous and next frame of the list that the frame is in.
    #[inline]
    pub(crate) fn link(&self) -> (u32, u32) {
        let link = self.link.load(Ordering::Relaxed);
        ((link >> 32) as u32, link as u32)
    }

    /// Sets previous and next frame of the list.
    #[inline]
    pub(crate) fn set_link(&self, previous: u32, next: u32) {
        self.link.store(u64::from(previous) << 32 | u64::from(next), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_survive_their_word() {
        for (space, address) in [(0, 0x20_0000), (u16::MAX >> 1, 0x7fff_ffff_f000), (7, 0x1234_5678_9000)] {
            let mapping =
                Mapping { space: SpaceId::from_number(space), page: Page::containing_address(VirtAddr::new(address)) };
            assert_eq!(Mapping::decode(mapping.encode()), Some(mapping));
        }
        assert_eq!(Mapping::decode(0), None);
    }

    #[test]
    fn the_lock_keeps_kind_and_order() {
        let descriptor = Descriptor::new();
        descriptor.set_kind(FrameKind::Anonymous, 3);
        assert!(descriptor.try_lock());
        assert!(!descriptor.try_lock());
        assert_eq!((descriptor.kind(), descriptor.order()), (FrameKind::Anonymous, 3));
        descriptor.unlock();
        assert!(descriptor.try_lock());
    }
}
