//! What is known about one frame, in 32 bytes: two descriptors share a cache line.
//!
//! ```text
//!  0          4            8          12        16               24             32
//!  ┌──────────┬────────────┬──────────┬─────────┬────────────────┬──────────────┐
//!  │ state    │ references │ mappings │ pins    │ reverse map    │ list link    │
//!  └──────────┴────────────┴──────────┴─────────┴────────────────┴──────────────┘
//!    state: kind (bits 0-7), order of a free block or owner of a table (8-15), STAYS (16-24), LOCKED (29), UNWANTED (30)
//!    reverse map: origin (bits 0-34), slot of the swap cache + 1 (35-62), holds a page (63)
//! ```
//!
//! Every field is atomic; which lock protects a change of which field:
//! 1. Kind, order and list link of a free frame: the free-list lock of its allocator.
//! 2. Mappings and reverse map: whoever adds a mapping holds one already, under the exclusive areas of its space; whoever
//!    removes one owned it; a migration, which moves all of them, holds the frame's own lock and every entry.
//! 3. The LOCKED bit is the frame's own lock. A migration tries it and gives the page up where it is taken; who waits for it,
//!    and why that ends, is in [`crate::lock`]. While it is held the frame does not lose its last mapping by another hand, so it
//!    is not freed. On a table frame the same bit is the lock of the page table.
//! 4. The UNWANTED bit says that a page's contents need not be kept unless an entry is dirty. Set under the lock of the table
//!    of its only entry; gone with the last mapping.
//! 5. STAYS counts how often a page that came home for an access must not be taken away again before that access was made
//!    ([`MOST_REFUSALS`]). Set before its entry is written, counted down under the lock of a table that maps it, gone with the last
//!    mapping.
mod kind;

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::page_table::entry::SwapSlot;
use crate::space::{MAX_SPACES, SpaceId};
use crate::stats::Reason;
use crate::swap::MAX_SLOTS;

pub use kind::FrameKind;
use kind::KIND_MASK;

const ORDER_SHIFT: u32 = 8;
const ORDER_MASK: u32 = 0xff << ORDER_SHIFT;
const STAYS_SHIFT: u32 = 16;
const STAYS_MASK: u32 = 0x1ff << STAYS_SHIFT;
const LOCKED: u32 = 1 << 29;
const UNWANTED: u32 = 1 << 30;

/// How often a page that came home for an access is not taken away again while its entry says that the access was not made yet: the
/// minimum residency.
///
/// In calls, not in time: a call that takes pages costs about a microsecond, and a CPU needs less to come back from its fault. The
/// bound is for an access that never comes.
pub const MOST_REFUSALS: u32 = 256;

const _: () = assert!(MOST_REFUSALS << STAYS_SHIFT & !STAYS_MASK == 0);

/// Which page a frame holds, by the page number that it had where it was first mapped.
///
/// A fork leaves pages where they are and a move keeps the origin of its area (see [`crate::space::Area`]), so the
/// origin finds a frame's mappings in every space without a list of them. (Linux: `anon_vma` and `page->index`.)
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub struct Origin(pub(crate) u64);

impl Origin {
    /// The origin of the page `pages` pages after this one's in its area.
    #[inline(always)]
    pub(crate) const fn after(self, pages: u64) -> Self {
        Self(self.0 + pages)
    }
}

/// The reverse map's word: the origin, the slot of the swap cache plus one, and whether the frame holds a page at all.
const ORIGIN_BITS: u32 = 35;
const ORIGIN_MASK: u64 = (1 << ORIGIN_BITS) - 1;
const SLOT_MASK: u64 = ((1 << 28) - 1) << ORIGIN_BITS;
const MAPPED: u64 = 1 << 63;

