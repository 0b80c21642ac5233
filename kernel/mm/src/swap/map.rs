//! The swap map: which slots are in use, by how many entries, and which frame holds the same page.
//!
//! ```text
//!   slot         entries   frame        written
//!   free         0         -            -
//!   on disk      n > 0     -            yes
//!   cached       any       its holder   yes: the slot equals the frame; no: the frame is the only copy
//! ```
//!
//! Invariants:
//! 1. A slot is in use for as long as an entry names it or a frame holds it.
//! 2. A slot that no frame holds is written: its contents stand on the disk.
//! 3. `frame` changes only under the lock of that frame, so whoever has the lock may trust it.
//!
//! Lock: one for all slots, [`Level::SwapMap`], a leaf. No disk is waited for while it is held.
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};
use x86_64::structures::paging::PhysFrame;

use super::SwapDisk;
use crate::frame::{NO_FRAME, frame_of, number};
use crate::lock::{Level, Lock, LockGuard};
use crate::machine::Machine;
use crate::manager::MemoryManager;
use crate::page_table::entry::SwapSlot;

/// The largest number of slots: a frame's descriptor has 28 bits for the one that holds its page, and 0 means none. 1 TiB.
pub const MAX_SLOTS: u64 = (1 << 28) - 1;

/// Why a disk was not attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttachError {
    /// There is a disk already.
    Taken,
    /// It has this many slots, more than [`MAX_SLOTS`].
    TooLarge(u64),
    /// The heap has no room for the map of this many slots.
    HeapFull(u64),
}

impl core::fmt::Display for AttachError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Taken => f.write_str("there is a swap disk already; one is supported"),
            Self::TooLarge(slots) => {
                write!(f, "a swap disk of {slots} pages is too large; make it {MAX_SLOTS} pages at most")
            }
            Self::HeapFull(slots) => {
                write!(f, "the heap has no room for the map of {slots} slots; make the swap disk smaller")
            }
        }
    }
}

impl core::error::Error for AttachError {}

/// What is known about a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotUse {
    /// Entries that name it, in all spaces.
    pub entries: u32,
    /// The frame that holds the same page: it is in the swap cache.
    pub frame: Option<PhysFrame>,
    /// Whether the page's contents stand on the disk.
    pub written: bool,
}

/// One slot. While it is free, `frame` is the next free slot, or [`NO_FRAME`].
#[derive(Clone, Copy)]
struct Slot {
    entries: u32,
    frame: u32,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Unwritten,
    Written,
}

struct Slots {
    slots: Vec<Slot>,
    head: u32,
    free: u64,
}

/// The slots of the disk.
pub struct SwapMap<M: Machine> {
    disk: Box<dyn SwapDisk<M>>,
    slots: Lock<Slots>,
    /// The hand of the clock that chooses pages to swap out: a frame's number.
    hand: AtomicUsize,
}

impl<M: Machine> SwapMap<M> {
    /// The slots of `disk`, all free.
    fn new(disk: Box<dyn SwapDisk<M>>) -> Result<Self, AttachError> {
        let count = disk.slots();
        if count > MAX_SLOTS {
            return Err(AttachError::TooLarge(count));
        }
        let count = count as u32;
        let mut slots = Vec::new();
        slots.try_reserve_exact(count as usize).map_err(|_| AttachError::HeapFull(count.into()))?;
        slots.extend((1..=count).map(|next| {
            let next = if next == count { NO_FRAME } else { next };
            Slot { entries: 0, frame: next, state: State::Free }
        }));
        let head = if count == 0 { NO_FRAME } else { 0 };
        let slots = Lock::new(Level::SwapMap, Slots { slots, head, free: count.into() });
        Ok(Self { disk, slots, hand: AtomicUsize::new(0) })
    }

    /// The disk.
    pub fn disk(&self) -> &dyn SwapDisk<M> {
        &*self.disk
    }

    /// Slots that are free.
    pub fn free(&self, machine: &M) -> u64 {
        self.lock(machine).free
    }

    /// How a slot is used; `None` where it is free or there is none.
    pub fn slot_use(&self, machine: &M, slot: SwapSlot) -> Option<SlotUse> {
        let slots = self.lock(machine);
        let slot = slots.slots.get(slot.number() as usize).filter(|slot| slot.state != State::Free)?;
        Some(SlotUse { entries: slot.entries, frame: slot.holder(), written: slot.state == State::Written })
    }

