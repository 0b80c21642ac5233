extern crate std;
use super::sample::{self, DYNAMIC, NAMES, RELA, SECTIONS, program_field, put};
use super::*;
use std::vec::Vec;

const OFFSET: usize = 8;
const ADDRESS: usize = 16;
const FILE_BYTES: usize = 32;
const MEMORY_BYTES: usize = 40;
const ALIGN: usize = 48;

/// The error for the sample with `bytes` written at `offset`.
fn damaged(offset: usize, bytes: &[u8]) -> Option<ElfError> {
    let mut file = sample::kernel();
    put(&mut file, offset, bytes);
    plan(&file).err()
}

/// The error for the sample with `value` in a field of program header `index`.
fn with_program(index: usize, field: usize, value: u64) -> Option<ElfError> {
    damaged(program_field(index, field), &value.to_le_bytes())
}

/// What must hold of every image, whatever the file.
fn assert_sound(image: &Image, file: &[u8]) {
    let segments: Vec<Segment> = image.segments().collect();
    assert!(!segments.is_empty());
    for segment in &segments {
        assert!(segment.file.len() as u64 <= segment.memory_bytes && segment.file.len() <= file.len());
    }
    assert!(segments.windows(2).all(|pair| pair[0].end_page() <= pair[1].first_page()), "{segments:?}");
    assert!(image.end_page() - image.first_page() <= MAX_IMAGE_BYTES + 0x2000);
    assert!(image.align.is_power_of_two());
    for relocation in image.relocations() {
        assert!(segments.iter().any(|segment| segment.access == Access::ReadWrite
            && segment.address <= relocation.address
            && relocation.address + 8 <= segment.address + segment.memory_bytes));
    }
}

#[test]
fn the_sample_is_understood() {
    let file = sample::kernel();
    let image = plan(&file).unwrap();
    assert_sound(&image, &file);
    let found: Vec<_> = image.segments().map(|s| (s.address, s.file.len(), s.memory_bytes, s.access)).collect();
    assert_eq!(
        found,
        [
            (0, 0x400, 0x400, Access::Read),
            (0x1000, 0x800, 0x800, Access::ReadExecute),
            (0x2000, 0x100, 0x1000, Access::ReadWrite),
            (0x3010, 0xf0, 0x2345, Access::ReadWrite),
        ]
    );
    assert_eq!((image.first_page(), image.end_page()), (0, 0x6000));
    assert_eq!((image.entry, image.align, image.position_independent), (sample::ENTRY, 0x1000, true));
    assert_eq!(image.relocations().map(|r| (r.address, r.addend)).collect::<Vec<_>>(), sample::RELOCATIONS);
    assert_eq!(image.config, Some(&bootloader_api::BootloaderConfig::new_default().serialize()[..]));
    let access: Vec<_> = image.segments().map(|segment| image.final_access(&segment, segment.first_page())).collect();
    assert_eq!(access, [Access::Read, Access::ReadExecute, Access::Read, Access::ReadWrite]);
}

#[test]
fn a_fixed_address_is_taken_in_the_upper_half_only() {
    let high = sample::at_fixed_address(0xffff_ffff_8000_0000);
    let image = plan(&high).unwrap();
    assert!(!image.position_independent && image.relocations().next().is_none());
    assert_eq!(image.end_page(), 0xffff_ffff_8000_6000);
    let low = sample::at_fixed_address(0x40_0000);
    assert_eq!(plan(&low).err(), Some(ElfError::NotInUpperHalf(0x40_0000)));
    let top = sample::at_fixed_address(0xffff_ffff_ffff_a000);
    assert_eq!(plan(&top).err(), Some(ElfError::TooLarge(3)));
}

#[test]
fn foreign_files_are_named() {
    assert_eq!(plan(b"").err(), Some(ElfError::NotElf));
    assert_eq!(plan(b"#!/bin/sh\n").err(), Some(ElfError::NotElf));
    assert_eq!(damaged(4, &[1]), Some(ElfError::NotElf), "32-bit");
    assert_eq!(damaged(5, &[2]), Some(ElfError::NotElf), "big-endian");
    assert_eq!(damaged(18, &[183]), Some(ElfError::ForeignMachine(183)));
    assert_eq!(damaged(16, &[1]), Some(ElfError::NotAProgram(1)));
    // This very test program: a real file from a real linker, dynamically linked.
    let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    assert!(matches!(plan(&own).err(), Some(ElfError::NeedsDynamicLinker | ElfError::ThreadLocalStorage)));
}

