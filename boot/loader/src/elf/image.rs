//! What is left of a kernel file once it is checked.
//!
//! Invariants of an [`Image`]:
//! 1. Segments are sorted by address, share no page, and none is writable and executable.
//! 2. Each segment's bytes in the file exist and are no more than it has in memory.
//! 3. Every relocation is `R_X86_64_RELATIVE` and writes eight bytes within one writable segment.
//! 4. The entry point lies in an executable segment.
//! 5. From the first page to the end it is at most [`MAX_IMAGE_BYTES`]; a program at a fixed address lies
//!    in the upper half as a whole.
use super::wire::{self, Rela};

/// Most segments that a kernel may have. Linkers make four or five.
pub const MAX_SEGMENTS: usize = 16;

/// Largest image in bytes: what fits between the usual kernel base, 2 GiB below the top, and half-way up.
pub const MAX_IMAGE_BYTES: u64 = 1 << 30;

/// First address of the upper half of the canonical address space.
pub const UPPER_HALF: u64 = 0xffff_8000_0000_0000;

/// Size of a page in bytes.
pub(super) const PAGE_BYTES: u64 = 4096;

/// What a page of the kernel may be used for. There is no "write and execute".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Read only.
    Read,
    /// Read and write.
    ReadWrite,
    /// Read and execute.
    ReadExecute,
}

/// A segment to load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment<'f> {
    /// Its first bytes; those up to `memory_bytes` are zero.
    pub file: &'f [u8],
    /// Link address of its first byte.
    pub address: u64,
    /// Its size in memory, in bytes; more than zero.
    pub memory_bytes: u64,
    /// What its pages may be used for.
    pub access: Access,
}

impl Segment<'_> {
    /// Link address of its first page.
    pub fn first_page(&self) -> u64 {
        page_floor(self.address)
    }

    /// Link address behind its last page.
    pub fn end_page(&self) -> u64 {
        page_ceiling(self.address + self.memory_bytes)
    }

    /// Whether the `length` bytes at `address` are within it.
    pub(super) fn contains(&self, address: u64, length: u64) -> bool {
        let end = self.address + self.memory_bytes;
        address >= self.address && address.checked_add(length).is_some_and(|last| last <= end)
    }
}

/// One pointer to write: at link address `address` goes the load bias plus `addend`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Relocation {
    /// Link address of the pointer.
    pub address: u64,
    /// What it points to, before the load bias is added with wrap-around.
    pub addend: u64,
}

/// A kernel file that can be loaded.
#[derive(Clone, Copy, Debug)]
pub struct Image<'f> {
    /// The first ones are there, sorted by address.
    pub(super) segments: [Option<Segment<'f>>; MAX_SEGMENTS],
    /// The relocation table.
    pub(super) relocations: &'f [u8],
    /// Link addresses of the pages that become read-only after relocation: first, end.
    pub(super) relro: (u64, u64),
    /// Whether it may be placed anywhere.
    pub position_independent: bool,
    /// Link address of the entry point.
    pub entry: u64,
    /// Strictest alignment of a segment, in bytes: at least a page.
    pub align: u64,
    /// The `.bootloader-config` section, if there is one.
    pub config: Option<&'f [u8]>,
}

impl<'f> Image<'f> {
    /// The segments, sorted by address.
    pub fn segments(&self) -> impl Iterator<Item = Segment<'f>> {
        self.segments.into_iter().flatten()
    }

    /// Every pointer to relocate.
    pub fn relocations(&self) -> impl Iterator<Item = Relocation> + use<'f> {
        let entries = self.relocations.chunks_exact(wire::RELA_BYTES);
        entries
            .filter_map(|entry| Rela::read(entry).ok())
            .map(|rela| Relocation { address: rela.address, addend: rela.addend })
    }

    /// Link address of the first page.
    pub fn first_page(&self) -> u64 {
        self.segments().map(|segment| segment.first_page()).min().unwrap_or(0)
    }

    /// Link address behind the last page.
    pub fn end_page(&self) -> u64 {
        self.segments().map(|segment| segment.end_page()).max().unwrap_or(0)
    }

    /// What the page at link address `page`, of `segment`, may be used for once everything is relocated.
    pub fn final_access(&self, segment: &Segment, page: u64) -> Access {
        if segment.access == Access::ReadWrite && page >= self.relro.0 && page < self.relro.1 {
            Access::Read
        } else {
            segment.access
        }
    }
}

/// The page boundary at or below `address`.
pub(super) fn page_floor(address: u64) -> u64 {
    address & !(PAGE_BYTES - 1)
}

/// The page boundary at or above `address`, which is at least a page below the top of the address space.
pub(super) fn page_ceiling(address: u64) -> u64 {
    page_floor(address + (PAGE_BYTES - 1))
}
