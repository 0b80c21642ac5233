//! Device memory: the descriptors of a device's frames and the allocator over them.
//!
//! Invariants:
//! 1. A free device frame is zero, so that nothing of a former owner is visible on the device. Memory is
//!    zero when the device is registered; a frame is cleared before it returns to the free list, not when it is taken.
//!    A device that died is not touched: its frames are cleared when it is readmitted.
//! 2. The free list is a stack: the frame freed last is taken first.
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::descriptor::{Descriptor, FrameKind, NO_FRAME};
use super::{AnyFrame, CpuWindow, DeviceFrame, DeviceId};
use crate::lock::{Level, Lock};
use crate::machine::Machine;
use crate::trace::{Event, record};
use x86_64::structures::paging::PhysFrame;

/// The device has no free frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceFull(pub DeviceId);

/// Frames of a device are still in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StillUsed {
    /// The device.
    pub device: DeviceId,
    /// How many frames.
    pub frames: u64,
}

impl core::fmt::Display for StillUsed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "{} frames of device {} are still in use; evict the device and drop its pins first",
            self.frames,
            self.device.number()
        )
    }
}

impl core::error::Error for StillUsed {}

/// Whether a device may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Condition {
    /// Frames are handed out.
    Open,
    /// No more frames are handed out; those that are, come home.
    Closed,
    /// The device died. What was in its memory is lost.
    Lost,
}

/// The frames of one device.
pub struct DeviceMemory<D> {
    id: DeviceId,
    pub(super) descriptors: D,
    pub(super) head: Lock<u32>,
    free: AtomicU64,
    condition: AtomicU8,
    window: Option<CpuWindow>,
}

impl<D: core::ops::Deref<Target = [Descriptor]>> DeviceMemory<D> {
    /// A private device, whose frames, one per descriptor, are all free and zero: CPUs do not map them.
    pub fn new(id: DeviceId, descriptors: D) -> Self {
        Self::of(id, descriptors, None)
    }

    /// A coherent device, whose frames, one per descriptor, are all free and zero: CPUs map them through `window`.
    pub fn coherent(id: DeviceId, descriptors: D, window: CpuWindow) -> Self {
        Self::of(id, descriptors, Some(window))
    }

    fn of(id: DeviceId, descriptors: D, window: Option<CpuWindow>) -> Self {
        let count = u32::try_from(descriptors.len()).unwrap_or(NO_FRAME);
        // The lowest frame comes out first, which makes a first look at the device easy to follow.
        let listed = &descriptors[..count as usize];
        for (next, descriptor) in (1..).zip(listed) {
            descriptor.set_kind(FrameKind::Free, 0);
            descriptor.set_link(NO_FRAME, next);
        }
        if let Some(last) = listed.last() {
            last.set_link(NO_FRAME, NO_FRAME);
        }
        let head = if count == 0 { NO_FRAME } else { 0 };
        Self {
            id,
            descriptors,
            head: Lock::new(Level::DeviceFrames, head),
            free: AtomicU64::new(u64::from(count)),
            condition: AtomicU8::new(Condition::Open as u8),
            window,
        }
    }

    /// The device.
    pub fn id(&self) -> DeviceId {
        self.id
    }

    /// Where CPUs map the frames; `None` for a private device.
    #[inline]
    pub fn window(&self) -> Option<CpuWindow> {
        self.window
    }

    /// The frame that stands at this physical frame of the window.
    #[inline]
    pub(crate) fn frame_at(&self, frame: PhysFrame) -> Option<DeviceFrame> {
        Some(DeviceFrame::new(self.id, self.window?.index_of(frame, self.frames())?))
    }

    /// Number of frames.
    pub fn frames(&self) -> u64 {
        self.descriptors.len() as u64
    }

