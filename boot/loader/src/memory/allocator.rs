//! Frames from what is usable, taken and never given back: the loader frees nothing.
use super::{FRAME_BYTES, MAX_REGIONS, MemoryError, MemoryMap, PhysRange, Purpose};
use bootloader_api::info::MemoryRegionKind;

/// Gives out frames from usable memory, lowest first, and takes none back.
pub struct FrameAllocator {
    /// What is left of each usable range, and where it began.
    areas: [(PhysRange, u64); MAX_REGIONS],
    len: usize,
}

impl FrameAllocator {
    /// An allocator over what is usable in `map` below `limit`, a multiple of the frame size.
    pub fn new(map: &MemoryMap, limit: u64) -> Self {
        let mut allocator = Self { areas: [(PhysRange { start: 0, end: 0 }, 0); MAX_REGIONS], len: 0 };
        let usable = map.regions().iter().filter(|region| region.kind == MemoryRegionKind::Usable);
        for (area, region) in allocator.areas.iter_mut().zip(usable.filter(|region| region.start < limit)) {
            *area = (PhysRange { start: region.start, end: region.end.min(limit) }, region.start);
            allocator.len += 1;
        }
        allocator
    }

    /// Frames for `bytes` bytes (rounded up to whole frames), in a row.
    ///
    /// # Errors
    /// [`MemoryError::Exhausted`].
    pub fn allocate(&mut self, bytes: u64, purpose: Purpose) -> Result<PhysRange, MemoryError> {
        let exhausted = MemoryError::Exhausted { bytes, purpose };
        let bytes = bytes.checked_next_multiple_of(FRAME_BYTES).ok_or(exhausted)?;
        let mut areas = self.areas.iter_mut().take(self.len);
        let (left, _) = areas.find(|(left, _)| left.end - left.start >= bytes).ok_or(exhausted)?;
        let taken = PhysRange { start: left.start, end: left.start + bytes };
        left.start = taken.end;
        Ok(taken)
    }

    /// Everything given out so far, as few ranges.
    pub fn given_out(&self) -> impl Iterator<Item = PhysRange> {
        self.areas.iter().take(self.len).map(|(left, start)| PhysRange { start: *start, end: left.start })
    }
}
