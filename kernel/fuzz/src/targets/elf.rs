//! The kernel file, as the loader reads, places, copies and maps it
//!
//! The input is the file. What the loader accepts is followed to the end: its configuration is read, everything gets its
//! place, the segments are copied and relocated, and page tables are made.
//!
//! Oracle: program headers and relocations are read from the file a second time, with numbers that cannot overflow. Segments
//! must be those, in the file and apart; memory must be the file's bytes, pointers and zeros; each page must have the
//! permission of its segment; and no two things may share an address.
use std::collections::BTreeMap;

use ferry_loader::config::Request;
use ferry_loader::elf::{self, Access, Image, MAX_IMAGE_BYTES};
use ferry_loader::image::{Frames, Loaded};
use ferry_loader::layout;
use ferry_loader::memory::{MemoryError, PhysRange, Purpose};
use ferry_loader::paging::{TableMemory, Tables};
use x86_64::structures::paging::{PageTable, PageTableFlags};
use x86_64::{PhysAddr, VirtAddr};

use crate::oracle::layout::{SIZES, check_layout};
use crate::{Target, sample};

/// See the module.
pub const TARGET: Target = Target { name: "elf", check, seeds, most_bytes: 4096 };

const PAGE: u64 = 4096;

/// Where frames for segments begin, and how many bytes of them there are.
const ARENA: u64 = 0x20_0000;
const ARENA_BYTES: usize = 256 << 10;

/// Most page tables.
const MOST_TABLES: usize = 64;

/// Memory full of rubbish.
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

/// Page tables by their frames.
#[derive(Default)]
struct TableFrames(BTreeMap<u64, Box<PageTable>>);

impl TableMemory for TableFrames {
    fn new_table(&mut self) -> Result<PhysAddr, MemoryError> {
        let frame = (1 + self.0.len() as u64) * PAGE;
        if self.0.len() == MOST_TABLES {
            return Err(MemoryError::Exhausted { bytes: PAGE, purpose: Purpose::PageTable });
        }
        self.0.insert(frame, Box::default());
        Ok(PhysAddr::new(frame))
    }

    fn table(&mut self, frame: PhysAddr) -> &mut PageTable {
        self.0.get_mut(&frame.as_u64()).expect("a table is used that was never given out")
    }
}

impl TableFrames {
    /// The frame and the flags of a page of 4 KiB.
    fn walk(&mut self, root: PhysAddr, page: VirtAddr) -> Option<(u64, PageTableFlags)> {
        let mut table = root;
        for index in [page.p4_index(), page.p3_index(), page.p2_index()] {
            let entry = &self.table(table)[index];
            assert!(
                entry.flags().contains(PageTableFlags::WRITABLE) && !entry.flags().contains(PageTableFlags::HUGE_PAGE)
            );
            table = (!entry.is_unused()).then(|| entry.addr())?;
        }
        let entry = &self.table(table)[page.p1_index()];
        (!entry.is_unused()).then(|| (entry.addr().as_u64(), entry.flags()))
    }
}

/// A segment, as the file's headers say.
struct Expected<'f> {
    flags: u32,
    address: u128,
    memory: u128,
    bytes: &'f [u8],
}

impl Expected<'_> {
    fn pages(&self) -> (u128, u128) {
        let page = u128::from(PAGE);
        (self.address / page * page, (self.address + self.memory).div_ceil(page) * page)
    }
}

fn number(file: &[u8], offset: u128, bytes: usize) -> u128 {
    let field = &file[offset as usize..][..bytes];
    field.iter().rev().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// The segments to load. The file was accepted, so all of this is there.
fn segments(file: &[u8]) -> Vec<Expected<'_>> {
    let (table, count) = (number(file, 32, 8), number(file, 56, 2));
    let headers = (0..count).map(|index| table + index * 56);
    let loaded = headers.filter(|header| {
        number(file, *header, 4) == 1 && (number(file, header + 32, 8), number(file, header + 40, 8)) != (0, 0)
    });
    let expected = |header| {
        let (offset, bytes) = (number(file, header + 8, 8), number(file, header + 32, 8));
        Expected {
            flags: number(file, header + 4, 4) as u32,
            address: number(file, header + 16, 8),
            memory: number(file, header + 40, 8),
            bytes: &file[offset as usize..][..bytes as usize],
        }
    };
    loaded.map(expected).collect()
}

