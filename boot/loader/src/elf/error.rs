//! Why a kernel file is refused.
use core::fmt;

/// A part of the file that is read, for messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The 64 bytes at the start.
    FileHeader,
    /// The table of segments.
    ProgramHeaders,
    /// The table of sections.
    SectionHeaders,
    /// The section with the sections' names.
    SectionNames,
    /// The bytes of one section.
    Section,
    /// The bytes of one segment, by its place in the table.
    Segment(usize),
    /// The dynamic section.
    Dynamic,
    /// The relocations.
    Relocations,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FileHeader => f.write_str("the file header"),
            Self::ProgramHeaders => f.write_str("the table of segments"),
            Self::SectionHeaders => f.write_str("the table of sections"),
            Self::SectionNames => f.write_str("the names of the sections"),
            Self::Section => f.write_str("the section .bootloader-config"),
            Self::Segment(index) => write!(f, "segment {index}"),
            Self::Dynamic => f.write_str("the dynamic section"),
            Self::Relocations => f.write_str("the relocations"),
        }
    }
}

/// Why a file cannot be loaded as a kernel. Each carries what conflicts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ElfError {
    /// The first bytes are not those of a little-endian 64-bit ELF.
    NotElf,
    /// `e_machine` is another processor's.
    ForeignMachine(u16),
    /// `e_type` is neither a PIE nor a program at a fixed address.
    NotAProgram(u16),
    /// The file ends before this part does.
    Truncated(Part),
    /// A table's entries have another size than the format says.
    EntrySize(Part, u64),
    /// There is nothing to load.
    NoSegments,
    /// More segments to load than [`super::MAX_SEGMENTS`].
    TooManySegments,
    /// The segment has more bytes in the file than in memory.
    FileExceedsMemory(usize),
    /// The segment's end is beyond the address space, or the image is larger than [`super::MAX_IMAGE_BYTES`].
    TooLarge(usize),
    /// The segment's alignment is no power of two, or its address and its offset disagree about it.
    Misaligned(usize, u64),
    /// The segment starts on a page that an earlier one uses, or below it.
    Overlaps(usize),
    /// The segment is writable and executable.
    WritableAndExecutable(usize),
    /// A program at a fixed address that does not lie in the upper half.
    NotInUpperHalf(u64),
    /// The entry point is in no executable segment.
    EntryNotExecutable(u64),
    /// The file needs a dynamic linker or a shared library.
    NeedsDynamicLinker,
    /// The file has thread-local storage.
    ThreadLocalStorage,
    /// A second dynamic section or RELRO segment.
    Duplicate(Part),
    /// A kind of relocation other than `R_X86_64_RELATIVE`.
    ForeignRelocation(u32),
    /// A table of relocations in another format, by the tag of its size in the dynamic section.
    ForeignRelocationTable(u64),
    /// The relocation's eight bytes at this address are not all within one writable segment.
    RelocationOutOfRange(u64),
    /// The RELRO range is not within the image.
    RelroOutOfRange(u64),
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf => f.write_str("it is not a little-endian 64-bit ELF file"),
            Self::ForeignMachine(machine) => write!(f, "it is for ELF machine {machine}, not for x86-64 (62)"),
            Self::NotAProgram(kind) => write!(f, "its ELF type is {kind}, neither a PIE (3) nor an executable (2)"),
            Self::Truncated(part) => write!(f, "it ends before {part} does"),
            Self::EntrySize(part, size) => write!(f, "the entries of {part} claim {size} bytes each"),
            Self::NoSegments => f.write_str("it has no segment to load"),
            Self::TooManySegments => write!(f, "it has more than {} segments to load", super::MAX_SEGMENTS),
            Self::FileExceedsMemory(index) => write!(f, "segment {index} is larger in the file than in memory"),
            Self::TooLarge(index) => write!(f, "segment {index} ends beyond {} MiB", super::MAX_IMAGE_BYTES >> 20),
            Self::Misaligned(index, align) => write!(f, "segment {index} does not keep its alignment of {align:#x}"),
            Self::Overlaps(index) => write!(f, "segment {index} shares a page with an earlier segment"),
            Self::WritableAndExecutable(index) => {
                write!(f, "segment {index} is writable and executable; link with -z separate-code")
            }
            Self::NotInUpperHalf(address) => {
                write!(f, "it is linked at v{address:#x}, not in the upper half; link it as a PIE (-static-pie)")
            }
            Self::EntryNotExecutable(address) => write!(f, "its entry point {address:#x} is in no executable segment"),
            Self::NeedsDynamicLinker => f.write_str("it needs a dynamic linker; link with -static-pie -nostdlib"),
            Self::ThreadLocalStorage => f.write_str("it has thread-local storage, for which this loader has no place"),
            Self::Duplicate(part) => write!(f, "it has {part} twice"),
            Self::ForeignRelocation(kind) => {
                write!(f, "it has relocations of kind {kind}; only R_X86_64_RELATIVE (8) can be applied")
            }
            Self::ForeignRelocationTable(tag) => {
                write!(f, "it has a relocation table that cannot be applied (dynamic tag {tag}); link with -static-pie")
            }
            Self::RelocationOutOfRange(address) => {
                write!(f, "the relocation at {address:#x} is outside the writable segments")
            }
            Self::RelroOutOfRange(address) => write!(f, "the RELRO range at {address:#x} is outside the image"),
        }
    }
}

impl core::error::Error for ElfError {}