    /// Number of free frames.
    pub fn free(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// Hands out no more frames: the device is being released.
    pub(crate) fn close(&self) {
        self.change_condition(Condition::Open, Condition::Closed);
    }

    /// Hands frames out again. A device that died stays dead.
    pub fn reopen(&self) {
        self.change_condition(Condition::Closed, Condition::Open);
    }

    /// The device died: no frame of it is handed out or touched any more.
    pub(crate) fn lose(&self) {
        self.condition.store(Condition::Lost as u8, Ordering::SeqCst);
    }

    /// Whether the device died.
    #[inline(always)]
    pub fn is_lost(&self) -> bool {
        self.condition.load(Ordering::SeqCst) == Condition::Lost as u8
    }

    /// Takes a device back that died and was reset: every frame is cleared.
    ///
    /// # Errors
    /// [`StillUsed`] while a page or a pin of the time before names a frame.
    pub fn readmit<M: Machine<Descriptors = D>>(&self, machine: &M) -> Result<(), StillUsed> {
        let used = self.frames() - self.free();
        if used != 0 {
            return Err(StillUsed { device: self.id, frames: used });
        }
        for index in 0..self.descriptors.len() as u32 {
            machine.clear(AnyFrame::Device(DeviceFrame::new(self.id, index)));
        }
        machine.complete_copies();
        self.change_condition(Condition::Lost, Condition::Open);
        Ok(())
    }

    fn change_condition(&self, from: Condition, to: Condition) {
        // Where it is not `from`, there is nothing to change.
        let _ = self.condition.compare_exchange(from as u8, to as u8, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// The descriptor of a frame of this device.
    ///
    /// # Panics
    /// Where the device has no such frame.
    #[inline(always)]
    pub fn descriptor(&self, frame: DeviceFrame) -> &Descriptor {
        &self.descriptors[frame.index() as usize]
    }

    /// Every descriptor, indexed by device frame.
    pub fn descriptors(&self) -> &[Descriptor] {
        &self.descriptors
    }

    /// Whether frames are handed out.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.condition.load(Ordering::SeqCst) == Condition::Open as u8
    }

    /// Counts frames that were taken out of the free list.
    #[inline]
    pub(super) fn note_taken(&self, frames: u64) {
        self.free.fetch_sub(frames, Ordering::Relaxed);
    }

    /// Counts frames that were put into it.
    #[inline]
    pub(super) fn note_freed(&self, frames: u64) {
        self.free.fetch_add(frames, Ordering::Relaxed);
    }

    /// Clears a frame whose last reference was dropped, and frees it. The memory of a device that died is left alone.
    #[inline(always)]
    pub(crate) fn free_frame<M: Machine>(&self, machine: &M, frame: DeviceFrame) {
        if !self.is_lost() {
            machine.clear(AnyFrame::Device(frame));
            machine.complete_copies();
        }
        self.free_clean_frame(machine, frame);
    }

    #[inline(always)]
    fn free_clean_frame<M: Machine>(&self, machine: &M, frame: DeviceFrame) {
        let descriptor = self.descriptor(frame);
        debug_assert_eq!((descriptor.mappings(), descriptor.pins()), (0, 0), "{frame} freed in use");
        descriptor.clear_last_reference();
        record(machine, || Event::DeviceFrameFreed { frame });
        let mut head = self.head.lock(machine);
        descriptor.set_kind(FrameKind::Free, 0);
        descriptor.set_link(NO_FRAME, *head);
        *head = frame.index();
        drop(head);
        self.note_freed(1);
    }
}

/// A device frame that is allocated and that no entry names; dropping it clears and frees it.
#[must_use]
pub struct OwnedDeviceFrame<'m, M: Machine> {
    memory: &'m DeviceMemory<M::Descriptors>,
    machine: &'m M,
    frame: DeviceFrame,
}

impl<'m, M: Machine> OwnedDeviceFrame<'m, M> {
    /// A frame that was taken out of the free list, with its one reference.
    #[inline]
    pub(super) fn new(memory: &'m DeviceMemory<M::Descriptors>, machine: &'m M, frame: DeviceFrame) -> Self {
        Self { memory, machine, frame }
    }

    /// The frame.
    #[inline]
    pub fn frame(&self) -> DeviceFrame {
        self.frame
    }

    /// Hands the frame's one reference to the caller, who maps it or frees it.
    #[inline]
    pub(crate) fn into_frame(self) -> DeviceFrame {
        let frame = self.frame;
        core::mem::forget(self);
        frame
    }
}

impl<M: Machine> Drop for OwnedDeviceFrame<'_, M> {
    fn drop(&mut self) {
        self.memory.free_frame(self.machine, self.frame);
    }
}
