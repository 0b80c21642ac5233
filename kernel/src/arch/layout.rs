//! The kernel's virtual layout: the one place where its addresses are chosen.
//!
//! ```text
//!   0xffff_ffff_ffff_ffff ┐
//!                         │ KERNEL       the image, mapped per segment
//!   0xffff_ffff_8000_0000 ┘
//!   0xffff_f800_0000_0000   LOW_PHYSICAL what is below 4 GiB and no RAM: registers, tables of the firmware
//!   0xffff_f000_0000_0000   BOOT_INFO    what the loader says, until the memory manager has read it
//!   0xffff_e000_0000_0000   STACKS       the boot stack, below it its guard page
//!   0xffff_d000_0000_0000   HEAP         small objects of the kernel
//!   0xffff_c000_0000_0000   BAR_WINDOWS  memory behind PCI BARs
//!   0xffff_8000_0000_0000   DIRECT_MAP   every byte of RAM at its physical address plus the start
//!   ───────────────────── not canonical ─────────────────────
//!   0x0000_8000_0000_0000 ┐
//!                         │ AREAS        what the memory manager hands out
//!   0x0000_0000_0020_0000 ┘
//!   0x0000_0000_0000_0000   NULL         never mapped, so that null pointers fault
//! ```
//!
//! Invariants, asserted at compile time:
//! 1. Windows are page aligned, do not overlap and lie each in one canonical half.
//! 2. Every window of the kernel begins at a level-4 slot of its own, except [`KERNEL`], which shares its slot with nothing.
//!    An address space therefore shares the kernel by copying level-4 entries 256..512.
use x86_64::VirtAddr;

/// Bytes of the smallest page (Intel SDM 3A, 4.5).
pub const PAGE_SIZE: u64 = 4096;

/// A range of virtual addresses with one use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    first: u64,
    last: u64,
}

impl Window {
    const fn new(first: u64, last: u64) -> Self {
        assert!(first.is_multiple_of(PAGE_SIZE) && last % PAGE_SIZE == PAGE_SIZE - 1, "a window is made of pages");
        assert!(first < last, "a window is not empty");
        assert!(first >> 47 == last >> 47, "a window lies in one half");
        assert!(VirtAddr::new(first).as_u64() == first, "a window is canonical");
        Self { first, last }
    }

    /// The first address.
    pub const fn start(self) -> VirtAddr {
        VirtAddr::new_truncate(self.first)
    }

    /// The last address that belongs to the window.
    pub const fn last(self) -> VirtAddr {
        VirtAddr::new_truncate(self.last)
    }

    /// Length in bytes.
    pub const fn bytes(self) -> u64 {
        self.last - self.first + 1
    }

    /// Whether `address` lies in the window.
    pub const fn contains(self, address: VirtAddr) -> bool {
        self.first <= address.as_u64() && address.as_u64() <= self.last
    }
}

/// Never mapped: null pointers and small offsets from them.
pub const NULL: Window = Window::new(0, 0x0000_0000_001f_ffff);

/// Where areas of address spaces lie.
pub const AREAS: Window = Window::new(0x0000_0000_0020_0000, 0x0000_7fff_ffff_ffff);

/// RAM at its physical address plus the window's start. Memory-mapped devices are not in it.
pub const DIRECT_MAP: Window = Window::new(0xffff_8000_0000_0000, 0xffff_bfff_ffff_ffff);

/// Memory behind PCI BARs.
pub const BAR_WINDOWS: Window = Window::new(0xffff_c000_0000_0000, 0xffff_cfff_ffff_ffff);

/// The kernel's heap.
pub const HEAP: Window = Window::new(0xffff_d000_0000_0000, 0xffff_dfff_ffff_ffff);

/// Stacks outside the image, each with an unmapped page below it.
pub const STACKS: Window = Window::new(0xffff_e000_0000_0000, 0xffff_efff_ffff_ffff);

/// The loader's information, until the memory manager has taken over.
pub const BOOT_INFO: Window = Window::new(0xffff_f000_0000_0000, 0xffff_f000_ffff_ffff);

/// What lies below 4 GiB and is no RAM, at its physical address plus the start; a page is mapped when it is first needed.
pub const LOW_PHYSICAL: Window = Window::new(0xffff_f800_0000_0000, 0xffff_f800_ffff_ffff);

/// The kernel's image.
pub const KERNEL: Window = Window::new(0xffff_ffff_8000_0000, 0xffff_ffff_ffff_ffff);

/// Every window with its name, in ascending order.
pub const WINDOWS: [(&str, Window); 9] = [
    ("null", NULL),
    ("areas", AREAS),
    ("direct map", DIRECT_MAP),
    ("bar windows", BAR_WINDOWS),
    ("heap", HEAP),
    ("stacks", STACKS),
    ("boot information", BOOT_INFO),
    ("low physical", LOW_PHYSICAL),
    ("kernel", KERNEL),
];

/// What the loader is told as place of the boot stack: a guard page, then the stack itself.
pub const BOOT_STACK: VirtAddr = STACKS.start();

/// Bytes of the stack that the kernel starts on.
pub const BOOT_STACK_BYTES: u64 = 128 * 1024;

/// The window that holds `address`, or `None` where the layout leaves a hole.
pub fn window_of(address: VirtAddr) -> Option<(&'static str, Window)> {
    WINDOWS.iter().copied().find(|(_, window)| window.contains(address))
}

/// Bits of an address below its level-4 index (Intel SDM 3A, 4.5.4).
const LEVEL_4_SHIFT: u32 = 39;

const _: () = {
    let mut i = 1;
    while i < WINDOWS.len() {
        let (below, above) = (WINDOWS[i - 1].1, WINDOWS[i].1);
        assert!(below.last < above.first, "windows overlap or are out of order");
        // NULL and AREAS share the lower half, which belongs to address spaces.
        assert!(
            i < 2 || below.last >> LEVEL_4_SHIFT < above.first >> LEVEL_4_SHIFT,
            "two windows of the kernel share a level-4 slot"
        );
        i += 1;
    }
    assert!(BOOT_STACK_BYTES.is_multiple_of(PAGE_SIZE) && BOOT_STACK_BYTES + PAGE_SIZE <= STACKS.bytes());
};
