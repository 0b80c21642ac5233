//! The swap disk on the real machine: what goes to a slot comes back from it and from no other.
mod apart;
mod swapped;

use super::{Disk, DiskError, find};
use crate::arch::areas::{load_bytes, store_bytes};
use crate::harness::{TestFailure, TestResult, check, check_eq, fail, kernel_test};
use crate::memory::{AddressSpace, enter, leave, manager};
use ferry_mm::address::{PAGE_BYTES, PageRange};
use ferry_mm::page_table::entry::Entry;
use ferry_mm::space::Protection;
use x86_64::VirtAddr;
use x86_64::structures::paging::PhysFrame;

type PageBytes = [u8; PAGE_BYTES as usize];

/// Fills a page that nothing but a read of the disk shall change.
const UNTOUCHED: u8 = 0xee;

/// What a slot is filled with: the number of the slot in each word, mixed with the place of the word, so that neither a
/// neighbour's contents nor shifted ones look right. The host's test of the image has the same rule.
fn pattern(slot: u64) -> PageBytes {
    let mut bytes = [0; PAGE_BYTES as usize];
    for (place, word) in bytes.chunks_exact_mut(size_of::<u64>()).enumerate() {
        word.copy_from_slice(&((slot << 32) | (place as u64 + 1)).to_le_bytes());
    }
    bytes
}

fn the_disk() -> Result<Disk, TestFailure> {
    match find()? {
        Some(disk) => Ok(disk),
        None => fail!("the machine has no disk; give it one with --swap"),
    }
}

/// A page of memory, and the frame that is mapped there.
struct Page {
    space: AddressSpace,
    address: VirtAddr,
    frame: PhysFrame,
}

impl Page {
    fn new() -> Result<Self, TestFailure> {
        let address = VirtAddr::new_truncate(0x0000_0042_0000_0000);
        let space = manager().create_space()?;
        enter(space);
        // From here on dropping it takes the space down.
        let mut page = Self { space, address, frame: manager().zero_frame() };
        space.map_anonymous(PageRange::covering(address, PAGE_BYTES)?, Protection::READ_WRITE)?;
        page.fill(&pattern(0));
        match space.entry(address).decode() {
            Entry::Present { frame, .. } => page.frame = frame,
            entry => fail!("a page that was just written is {entry:?}"),
        }
        Ok(page)
    }

    fn fill(&self, bytes: &PageBytes) {
        store_bytes(self.address, bytes);
    }

    fn bytes(&self) -> PageBytes {
        let mut bytes = [0; PAGE_BYTES as usize];
        load_bytes(self.address, &mut bytes);
        bytes
    }

    /// Writes the pattern of `slot` there.
    fn write(&self, disk: Disk, slot: u64) -> Result<(), DiskError> {
        self.fill(&pattern(slot));
        disk.write_page(slot, self.frame)
    }

    /// Reads `slot` and checks that it holds its pattern.
    fn check(&self, disk: Disk, slot: u64) -> TestResult {
        self.fill(&[UNTOUCHED; PAGE_BYTES as usize]);
        disk.read_page(slot, self.frame)?;
        check!(self.bytes() == pattern(slot), "slot {slot} holds other contents")
    }

    /// Checks that an access with the page's frame fails with `error` and leaves the frame as it was.
    fn check_fails(&self, error: DiskError, access: impl FnOnce(PhysFrame) -> Result<(), DiskError>) -> TestResult {
        self.fill(&[UNTOUCHED; PAGE_BYTES as usize]);
        check_eq!(access(self.frame), Err(error));
        check!(self.bytes() == [UNTOUCHED; PAGE_BYTES as usize], "{error:?} has changed the frame")
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        leave();
        if let Err(error) = self.space.destroy() {
            log::error!("{error}");
        }
    }
}

kernel_test! {
    fn slots_hold_what_was_written_to_each() -> TestResult {
        let disk = the_disk()?;
        let page = Page::new()?;
        let last = disk.pages() - 1;
        // Neighbours at both ends and at the border where an offset in bytes needs 23 bits; not in ascending order.
        let slots = [last, 0, 2048, 1, last - 1, 2047, 7];
        for slot in slots {
            page.write(disk, slot)?;
        }
        for slot in slots.into_iter().rev() {
            page.check(disk, slot)?;
        }
        Ok(())
    }

    fn a_slot_holds_what_was_written_last() -> TestResult {
        let disk = the_disk()?;
        let page = Page::new()?;
        page.write(disk, 5)?;
        page.fill(&pattern(99));
        disk.write_page(5, page.frame)?;
        page.fill(&[UNTOUCHED; PAGE_BYTES as usize]);
        disk.read_page(5, page.frame)?;
        check!(page.bytes() == pattern(99), "the slot holds what stood there before")
    }

    fn a_write_leaves_the_frame_as_it_is() -> TestResult {
        let disk = the_disk()?;
        let page = Page::new()?;
        page.write(disk, 3)?;
        check!(page.bytes() == pattern(3), "writing to the disk has changed the frame")
    }

    fn slots_beyond_the_last_are_refused() -> TestResult {
        let disk = the_disk()?;
        let page = Page::new()?;
        let pages = disk.pages();
        // The last one is the slot whose sector number is that of slot 0 modulo 2^64.
        for slot in [pages, pages + 1, u64::MAX, 1 << 61] {
            let error = DiskError::OutOfRange { slot, pages };
            page.check_fails(error, |frame| disk.read_page(slot, frame))?;
            page.check_fails(error, |frame| disk.write_page(slot, frame))?;
        }
        // The disk works on.
        page.write(disk, pages - 1)?;
        page.check(disk, pages - 1)
    }
}
