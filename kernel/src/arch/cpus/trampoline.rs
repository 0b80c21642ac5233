//! The code that a CPU runs first: from real mode to the kernel, in a page below 1 MiB.
//!
//! ```text
//!   p0x8000  code, its segment table, where to go on     read and execute, at its own address
//!   p0x9000  level-4 table: the page above, and the kernel's upper half
//!   p0xa000, p0xb000, p0xc000  levels 3 to 1 on the way to that page
//! ```
//!
//! A CPU starts in real mode at a page number below 256 (Intel SDM 3A, 8.4.3), so code and tables, which 32-bit code loads into
//! CR3, lie in low memory. The kernel uses none of it otherwise; the frames are cleared when all CPUs are started.
//!
//! Invariants:
//! 1. The code is copied, so it refers to itself only by distances from its start, and finds the kernel at `ferry_trampoline_go_on`.
//! 2. One exception to "no frame is writable in one mapping and executable in another": the code's page is in the direct map, too.
//!    Its executable mapping is in no table but this module's, which a CPU uses until it is in the kernel.
use super::super::layout::{DIRECT_MAP, PAGE_SIZE};
use super::super::machine::{clear_ram, direct};
use crate::ram;
use core::arch::global_asm;
use x86_64::registers::control::{Cr0Flags, Cr4Flags, EferFlags};
use x86_64::structures::paging::{PageTable, PageTableFlags, PhysFrame};
use x86_64::{PhysAddr, VirtAddr};

/// Where the code is copied to.
const CODE: u64 = 0x8000;

/// Where the level-4 table is.
const ROOT: u64 = CODE + PAGE_SIZE;

/// Frames in all: code and four tables.
const FRAMES: u64 = 5;

/// The number with which a startup interrupt names the code's page.
pub(super) const STARTUP_PAGE: u8 = (CODE / PAGE_SIZE) as u8;

/// Segments of the code's table, in order: 32-bit code, data, 64-bit code; ring 0, present, accessed (Intel SDM 3A, 3.4.5).
const CODE_32: u64 = 0x00cf_9b00_0000_ffff;
const DATA: u64 = 0x00cf_9300_0000_ffff;
const CODE_64: u64 = 0x00af_9b00_0000_ffff;

global_asm!(
    ".pushsection .rodata.ferry_trampoline, \"a\"",
    ".p2align 4",
    ".globl ferry_trampoline_start, ferry_trampoline_go_on, ferry_trampoline_end",
    "ferry_trampoline_start:",
    ".code16",
    "cli",
    "cld",
    "movw %cs, %ax",
    "movw %ax, %ds",
    "lgdtl ferry_trampoline_gdt_pointer - ferry_trampoline_start",
    "movl %cr0, %eax",
    "orl ${protected_mode}, %eax",
    "movl %eax, %cr0",
    "ljmpl $8, $({code} + ferry_trampoline_32 - ferry_trampoline_start)",
    ".code32",
    "ferry_trampoline_32:",
    "movw $16, %ax",
    "movw %ax, %ds",
    "movw %ax, %es",
    "movw %ax, %ss",
    "movl ${cr4}, %eax",
    "movl %eax, %cr4",
    "movl ${root}, %eax",
    "movl %eax, %cr3",
    "movl ${efer_register}, %ecx",
    "rdmsr",
    "orl ${efer}, %eax",
    "wrmsr",
    "movl %cr0, %eax",
    "orl ${cr0}, %eax",
    "movl %eax, %cr0",
    "ljmpl $24, $({code} + ferry_trampoline_64 - ferry_trampoline_start)",
    ".code64",
    "ferry_trampoline_64:",
    "movq ferry_trampoline_go_on(%rip), %rax",
    "jmpq *%rax",
    ".p2align 3",
    "ferry_trampoline_go_on:",
    ".quad 0",
    "ferry_trampoline_gdt:",
    ".quad 0, {code_32}, {data}, {code_64}",
    "ferry_trampoline_gdt_pointer:",
    ".word 4 * 8 - 1",
    ".long {code} + ferry_trampoline_gdt - ferry_trampoline_start",
    "ferry_trampoline_end:",
    ".popsection",
    code = const CODE,
    root = const ROOT,
    code_32 = const CODE_32,
    data = const DATA,
    code_64 = const CODE_64,
    protected_mode = const Cr0Flags::PROTECTED_MODE_ENABLE.bits(),
    cr0 = const Cr0Flags::PAGING.bits() | Cr0Flags::WRITE_PROTECT.bits(),
    cr4 = const Cr4Flags::PHYSICAL_ADDRESS_EXTENSION.bits(),
    efer_register = const 0xc000_0080u32,
    efer = const EferFlags::LONG_MODE_ENABLE.bits() | EferFlags::NO_EXECUTE_ENABLE.bits(),
    options(att_syntax)
);

