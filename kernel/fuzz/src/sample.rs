//! A small kernel file, from which others are made.
//!
//! ```text
//!   file = link address   segment          holds
//!   0x000..0x280          0  r--           headers, a relocation (0x1c0), configuration (0x1e0)
//!   0x280..0x290          1  r-x           at link address 0x1280
//!   0x290..0x300          2  rw-, RELRO    at link address 0x2290; dynamic section (0x2a0)
//!   0x300                    sections, names at 0x3c0
//! ```
use bootloader_api::BootloaderConfig;

/// Kinds of program headers: to load, dynamic section, read-only after relocation.
const LOAD: u32 = 1;
const DYNAMIC: u32 = 2;
const RELRO: u32 = 0x6474_e552;

/// A program header of which the file's bytes begin at `place`, at link address `place + shift`.
fn program(kind: u32, flags: u32, place: u64, shift: u64, bytes: u64, memory: u64, align: u64) -> Vec<u8> {
    let words = [place, place + shift, place + shift, bytes, memory, align];
    let mut header = [kind, flags].map(u32::to_le_bytes).concat();
    header.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    header
}

fn section(name: u32, kind: u32, offset: u64, bytes: u64) -> Vec<u8> {
    let words = [0, 0, offset, bytes, 0, 0, 0];
    let mut header = [name, kind].map(u32::to_le_bytes).concat();
    header.extend(words.iter().flat_map(|word: &u64| word.to_le_bytes()));
    header.truncate(64);
    header
}

/// The sample as a PIE, or linked to the upper half.
pub fn kernel(position_independent: bool) -> Vec<u8> {
    let base: u64 = if position_independent { 0 } else { 0xffff_ffff_8000_0000 };
    let kind: u16 = if position_independent { 3 } else { 2 };
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
    file.resize(16, 0);
    file.extend([kind, 62].map(u16::to_le_bytes).concat());
    file.extend(1u32.to_le_bytes());
    file.extend([base + 0x1280, 0x40, 0x300].map(u64::to_le_bytes).concat());
    file.extend(0u32.to_le_bytes());
    file.extend([64u16, 56, 5, 64, 3, 1].map(u16::to_le_bytes).concat());
    file.extend(program(LOAD, 4, 0, base, 0x280, 0x280, 0x1000));
    file.extend(program(LOAD, 5, 0x280, base + 0x1000, 0x10, 0x10, 0x1000));
    file.extend(program(LOAD, 6, 0x290, base + 0x2000, 0x70, 0x2000, 0x1000));
    file.extend(program(RELRO, 4, 0x290, base + 0x2000, 0x70, 0x1000, 1));
    file.extend(program(DYNAMIC, 6, 0x2a0, base + 0x2000, 0x40, 0x40, 8));
    file.resize(0x1c0, 0);
    file.extend([0x2290u64, 8, 0x1280].map(u64::to_le_bytes).concat());
    let config = BootloaderConfig::new_default().serialize();
    file.resize(0x1e0, 0);
    file.extend(config);
    assert!(file.len() <= 0x280, "the configuration has {} bytes and no room", config.len());
    file.resize(0x2a0, 0);
    if position_independent {
        file.extend([7, 0x1c0, 8, 24, 9, 24, 0, 0].map(u64::to_le_bytes).concat());
    }
    file.resize(0x300, 0xa7);
    let names = b"\0.shstrtab\0.bootloader-config\0";
    file.extend(section(0, 0, 0, 0));
    file.extend(section(1, 3, 0x3c0, names.len() as u64));
    file.extend(section(11, 1, 0x1e0, config.len() as u64));
    file.extend(names);
    file
}
