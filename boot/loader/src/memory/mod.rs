//! Physical memory: which ranges there are, whose they are, and frames taken from them.
//!
//! [`MemoryMap`] is painted in layers, later ones on top:
//!
//! ```text
//!   1 firmware's RAM     ░░░░░░░░░░░░    ░░░░░░░░░░░░░░░░░░░░░    whole pages only (shrunk)
//!   2 everything else              ▒▒▒▒▒▒                    ▒▒▒  whole pages (grown), wins over RAM
//!   3 below 1 MiB        ████████                                 Bootloader
//!   4 loader, kernel file          ·    ██      ████              Bootloader
//!   5 frames given out                    █████                   Bootloader
//! ```
//!
//! Invariants:
//! 1. Regions are sorted, page-aligned, not empty and do not overlap; neighbours differ in kind.
//! 2. A page that is only partly RAM is not RAM.
//! 3. [`FrameAllocator`] gives out every frame at most once and only from usable memory below its limit.
mod allocator;
mod error;

pub use allocator::FrameAllocator;
use bootloader_api::info::{MemoryRegion, MemoryRegionKind};
pub use error::{MemoryError, Purpose};

/// Size of a frame in bytes.
pub const FRAME_BYTES: u64 = 4096;

/// Most regions that a map can hold. QEMU's firmware reports about ten, PVH at most 128.
pub const MAX_REGIONS: usize = 256;

/// End of the memory that belongs to the firmware's real-mode world (interrupt vectors, BIOS data,
/// video memory, option ROMs) and to start-up code of further CPUs.
pub const LOW_MEMORY_END: u64 = 1 << 20;

/// First address that a physical address of 52 bits cannot name (Intel SDM 3A.4.1.4).
const ADDRESS_END: u64 = 1 << 52;

/// `type` of RAM in the firmware's map (ACPI 6.5, 15 "System Address Map Interfaces").
const TYPE_RAM: u32 = 1;
/// `type` of RAM with ACPI tables.
const TYPE_ACPI: u32 = 3;
/// `type` of RAM that ACPI keeps across sleep.
const TYPE_NVS: u32 = 4;

/// A range of physical addresses, in bytes, the end exclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PhysRange {
    /// First byte.
    pub start: u64,
    /// Behind the last byte.
    pub end: u64,
}

impl PhysRange {
    /// The range of `bytes` bytes from `start` on, cut where 52 bits end.
    pub fn new(start: u64, bytes: u64) -> Self {
        Self { start: start.min(ADDRESS_END), end: start.saturating_add(bytes).min(ADDRESS_END) }
    }

    /// The whole frames within it.
    fn shrunk(self) -> Self {
        Self { start: self.start.next_multiple_of(FRAME_BYTES), end: self.end - self.end % FRAME_BYTES }
    }

    /// The frames that it touches.
    pub fn grown(self) -> Self {
        Self { start: self.start - self.start % FRAME_BYTES, end: self.end.next_multiple_of(FRAME_BYTES) }
    }

    /// Whether the two have a byte in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// All of physical memory, by kind.
#[derive(Clone)]
pub struct MemoryMap {
    regions: [MemoryRegion; MAX_REGIONS],
    len: usize,
}

impl MemoryMap {
    /// Layers 1 to 3, from the firmware's entries `(address, bytes, type)`.
    ///
    /// # Errors
    /// [`MemoryError::NoMap`] without any RAM, [`MemoryError::TooManyRegions`].
    pub fn from_firmware(entries: impl Iterator<Item = (u64, u64, u32)> + Clone) -> Result<Self, MemoryError> {
        let mut map = Self { regions: [MemoryRegion::empty(); MAX_REGIONS], len: 0 };
        for (address, bytes, _) in entries.clone().filter(|entry| entry.2 == TYPE_RAM) {
            map.paint(PhysRange::new(address, bytes).shrunk(), MemoryRegionKind::Usable)?;
        }
        if map.len == 0 {
            return Err(MemoryError::NoMap);
        }
        for (address, bytes, kind) in entries.filter(|entry| entry.2 != TYPE_RAM) {
            map.paint(PhysRange::new(address, bytes).grown(), MemoryRegionKind::UnknownBios(kind))?;
        }
        map.claim(PhysRange::new(0, LOW_MEMORY_END))?;
        Ok(map)
    }

    /// The regions, sorted.
    pub fn regions(&self) -> &[MemoryRegion] {
        &self.regions[..self.len]
    }

    /// The ranges that are RAM for sure, neighbours joined: what the direct map covers.
    pub fn ram(&self) -> impl Iterator<Item = PhysRange> {
        let is_ram = |region: &MemoryRegion| match region.kind {
            MemoryRegionKind::UnknownBios(kind) => kind == TYPE_ACPI || kind == TYPE_NVS,
            _ => true,
        };
        let mut regions = self.regions().iter().filter(move |region| is_ram(region)).peekable();
        core::iter::from_fn(move || {
            let first = regions.next()?;
            let mut range = PhysRange { start: first.start, end: first.end };
            while let Some(next) = regions.next_if(|next| next.start == range.end) {
                range.end = next.end;
            }
            Some(range)
        })
    }

    /// Takes what is usable within `range` (grown to whole frames) away from the kernel.
    ///
    /// # Errors
    /// [`MemoryError::TooManyRegions`].
    pub fn claim(&mut self, range: PhysRange) -> Result<(), MemoryError> {
        let range = range.grown();
        let usable = self.clone();
        for region in usable.regions().iter().filter(|region| region.kind == MemoryRegionKind::Usable) {
            let common = PhysRange { start: region.start.max(range.start), end: region.end.min(range.end) };
            self.paint(common, MemoryRegionKind::Bootloader)?;
        }
        Ok(())
    }

    /// Makes `range` a region of `kind`, over whatever is there; an empty range changes nothing.
    fn paint(&mut self, range: PhysRange, kind: MemoryRegionKind) -> Result<(), MemoryError> {
        if range.start >= range.end {
            return Ok(());
        }
        let old = self.clone();
        self.len = 0;
        let below = old.regions().iter().filter(|region| region.start < range.start);
        for region in below {
            self.push(MemoryRegion { end: region.end.min(range.start), ..*region })?;
        }
        self.push(MemoryRegion { start: range.start, end: range.end, kind })?;
        let above = old.regions().iter().filter(|region| region.end > range.end);
        for region in above {
            self.push(MemoryRegion { start: region.start.max(range.end), ..*region })?;
        }
        Ok(())
    }

    /// Appends a region, joined with the last one where they touch and are of one kind.
    fn push(&mut self, region: MemoryRegion) -> Result<(), MemoryError> {
        if let Some(last) = self.len.checked_sub(1).and_then(|last| self.regions.get_mut(last))
            && last.kind == region.kind
            && last.end == region.start
        {
            last.end = region.end;
            return Ok(());
        }
        *self.regions.get_mut(self.len).ok_or(MemoryError::TooManyRegions)? = region;
        self.len += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
