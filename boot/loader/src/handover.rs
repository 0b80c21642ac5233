//! The boot information, and the jump into the kernel.
//!
//! One page, `.handover`, holds the code that switches the page tables and the GDT. The kernel's tables
//! map it at its own physical address, read and execute, because the instruction behind the switch is
//! fetched through them. Nothing else of the loader is mapped when the kernel starts.
//!
//! ```text
//!   loader's tables                      kernel's tables
//!   .handover at v = p   ── mov cr3 ──▶  .handover at v = p (r-x; r-- in the direct map)  ── jmp ──▶ kernel
//! ```
//!
//! Invariants:
//! 1. The GDT's descriptors have their "accessed" bits set, so that the CPU never writes to the page.
//! 2. `BootInfo` is written through the identity map but holds the address it has for the kernel.
use bootloader_api::BootInfo;
use bootloader_api::info::{MemoryRegion, Optional};
use core::arch::naked_asm;
use core::mem::offset_of;
use ferry_loader::elf::Access;
use ferry_loader::layout::Layout;
use ferry_loader::memory::{FRAME_BYTES, MAX_REGIONS, MemoryMap, PhysRange};
use ferry_loader::paging::{PagingError, TableMemory, Tables};
use x86_64::{PhysAddr, VirtAddr};

/// Selector of the 64-bit code segment.
pub const CODE_SELECTOR: u16 = 8;

/// Selector of the data segment.
pub const DATA_SELECTOR: u16 = 16;

/// Where the regions begin behind `BootInfo`, in bytes.
const REGIONS_OFFSET: usize = size_of::<BootInfo>().next_multiple_of(align_of::<MemoryRegion>());

/// Size of `BootInfo` with the longest list of regions, in bytes.
pub const BOOT_INFO_BYTES: u64 = (REGIONS_OFFSET + MAX_REGIONS * size_of::<MemoryRegion>()) as u64;

/// Null, code and data descriptor: ring 0, present, accessed; 64-bit code, 4 GiB data (Intel SDM 3A.3.4.5).
#[unsafe(link_section = ".handover.data")]
static GDT: [u64; 3] = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// What `lgdt` reads: limit and address, without padding.
#[repr(C, packed)]
pub struct GdtPointer {
    limit: u16,
    gdt: &'static [u64; 3],
}

/// The GDT in the handover page.
#[unsafe(link_section = ".handover.data")]
pub static GDT_POINTER: GdtPointer = GdtPointer { limit: size_of_val(&GDT) as u16 - 1, gdt: &GDT };

unsafe extern "C" {
    static handover_start: u8;
}

/// The frame of the handover page.
pub fn page() -> PhysRange {
    let start = &raw const handover_start;
    PhysRange::new(start.addr() as u64, FRAME_BYTES)
}

/// Maps the handover page at its own physical address.
///
/// # Errors
/// [`PagingError`].
pub fn map_own_page<M: TableMemory>(tables: &mut Tables<M>) -> Result<(), PagingError> {
    let page = page();
    tables.map(VirtAddr::new_truncate(page.start), page, Access::ReadExecute)
}

/// What the kernel is told.
pub struct Facts<'a> {
    /// Physical memory.
    pub map: &'a MemoryMap,
    /// Virtual addresses.
    pub layout: &'a Layout,
    /// The kernel file.
    pub file: PhysRange,
    /// Address of the image's first page.
    pub image_start: VirtAddr,
    /// Size of the stack, without its guard page.
    pub stack_bytes: u64,
    /// Physical address of ACPI's root pointer, zero if unknown.
    pub rsdp: u64,
}

/// Writes `BootInfo` and the regions to the start of `memory`, which the kernel sees at `layout.boot_info`.
pub fn write_boot_info(memory: &'static mut [u8], facts: &Facts) {
    let (info_bytes, region_bytes) = memory.split_at_mut(REGIONS_OFFSET);
    let regions = facts.map.regions();
    assert!(size_of_val(regions) <= region_bytes.len(), "BOOT_INFO_BYTES holds MAX_REGIONS regions");
    let first = region_bytes.as_mut_ptr().cast::<MemoryRegion>();
    assert!(first.is_aligned() && info_bytes.as_ptr().cast::<BootInfo>().is_aligned());
    // SAFETY: `region_bytes` is exclusively ours for ever, large enough and aligned (both asserted), and
    // does not overlap the map; every element is initialized before the slice is made.
    let copied = unsafe {
        first.copy_from_nonoverlapping(regions.as_ptr(), regions.len());
        core::slice::from_raw_parts_mut(first, regions.len())
    };

    let mut info = BootInfo::new(copied.into());
    info.physical_memory_offset = facts.layout.physical_memory.map(VirtAddr::as_u64).into();
    info.rsdp_addr = if facts.rsdp == 0 { Optional::None } else { Optional::Some(facts.rsdp) };
    info.kernel_addr = facts.file.start;
    info.kernel_len = facts.file.end - facts.file.start;
    info.kernel_image_offset = facts.image_start.as_u64();
    info.kernel_stack_bottom = (facts.layout.guard + FRAME_BYTES).as_u64();
    info.kernel_stack_len = facts.stack_bytes;

    let regions_address = facts.layout.boot_info.as_u64() + REGIONS_OFFSET as u64;
    let target = info_bytes.as_mut_ptr();
    // SAFETY: `info_bytes` is exclusively ours, as large as `BootInfo` and aligned (asserted). The first
    // word of `MemoryRegions` (`repr(C)`) is the pointer to the regions, which after this is only followed
    // by the kernel, where the regions lie at `regions_address`.
    unsafe {
        target.cast::<BootInfo>().write(info);
        target.add(offset_of!(BootInfo, memory_regions)).cast::<u64>().write(regions_address);
    }
}

/// Where the kernel starts and with what.
pub struct Handover {
    /// The level-4 table.
    pub root: PhysAddr,
    /// Behind the last byte of the stack.
    pub stack_end: VirtAddr,
    /// The kernel's entry point.
    pub entry: VirtAddr,
    /// `BootInfo`, as the kernel sees it.
    pub boot_info: VirtAddr,
}

impl Handover {
    /// Leaves the loader for good.
    pub fn enter(self) -> ! {
        // SAFETY: the tables at `root` map the handover page at its own address, the stack below
        // `stack_end`, the entry point executable and `BootInfo`; nothing of the loader is used again.
        unsafe { switch(self.root.as_u64(), self.stack_end.as_u64(), self.entry.as_u64(), self.boot_info.as_u64()) }
    }
}

/// Switches tables and stack and calls the kernel's entry point.
#[unsafe(naked)]
#[unsafe(link_section = ".handover.text")]
unsafe extern "C" fn switch(root: u64, stack_end: u64, entry: u64, boot_info: u64) -> ! {
    naked_asm!(
        "mov cr3, rdi",
        "mov rsp, rsi",
        "mov rdi, rcx",
        // A return address of zero ends a backtrace, and aligns the stack as after a call.
        "push 0",
        "xor ebp, ebp",
        "jmp rdx",
    )
}
