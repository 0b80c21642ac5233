//! From the bytes of a kernel file to a plan how to load it.
//!
//! [`plan`] is a pure function: it reads the file, believes nothing, and returns an [`Image`] whose
//! every number is checked. Loading it afterwards cannot fail for a reason that lies in the file.
//!
//! ```text
//!   file                                     image (link addresses; a PIE adds its base)
//!   ┌──────────────┐                         ┌─────────────┬──────────┬───────┬─────────────┐
//!   │ file header  │      plan()             │ r-- .rodata │ r-x .text│ RELRO │ rw- .data   │
//!   │ segments ────┼───────────────────────▶ │ page        │ page     │ r--   │ .bss zeroed │
//!   │ sections     │                         └─────────────┴──────────┴───────┴─────────────┘
//!   └──────────────┘                          first_page()                          end_page()
//! ```
//!
//! Every number that is read is checked before it is used, so no file can make it panic.
mod error;
mod image;
#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;
mod wire;

pub use error::{ElfError, Part};
pub use image::{Access, Image, MAX_IMAGE_BYTES, MAX_SEGMENTS, Relocation, Segment, UPPER_HALF};
use image::{PAGE_BYTES, page_ceiling, page_floor};
use wire::{Dynamic, ProgramHeader, Rela, SectionHeader};

const POINTER_BYTES: u64 = 8;
const CONFIG_SECTION: &[u8] = b".bootloader-config\0";

/// Reads a kernel file and says how to load it.
///
/// # Errors
/// The first thing that is wrong with the file, see [`ElfError`].
pub fn plan(file: &[u8]) -> Result<Image<'_>, ElfError> {
    let header = wire::slice(file, 0, wire::FILE_HEADER_BYTES as u64).ok_or(
        // A file of a few foreign bytes is foreign, not short.
        if file.starts_with(&wire::IDENTIFICATION) { ElfError::Truncated(Part::FileHeader) } else { ElfError::NotElf },
    )?;
    if !header.starts_with(&wire::IDENTIFICATION) {
        return Err(ElfError::NotElf);
    }
    let machine = wire::u16_at(header, 18, Part::FileHeader)?;
    if machine != wire::EM_X86_64 {
        return Err(ElfError::ForeignMachine(machine));
    }
    let position_independent = match wire::u16_at(header, 16, Part::FileHeader)? {
        wire::ET_DYN => true,
        wire::ET_EXEC => false,
        other => return Err(ElfError::NotAProgram(other)),
    };

    let mut image = Image {
        segments: [None; MAX_SEGMENTS],
        relocations: &[],
        relro: (0, 0),
        position_independent,
        entry: wire::u64_at(header, 24, Part::FileHeader)?,
        align: PAGE_BYTES,
        config: config_section(file, header)?,
    };
    let mut relro = None;
    let mut dynamic = None;
    let mut loaded = 0_usize;
    for (index, entry) in program_headers(file, header)?.enumerate() {
        let program = ProgramHeader::read(entry)?;
        match program.kind {
            wire::PT_LOAD if program.memory_bytes == 0 && program.file_bytes == 0 => {}
            wire::PT_LOAD => {
                let previous = loaded.checked_sub(1).and_then(|last| image.segments[last]);
                let segment = check_segment(file, index, &program, previous, &image)?;
                *image.segments.get_mut(loaded).ok_or(ElfError::TooManySegments)? = Some(segment);
                image.align = image.align.max(program.align);
                loaded += 1;
            }
            wire::PT_INTERP => return Err(ElfError::NeedsDynamicLinker),
            wire::PT_TLS => return Err(ElfError::ThreadLocalStorage),
            wire::PT_GNU_RELRO if relro.replace(program).is_some() => {
                return Err(ElfError::Duplicate(Part::Segment(index)));
            }
            wire::PT_DYNAMIC if dynamic.replace(program).is_some() => return Err(ElfError::Duplicate(Part::Dynamic)),
            _ => {}
        }
    }
    if loaded == 0 {
        return Err(ElfError::NoSegments);
    }

    let executable = |segment: &Segment| segment.access == Access::ReadExecute && segment.contains(image.entry, 1);
    if !image.segments().any(|segment| executable(&segment)) {
        return Err(ElfError::EntryNotExecutable(image.entry));
    }
    if let Some(relro) = relro {
        image.relro = relro_pages(&image, &relro)?;
    }
    if let Some(dynamic) = dynamic {
        image.relocations = relocation_table(file, &image, &dynamic)?;
        check_relocations(&image)?;
    }
    Ok(image)
}

