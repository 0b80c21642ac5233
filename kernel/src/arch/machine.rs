//! The machine as the memory manager sees it: [`Machine`], implemented with instructions.
//!
//! Invariants:
//! 1. A page-table frame, and every frame that the memory manager owns, is in the direct map, writable. So an
//!    [`EntrySlot`], which only the memory manager makes, is eight aligned bytes that nothing but page-table code uses.
//! 2. A device frame is reached only through the accessor of its BAR, with wide accesses.
//!
//! No locks. Everything here may run in the fault path: it takes no heap memory and prints nothing.
use super::cpus::{self, shootdown};
use super::layout::DIRECT_MAP;
use super::meter::{self, BarBytes};
use super::per_cpu::{self, PerCpu};
use crate::trace;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use ferry_device::bar::Bar;
use ferry_device::geometry::{FRAME_BYTES, FrameIndex};
use ferry_mm::frame::{AnyFrame, Descriptor, DeviceFrame, DeviceId};
use ferry_mm::lock::{HeldLocks, Level, Once};
use ferry_mm::machine::{Code, Context, CpuId, MAX_CPUS, Machine};
use ferry_mm::manager::MAX_DEVICES;
use ferry_mm::page_table::entry::RawEntry;
use ferry_mm::page_table::flush::FlushRequest;
use ferry_mm::page_table::slot::EntrySlot;
use ferry_mm::trace::Event;
use x86_64::VirtAddr;
use x86_64::instructions::interrupts;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::PhysFrame;

/// The real machine. All its state is in the CPU and in statics of this module.
pub struct Hardware;

static HELD_LOCKS: [HeldLocks; MAX_CPUS] = [const { HeldLocks::new() }; MAX_CPUS];
static BARS: [Once<Bar>; MAX_DEVICES] = [const { Once::new(Level::Stored) }; MAX_DEVICES];

/// Flushes are left out while this is set.
static LOSES_FLUSHES: AtomicBool = AtomicBool::new(false);

/// Runs `body` on a machine that loses flushes: what was cached stays in use. To show what a missing flush does.
pub fn losing_flushes<R>(body: impl FnOnce() -> R) -> R {
    LOSES_FLUSHES.store(true, Ordering::Relaxed);
    let result = body();
    LOSES_FLUSHES.store(false, Ordering::Relaxed);
    result
}

/// Makes the frames of `device` reachable, through `bar`. The first call for a device counts.
///
/// # Panics
/// Where there may be no such device.
pub fn connect_device(device: DeviceId, bar: Bar) {
    BARS[usize::from(device.number())].get_or_init(&Hardware, || bar);
}

/// Where the direct map has a frame.
#[inline(always)]
pub fn direct(frame: PhysFrame) -> *mut u8 {
    // SAFETY: the window has room for every physical address that RAM can have, so the sum is in it, and canonical.
    unsafe { VirtAddr::new_unsafe(DIRECT_MAP.start().as_u64() + frame.start_address().as_u64()) }.as_mut_ptr()
}

#[inline(always)]
fn entry(slot: EntrySlot) -> &'static AtomicU64 {
    let table = direct(slot.table()).cast::<AtomicU64>();
    // SAFETY: invariant 1; the index is below 512, so the entry is inside the table's frame. Entries are accessed only
    // as atomics, by this module, and by the CPU's walker.
    unsafe { &*table.add(usize::from(slot.index())) }
}

#[inline(always)]
fn bar(frame: DeviceFrame) -> (&'static Bar, FrameIndex) {
    let bar = BARS[usize::from(frame.device().number())].get().expect("a device is connected before it is registered");
    (bar, FrameIndex(u64::from(frame.index())))
}

/// What a copy to a device frame moves, and one from there.
const FRAME_WRITTEN: BarBytes = BarBytes { written: FRAME_BYTES as u64, read: 0 };
const FRAME_READ: BarBytes = BarBytes { written: 0, read: FRAME_BYTES as u64 };

/// Copies a RAM frame to a RAM frame.
#[inline]
fn copy_ram(source: PhysFrame, target: PhysFrame) {
    // SAFETY: invariant 1; the memory manager owns both frames and names two different ones.
    unsafe { core::ptr::copy_nonoverlapping(direct(source), direct(target), FRAME_BYTES) };
}

/// Fills a RAM frame with zeros.
#[inline]
pub(super) fn clear_ram(frame: PhysFrame) {
    // SAFETY: invariant 1; the memory manager has just taken the frame and nobody else uses it.
    unsafe {
        asm!(
            "rep stosq",
            inout("rcx") FRAME_BYTES / size_of::<u64>() => _,
            inout("rdi") direct(frame) => _,
            in("rax") 0,
            options(nostack, preserves_flags)
        );
    }
}

/// The bytes of a page, on a boundary that copies to and from a BAR want.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(4096))]
pub struct PageBuffer(pub [u8; FRAME_BYTES]);

impl PageBuffer {
    /// A page of zeros.
    pub const fn zeros() -> Self {
        Self([0; FRAME_BYTES])
    }
}

/// Reads a device frame through the BAR.
///
/// # Panics
/// Where there is no such frame.
pub fn load_device_frame(frame: DeviceFrame, page: &mut PageBuffer) {
    let (bar, index) = bar(frame);
    bar.begin_reads();
    // SAFETY: the page is ours, in RAM and on its boundary.
    unsafe { bar.read_frame(index, page.0.as_mut_ptr()) }.expect("a device frame that was registered");
}