fn check_image(image: &Image, expected: &[Expected]) {
    let found: Vec<_> = image.segments().collect();
    assert_eq!(found.len(), expected.len(), "another number of segments");
    let mut end = 0;
    for (segment, expected) in found.iter().zip(expected) {
        let (first, behind) = expected.pages();
        assert_eq!(u128::from(segment.address), expected.address);
        assert_eq!(u128::from(segment.memory_bytes), expected.memory);
        assert!(segment.file == expected.bytes && segment.file.len() as u128 <= expected.memory);
        assert!(first >= end && behind < 1 << 64, "segments share a page, or one has no end");
        let access = match expected.flags & 0b11 {
            0b00 => Access::Read,
            0b01 => Access::ReadExecute,
            0b10 => Access::ReadWrite,
            _ => panic!("a segment is writable and executable"),
        };
        assert_eq!(segment.access, access);
        end = behind;
    }
    let first = expected.first().map_or(0, |expected| expected.pages().0);
    assert!(end - first <= u128::from(MAX_IMAGE_BYTES), "the image is too large");
    let holds = |flags: u32, address: u64, bytes: u128| {
        expected.iter().any(|segment| {
            let address = u128::from(address);
            segment.flags & 0b11 == flags
                && address >= segment.address
                && address + bytes <= segment.address + segment.memory
        })
    };
    assert!(holds(0b01, image.entry, 1), "the entry point is nowhere");
    assert!(image.relocations().all(|relocation| holds(0b10, relocation.address, 8)), "a pointer is nowhere");
}

/// What the frames must hold, one segment's pages behind the other's.
fn expected_memory(image: &Image, expected: &[Expected], bias: u64) -> Vec<u8> {
    let mut memory = Vec::new();
    let mut places = Vec::new();
    for segment in expected {
        let (first, end) = segment.pages();
        places.push((first, end, memory.len()));
        memory.resize(memory.len() + (segment.address - first) as usize, 0);
        memory.extend_from_slice(segment.bytes);
        memory.resize(places[places.len() - 1].2 + (end - first) as usize, 0);
    }
    for relocation in image.relocations() {
        let address = u128::from(relocation.address);
        let place = places.iter().find(|(first, end, _)| (*first..*end).contains(&address));
        let (first, _, start) = place.expect("was found to be in a segment");
        let pointer = bias.wrapping_add(relocation.addend).to_le_bytes();
        memory[start + (address - first) as usize..][..8].copy_from_slice(&pointer);
    }
    memory
}

fn check_memory(image: Image, expected: &[Expected], bias: u64) {
    let mut memory = vec![0xa5; ARENA_BYTES];
    let Ok(loaded) = Loaded::load(image, bias, &mut Arena { rest: &mut memory, next: ARENA }) else { return };
    let mut frames = TableFrames::default();
    let mut tables = Tables::new(&mut frames).expect("one table there is");
    let (mapped, root) = (loaded.map(&mut tables), tables.root());
    if mapped.is_ok() {
        let mut frame = ARENA;
        for (segment, expected) in image.segments().zip(expected) {
            for page in (segment.first_page()..segment.end_page()).step_by(PAGE as usize) {
                let found = frames.walk(root, VirtAddr::new_truncate(bias.wrapping_add(page)));
                let (found, flags) = found.expect("a page is not mapped");
                assert_eq!(found, frame, "a page has another frame");
                assert_eq!(flags.contains(PageTableFlags::NO_EXECUTE), expected.flags & 1 == 0);
                // RELRO takes the permission to write away, and nothing gives it.
                assert!(!flags.contains(PageTableFlags::WRITABLE) || expected.flags & 2 != 0);
                frame += PAGE;
            }
        }
    }
    let wanted = expected_memory(&image, expected, bias);
    assert!(memory[..wanted.len()] == wanted && memory[wanted.len()..].iter().all(|byte| *byte == 0xa5));
}

fn check(file: &[u8]) {
    let image = match elf::plan(file) {
        Ok(image) => image,
        Err(error) => return assert!(!error.to_string().is_empty(), "an error has a text"),
    };
    let expected = segments(file);
    check_image(&image, &expected);
    let Ok(request) = Request::read(image.config) else { return };
    let Ok(layout) = layout::place(&request, &image, SIZES) else { return };
    check_layout(&request, &image, &layout);
    check_memory(image, &expected, layout.bias);
}

fn seeds() -> Vec<Vec<u8>> {
    [true, false].into_iter().map(sample::kernel).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_loaded_to_the_end() {
        for file in seeds() {
            let image = elf::plan(&file).expect("a seed is a kernel");
            let request = Request::read(image.config).expect("a seed has a configuration");
            assert!(layout::place(&request, &image, SIZES).is_ok());
        }
    }
}