const _: () = assert!(MAX_SLOTS << ORIGIN_BITS == SLOT_MASK && SLOT_MASK & MAPPED == 0);

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
const _: () = assert!(MAX_SPACES < ORDER_MASK as usize >> ORDER_SHIFT, "the owner of a table fits");

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

    /// Whether the frame is used for `kind`.
    #[inline(always)]
    pub(crate) fn is(&self, kind: FrameKind) -> bool {
        self.state.load(Ordering::Relaxed) & KIND_MASK == kind as u32
    }

    /// Whether the frame is not ours to use.
    #[inline(always)]
    pub(crate) fn is_reserved(&self) -> bool {
        self.is(FrameKind::Reserved)
    }

    /// The order of the free block that begins here.
    #[inline]
    pub(crate) fn order(&self) -> u8 {
        ((self.state.load(Ordering::Relaxed) & ORDER_MASK) >> ORDER_SHIFT) as u8
    }

    /// Makes an unlocked frame a page table of `space`, or of the kernel.
    pub(crate) fn make_table(&self, space: Option<SpaceId>) {
        let owner = space.map_or(0, |space| space.number() as u8 + 1);
        self.set_kind(FrameKind::Table, owner);
    }

    /// The space whose table this frame is; `None` for one of the kernel's.
    #[inline]
    pub(crate) fn table_owner(&self) -> Option<SpaceId> {
        SpaceId::new(u16::from(self.order()).checked_sub(1)?)
    }

    /// Sets kind and order of an unlocked frame.
    #[inline(always)]
    pub(crate) fn set_kind(&self, kind: FrameKind, order: u8) {
        self.state.store(kind as u32 | u32::from(order) << ORDER_SHIFT, Ordering::Relaxed);
    }

    /// Changes the kind of a frame that may be locked.
    #[inline]
    pub(crate) fn change_kind(&self, kind: FrameKind) {
        let mut state = self.state.load(Ordering::Relaxed);
        // Exchanged, because somebody may lock or unlock meanwhile.
        while let Err(now) =
            self.state.compare_exchange_weak(state, kind as u32 | state & LOCKED, Ordering::AcqRel, Ordering::Relaxed)
        {
            state = now;
        }
    }

    /// References: one for each mapping, one for each pin, one for the swap cache, and those of code that works on the frame
    /// right now.
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

    /// The origin of the page that the frame holds.
    #[inline]
    pub fn origin(&self) -> Option<Origin> {
        let word = self.reverse_map.load(Ordering::Relaxed);
        (word & MAPPED != 0).then_some(Origin(word & ORIGIN_MASK))
    }

    /// The slot whose page the frame holds in the swap cache.
    #[inline(always)]
    pub fn swap_slot(&self) -> Option<SwapSlot> {
        let slot = (self.reverse_map.load(Ordering::Acquire) & SLOT_MASK) >> ORIGIN_BITS;
        slot.checked_sub(1).and_then(SwapSlot::new)
    }

    /// Whether the frame is in the swap cache.
    #[inline(always)]
    pub(crate) fn is_swap_cached(&self) -> bool {
        self.reverse_map.load(Ordering::Acquire) & SLOT_MASK != 0
    }

    /// Whether somebody holds the frame's lock.
    #[inline]
    pub fn is_locked(&self) -> bool {
        self.state.load(Ordering::Relaxed) & LOCKED != 0
    }

    /// Tries to take the lock of a page table.
    #[inline]
    pub(crate) fn try_lock(&self) -> bool {
        self.state.fetch_or(LOCKED, Ordering::Acquire) & LOCKED == 0
    }

    /// Tries to take the lock of a frame that holds a page. A frame that has lost its last mapping holds none, so that it
    /// cannot be locked while it is on its way to the free list.
    #[inline(always)]
    pub(crate) fn try_lock_page(&self) -> bool {
        let page = FrameKind::Anonymous as u32 | self.state.load(Ordering::Relaxed) & (UNWANTED | STAYS_MASK);
        self.state.compare_exchange(page, page | LOCKED, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Whether the page's contents need not be kept: its owner said so ([`crate::space::Space::free_lazily`]), and has not
    /// changed its mind unless an entry that maps the page is dirty.
    #[inline]
    pub fn is_unwanted(&self) -> bool {
        self.state.load(Ordering::Relaxed) & UNWANTED != 0
    }

    /// Notes that the page's contents need not be kept.
    pub(crate) fn set_unwanted(&self) {
        self.state.fetch_or(UNWANTED, Ordering::Relaxed);
    }

    /// Notes that the page's contents are wanted again.
    pub(crate) fn clear_unwanted(&self) {
        self.state.fetch_and(!UNWANTED, Ordering::Relaxed);
    }

    /// Notes that the page came home for an access that is still to be made.
    #[inline]
    pub(crate) fn begin_stay(&self) {
        self.state.fetch_or(MOST_REFUSALS << STAYS_SHIFT, Ordering::Relaxed);
    }

    /// Whether a page whose entry no CPU has used must stay for the access that it came home for. Counts: the answer is `true`
    /// [`MOST_REFUSALS`] times at most.
    #[inline]
    pub(crate) fn refuses_to_leave(&self) -> bool {
        let one_less = |state: u32| (state & STAYS_MASK != 0).then(|| state - (1 << STAYS_SHIFT));
        self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }

    /// Whether the page came home for an access, and nobody has asked often since whether it was made.
    #[inline]
    pub(crate) fn stays(&self) -> bool {
        self.state.load(Ordering::Relaxed) & STAYS_MASK != 0
    }

    /// Notes that the page's access was made, or need not be waited for any more.
    #[inline]
    pub(crate) fn end_stay(&self) {
        self.state.fetch_and(!STAYS_MASK, Ordering::Relaxed);
    }

    /// Gives the frame's lock back.
    #[inline]
    pub(crate) fn unlock(&self) {
        self.state.fetch_and(!LOCKED, Ordering::Release);
    }

    /// Makes a frame that has one owner hold the page of `origin`, mapped by `mappings` entries, each with its reference;
    /// the owner's reference becomes the first one's.
    #[inline(always)]
    pub(crate) fn map(&self, origin: Origin, mappings: u32) {
        self.map_as(FrameKind::Anonymous, origin, mappings);
    }

    /// The same for a page of `kind`.
    #[inline(always)]
    pub(crate) fn map_as(&self, kind: FrameKind, origin: Origin, mappings: u32) {
        self.reverse_map.store(MAPPED | origin.0, Ordering::Relaxed);
        self.references.store(mappings, Ordering::Relaxed);
        self.mappings.store(mappings, Ordering::Release);
        // Last: from now on somebody may lock the frame who found it by its number. Nobody has: it held no page.
        self.state.store(kind as u32, Ordering::Release);
    }

    /// The same for one mapping of a page that came home for an access that is still to be made: see [`Self::begin_stay`].
    #[inline(always)]
    pub(crate) fn map_to_stay(&self, origin: Origin) {
        self.reverse_map.store(MAPPED | origin.0, Ordering::Relaxed);
        self.references.store(1, Ordering::Relaxed);
        self.mappings.store(1, Ordering::Release);
        self.state.store(FrameKind::Anonymous as u32 | MOST_REFUSALS << STAYS_SHIFT, Ordering::Release);
    }

    /// Whether one mapping is all there is. Steady for who has the frame's lock and the areas of the space whose mapping it is.
    #[inline(always)]
    pub(crate) fn is_used_once(&self) -> bool {
        self.mappings() == 1 && self.references() == 1
    }

    /// Ends the only mapping of a device frame that [is used once](Self::is_used_once), with its reference, and gives its lock back: it is
    /// ready to be freed.
    #[inline(always)]
    pub(crate) fn end_locked_mapping(&self) {
        self.reverse_map.store(0, Ordering::Relaxed);
        self.references.store(0, Ordering::Relaxed);
        self.mappings.store(0, Ordering::Release);
        self.state.store(FrameKind::Owned as u32, Ordering::Release);
    }

    /// Origin and number of mappings of a frame that is mapped.
    #[inline]
    pub(crate) fn holding(&self) -> (Origin, u32) {
        (self.origin().expect("a mapped frame holds a page"), self.mappings())
    }

    /// One entry more maps the frame, with its reference.
    #[inline]
    pub(crate) fn add_mapping(&self) {
        self.references.fetch_add(1, Ordering::AcqRel);
        self.mappings.fetch_add(1, Ordering::AcqRel);
    }

    /// `count` entries less map the frame; their references stay with the caller. In the swap cache it holds its page also
    /// without a mapping.
    #[inline]
    pub(crate) fn remove_mappings(&self, count: u32) {
        let before = self.mappings.fetch_sub(count, Ordering::AcqRel);
        debug_assert!(before >= count, "{count} mappings removed of {before}");
        if before == count && self.swap_slot().is_none() {
            self.reverse_map.store(0, Ordering::Relaxed);
            self.change_kind(FrameKind::Owned);
        }
    }

    /// Removes one mapping, whose entry is gone, of a frame that is not in the swap cache; its reference stays with the caller.
    /// `false` where it is the last one and somebody has the frame's lock: for whom the frame must go on holding its page.
    pub(crate) fn try_remove_mapping(&self) -> bool {
        let all_but_one = |mappings| if mappings > 1 { Some(mappings - 1) } else { None };
        if self.mappings.fetch_update(Ordering::AcqRel, Ordering::Acquire, all_but_one).is_ok() {
            return true;
        }
        // The last one, and nobody can add any: only the space could that has lost it.
        let state = self.state.load(Ordering::Relaxed);
        let unlocked = state & !LOCKED;
        let owned = FrameKind::Owned as u32;
        if self.state.compare_exchange(unlocked, owned, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        self.reverse_map.store(0, Ordering::Relaxed);
        self.mappings.store(0, Ordering::Release);
        true
    }

    /// Puts a locked frame that holds a page into the swap cache, with its reference.
    pub(crate) fn enter_swap_cache(&self, slot: SwapSlot) {
        self.references.fetch_add(1, Ordering::AcqRel);
        self.reverse_map.fetch_or((slot.number() + 1) << ORIGIN_BITS, Ordering::AcqRel);
    }

    /// Makes a frame that has one owner hold the page of `slot`, unmapped and locked; the owner's reference becomes the swap
    /// cache's.
    pub(crate) fn enter_fresh(&self, slot: SwapSlot, origin: Origin) {
        self.reverse_map.store(MAPPED | (slot.number() + 1) << ORIGIN_BITS | origin.0, Ordering::Release);
        self.state.store(FrameKind::Anonymous as u32 | LOCKED, Ordering::Release);
    }

    /// Takes a locked frame out of the swap cache; its reference stays with the caller. A frame that nobody maps holds no page
    /// from then on.
    pub(crate) fn leave_swap_cache(&self) {
        self.reverse_map.fetch_and(!SLOT_MASK, Ordering::AcqRel);
        if self.mappings() == 0 {
            self.reverse_map.store(0, Ordering::Relaxed);
            self.change_kind(FrameKind::Owned);
        }
    }

    /// One entry more maps a locked frame in the swap cache. The first says which page it is: the slot may have held another
    /// one when its reading began.
    pub(crate) fn map_cached(&self, origin: Origin) {
        if self.mappings() == 0 {
            let slot = self.reverse_map.load(Ordering::Relaxed) & SLOT_MASK;
            self.reverse_map.store(MAPPED | slot | origin.0, Ordering::Release);
        }
        self.add_mapping();
    }

    /// Whether a frame that holds a page has one mapping, the reference of that, and no other user. Steady only while nobody can reach the
    /// page through a mapping.
    #[inline(always)]
    pub(crate) fn has_sole_mapping(&self) -> bool {
        self.mappings() == 1 && self.references() == 1 && self.pins() == 0
    }

    /// Ends the mappings of a frame that the caller has locked, that has no other user, and that is not in the swap cache; with their
    /// references and the lock. `false`, and nothing has changed, where it has another user or is.
    #[inline(always)]
    pub(crate) fn end_mappings(&self) -> bool {
        if self.references() != self.mappings() || self.pins() > 0 || self.is_swap_cached() {
            return false;
        }
        self.reverse_map.store(0, Ordering::Relaxed);
        self.references.store(0, Ordering::Relaxed);
        self.mappings.store(0, Ordering::Relaxed);
        // Last: from now on nobody can lock the frame, which holds no page.
        self.state.store(FrameKind::Owned as u32, Ordering::Release);
        true
    }

    /// Ends the only mapping of a frame, whose entry is gone, with its reference, where nobody else uses the frame: then it is ready to be
    /// freed. `false`, and nothing has changed, where somebody has its lock, it is in the swap cache or has another user.
    #[inline(always)]
    pub(crate) fn end_sole_mapping(&self) -> bool {
        if self.mappings() != 1 || self.references() != 1 || self.is_swap_cached() {
            return false;
        }
        // From here on nobody can lock the frame, or come to use it: it has no mapping but this.
        let unlocked = self.state.load(Ordering::Relaxed) & !LOCKED;
        let owned = FrameKind::Owned as u32;
        if self.state.compare_exchange(unlocked, owned, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        if self.references() != 1 || self.is_swap_cached() {
            // Somebody had it for a moment before.
            self.state.store(unlocked, Ordering::Release);
            return false;
        }
        self.reverse_map.store(0, Ordering::Relaxed);
        self.references.store(0, Ordering::Relaxed);
        self.mappings.store(0, Ordering::Release);
        true
    }

    /// Drops `count` references and returns whether none is left.
    #[inline]
    pub(crate) fn release(&self, count: u32) -> bool {
        self.references.fetch_sub(count, Ordering::AcqRel) == count
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

    /// What kind of user the frame has beside its mappings. Steady only while nobody can reach the page through a mapping.
    #[inline]
    pub(crate) fn other_user(&self) -> Option<Reason> {
        if self.pins() > 0 {
            Some(Reason::Pinned)
        } else if self.references() != self.mappings() {
            Some(Reason::Referenced)
        } else {
            None
        }
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
    #[inline(always)]
    pub(crate) fn link(&self) -> (u32, u32) {
        let link = self.link.load(Ordering::Relaxed);
        ((link >> 32) as u32, link as u32)
    }

    /// Sets previous and next frame of the list.
    #[inline(always)]
    pub(crate) fn set_link(&self, previous: u32, next: u32) {
        self.link.store(u64::from(previous) << 32 | u64::from(next), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
