//! From PVH's 32-bit entry to 64-bit Rust (PVH specification, "CPU state"; Intel SDM 3A.10.8.5).
//!
//! PVH enters with flat 32-bit segments, paging and interrupts off and the physical address of the start
//! information in EBX. Before Rust can run: long mode (its code is 64-bit), SSE (its code uses XMM
//! registers), a stack, and an identity map.
//!
//! ```text
//!   level 4 [0] ─▶ level 3 [0..4] ─▶ 4 × level 2 [0..512] ─▶ 2 MiB each: 4 GiB, v = p, all permissions
//! ```
//!
//! Invariants:
//! 1. Nothing of this map survives: the kernel starts on tables of its own.
//! 2. EFER.NXE and CR0.WP are on before Rust runs, and stay on.
use crate::console::{DATA, LINE_STATUS, MAX_POLLS, PREFIX, TRANSMIT_EMPTY};
use crate::handover::GDT_POINTER;
use core::arch::naked_asm;
use ferry_loader::memory::PhysRange;
use ferry_protocol::exit::{ExitCode, PORT};
use x86_64::registers::control::{Cr0Flags, Cr4Flags, EferFlags};
use x86_64::structures::paging::PageTableFlags;

/// End of the identity map: what the loader reaches.
pub const IDENTITY_END: u64 = 4 << 30;

const STACK_BYTES: usize = 128 << 10;
const TABLE_BYTES: usize = 4096;
const LEVEL_2_TABLES: usize = 4;
const BIG_PAGES: usize = LEVEL_2_TABLES * 512;

#[repr(C, align(4096))]
struct BootMemory {
    level_4: [u8; TABLE_BYTES],
    level_3: [u8; TABLE_BYTES],
    level_2: [u8; LEVEL_2_TABLES * TABLE_BYTES],
    stack: [u8; STACK_BYTES],
}

/// Zeroed by whoever loads the ELF, filled by [`pvh_start`] alone.
static mut BOOT_MEMORY: BootMemory = BootMemory {
    level_4: [0; TABLE_BYTES],
    level_3: [0; TABLE_BYTES],
    level_2: [0; LEVEL_2_TABLES * TABLE_BYTES],
    stack: [0; STACK_BYTES],
};

// Assembly finds the text of a message through the pointer and the length that a `&str` is made of.
static LINE_START: &str = PREFIX;
static NO_LONG_MODE: &str = ExitCode::LoaderNoLongMode.sentence();
static NO_NX: &str = ExitCode::LoaderNoNx.sentence();
static LINE_END: &str = "\r\n";

pvh::xen_elfnote_phys32_entry!(pvh_start);

unsafe extern "C" {
    static loader_start: u8;
    static loader_end: u8;
}

/// The memory that this program occupies.
pub fn loader_range() -> PhysRange {
    let (start, end) = (&raw const loader_start, &raw const loader_end);
    PhysRange { start: start.addr() as u64, end: end.addr() as u64 }
}

const TABLE: u64 = PageTableFlags::PRESENT.union(PageTableFlags::WRITABLE).bits();
const BIG_PAGE: u64 = TABLE | PageTableFlags::HUGE_PAGE.bits();
const CPUID_EXTENDED: u32 = 0x8000_0000;
const CPUID_FEATURES: u32 = 0x8000_0001;
const LONG_MODE_BIT: u8 = 29;
const NX_BIT: u8 = 20;
const EFER: u32 = 0xc000_0080;