    /// Takes a free slot for the page in `frame`, which holds it from now on; `None` where every slot is in use.
    pub(super) fn take(&self, machine: &M, frame: PhysFrame) -> Option<SwapSlot> {
        let mut slots = self.lock(machine);
        let index = slots.head;
        let slot = slots.slots.get_mut(index as usize)?;
        let next = slot.frame;
        *slot = Slot { entries: 0, frame: number(frame), state: State::Unwritten };
        slots.head = next;
        slots.free -= 1;
        SwapSlot::new(index.into())
    }

    /// `count` entries more name the slot.
    pub(crate) fn add_entries(&self, machine: &M, slot: SwapSlot, count: u32) {
        self.lock(machine).get(slot).entries += count;
    }

    /// One entry less names the slot. The frame that holds it, where that was the last one.
    pub(super) fn remove_entry(&self, machine: &M, slot: SwapSlot) -> Option<PhysFrame> {
        let mut slots = self.lock(machine);
        let record = slots.get(slot);
        record.entries -= 1;
        let holder = record.holder().filter(|_| record.entries == 0);
        slots.free_unused(slot);
        holder
    }

    /// Makes `frame` the holder of a slot whose contents stand on the disk; `false` where it has a holder, or where nobody
    /// needs it any more.
    pub(super) fn hold(&self, machine: &M, slot: SwapSlot, frame: PhysFrame) -> bool {
        let mut slots = self.lock(machine);
        let record = slots.get(slot);
        let needed = record.entries > 0 && record.holder().is_none();
        if needed {
            record.frame = number(frame);
        }
        needed
    }

    /// Takes the slot from the frame that holds it, where `spare` says so of its use; whether it did.
    pub(super) fn let_go_if(&self, machine: &M, slot: SwapSlot, spare: impl Fn(SlotUse) -> bool) -> bool {
        let mut slots = self.lock(machine);
        let record = slots.get(slot);
        let written = record.state == State::Written;
        let spare = spare(SlotUse { entries: record.entries, frame: record.holder(), written });
        if spare {
            debug_assert!(written || record.entries == 0, "the only copy of slot {} is let go", slot.number());
            record.frame = NO_FRAME;
            slots.free_unused(slot);
        }
        spare
    }

    /// Notes that the page's contents stand on the disk.
    pub(super) fn set_written(&self, machine: &M, slot: SwapSlot) {
        self.lock(machine).get(slot).state = State::Written;
    }

    /// The frame number at which the clock's hand stands; it moves on by one.
    pub(super) fn advance_hand(&self, frames: usize) -> usize {
        self.hand.fetch_add(1, Ordering::Relaxed) % frames
    }

    fn lock<'a>(&'a self, machine: &'a M) -> LockGuard<'a, Slots, M> {
        self.slots.lock(machine)
    }
}

impl Slot {
    fn holder(&self) -> Option<PhysFrame> {
        (self.state != State::Free && self.frame != NO_FRAME).then(|| frame_of(self.frame))
    }
}

impl Slots {
    fn get(&mut self, slot: SwapSlot) -> &mut Slot {
        &mut self.slots[slot.number() as usize]
    }

    fn free_unused(&mut self, slot: SwapSlot) {
        let head = self.head;
        let record = self.get(slot);
        if record.entries == 0 && record.frame == NO_FRAME && record.state != State::Free {
            *record = Slot { entries: 0, frame: head, state: State::Free };
            self.head = slot.number() as u32;
            self.free += 1;
        }
    }
}

impl<M: Machine> MemoryManager<M> {
    /// Lets pages go to `disk`, whose contents no longer matter, where RAM runs short.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn attach_swap(&self, disk: Box<dyn SwapDisk<M>>) -> Result<(), AttachError> {
        self.swap.set(&self.machine, SwapMap::new(disk)?).map_err(|_| AttachError::Taken)
    }

    /// The slots, where a disk is attached.
    #[inline]
    pub fn swap(&self) -> Option<&SwapMap<M>> {
        self.swap.get()
    }

    /// The slots of the disk that an entry or a frame names.
    #[inline]
    pub(crate) fn slots(&self) -> &SwapMap<M> {
        self.swap.get().expect("a slot is named, so a disk is attached")
    }
}
