//! The ELF64 structures as they lie in a file (System V gABI, "Object Files"; x86-64 psABI, chapter 4).
//!
//! Invariants:
//! 1. Every read is bound-checked against the slice it reads from; nothing here can panic.
//! 2. Numbers are little-endian, as the identification bytes demand before anything else is read.
use super::error::{ElfError, Part};

/// Size of the file header in bytes.
pub const FILE_HEADER_BYTES: usize = 64;
/// Size of one program header in bytes.
pub const PROGRAM_HEADER_BYTES: usize = 56;
/// Size of one section header in bytes.
pub const SECTION_HEADER_BYTES: usize = 64;
/// Size of one entry of the dynamic section in bytes.
pub const DYNAMIC_BYTES: usize = 16;
/// Size of one relocation with addend in bytes.
pub const RELA_BYTES: usize = 24;

/// `e_ident`: magic number, 64-bit class, little-endian data, version 1.
pub const IDENTIFICATION: [u8; 7] = [0x7f, b'E', b'L', b'F', 2, 1, 1];
/// `e_type` of a program at a fixed address.
pub const ET_EXEC: u16 = 2;
/// `e_type` of a position-independent program.
pub const ET_DYN: u16 = 3;
/// `e_machine` of x86-64.
pub const EM_X86_64: u16 = 62;
/// `p_type` of a segment to load.
pub const PT_LOAD: u32 = 1;
/// `p_type` of the dynamic section.
pub const PT_DYNAMIC: u32 = 2;
/// `p_type` of the name of a dynamic linker.
pub const PT_INTERP: u32 = 3;
/// `p_type` of a thread-local storage template.
pub const PT_TLS: u32 = 7;
/// `p_type` of what shall be read-only once it is relocated.
pub const PT_GNU_RELRO: u32 = 0x6474_e552;
/// `p_flags`: executable.
pub const PF_X: u32 = 1;
/// `p_flags`: writable.
pub const PF_W: u32 = 2;
/// `sh_type` of a section without bytes in the file.
pub const SHT_NOBITS: u32 = 8;
/// End of the dynamic section.
pub const DT_NULL: u64 = 0;
/// A shared library that is needed.
pub const DT_NEEDED: u64 = 1;
/// Address of the relocations with addend.
pub const DT_RELA: u64 = 7;
/// Size of the relocations with addend, in bytes.
pub const DT_RELASZ: u64 = 8;
/// Size of one relocation with addend, in bytes.
pub const DT_RELAENT: u64 = 9;
/// Size of the relocations without addend, in bytes.
pub const DT_RELSZ: u64 = 18;
/// Size of the relocations of the procedure linkage table, in bytes.
pub const DT_PLTRELSZ: u64 = 2;
/// Size of the relocations in the packed format, in bytes.
pub const DT_RELRSZ: u64 = 35;
/// Relocation type: the load bias plus the addend, 64 bits wide.
pub const R_X86_64_RELATIVE: u32 = 8;

/// `length` bytes of `bytes` from `offset` on, or `None` where they do not all exist.
pub fn slice(bytes: &[u8], offset: u64, length: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = usize::try_from(offset.checked_add(length)?).ok()?;
    bytes.get(start..end)
}

fn field<const N: usize>(bytes: &[u8], offset: usize, part: Part) -> Result<[u8; N], ElfError> {
    let end = offset.checked_add(N);
    let field = end.and_then(|end| bytes.get(offset..end)).and_then(|field| field.try_into().ok());
    field.ok_or(ElfError::Truncated(part))
}

/// The 16-bit number at `offset`.
pub fn u16_at(bytes: &[u8], offset: usize, part: Part) -> Result<u16, ElfError> {
    field(bytes, offset, part).map(u16::from_le_bytes)
}

/// The 32-bit number at `offset`.
pub fn u32_at(bytes: &[u8], offset: usize, part: Part) -> Result<u32, ElfError> {
    field(bytes, offset, part).map(u32::from_le_bytes)
}

/// The 64-bit number at `offset`.
pub fn u64_at(bytes: &[u8], offset: usize, part: Part) -> Result<u64, ElfError> {
    field(bytes, offset, part).map(u64::from_le_bytes)
}

/// What the loader needs of a program header (`Elf64_Phdr`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProgramHeader {
    /// `p_type`.
    pub kind: u32,
    /// `p_flags`.
    pub flags: u32,
    /// `p_offset`: where its bytes start in the file.
    pub offset: u64,
    /// `p_vaddr`: its address before the load bias is added.
    pub address: u64,
    /// `p_filesz`: how many bytes the file holds.
    pub file_bytes: u64,
    /// `p_memsz`: how many bytes it has in memory.
    pub memory_bytes: u64,
    /// `p_align`: its alignment in bytes.
    pub align: u64,
}

impl ProgramHeader {
    /// Reads one entry of the program header table.
    pub fn read(entry: &[u8]) -> Result<Self, ElfError> {
        let part = Part::ProgramHeaders;
        Ok(Self {
            kind: u32_at(entry, 0, part)?,
            flags: u32_at(entry, 4, part)?,
            offset: u64_at(entry, 8, part)?,
            address: u64_at(entry, 16, part)?,
            file_bytes: u64_at(entry, 32, part)?,
            memory_bytes: u64_at(entry, 40, part)?,
            align: u64_at(entry, 48, part)?,
        })
    }
}

/// What the loader needs of a section header (`Elf64_Shdr`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SectionHeader {
    /// `sh_name`: offset of the name in the string section.
    pub name: u32,
    /// `sh_type`.
    pub kind: u32,
    /// `sh_offset`: where its bytes start in the file.
    pub offset: u64,
    /// `sh_size`: how many bytes it has.
    pub bytes: u64,
}

impl SectionHeader {
    /// Reads one entry of the section header table.
    pub fn read(entry: &[u8]) -> Result<Self, ElfError> {
        let part = Part::SectionHeaders;
        Ok(Self {
            name: u32_at(entry, 0, part)?,
            kind: u32_at(entry, 4, part)?,
            offset: u64_at(entry, 24, part)?,
            bytes: u64_at(entry, 32, part)?,
        })
    }
}

/// One entry of the dynamic section (`Elf64_Dyn`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dynamic {
    /// `d_tag`.
    pub tag: u64,
    /// `d_val` or `d_ptr`.
    pub value: u64,
}

impl Dynamic {
    /// Reads one entry.
    pub fn read(entry: &[u8]) -> Result<Self, ElfError> {
        Ok(Self { tag: u64_at(entry, 0, Part::Dynamic)?, value: u64_at(entry, 8, Part::Dynamic)? })
    }
}

/// One relocation with addend (`Elf64_Rela`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rela {
    /// `r_offset`: address of what is relocated, before the load bias is added.
    pub address: u64,
    /// Low half of `r_info`.
    pub kind: u32,
    /// High half of `r_info`: index of a symbol.
    pub symbol: u32,
    /// `r_addend`, to be added with wrap-around.
    pub addend: u64,
}

impl Rela {
    /// Reads one entry.
    pub fn read(entry: &[u8]) -> Result<Self, ElfError> {
        let part = Part::Relocations;
        Ok(Self {
            address: u64_at(entry, 0, part)?,
            kind: u32_at(entry, 8, part)?,
            symbol: u32_at(entry, 12, part)?,
            addend: u64_at(entry, 16, part)?,
        })
    }
}