#[test]
fn damaged_headers_are_named() {
    let programs = Part::ProgramHeaders;
    assert_eq!(damaged(32, &u64::MAX.to_le_bytes()), Some(ElfError::Truncated(programs)));
    assert_eq!(damaged(32, &0x33f0_u64.to_le_bytes()), Some(ElfError::Truncated(programs)));
    assert_eq!(damaged(54, &[32]), Some(ElfError::EntrySize(programs, 32)));
    assert_eq!(damaged(56, &[0]), Some(ElfError::NoSegments));
    assert_eq!(damaged(56, &[0xff, 0xff]), Some(ElfError::Truncated(programs)));
    assert_eq!(damaged(40, &u64::MAX.to_le_bytes()), Some(ElfError::Truncated(Part::SectionHeaders)));
    assert_eq!(damaged(58, &[40]), Some(ElfError::EntrySize(Part::SectionHeaders, 40)));
    assert_eq!(damaged(62, &[9]), Some(ElfError::Truncated(Part::SectionNames)));
    assert_eq!(damaged(SECTIONS + 64 + 24, &u64::MAX.to_le_bytes()), Some(ElfError::Truncated(Part::SectionNames)));
    assert_eq!(damaged(SECTIONS + 128 + 32, &u64::MAX.to_le_bytes()), Some(ElfError::Truncated(Part::Section)));
    assert_eq!(damaged(24, &0x2000_u64.to_le_bytes()), Some(ElfError::EntryNotExecutable(0x2000)));
}

#[test]
fn damaged_segments_are_named() {
    assert_eq!(with_program(1, FILE_BYTES, 0x801), Some(ElfError::FileExceedsMemory(1)));
    assert_eq!(with_program(1, OFFSET, 0x3000), Some(ElfError::Truncated(Part::Segment(1))));
    assert_eq!(with_program(1, OFFSET, u64::MAX), Some(ElfError::Truncated(Part::Segment(1))));
    assert_eq!(with_program(3, MEMORY_BYTES, MAX_IMAGE_BYTES), Some(ElfError::TooLarge(3)));
    assert_eq!(with_program(3, MEMORY_BYTES, u64::MAX), Some(ElfError::TooLarge(3)));
    assert_eq!(with_program(3, ADDRESS, 0xffff_ffff_8000_0010), Some(ElfError::TooLarge(3)));
    assert_eq!(with_program(3, ADDRESS, 0x3020), Some(ElfError::Misaligned(3, 0x1000)));
    assert_eq!(with_program(1, ALIGN, 3), Some(ElfError::Misaligned(1, 3)));
    assert_eq!(with_program(2, MEMORY_BYTES, 0x1001), Some(ElfError::Overlaps(3)));
    assert_eq!(with_program(3, ADDRESS, 0x2010), Some(ElfError::Overlaps(3)), "on a page of its neighbour");
    assert_eq!(with_program(3, ADDRESS, 0x10), Some(ElfError::Overlaps(3)), "out of order");
    assert_eq!(damaged(program_field(1, 4), &[7]), Some(ElfError::WritableAndExecutable(1)));
    assert_eq!(damaged(program_field(5, 0), &[3]), Some(ElfError::NeedsDynamicLinker));
    assert_eq!(damaged(program_field(5, 0), &[7]), Some(ElfError::ThreadLocalStorage));
    assert_eq!(damaged(program_field(4, 0), &wire::PT_DYNAMIC.to_le_bytes()), Some(ElfError::Duplicate(Part::Dynamic)));
    assert_eq!(with_program(4, ADDRESS, 0x5001), Some(ElfError::RelroOutOfRange(0x5001)));
    assert_eq!(with_program(4, MEMORY_BYTES, u64::MAX), Some(ElfError::RelroOutOfRange(0x2000)));

    // One more segment than there is room for.
    let mut file = sample::kernel();
    put(&mut file, 32, &0x3400_u64.to_le_bytes());
    put(&mut file, 56, &(MAX_SEGMENTS as u16 + 1).to_le_bytes());
    let program = file[program_field(1, 0)..program_field(2, 0)].to_vec();
    for index in 0..=MAX_SEGMENTS as u64 {
        let mut program = program.clone();
        put(&mut program, ADDRESS, &(0x1000 * (index + 1)).to_le_bytes());
        file.extend(program);
    }
    assert_eq!(plan(&file).err(), Some(ElfError::TooManySegments));
}