unsafe extern "C" {
    safe static ferry_trampoline_start: u8;
    safe static ferry_trampoline_go_on: u8;
    safe static ferry_trampoline_end: u8;
}

fn distance(symbol: &u8) -> usize {
    core::ptr::from_ref(symbol).addr() - core::ptr::from_ref(&ferry_trampoline_start).addr()
}

/// The trampoline in its place; gone when this is dropped.
pub(super) struct Trampoline(());

fn frame(index: u64) -> PhysFrame {
    PhysFrame::containing_address(PhysAddr::new(CODE + index * PAGE_SIZE))
}

impl Trampoline {
    /// Puts the trampoline in its place; it ends in a jump to `go_on`, with the upper half of the table at `kernel_root`.
    ///
    /// `None` where the place is not RAM. One at a time.
    pub(super) fn new(kernel_root: PhysFrame, go_on: VirtAddr) -> Option<Self> {
        if !ram::contains(PhysAddr::new(CODE), FRAMES * PAGE_SIZE) {
            return None;
        }
        (0..FRAMES).for_each(|index| clear_ram(frame(index)));
        let bytes = distance(&ferry_trampoline_end);
        let code = direct(frame(0));
        // SAFETY: the frames are RAM below 1 MiB, which the memory manager does not hand out and nobody else uses; they are in
        // the direct map, writable. The code is shorter than a page (asserted).
        unsafe {
            assert!(bytes <= PAGE_SIZE as usize, "the trampoline has {bytes} bytes");
            code.copy_from_nonoverlapping(&raw const ferry_trampoline_start, bytes);
            code.add(distance(&ferry_trampoline_go_on)).cast::<u64>().write_unaligned(go_on.as_u64());
        }
        let table = |index| {
            // SAFETY: as above; all zeros is an empty table, and each reference is gone before the next is made.
            unsafe { &mut *direct(frame(index)).cast::<PageTable>() }
        };
        // SAFETY: the kernel's table is in the direct map; nobody writes its upper half any more but the CPU that boots, this one.
        let kernel = unsafe { &*direct(kernel_root).cast::<PageTable>() };
        let path = VirtAddr::new(CODE);
        let down = PageTableFlags::PRESENT | PageTableFlags::WRITABLE;
        for (place, entry) in table(1).iter_mut().zip(kernel.iter()).skip(usize::from(DIRECT_MAP.start().p4_index())) {
            place.clone_from(entry);
        }
        table(1)[path.p4_index()].set_frame(frame(2), down);
        table(2)[path.p3_index()].set_frame(frame(3), down);
        table(3)[path.p2_index()].set_frame(frame(4), down);
        table(4)[path.p1_index()].set_frame(frame(0), PageTableFlags::PRESENT);
        Some(Self(()))
    }
}

impl Drop for Trampoline {
    fn drop(&mut self) {
        (0..FRAMES).for_each(|index| clear_ram(frame(index)));
    }
}
