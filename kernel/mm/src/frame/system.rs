//! RAM: the descriptors of its frames and the allocator over them: buddy lists for all, and before them a cache for each CPU.
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use super::AnyFrame;
use super::buddy::{BuddyLists, MAX_ORDER};
use super::cache::{self, FrameCache};
use super::descriptor::{Descriptor, FrameKind};
use crate::address::PAGE_BYTES;
use crate::inject::{Injector, Step};
use crate::lock::{Level, Lock, assert_may_take_frames};
use crate::machine::{MAX_CPUS, Machine};
use crate::space::SpaceId;
use crate::trace::{Event, record};

/// No RAM frame is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfFrames;

impl core::fmt::Display for OutOfFrames {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("no RAM frame is free; give the machine more with --memory")
    }
}

impl core::error::Error for OutOfFrames {}

/// Looks for a free frame, in the lists and every cache, after which there is none; each further one means that another CPU has just
/// moved some from one to the other.
const MOST_LOOKS: u32 = 64;

/// All RAM frames: descriptors indexed by frame number, and the free ones in buddy lists.
pub struct SystemMemory<D> {
    descriptors: D,
    lists: Lock<BuddyLists>,
    /// Single free frames, by CPU.
    caches: [FrameCache; MAX_CPUS],
    /// How often frames were moved between the two, or began to be.
    moves_begun: AtomicU32,
    /// How often that was done.
    moves_ended: AtomicU32,
    tables: AtomicU64,
}

impl<D: core::ops::Deref<Target = [Descriptor]>> SystemMemory<D> {
    /// RAM with these descriptors, indexed by frame number from physical address 0; all frames reserved so far.
    pub fn new(descriptors: D) -> Self {
        Self {
            descriptors,
            lists: Lock::new(Level::Frames, BuddyLists::new()),
            caches: [const { FrameCache::new() }; MAX_CPUS],
            moves_begun: AtomicU32::new(0),
            moves_ended: AtomicU32::new(0),
            tables: AtomicU64::new(0),
        }
    }

    /// Hands over the reserved frames from `first` on, `count` of them, to the allocator.
    ///
    /// # Panics
    /// Where a frame has no descriptor or is not reserved.
    pub fn donate<M: Machine>(&self, machine: &M, first: PhysFrame, count: u64) {
        let end = u64::from(number(first)) + count;
        let end = u32::try_from(end).expect("frame numbers fit 32 bits");
        let mut lists = self.lists.lock(machine);
        let mut block = number(first);
        while block < end {
            // The largest block that begins here: aligned to its size, and no larger than what is left.
            let order = block.trailing_zeros().min((end - block).ilog2()).min(MAX_ORDER.into()) as u8;
            let frames = &self.descriptors[block as usize..][..1 << order];
            // Two passes without an exit for each frame, because RAM has so many.
            let unused = frames.iter().fold(true, |unused, descriptor| unused & descriptor.is_reserved());
            assert!(unused, "a frame of the {} from {block:#x} on is donated twice", frames.len());
            frames.iter().for_each(|descriptor| descriptor.set_kind(FrameKind::FreeTail, 0));
            lists.free_block(&self.descriptors, block, order);
            block += 1 << order;
        }
    }

    /// The descriptor of a frame.
    ///
    /// # Panics
    /// Where the frame is no RAM.
    #[inline(always)]
    pub fn descriptor(&self, frame: PhysFrame) -> &Descriptor {
        &self.descriptors[number(frame) as usize]
    }

    /// Every descriptor, indexed by frame number.
    #[inline]
    pub fn descriptors(&self) -> &[Descriptor] {
        &self.descriptors
    }

    /// The descriptor of a frame, where there is one.
    #[inline(always)]
    pub(crate) fn descriptor_of(&self, frame: PhysFrame) -> Option<&Descriptor> {
        self.descriptors.get((frame.start_address().as_u64() / PAGE_BYTES) as usize)
    }

    /// Number of free frames. Exact only while nobody takes or frees any.
    pub fn free<M: Machine>(&self, machine: &M) -> u64 {
        let cached: u64 = self.caches.iter().map(FrameCache::count).sum();
        cached + self.lists.lock(machine).free()
    }

    /// Number of frames that are page tables.
    pub fn tables(&self) -> u64 {
        self.tables.load(Ordering::Relaxed)
    }

    /// Takes a block of 2^`order` frames, whose contents are whatever they were.
    ///
    /// # Errors
    /// [`OutOfFrames`] where no free block is large enough.
    #[inline(always)]
    pub fn allocate_block<M: Machine>(&self, machine: &M, order: u8) -> Result<PhysFrame, OutOfFrames> {
        assert_may_take_frames(machine);
        if order == 0 {
            return self.take_frame(machine).map(|(frame, _)| frame);
        }
        let block = self.take_block(machine, order).ok_or(OutOfFrames)?;
        record(machine, || Event::FrameTaken { frame: frame_of(block), order });
        Ok(frame_of(block))
    }