#[test]
fn only_part_of_a_page_is_not_relro() {
    // RELRO that begins and ends within the data segment: only whole pages become read-only.
    let mut file = sample::kernel();
    put(&mut file, program_field(4, ADDRESS), &0x3020_u64.to_le_bytes());
    put(&mut file, program_field(4, MEMORY_BYTES), &0x2000_u64.to_le_bytes());
    let image = plan(&file).unwrap();
    let data = image.segments().nth(3).unwrap();
    let access = [0x3000, 0x4000, 0x5000].map(|page| image.final_access(&data, page));
    assert_eq!(access, [Access::ReadWrite, Access::Read, Access::ReadWrite]);
}

#[test]
fn damaged_relocations_are_named() {
    let out_of_range = |address: u64| Some(ElfError::RelocationOutOfRange(address));
    for address in [0x1ff9, 0x2ff9, 0x300f, 0x534e, 0x1000, 0, u64::MAX, u64::MAX - 7] {
        assert_eq!(damaged(RELA, &address.to_le_bytes()), out_of_range(address), "{address:#x}");
    }
    assert_eq!(damaged(RELA, &0x534d_u64.to_le_bytes()), None, "the last eight bytes");
    assert_eq!(damaged(RELA + 8, &[6]), Some(ElfError::ForeignRelocation(6)));
    assert_eq!(damaged(RELA + 12, &[1]), Some(ElfError::ForeignRelocation(8)), "with a symbol");
    assert_eq!(damaged(DYNAMIC + 8, &0x400_u64.to_le_bytes()), Some(ElfError::Truncated(Part::Relocations)));
    assert_eq!(damaged(DYNAMIC + 24, &u64::MAX.to_le_bytes()[..7]), Some(ElfError::EntrySize(Part::Relocations, 24)));
    assert_eq!(damaged(DYNAMIC + 40, &[16]), Some(ElfError::EntrySize(Part::Relocations, 16)));
    assert_eq!(damaged(DYNAMIC, &wire::DT_NEEDED.to_le_bytes()), Some(ElfError::NeedsDynamicLinker));
    assert_eq!(damaged(DYNAMIC + 16, &wire::DT_RELRSZ.to_le_bytes()), Some(ElfError::ForeignRelocationTable(35)));
    assert_eq!(with_program(5, OFFSET, u64::MAX), Some(ElfError::Truncated(Part::Dynamic)));
}

#[test]
fn a_missing_configuration_is_not_the_elfs_fault() {
    let mut file = sample::kernel();
    put(&mut file, NAMES + 12, b"x");
    assert_eq!(plan(&file).unwrap().config, None);
    put(&mut file, 60, &[0]);
    assert_eq!(plan(&file).unwrap().config, None);
}

#[test]
fn truncated_files_are_errors() {
    let file = sample::kernel();
    for length in 0..SECTIONS + 3 * wire::SECTION_HEADER_BYTES {
        assert!(plan(&file[..length]).is_err(), "{length}");
    }
}

/// Every byte that the planner reads, damaged in every single bit and as a whole: never a panic, and
/// whatever is still accepted is sound.
#[test]
fn no_damaged_byte_panics() {
    let read = (0..0x280).chain(DYNAMIC..DYNAMIC + 0x40).chain(SECTIONS..0x3400);
    for offset in read {
        for mask in [1, 2, 4, 8, 16, 32, 64, 128, 0xff_u8] {
            let mut file = sample::kernel();
            file[offset] ^= mask;
            if let Ok(image) = plan(&file) {
                assert_sound(&image, &file);
                for segment in image.segments() {
                    let _ = image.final_access(&segment, segment.first_page());
                }
            }
        }
    }
}
