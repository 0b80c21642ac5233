//! `ferry-loader`: from QEMU's PVH entry to a `bootloader_api` kernel.
//!
//! ```text
//!   qemu -kernel ferry-loader -initrd <kernel ELF>
//!     entry      32-bit, no paging ─▶ CPU checks ─▶ 64-bit, identity map of 4 GiB, SSE
//!     main       start information ─▶ plan, place, copy, relocate, map ─▶ BootInfo
//!     handover   the kernel's page tables and stack ─▶ the kernel's entry
//! ```
//!
//! What the kernel finds: its image with one permission per page, its stack with a guard page below,
//! `BootInfo`, the direct map if it asked for one, and one page at its own physical address, read and
//! execute, with the code that switched the tables and a flat GDT. Interrupts are off. No page is
//! writable and executable, and no frame that is executable or read-only in one mapping is writable in
//! another.
#![no_std]
#![no_main]

mod console;
mod cpu;
mod entry;
mod exception;
mod frames;
mod handover;
mod runtime;

use core::panic::PanicInfo;
use ferry_loader::config::Request;
use ferry_loader::elf;
use ferry_loader::error::LoadError;
use ferry_loader::image::{Frames, Loaded};
use ferry_loader::layout::{self, Sizes};
use ferry_loader::memory::{FrameAllocator, MemoryMap, PhysRange, Purpose};
use ferry_loader::paging::Tables;
use ferry_protocol::exit::ExitCode;
use frames::IdentityFrames;
use handover::Handover;
use pvh::start_info::reader::StartInfoReader;

/// Called by the entry code, once, with the physical address of the PVH start information.
extern "C" fn loader_main(start_info: u32) -> ! {
    exception::install();
    let failure = match load(start_info) {
        Ok(handover) => handover.enter(),
        Err(failure) => failure,
    };
    console::line(format_args!("{failure}"));
    cpu::exit(failure.exit_code())
}

/// Everything up to the jump.
fn load(start_info_address: u32) -> Result<Handover, LoadError> {
    // SAFETY: the PVH entry hands over the address of the start information, which lies below 4 GiB
    // (PVH specification) and so within the identity map; nothing has written to memory since.
    let start_info = unsafe { StartInfoReader::from_paddr_identity(start_info_address) };
    let start_info = start_info.ok_or(LoadError::NoStartInfo(start_info_address))?;
    let entries = start_info.memmap().iter().map(|entry| (entry.addr, entry.size, entry.ty));
    let mut map = MemoryMap::from_firmware(entries)?;

    let module = start_info.modlist().next().ok_or(LoadError::NoKernel)?;
    let file_range = PhysRange::new(module.raw().paddr, module.raw().size);
    if file_range.end > entry::IDENTITY_END {
        return Err(LoadError::KernelOutOfReach(file_range.start));
    }
    // The firmware copies the kernel file after the loader's. Where that hit only the loader's zeroed
    // memory, which lies last, the loader still runs and can say so.
    if file_range.overlaps(entry::loader_range()) {
        return Err(LoadError::KernelOverLoader(file_range.start));
    }
    map.claim(entry::loader_range())?;
    map.claim(file_range)?;
    let mut frames = IdentityFrames::new(FrameAllocator::new(&map, entry::IDENTITY_END));

    let image = elf::plan(module.as_slice())?;
    let request = Request::read(image.config)?;
    let ram_end = map.ram().last().map_or(0, |range| range.end);
    let handover_page = handover::page();
    let sizes = Sizes { handover: handover_page.start, boot_info_bytes: handover::BOOT_INFO_BYTES, ram_end };
    let layout = layout::place(&request, &image, sizes)?;

    let loaded = Loaded::load(image, layout.bias, &mut frames)?;
    let (stack, _) = frames.allocate(request.stack_bytes, Purpose::Stack)?;
    let (boot_info, boot_info_bytes) = frames.allocate(handover::BOOT_INFO_BYTES, Purpose::BootInfo)?;

    let mut tables = Tables::new(&mut frames)?;
    handover::map_own_page(&mut tables)?;
    loaded.map(&mut tables)?;
    let stack_start = layout.guard + ferry_loader::memory::FRAME_BYTES;
    tables.map(stack_start, stack, elf::Access::ReadWrite)?;
    tables.map(layout.boot_info, boot_info, elf::Access::ReadWrite)?;
    if let Some(offset) = layout.physical_memory {
        for range in map.ram() {
            tables.map_direct(offset, range)?;
        }
    }
    let root = tables.root();
    for range in frames.given_out() {
        map.claim(range)?;
    }

    let facts = handover::Facts {
        map: &map,
        layout: &layout,
        file: file_range,
        image_start: loaded.start(),
        stack_bytes: stack.end - stack.start,
        rsdp: start_info.raw().rsdp_paddr,
    };
    handover::write_boot_info(boot_info_bytes, &facts);
    Ok(Handover {
        root,
        stack_end: stack_start + (stack.end - stack.start),
        entry: loaded.entry(),
        boot_info: layout.boot_info,
    })
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    match info.location() {
        Some(location) => console::line(format_args!("panic at {location}: {}", info.message())),
        None => console::line(format_args!("panic: {}", info.message())),
    }
    cpu::exit(ExitCode::LoaderPanic)
}
