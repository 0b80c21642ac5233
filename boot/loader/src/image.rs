//! Copies a planned kernel into frames, relocates it and maps it.
//!
//! Invariants:
//! 1. Every byte of every frame given to the kernel is written: from the file, or with zero.
//! 2. A page is mapped with the permission it has *after* relocation (RELRO pages read-only).
use crate::elf::{Image, MAX_SEGMENTS, Segment};
use crate::memory::{MemoryError, PhysRange, Purpose};
use crate::paging::{PagingError, TableMemory, Tables};
use x86_64::VirtAddr;

const PAGE_BYTES: u64 = 4096;

/// Where frames come from, with their bytes.
pub trait Frames<'m> {
    /// Frames in a row for `bytes` bytes, of unknown content, and all their bytes.
    ///
    /// # Errors
    /// [`MemoryError::Exhausted`].
    fn allocate(&mut self, bytes: u64, purpose: Purpose) -> Result<(PhysRange, &'m mut [u8]), MemoryError>;
}

/// A kernel that lies in frames, relocated to its bias.
pub struct Loaded<'f> {
    image: Image<'f>,
    bias: u64,
    segments: [Option<(Segment<'f>, PhysRange)>; MAX_SEGMENTS],
}

impl<'f> Loaded<'f> {
    /// Copies the segments of `image` into fresh frames and adds `bias` to every pointer it names.
    ///
    /// # Errors
    /// [`MemoryError::Exhausted`].
    pub fn load<'m>(image: Image<'f>, bias: u64, frames: &mut impl Frames<'m>) -> Result<Self, MemoryError> {
        let mut loaded = Self { image, bias, segments: [None; MAX_SEGMENTS] };
        let mut contents: [&mut [u8]; MAX_SEGMENTS] = core::array::from_fn(|_| Default::default());
        for ((slot, content), segment) in loaded.segments.iter_mut().zip(&mut contents).zip(image.segments()) {
            let (range, bytes) = frames.allocate(segment.end_page() - segment.first_page(), Purpose::Segment)?;
            let start = (segment.address - segment.first_page()) as usize;
            let (before, rest) = bytes.split_at_mut(start);
            let (from_file, behind) = rest.split_at_mut(segment.file.len());
            before.fill(0);
            from_file.copy_from_slice(segment.file);
            behind.fill(0);
            *slot = Some((segment, range));
            *content = bytes;
        }
        loaded.relocate(&mut contents);
        Ok(loaded)
    }

    fn relocate(&self, contents: &mut [&mut [u8]; MAX_SEGMENTS]) {
        for relocation in self.image.relocations() {
            let target = self.segments.iter().zip(contents.iter_mut()).find_map(|(slot, content)| {
                let offset = relocation.address.checked_sub(slot.as_ref()?.0.first_page())?;
                content.get_mut(usize::try_from(offset).ok()?..)?.first_chunk_mut()
            });
            if let Some(target) = target {
                *target = self.bias.wrapping_add(relocation.addend).to_le_bytes();
            }
        }
    }

    /// Where the kernel starts to run.
    pub fn entry(&self) -> VirtAddr {
        VirtAddr::new_truncate(self.bias.wrapping_add(self.image.entry))
    }

    /// Address of the image's first page.
    pub fn start(&self) -> VirtAddr {
        VirtAddr::new_truncate(self.bias.wrapping_add(self.image.first_page()))
    }

    /// Maps every segment, in runs of pages with one permission.
    ///
    /// # Errors
    /// [`PagingError`].
    pub fn map<M: TableMemory>(&self, tables: &mut Tables<M>) -> Result<(), PagingError> {
        for (segment, frames) in self.segments.iter().flatten() {
            let mut page = segment.first_page();
            while page < segment.end_page() {
                let access = self.image.final_access(segment, page);
                let mut end = page;
                while end < segment.end_page() && self.image.final_access(segment, end) == access {
                    end += PAGE_BYTES;
                }
                let offset = page - segment.first_page();
                let run = PhysRange::new(frames.start + offset, end - page);
                tables.map(VirtAddr::new_truncate(self.bias.wrapping_add(page)), run, access)?;
                page = end;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::elf::{plan, sample};

    const ARENA_START: u64 = 0x20_0000;
    const BASE: u64 = 0xffff_ffff_8000_0000;

    /// Memory full of rubbish, given out from its start.
    struct Arena<'m> {
        rest: &'m mut [u8],
        next: u64,
    }

    impl<'m> Frames<'m> for Arena<'m> {
        fn allocate(&mut self, bytes: u64, purpose: Purpose) -> Result<(PhysRange, &'m mut [u8]), MemoryError> {
            if bytes > self.rest.len() as u64 {
                return Err(MemoryError::Exhausted { bytes, purpose });
            }
            let (taken, rest) = core::mem::take(&mut self.rest).split_at_mut(bytes as usize);
            let range = PhysRange::new(self.next, bytes);
            (self.rest, self.next) = (rest, range.end);
            Ok((range, taken))
        }
    }

    #[test]
    fn every_byte_is_the_files_a_pointer_or_zero() {
        let file = sample::kernel();
        let image = plan(&file).unwrap();
        let mut memory = [0xa5; 0x8000];
        let loaded =
            Loaded::load(image, BASE, &mut Arena { rest: &mut memory, next: ARENA_START }).expect("the arena is large");
        assert_eq!((loaded.entry().as_u64(), loaded.start().as_u64()), (BASE + sample::ENTRY, BASE));

        // The sample's pages follow each other without a gap, so memory is the image from address 0 on.
        let mut expected = [0; 0x8000];
        for range in [0..0x400, 0x1000..0x1800, 0x2000..0x2100, 0x3010..0x3100] {
            expected[range.clone()].copy_from_slice(&file[range]);
        }
        for (address, addend) in sample::RELOCATIONS {
            expected[address as usize..][..8].copy_from_slice(&(BASE + addend).to_le_bytes());
        }
        expected[0x6000..].fill(0xa5);
        assert!(memory == expected, "first difference at {:?}", memory.iter().zip(expected).position(|(a, b)| *a != b));
    }

    #[test]
    fn too_little_memory_is_an_error() {
        let file = sample::kernel();
        let mut memory = [0; 0x5000];
        let loaded = Loaded::load(plan(&file).unwrap(), BASE, &mut Arena { rest: &mut memory, next: ARENA_START });
        assert_eq!(loaded.err(), Some(MemoryError::Exhausted { bytes: 0x3000, purpose: Purpose::Segment }));
    }
}