/// The entry point that the PVH note names.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn pvh_start() -> ! {
    naked_asm!(
        ".code32",
        "cli",
        "cld",
        "mov esp, offset {memory} + {stack_end}",
        "mov ebp, ebx",

        // Long mode and NX, or a line and an exit code. Every CPU that QEMU models has CPUID.
        "mov eax, {cpuid_extended}",
        "cpuid",
        "mov esi, offset {no_long_mode}",
        "mov edi, {exit_no_long_mode}",
        "cmp eax, {cpuid_features}",
        "jb 20f",
        "mov eax, {cpuid_features}",
        "cpuid",
        "bt edx, {long_mode_bit}",
        "jnc 20f",
        "mov esi, offset {no_nx}",
        "mov edi, {exit_no_nx}",
        "bt edx, {nx_bit}",
        "jnc 20f",

        // The identity map. The upper halves of the entries are zero already.
        "mov edi, offset {memory}",
        "lea eax, [edi + {level_3} + {table}]",
        "mov [edi], eax",
        "lea eax, [edi + {level_2} + {table}]",
        "xor ecx, ecx",
        "2: mov [edi + ecx * 8 + {level_3}], eax",
        "add eax, {table_bytes}",
        "inc ecx",
        "cmp ecx, {level_2_tables}",
        "jb 2b",
        "mov eax, {big_page}",
        "xor ecx, ecx",
        "3: mov [edi + ecx * 8 + {level_2}], eax",
        "add eax, 2 << 20",
        "inc ecx",
        "cmp ecx, {big_pages}",
        "jb 3b",

        "mov cr3, edi",
        "mov eax, {cr4}",
        "mov cr4, eax",
        "mov ecx, {efer}",
        "rdmsr",
        "or eax, {efer_flags}",
        "wrmsr",
        "mov eax, {cr0}",
        "mov cr0, eax",
        "lgdt [{gdt_pointer}]",
        // LLVM has no absolute far jump in this syntax; a far return does the same.
        "push {code}",
        "mov eax, offset {start64}",
        "push eax",
        "retf",

        // ESI: the message, EDI: the exit code.
        "20: mov ebx, esi",
        "mov esi, offset {line_start}",
        "call 30f",
        "mov esi, ebx",
        "call 30f",
        "mov esi, offset {line_end}",
        "call 30f",
        "mov eax, edi",
        "mov dx, {exit_port}",
        "out dx, eax",
        "21: hlt",
        "jmp 21b",

        // Writes the `&str` at ESI to COM1, with the same bounded wait as `console`.
        "30: mov ecx, [esi + 8]",
        "mov esi, [esi]",
        "31: test ecx, ecx",
        "jz 34f",
        "push ecx",
        "mov ecx, {max_polls}",
        "mov dx, {line_status}",
        "32: in al, dx",
        "test al, {transmit_empty}",
        "jnz 33f",
        "pause",
        "dec ecx",
        "jnz 32b",
        "33: mov dx, {data_port}",
        "lodsb",
        "out dx, al",
        "pop ecx",
        "dec ecx",
        "jmp 31b",
        "34: ret",
        ".code64",
        memory = sym BOOT_MEMORY,
        stack_end = const size_of::<BootMemory>(),
        level_3 = const core::mem::offset_of!(BootMemory, level_3),
        level_2 = const core::mem::offset_of!(BootMemory, level_2),
        table = const TABLE,
        table_bytes = const TABLE_BYTES,
        level_2_tables = const LEVEL_2_TABLES,
        big_page = const BIG_PAGE,
        big_pages = const BIG_PAGES,
        no_long_mode = sym NO_LONG_MODE,
        no_nx = sym NO_NX,
        line_start = sym LINE_START,
        line_end = sym LINE_END,
        exit_no_long_mode = const ExitCode::LoaderNoLongMode as u32,
        exit_no_nx = const ExitCode::LoaderNoNx as u32,
        exit_port = const PORT,
        cpuid_extended = const CPUID_EXTENDED,
        cpuid_features = const CPUID_FEATURES,
        long_mode_bit = const LONG_MODE_BIT,
        nx_bit = const NX_BIT,
        // SSE: the operating system saves its registers and handles its exceptions.
        cr4 = const Cr4Flags::PHYSICAL_ADDRESS_EXTENSION
            .union(Cr4Flags::OSFXSR)
            .union(Cr4Flags::OSXMMEXCPT_ENABLE)
            .bits(),
        efer = const EFER,
        efer_flags = const EferFlags::LONG_MODE_ENABLE.union(EferFlags::NO_EXECUTE_ENABLE).bits(),
        // EMULATE_COPROCESSOR stays clear: vector instructions run.
        cr0 = const Cr0Flags::PROTECTED_MODE_ENABLE
            .union(Cr0Flags::MONITOR_COPROCESSOR)
            .union(Cr0Flags::EXTENSION_TYPE)
            .union(Cr0Flags::NUMERIC_ERROR)
            .union(Cr0Flags::WRITE_PROTECT)
            .union(Cr0Flags::PAGING)
            .bits(),
        gdt_pointer = sym GDT_POINTER,
        code = const crate::handover::CODE_SELECTOR,
        start64 = sym start64,
        max_polls = const MAX_POLLS,
        line_status = const LINE_STATUS,
        transmit_empty = const TRANSMIT_EMPTY,
        data_port = const DATA,
    )
}

/// First 64-bit code; EBP still holds the address of the start information.
#[unsafe(naked)]
unsafe extern "C" fn start64() -> ! {
    naked_asm!(
        "mov eax, {data}",
        "mov ds, eax",
        "mov es, eax",
        "mov ss, eax",
        "xor eax, eax",
        "mov fs, eax",
        "mov gs, eax",
        "lea rsp, [{memory} + {stack_end}]",
        "fninit",
        "mov edi, ebp",
        "xor ebp, ebp",
        // A call, so that the stack is aligned as a function expects it.
        "call {main}",
        "ud2",
        data = const crate::handover::DATA_SELECTOR,
        memory = sym BOOT_MEMORY,
        stack_end = const size_of::<BootMemory>(),
        main = sym crate::loader_main,
    )
}
