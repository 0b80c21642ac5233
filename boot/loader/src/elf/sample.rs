//! A small kernel file for tests, laid out by hand, with everything that the loader looks at.
//!
//! ```text
//!   file = link address   segment          holds
//!   0x0000..0x0400        0  r--           headers, relocations (0x200), configuration (0x280)
//!   0x1000..0x1800        1  r-x           code
//!   0x2000..0x2100        2  rw-, RELRO    pointers, dynamic section (0x2080); 0x1000 bytes in memory
//!   0x3010..0x3100        3  rw-           data; 0x2345 bytes in memory
//!   0x3200                   sections, names at 0x3300
//! ```
extern crate std;
use super::wire;
use bootloader_api::BootloaderConfig;
use std::vec::Vec;

/// Offset of the first program header; segments come first, then RELRO, then the dynamic section.
pub const PROGRAM_HEADERS: usize = 0x40;
/// Offset of the first relocation.
pub const RELA: usize = 0x200;
/// Offset of the dynamic section.
pub const DYNAMIC: usize = 0x2080;
/// Offset of the first section header.
pub const SECTIONS: usize = 0x3200;
/// Offset of the names of the sections.
pub const NAMES: usize = 0x3300;
/// Link address of the entry point.
pub const ENTRY: u64 = 0x1010;
/// Address and addend of each relocation.
pub const RELOCATIONS: [(u64, u64); 3] = [(0x2008, 0x1010), (0x3018, 0x3020), (0x4101, 0)];

const CONFIG: usize = 0x280;

/// Writes `bytes` at `offset`.
pub fn put(file: &mut [u8], offset: usize, bytes: &[u8]) {
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// Offset of field `offset` in the program header `index`.
pub fn program_field(index: usize, offset: usize) -> usize {
    PROGRAM_HEADERS + index * wire::PROGRAM_HEADER_BYTES + offset
}

fn put_program(file: &mut [u8], index: usize, kind: u32, flags: u32, place: u64, bytes: u64, memory: u64) {
    put(file, program_field(index, 0), &kind.to_le_bytes());
    put(file, program_field(index, 4), &flags.to_le_bytes());
    for (field, value) in [(8, place), (16, place), (24, place), (32, bytes), (40, memory), (48, 0x1000)] {
        put(file, program_field(index, field), &value.to_le_bytes());
    }
}

/// The sample, a PIE.
pub fn kernel() -> Vec<u8> {
    let mut file: Vec<u8> = (0..0x3400).map(|index: usize| (index / 7) as u8).collect();
    file[..0x280].fill(0);
    file[DYNAMIC..DYNAMIC + 0x80].fill(0);
    put(&mut file, 0, &wire::IDENTIFICATION);
    put(&mut file, 16, &wire::ET_DYN.to_le_bytes());
    put(&mut file, 18, &wire::EM_X86_64.to_le_bytes());
    put(&mut file, 24, &ENTRY.to_le_bytes());
    put(&mut file, 32, &(PROGRAM_HEADERS as u64).to_le_bytes());
    put(&mut file, 40, &(SECTIONS as u64).to_le_bytes());
    for (field, value) in [(54, 56_u16), (56, 6), (58, 64), (60, 3), (62, 1)] {
        put(&mut file, field, &value.to_le_bytes());
    }
    put_program(&mut file, 0, wire::PT_LOAD, 4, 0, 0x400, 0x400);
    put_program(&mut file, 1, wire::PT_LOAD, 5, 0x1000, 0x800, 0x800);
    put_program(&mut file, 2, wire::PT_LOAD, 6, 0x2000, 0x100, 0x1000);
    put_program(&mut file, 3, wire::PT_LOAD, 6, 0x3010, 0xf0, 0x2345);
    put_program(&mut file, 4, wire::PT_GNU_RELRO, 4, 0x2000, 0x100, 0x1000);
    put_program(&mut file, 5, wire::PT_DYNAMIC, 6, DYNAMIC as u64, 0x40, 0x40);
    for (index, (address, addend)) in RELOCATIONS.into_iter().enumerate() {
        let offset = RELA + index * wire::RELA_BYTES;
        put(&mut file, offset, &address.to_le_bytes());
        put(&mut file, offset + 8, &u64::from(wire::R_X86_64_RELATIVE).to_le_bytes());
        put(&mut file, offset + 16, &addend.to_le_bytes());
    }
    let relocation_bytes = (RELOCATIONS.len() * wire::RELA_BYTES) as u64;
    let dynamic = [(wire::DT_RELA, RELA as u64), (wire::DT_RELASZ, relocation_bytes), (wire::DT_RELAENT, 24)];
    for (index, (tag, value)) in dynamic.into_iter().enumerate() {
        put(&mut file, DYNAMIC + index * wire::DYNAMIC_BYTES, &tag.to_le_bytes());
        put(&mut file, DYNAMIC + index * wire::DYNAMIC_BYTES + 8, &value.to_le_bytes());
    }

    let config = BootloaderConfig::new_default().serialize();
    put(&mut file, CONFIG, &config);
    let names = b"\0.shstrtab\0.bootloader-config\0";
    put(&mut file, NAMES, names);
    file[SECTIONS..SECTIONS + 3 * 64].fill(0);
    let sections = [(1_u32, 3_u32, NAMES, names.len()), (11, 1, CONFIG, config.len())];
    for (index, (name, kind, offset, bytes)) in sections.into_iter().enumerate() {
        let header = SECTIONS + (index + 1) * wire::SECTION_HEADER_BYTES;
        put(&mut file, header, &name.to_le_bytes());
        put(&mut file, header + 4, &kind.to_le_bytes());
        put(&mut file, header + 24, &(offset as u64).to_le_bytes());
        put(&mut file, header + 32, &(bytes as u64).to_le_bytes());
    }
    file
}

/// The sample, linked to a fixed address, without relocations.
pub fn at_fixed_address(base: u64) -> Vec<u8> {
    let mut file = kernel();
    put(&mut file, 16, &wire::ET_EXEC.to_le_bytes());
    put(&mut file, 24, &(base + ENTRY).to_le_bytes());
    for (index, address) in [0, 0x1000, 0x2000, 0x3010, 0x2000, DYNAMIC as u64].into_iter().enumerate() {
        put(&mut file, program_field(index, 16), &(base + address).to_le_bytes());
    }
    put(&mut file, DYNAMIC, &wire::DT_NULL.to_le_bytes());
    file
}