    /// Takes one frame, with what is known about it.
    #[inline(always)]
    fn take_frame<M: Machine>(&self, machine: &M) -> Result<(PhysFrame, &Descriptor), OutOfFrames> {
        let cache = self.cache_of(machine);
        let (frame, descriptor) = match cache.take(machine, &self.descriptors) {
            Some(taken) => taken,
            None => {
                self.fetch(machine, cache).map(|frame| (frame, &self.descriptors[frame as usize])).ok_or(OutOfFrames)?
            }
        };
        own(descriptor);
        record(machine, || Event::FrameTaken { frame: frame_of(frame), order: 0 });
        Ok((frame_of(frame), descriptor))
    }

    /// Gives a block back that [`Self::allocate_block`] returned.
    #[inline]
    pub fn free_block<M: Machine>(&self, machine: &M, block: PhysFrame, order: u8) {
        let block = number(block);
        for frame in block..block + (1 << order) {
            let descriptor = &self.descriptors[frame as usize];
            debug_assert_eq!((descriptor.mappings(), descriptor.pins()), (0, 0), "frame {frame:#x} freed in use");
            descriptor.clear_last_reference();
        }
        record(machine, || Event::FrameFreed { frame: frame_of(block), order });
        if order > 0 {
            for frame in block..block + (1 << order) {
                self.descriptors[frame as usize].set_kind(FrameKind::FreeTail, 0);
            }
            self.lists.lock(machine).free_block(&self.descriptors, block, order);
            return;
        }
        if let Some(spilled) = self.cache_of(machine).put(machine, &self.descriptors, block) {
            self.give_to_lists(machine, spilled);
        }
    }

    /// The cache of this CPU.
    #[inline(always)]
    pub(super) fn cache_of<M: Machine>(&self, machine: &M) -> &FrameCache {
        &self.caches[machine.cpu().number()]
    }

    /// Takes a block out of the lists; where they have none, of what the caches give back.
    fn take_block<M: Machine>(&self, machine: &M, order: u8) -> Option<u32> {
        let take = || {
            let mut lists = self.lists.lock(machine);
            let block = lists.allocate(&self.descriptors, order)?;
            // Still under the lock: whoever frees the buddy next must not find this block free.
            (block..block + (1 << order)).for_each(|frame| own(&self.descriptors[frame as usize]));
            Some(block)
        };
        take().or_else(|| {
            self.empty_caches(machine);
            take()
        })
    }

    /// Takes a frame where the cache of this CPU is empty: out of the lists, with some more for the cache, or the last ones of other
    /// CPUs' caches.
    #[cold]
    pub(super) fn fetch<M: Machine>(&self, machine: &M, cache: &FrameCache) -> Option<u32> {
        if let Some(frame) = self.fetch_block(machine, cache) {
            return Some(frame);
        }
        for _ in 0..MOST_LOOKS {
            let (ended, begun) = (self.moves_ended.load(Ordering::SeqCst), self.moves_begun.load(Ordering::SeqCst));
            let kept = self.caches.iter().find_map(|cache| cache.take(machine, &self.descriptors));
            if let Some(frame) = kept.map(|(frame, _)| frame).or_else(|| self.fetch_block(machine, cache)) {
                return Some(frame);
            }
            // The own attempt counts, too. Without any other, all were looked through while every free frame was in its place.
            if ended == begun && self.moves_begun.load(Ordering::SeqCst) == begun.wrapping_add(1) {
                return None;
            }
            machine.relax();
        }
        None
    }

    /// Takes a block out of the lists: one frame, and the others for the cache.
    fn fetch_block<M: Machine>(&self, machine: &M, cache: &FrameCache) -> Option<u32> {
        self.move_frames(|| {
            let (block, order) = {
                let mut lists = self.lists.lock(machine);
                let (block, order) = (0..=cache::FETCHED_ORDER)
                    .rev()
                    .find_map(|order| Some((lists.allocate(&self.descriptors, order)?, order)))?;
                // Still under the lock, as above.
                cache::chain(&self.descriptors, block..block + (1 << order));
                (block, order)
            };
            cache.put_chain(machine, &self.descriptors, block + 1..block + (1 << order));
            Some(block)
        })
    }

    /// Gives what the caches of all CPUs keep to the lists.
    #[cold]
    pub fn empty_caches<M: Machine>(&self, machine: &M) {
        for cache in self.caches.iter().filter(|cache| cache.count() > 0) {
            self.move_frames(|| self.give_to_lists(machine, cache.empty(machine)));
        }
    }