/// A table of `count` entries at file offset `offset`, entry by entry.
fn table<'f>(file: &'f [u8], offset: u64, count: u16, size: usize, part: Part) -> Result<Chunks<'f>, ElfError> {
    let bytes = wire::slice(file, offset, u64::from(count) * size as u64).ok_or(ElfError::Truncated(part))?;
    Ok(bytes.chunks_exact(size))
}

type Chunks<'f> = core::slice::ChunksExact<'f, u8>;

fn program_headers<'f>(file: &'f [u8], header: &[u8]) -> Result<Chunks<'f>, ElfError> {
    let part = Part::ProgramHeaders;
    let (offset, size) = (wire::u64_at(header, 32, part)?, wire::u16_at(header, 54, part)?);
    let count = wire::u16_at(header, 56, part)?;
    if count == 0 {
        return Err(ElfError::NoSegments);
    }
    if usize::from(size) != wire::PROGRAM_HEADER_BYTES {
        return Err(ElfError::EntrySize(part, size.into()));
    }
    table(file, offset, count, wire::PROGRAM_HEADER_BYTES, part)
}

/// Finds `.bootloader-config` by its name. A file without sections has none.
fn config_section<'f>(file: &'f [u8], header: &[u8]) -> Result<Option<&'f [u8]>, ElfError> {
    let part = Part::SectionHeaders;
    let (offset, size) = (wire::u64_at(header, 40, part)?, wire::u16_at(header, 58, part)?);
    let (count, names_index) = (wire::u16_at(header, 60, part)?, wire::u16_at(header, 62, part)?);
    if count == 0 {
        return Ok(None);
    }
    if usize::from(size) != wire::SECTION_HEADER_BYTES {
        return Err(ElfError::EntrySize(part, size.into()));
    }
    let mut sections = table(file, offset, count, wire::SECTION_HEADER_BYTES, part)?;
    let names = sections.clone().nth(names_index.into()).ok_or(ElfError::Truncated(Part::SectionNames))?;
    let names = SectionHeader::read(names)?;
    let names = wire::slice(file, names.offset, names.bytes).ok_or(ElfError::Truncated(Part::SectionNames))?;
    let is_config = |section: &SectionHeader| {
        let name = usize::try_from(section.name).ok().and_then(|start| names.get(start..));
        section.kind != wire::SHT_NOBITS && name.is_some_and(|name| name.starts_with(CONFIG_SECTION))
    };
    let Some(config) = sections.find_map(|entry| SectionHeader::read(entry).ok().filter(is_config)) else {
        return Ok(None);
    };
    let bytes = wire::slice(file, config.offset, config.bytes);
    bytes.map(Some).ok_or(ElfError::Truncated(Part::Section))
}

