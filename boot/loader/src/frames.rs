//! Frames with their bytes, reached through the loader's identity map.
//!
//! Invariants:
//! 1. Every frame is below [`crate::entry::IDENTITY_END`], so its address is its pointer.
//! 2. The allocator gives out each frame once and only from memory that nothing else uses, so each slice
//!    and each table has one owner.
use ferry_loader::image::Frames;
use ferry_loader::memory::{FRAME_BYTES, FrameAllocator, MemoryError, PhysRange, Purpose};
use ferry_loader::paging::TableMemory;
use x86_64::PhysAddr;
use x86_64::structures::paging::PageTable;

/// The allocator, with access to what it gives out.
pub struct IdentityFrames(FrameAllocator);

impl IdentityFrames {
    /// `allocator` must have been made with the end of the identity map as its limit.
    pub fn new(allocator: FrameAllocator) -> Self {
        Self(allocator)
    }

    /// Everything given out so far.
    pub fn given_out(&self) -> impl Iterator<Item = PhysRange> {
        self.0.given_out()
    }
}

impl Frames<'static> for IdentityFrames {
    fn allocate(&mut self, bytes: u64, purpose: Purpose) -> Result<(PhysRange, &'static mut [u8]), MemoryError> {
        let range = self.0.allocate(bytes, purpose)?;
        let start = core::ptr::with_exposed_provenance_mut(range.start as usize);
        // SAFETY: the range is RAM below the end of the identity map, free of everything else, and given
        // out this once (invariants 1 and 2). RAM holds some value even where nobody wrote it.
        let contents = unsafe { core::slice::from_raw_parts_mut(start, (range.end - range.start) as usize) };
        Ok((range, contents))
    }
}

impl TableMemory for IdentityFrames {
    fn new_table(&mut self) -> Result<PhysAddr, MemoryError> {
        let (range, contents) = self.allocate(FRAME_BYTES, Purpose::PageTable)?;
        contents.fill(0);
        Ok(PhysAddr::new_truncate(range.start))
    }

    fn table(&mut self, frame: PhysAddr) -> &mut PageTable {
        let table = core::ptr::with_exposed_provenance_mut::<PageTable>(frame.as_u64() as usize);
        // SAFETY: by the trait's contract `new_table` gave this frame out, zeroed, which is a valid empty
        // table; its slice was dropped there, and the borrow of `self` keeps this reference the only one.
        unsafe { &mut *table }
    }
}