    /// Moves free frames between lists and caches: until `act` has ended they may be in neither.
    fn move_frames<R>(&self, act: impl FnOnce() -> R) -> R {
        self.moves_begun.fetch_add(1, Ordering::SeqCst);
        let result = act();
        self.moves_ended.fetch_add(1, Ordering::SeqCst);
        result
    }

    #[cold]
    pub(super) fn give_to_lists<M: Machine>(&self, machine: &M, frames: cache::Moved) {
        let mut lists = self.lists.lock(machine);
        for frame in frames.frames(&self.descriptors) {
            lists.free_block(&self.descriptors, frame, 0);
        }
    }

    /// Takes one frame; its contents are whatever they were.
    ///
    /// # Errors
    /// [`OutOfFrames`].
    #[inline(always)]
    pub(crate) fn allocate<'m, M: Machine<Descriptors = D>>(
        &'m self,
        machine: &'m M,
        injector: &Injector,
    ) -> Result<OwnedFrame<'m, M>, OutOfFrames> {
        if injector.fails(Step::Alloc) {
            return Err(OutOfFrames);
        }
        assert_may_take_frames(machine);
        let (frame, descriptor) = self.take_frame(machine)?;
        Ok(OwnedFrame { memory: self, machine, frame, descriptor })
    }

    /// Takes one frame filled with zeros.
    ///
    /// # Errors
    /// [`OutOfFrames`].
    #[inline(always)]
    pub(crate) fn allocate_zeroed<'m, M: Machine<Descriptors = D>>(
        &'m self,
        machine: &'m M,
        injector: &Injector,
    ) -> Result<OwnedFrame<'m, M>, OutOfFrames> {
        let frame = self.allocate(machine, injector)?;
        machine.clear(AnyFrame::System(frame.frame));
        Ok(frame)
    }

    /// Frees a frame whose last reference was dropped.
    #[inline]
    pub(crate) fn free_frame<M: Machine>(&self, machine: &M, frame: PhysFrame) {
        self.free_block(machine, frame, 0);
    }

    /// Notes that an owned frame became a page table of `space`, or of the kernel.
    pub(crate) fn make_table(&self, frame: PhysFrame, space: Option<SpaceId>) {
        self.descriptor(frame).make_table(space);
        self.tables.fetch_add(1, Ordering::Relaxed);
    }

    /// Frees a page table that no entry names any more.
    pub(crate) fn free_table<M: Machine>(&self, machine: &M, frame: PhysFrame) {
        self.tables.fetch_sub(1, Ordering::Relaxed);
        self.free_frame(machine, frame);
    }
}

/// A frame that is allocated and mapped nowhere; dropping it frees it.
#[must_use]
pub struct OwnedFrame<'m, M: Machine> {
    memory: &'m SystemMemory<M::Descriptors>,
    machine: &'m M,
    frame: PhysFrame,
    descriptor: &'m Descriptor,
}

/// Makes a free frame, which is in no list, one that has an owner.
#[inline(always)]
fn own(descriptor: &Descriptor) {
    descriptor.set_kind(FrameKind::Owned, 0);
    descriptor.set_first_reference();
}

impl<'m, M: Machine> OwnedFrame<'m, M> {
    /// A frame that was taken, with its one reference.
    #[inline]
    pub(super) fn new(memory: &'m SystemMemory<M::Descriptors>, machine: &'m M, frame: PhysFrame) -> Self {
        Self { memory, machine, frame, descriptor: memory.descriptor(frame) }
    }

    /// The frame.
    #[inline]
    pub fn frame(&self) -> PhysFrame {
        self.frame
    }

    /// What is known about the frame.
    #[inline(always)]
    pub(crate) fn descriptor(&self) -> &'m Descriptor {
        self.descriptor
    }

    /// Hands the frame's one reference to the caller, who maps it or frees it.
    #[inline]
    pub(crate) fn into_frame(self) -> PhysFrame {
        let frame = self.frame;
        core::mem::forget(self);
        frame
    }
}

impl<M: Machine> Drop for OwnedFrame<'_, M> {
    fn drop(&mut self) {
        self.memory.free_frame(self.machine, self.frame);
    }
}

/// A frame's number: its physical address in pages.
#[inline]
pub(crate) fn number(frame: PhysFrame) -> u32 {
    (frame.start_address().as_u64() / PAGE_BYTES) as u32
}

/// The frame of this number.
#[inline]
pub(crate) fn frame_of(number: u32) -> PhysFrame {
    PhysFrame::containing_address(PhysAddr::new_truncate(u64::from(number) * PAGE_BYTES))
}
