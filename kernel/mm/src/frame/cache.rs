//! Free frames that a CPU keeps at hand, so that most frames are taken and freed without the lists that all CPUs share.
//!
//! ```text
//!   take ◀── cache of this CPU ◀── a block of up to 64 frames ── buddy lists
//!   free ──▶ cache of this CPU ─── half of it, when it is full ─▶ buddy lists
//!                    ▲
//!                    └─ frames taken out, one by one, by whoever finds nothing in the lists; emptied where a block is needed
//! ```
//!
//! (Linux: `per_cpu_pages`; Bonwick's magazines.)
//!
//! Invariants:
//! 1. A frame in a cache is [`FrameKind::Free`] with the order [`CACHED`], which no block has: so no buddy joins it.
//! 2. A cache is a list through the frames' links, under its own lock. Only its CPU takes that often; who has found the lists
//!    empty takes that of every cache in turn. The lock of the lists is never taken with it: both are of one rank.
//! 3. A frame that is free and in no list is in the hands of a CPU that moves it from one to the other. Whoever finds no frame looks
//!    again where somebody has moved some meanwhile: memory is not full because frames are on their way.
use core::sync::atomic::{AtomicU32, Ordering};

use super::descriptor::{Descriptor, FrameKind, NO_FRAME};
use crate::lock::{Level, Lock};
use crate::machine::Machine;

/// The order in the descriptor of a frame that is in a cache.
const CACHED: u8 = u8::MAX;

/// The most frames that a cache keeps: 4 MiB.
const MOST: u32 = 1024;

/// How many it keeps where there were more; the others go back to the lists at once.
const KEPT: u32 = MOST / 2;

/// A block of at most this order is fetched from the lists at once.
pub(super) const FETCHED_ORDER: u8 = 6;

/// The cache of one CPU, apart from that of others also in the caches of the machine.
#[repr(align(64))]
pub(super) struct FrameCache {
    head: Lock<u32>,
    /// How many there are; changed with the lock held, read without.
    count: AtomicU32,
}

/// Frames on their way between a cache and the lists: a list that ends in [`NO_FRAME`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Moved(u32);

impl From<u32> for Moved {
    /// The frames of the list that begins with `first`.
    fn from(first: u32) -> Self {
        Self(first)
    }
}

impl Moved {
    /// The frames; the next is found before one is handed out, whose link may change then.
    pub(super) fn frames(self, descriptors: &[Descriptor]) -> impl Iterator<Item = u32> {
        let mut next = self.0;
        core::iter::from_fn(move || {
            let frame = next;
            next = descriptors.get(frame as usize)?.link().1;
            Some(frame)
        })
    }
}

/// Frames that are freed together: in a list, and in nobody's hands but the caller's.
#[must_use = "frames that are not given to SystemMemory::free_all are lost"]
pub(crate) struct FreedFrames {
    first: u32,
    last: u32,
    count: u32,
}

/// Frames that were taken out of a cache together.
pub(super) struct Taken {
    pub(super) first: u32,
    last: u32,
    pub(super) count: u64,
}

impl Taken {
    #[inline(always)]
    pub(super) fn push(&mut self, descriptors: &[Descriptor], frame: u32) {
        descriptors[frame as usize].set_link(NO_FRAME, self.first);
        if self.count == 0 {
            self.last = frame;
        }
        self.first = frame;
        self.count += 1;
    }

    pub(super) fn append(&mut self, descriptors: &[Descriptor], more: Self) {
        let Some(last) = descriptors.get(self.last as usize) else {
            *self = more;
            return;
        };
        if more.count > 0 {
            last.set_link(NO_FRAME, more.first);
            self.last = more.last;
            self.count += more.count;
        }
    }
}

impl FreedFrames {
    pub(crate) const fn new() -> Self {
        Self { first: NO_FRAME, last: NO_FRAME, count: 0 }
    }

    /// Adds a frame without owner, mapping or page.
    #[inline]
    pub(super) fn push(&mut self, descriptor: &Descriptor, frame: u32) {
        descriptor.set_kind(FrameKind::Free, CACHED);
        descriptor.set_link(NO_FRAME, self.first);
        if self.count == 0 {
            self.last = frame;
        }
        self.first = frame;
        self.count += 1;
    }
}

/// Makes the free frames `frames` of one block cached ones, in a list; whoever does holds the lock of the lists.
pub(super) fn chain(descriptors: &[Descriptor], frames: core::ops::Range<u32>) {
    let block = &descriptors[frames.start as usize..frames.end as usize];
    for (next, descriptor) in (frames.start + 1..).zip(block) {
        descriptor.set_kind(FrameKind::Free, CACHED);
        descriptor.set_link(NO_FRAME, next);
    }
    if let Some(last) = block.last() {
        last.set_link(NO_FRAME, NO_FRAME);
    }
}