/// Checks one segment to load against the file, the format's rules and what was found before.
fn check_segment<'f>(
    file: &'f [u8],
    index: usize,
    program: &ProgramHeader,
    previous: Option<Segment>,
    image: &Image,
) -> Result<Segment<'f>, ElfError> {
    if program.file_bytes > program.memory_bytes {
        return Err(ElfError::FileExceedsMemory(index));
    }
    let bytes = wire::slice(file, program.offset, program.file_bytes);
    let bytes = bytes.ok_or(ElfError::Truncated(Part::Segment(index)))?;

    if !image.position_independent && program.address < UPPER_HALF {
        return Err(ElfError::NotInUpperHalf(program.address));
    }
    // A page is kept free at the top so that no end wraps around.
    let last = program.address.checked_add(program.memory_bytes).filter(|end| *end <= page_floor(u64::MAX));
    let first_page = if previous.is_some() { image.first_page() } else { page_floor(program.address) };
    let too_large = |end: &u64| end.saturating_sub(first_page) > MAX_IMAGE_BYTES;
    let last = last.filter(|end| !too_large(end)).ok_or(ElfError::TooLarge(index))?;
    if image.position_independent && last > MAX_IMAGE_BYTES {
        return Err(ElfError::TooLarge(index));
    }

    // gABI: 0 and 1 mean "no alignment"; otherwise address and offset agree modulo the alignment.
    let align = program.align.max(1);
    if !align.is_power_of_two() || align > MAX_IMAGE_BYTES || (program.address ^ program.offset) & (align - 1) != 0 {
        return Err(ElfError::Misaligned(index, program.align));
    }
    if previous.is_some_and(|previous| page_floor(program.address) < previous.end_page()) {
        return Err(ElfError::Overlaps(index));
    }
    let access = match (program.flags & wire::PF_W != 0, program.flags & wire::PF_X != 0) {
        (true, true) => return Err(ElfError::WritableAndExecutable(index)),
        (true, false) => Access::ReadWrite,
        (false, true) => Access::ReadExecute,
        (false, false) => Access::Read,
    };
    Ok(Segment { file: bytes, address: program.address, memory_bytes: program.memory_bytes, access })
}

/// The pages that are read-only after relocation: all that lie within the RELRO range.
fn relro_pages(image: &Image, relro: &ProgramHeader) -> Result<(u64, u64), ElfError> {
    let end = relro.address.checked_add(relro.memory_bytes);
    let end = end.filter(|end| relro.address >= image.first_page() && *end <= image.end_page());
    let end = page_floor(end.ok_or(ElfError::RelroOutOfRange(relro.address))?);
    // Where a segment begins with RELRO, nothing else is on the part of its first page in front of it.
    let begins_segment = image.segments().any(|segment| segment.address == relro.address);
    let start = if begins_segment { page_floor(relro.address) } else { page_ceiling(relro.address) };
    Ok((start, end.max(start)))
}

/// Finds the relocations that the dynamic section names, and refuses every other demand it makes.
fn relocation_table<'f>(file: &'f [u8], image: &Image<'f>, dynamic: &ProgramHeader) -> Result<&'f [u8], ElfError> {
    let part = Part::Relocations;
    let entries = wire::slice(file, dynamic.offset, dynamic.file_bytes).ok_or(ElfError::Truncated(Part::Dynamic))?;
    let (mut address, mut bytes, mut entry_bytes) = (None, 0, wire::RELA_BYTES as u64);
    for entry in entries.chunks_exact(wire::DYNAMIC_BYTES) {
        let Dynamic { tag, value } = Dynamic::read(entry)?;
        match tag {
            wire::DT_NULL => break,
            wire::DT_NEEDED => return Err(ElfError::NeedsDynamicLinker),
            wire::DT_RELA => address = Some(value),
            wire::DT_RELASZ => bytes = value,
            wire::DT_RELAENT => entry_bytes = value,
            wire::DT_RELSZ | wire::DT_PLTRELSZ | wire::DT_RELRSZ if value != 0 => {
                return Err(ElfError::ForeignRelocationTable(tag));
            }
            _ => {}
        }
    }
    let Some(address) = address.filter(|_| bytes > 0) else { return Ok(&[]) };
    if entry_bytes != wire::RELA_BYTES as u64 || bytes % entry_bytes != 0 {
        return Err(ElfError::EntrySize(part, entry_bytes));
    }
    let within = |segment: Segment<'f>| {
        let offset = address.checked_sub(segment.address)?;
        wire::slice(segment.file, offset, bytes)
    };
    image.segments().find_map(within).ok_or(ElfError::Truncated(part))
}

fn check_relocations(image: &Image) -> Result<(), ElfError> {
    for entry in image.relocations.chunks_exact(wire::RELA_BYTES) {
        let rela = Rela::read(entry)?;
        if rela.kind != wire::R_X86_64_RELATIVE || rela.symbol != 0 {
            return Err(ElfError::ForeignRelocation(rela.kind));
        }
        let target =
            |segment: Segment| segment.access == Access::ReadWrite && segment.contains(rela.address, POINTER_BYTES);
        if !image.segments().any(target) {
            return Err(ElfError::RelocationOutOfRange(rela.address));
        }
    }
    Ok(())
}
