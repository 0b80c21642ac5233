//! RAM: the descriptors of its frames and the allocator over them.
use core::sync::atomic::{AtomicU64, Ordering};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use super::AnyFrame;
use super::buddy::BuddyLists;
use super::descriptor::{Descriptor, FrameKind};
use crate::address::PAGE_BYTES;
use crate::inject::{Injector, Step};
use crate::lock::{Level, Lock, assert_may_take_frames};
use crate::machine::Machine;
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

/// All RAM frames: descriptors indexed by frame number, and the free ones in buddy lists.
pub struct SystemMemory<D> {
    descriptors: D,
    lists: Lock<BuddyLists>,
    tables: AtomicU64,
}

impl<D: core::ops::Deref<Target = [Descriptor]>> SystemMemory<D> {
    /// RAM with these descriptors, indexed by frame number from physical address 0; all frames reserved so far.
    pub fn new(descriptors: D) -> Self {
        Self { descriptors, lists: Lock::new(Level::Frames, BuddyLists::new()), tables: AtomicU64::new(0) }
    }

    /// Hands over the reserved frames from `first` on, `count` of them, to the allocator.
    ///
    /// # Panics
    /// Where a frame has no descriptor or is not reserved.
    pub fn donate<M: Machine>(&self, machine: &M, first: PhysFrame, count: u64) {
        let mut lists = self.lists.lock(machine);
        let first = number(first);
        for frame in u64::from(first)..u64::from(first) + count {
            let frame = u32::try_from(frame).expect("frame numbers fit 32 bits");
            assert!(self.descriptors[frame as usize].kind() == FrameKind::Reserved, "frame {frame:#x} donated twice");
            lists.free_block(&self.descriptors, frame, 0);
        }
    }

    /// The descriptor of a frame.
    ///
    /// # Panics
    /// Where the frame is no RAM.
    #[inline]
    pub fn descriptor(&self, frame: PhysFrame) -> &Descriptor {
        &self.descriptors[number(frame) as usize]
    }

    /// Every descriptor, indexed by frame number.
    pub fn descriptors(&self) -> &[Descriptor] {
        &self.descriptors
    }

    /// Number of free frames.
    pub fn free<M: Machine>(&self, machine: &M) -> u64 {
        self.lists.lock(machine).free()
    }

    /// Number of frames that are page tables.
    pub fn tables(&self) -> u64 {
        self.tables.load(Ordering::Relaxed)
    }

    /// Takes a block of 2^`order` frames, whose contents are whatever they were.
    ///
    /// # Errors
    /// [`OutOfFrames`] where no free block is large enough.
    pub fn allocate_block<M: Machine>(&self, machine: &M, order: u8) -> Result<PhysFrame, OutOfFrames> {
        assert_may_take_frames(machine);
        let mut lists = self.lists.lock(machine);
        let block = lists.allocate(&self.descriptors, order).ok_or(OutOfFrames)?;
        // Still under the lock: whoever frees the buddy next must not find this block free.
        for frame in block..block + (1 << order) {
            let descriptor = &self.descriptors[frame as usize];
            descriptor.set_kind(FrameKind::Owned, 0);
            descriptor.set_first_reference();
        }
        drop(lists);
        record(machine, || Event::FrameTaken { frame: frame_of(block), order });
        Ok(frame_of(block))
    }

    /// Gives a block back that [`Self::allocate_block`] returned.
    pub fn free_block<M: Machine>(&self, machine: &M, block: PhysFrame, order: u8) {
        let block = number(block);
        for frame in block..block + (1 << order) {
            let descriptor = &self.descriptors[frame as usize];
            debug_assert_eq!((descriptor.mappings(), descriptor.pins()), (0, 0), "frame {frame:#x} freed in use");
            descriptor.set_kind(FrameKind::FreeTail, 0);
            descriptor.clear_last_reference();
        }
        record(machine, || Event::FrameFreed { frame: frame_of(block), order });
        self.lists.lock(machine).free_block(&self.descriptors, block, order);
    }

    /// Takes one frame; its contents are whatever they were.
    ///
    /// # Errors
    /// [`OutOfFrames`].
    #[inline]
    pub(crate) fn allocate<'m, M: Machine<Descriptors = D>>(
        &'m self,
        machine: &'m M,
        injector: &Injector,
    ) -> Result<OwnedFrame<'m, M>, OutOfFrames> {
        if injector.fails(Step::Alloc) {
            return Err(OutOfFrames);
        }
        let frame = self.allocate_block(machine, 0)?;
        Ok(OwnedFrame { memory: self, machine, frame })
    }

    /// Takes one frame filled with zeros.
    ///
    /// # Errors
    /// [`OutOfFrames`].
    #[inline]
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
}

impl<M: Machine> OwnedFrame<'_, M> {
    /// The frame.
    #[inline]
    pub fn frame(&self) -> PhysFrame {
        self.frame
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