impl FrameCache {
    pub(super) const fn new() -> Self {
        Self { head: Lock::new(Level::Frames, NO_FRAME), count: AtomicU32::new(0) }
    }

    /// How many frames are in it.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed).into()
    }

    /// Takes the frame that was put in last.
    #[inline(always)]
    pub(super) fn take<'d, M: Machine>(
        &self,
        machine: &M,
        descriptors: &'d [Descriptor],
    ) -> Option<(u32, &'d Descriptor)> {
        let mut head = self.head.lock(machine);
        let frame = *head;
        // No frame has the number that ends a list.
        let descriptor = descriptors.get(frame as usize)?;
        *head = descriptor.link().1;
        self.change_count(1u32.wrapping_neg());
        Some((frame, descriptor))
    }

    /// Takes up to `most` frames out.
    pub(super) fn take_many<M: Machine>(&self, machine: &M, descriptors: &[Descriptor], most: u64) -> Taken {
        let mut head = self.head.lock(machine);
        let (mut next, mut last, mut count) = (*head, NO_FRAME, 0);
        while count < most
            && let Some(descriptor) = descriptors.get(next as usize)
        {
            last = next;
            next = descriptor.link().1;
            count += 1;
        }
        let Some(end) = descriptors.get(last as usize) else { return Taken { first: NO_FRAME, last, count } };
        let first = core::mem::replace(&mut *head, next);
        self.change_count((count as u32).wrapping_neg());
        end.set_link(NO_FRAME, NO_FRAME);
        Taken { first, last, count }
    }

    /// Puts a frame in that nobody uses. Some come out again where the cache is full: for the lists.
    #[inline]
    pub(super) fn put<M: Machine>(&self, machine: &M, descriptors: &[Descriptor], frame: u32) -> Option<Moved> {
        let descriptor = &descriptors[frame as usize];
        descriptor.set_kind(FrameKind::Free, CACHED);
        let mut head = self.head.lock(machine);
        descriptor.set_link(NO_FRAME, *head);
        *head = frame;
        let count = self.change_count(1);
        if count > MOST { Some(self.spill(&mut head, descriptors)) } else { None }
    }

    /// Puts many frames in at once. Some come out again where the cache is full: for the lists.
    pub(super) fn put_all<M: Machine>(
        &self,
        machine: &M,
        descriptors: &[Descriptor],
        freed: FreedFrames,
    ) -> Option<Moved> {
        let FreedFrames { first, last, count } = freed;
        let mut head = self.head.lock(machine);
        descriptors.get(last as usize)?.set_link(NO_FRAME, *head);
        *head = first;
        let count = self.change_count(count);
        if count > MOST { Some(self.spill(&mut head, descriptors)) } else { None }
    }

    /// Puts the frames in that [`chain`] has made a list.
    pub(super) fn put_chain<M: Machine>(&self, machine: &M, descriptors: &[Descriptor], frames: core::ops::Range<u32>) {
        if frames.is_empty() {
            return;
        }
        let mut head = self.head.lock(machine);
        descriptors[frames.end as usize - 1].set_link(NO_FRAME, *head);
        *head = frames.start;
        self.change_count(frames.end - frames.start);
    }

    /// Takes every frame out.
    pub(super) fn empty<M: Machine>(&self, machine: &M) -> Moved {
        let mut head = self.head.lock(machine);
        self.count.store(0, Ordering::Relaxed);
        Moved(core::mem::replace(&mut *head, NO_FRAME))
    }

    #[cold]
    fn spill(&self, head: &mut u32, descriptors: &[Descriptor]) -> Moved {
        let spilled = self.count.load(Ordering::Relaxed) - KEPT;
        let first = *head;
        let mut last = first;
        for _ in 1..spilled {
            last = descriptors[last as usize].link().1;
        }
        let last = &descriptors[last as usize];
        *head = last.link().1;
        last.set_link(NO_FRAME, NO_FRAME);
        self.count.store(KEPT, Ordering::Relaxed);
        Moved(first)
    }

    /// Adds to the count, with the lock held, and returns it.
    #[inline]
    fn change_count(&self, more: u32) -> u32 {
        let count = self.count.load(Ordering::Relaxed).wrapping_add(more);
        self.count.store(count, Ordering::Relaxed);
        count
    }
}