/// Writes a device frame through the BAR; the device sees it with the next command.
///
/// # Panics
/// Where there is no such frame.
pub fn store_device_frame(frame: DeviceFrame, page: &PageBuffer) {
    let (bar, index) = bar(frame);
    // SAFETY: the page is ours, in RAM and on its boundary.
    unsafe { bar.write_frame(index, page.0.as_ptr()) }.expect("a device frame that was registered");
}

impl Machine for Hardware {
    type Descriptors = &'static [Descriptor];

    #[inline(always)]
    fn load_entry(&self, slot: EntrySlot) -> RawEntry {
        RawEntry(entry(slot).load(Ordering::Acquire))
    }

    #[inline(always)]
    fn swap_entry(&self, slot: EntrySlot, new: RawEntry) -> RawEntry {
        RawEntry(entry(slot).swap(new.0, Ordering::SeqCst))
    }

    #[inline(always)]
    fn compare_exchange_entry(&self, slot: EntrySlot, current: RawEntry, new: RawEntry) -> Result<(), RawEntry> {
        match entry(slot).compare_exchange(current.0, new.0, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => Ok(()),
            Err(found) => Err(RawEntry(found)),
        }
    }

    #[inline(always)]
    fn clear(&self, frame: AnyFrame) {
        trace::tell(|| trace::cleared(frame));
        match frame {
            AnyFrame::System(frame) => meter::copying(BarBytes::default(), || clear_ram(frame)),
            AnyFrame::Device(frame) => {
                let (bar, index) = bar(frame);
                meter::copying(FRAME_WRITTEN, || {
                    bar.clear_frame(index).expect("a device frame that was registered");
                });
            }
        }
    }

    #[inline(always)]
    fn copy(&self, source: AnyFrame, target: AnyFrame) {
        trace::tell(|| trace::copied(source, target));
        match (source, target) {
            (AnyFrame::System(source), AnyFrame::System(target)) => {
                meter::copying(BarBytes::default(), || copy_ram(source, target));
            }
            (AnyFrame::System(source), AnyFrame::Device(target)) => {
                let (bar, index) = bar(target);
                meter::copying(FRAME_WRITTEN, || {
                    // SAFETY: invariant 1; a frame is aligned, is RAM, and its owner is the migration that copies it.
                    unsafe { bar.write_frame(index, direct(source)) }.expect("a device frame that was registered");
                });
            }
            (AnyFrame::Device(source), AnyFrame::System(target)) => {
                let (bar, index) = bar(source);
                bar.begin_reads();
                meter::copying(FRAME_READ, || {
                    // SAFETY: as above; the target was just allocated and nobody else uses it.
                    unsafe { bar.read_frame(index, direct(target)) }.expect("a device frame that was registered");
                });
            }
            (AnyFrame::Device(_), AnyFrame::Device(_)) => {
                unreachable!("pages go from device to device by way of RAM")
            }
        }
    }

    #[inline]
    fn complete_copies(&self) {
        // SAFETY: orders stores, non-temporal ones included; touches no memory.
        unsafe { core::arch::x86_64::_mm_sfence() };
    }

    #[inline]
    fn flush(&self, request: FlushRequest) {
        if LOSES_FLUSHES.load(Ordering::Relaxed) {
            trace::tell(|| trace::Told::FlushLost);
            return;
        }
        shootdown::flush(request);
    }

    #[inline]
    fn load_root(&self, root: PhysFrame) {
        // SAFETY: every root that the memory manager makes shares the upper half with the one in use.
        unsafe { Cr3::write(root, Cr3Flags::empty()) };
        PerCpu::current().counters.roots_loaded.fetch_add(1, Ordering::Relaxed);
    }

    #[inline(always)]
    fn cpu(&self) -> CpuId {
        PerCpu::current().number()
    }

    #[inline]
    fn relax(&self) {
        cpus::relax();
    }

    /// Also before this CPU's state is loaded, when there is no other CPU.
    #[inline]
    fn held_locks(&self) -> &HeldLocks {
        &HELD_LOCKS[if per_cpu::is_loaded() { self.cpu().number() } else { CpuId::BOOT.number() }]
    }

    fn context(&self) -> Context {
        let interrupts_on = interrupts::are_enabled();
        let code = if per_cpu::is_loaded() { PerCpu::current().code() } else { Code::Ordinary };
        Context { code, interrupts_on }
    }

    #[inline(always)]
    fn is_traced(&self) -> bool {
        trace::is_on()
    }

    fn trace(&self, event: &Event) {
        trace::tell_of_memory(event);
    }
}

/// How many of the memory manager's locks are held, by all CPUs (with its feature `lock-order`).
pub fn held_locks() -> u32 {
    HELD_LOCKS.iter().map(HeldLocks::count).sum()
}

/// The level-4 table that this CPU uses.
pub fn current_root() -> PhysFrame {
    Cr3::read().0
}

/// Zeroed descriptors at `start`, for ever.
///
/// # Safety
/// `count` descriptors from `start` on are RAM in the direct map that nobody else uses from now on.
pub unsafe fn zeroed_descriptors(start: PhysFrame, count: usize) -> &'static [Descriptor] {
    let first = direct(start).cast::<Descriptor>();
    // SAFETY: the caller's promise; a descriptor of all zeros is valid, and a frame's address is aligned for it.
    unsafe {
        first.write_bytes(0, count);
        core::slice::from_raw_parts(first, count)
    }
}
