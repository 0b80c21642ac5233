//! Pages of an address space that stand on the disk, each test on a machine of its own: what the memory manager makes of
//! the disk, and of its errors. The host looks into the image itself (`boot/runner/tests/disk.rs`).
use super::pattern;
use crate::arch::areas::{load_bytes, store_bytes};
use crate::arch::machine::PageBuffer;
use crate::arch::probe;
use crate::disk::attach;
use crate::harness::{TestFailure, TestResult, check, check_eq, fail, kernel_test};
use crate::memory::fault::Failure;
use crate::memory::mirror::{Buffer, Mirror};
use crate::memory::{AddressSpace, device, enter, leave, manager};
use ferry_mm::address::{PAGE_BYTES, PageRange};
use ferry_mm::page_table::entry::Entry;
use ferry_mm::space::{FaultError, Protection};
use x86_64::VirtAddr;

/// The pages that a test swaps out; page N holds the pattern of slot N, wherever it goes.
const PAGES: u64 = 64;

/// The slot in which the disk of the tests of errors fails.
const BAD_SLOT: u64 = 7;

/// A space with filled pages, and the disk behind it.
struct Swapped {
    space: AddressSpace,
    range: PageRange,
}

impl Swapped {
    fn new() -> Result<Self, TestFailure> {
        if attach()?.is_none() {
            fail!("the machine has no disk; give it one with --swap");
        }
        let range = PageRange::covering(VirtAddr::new_truncate(0x0000_0042_0000_0000), PAGES * PAGE_BYTES)?;
        let space = manager().create_space()?;
        enter(space);
        let swapped = Self { space, range };
        space.map_anonymous(range, Protection::READ_WRITE)?;
        for page in 0..PAGES {
            store_bytes(swapped.address(page), &pattern(page));
        }
        Ok(swapped)
    }

    fn address(&self, page: u64) -> VirtAddr {
        self.range.page(page).start_address()
    }

    /// The slot of a page that is swapped out.
    fn slot(&self, page: u64) -> Option<u64> {
        match self.space.entry(self.address(page)).decode() {
            Entry::Swap { slot } => Some(slot.number()),
            _ => None,
        }
    }

    fn check_contents(&self, page: u64) -> TestResult {
        let mut bytes = [0; PAGE_BYTES as usize];
        load_bytes(self.address(page), &mut bytes);
        check!(bytes == pattern(page), "page {page} came back with other contents")
    }
}

impl Drop for Swapped {
    fn drop(&mut self) {
        leave();
        if let Err(error) = self.space.destroy() {
            log::error!("{error}");
        }
    }
}

kernel_test! {
    fn pages_go_to_slots_of_their_own_and_come_back() -> TestResult {
        let swapped = Swapped::new()?;
        let free = manager().census().free_frames;
        let report = swapped.space.swap_out(swapped.range)?;
        check_eq!((report.freed, report.stayed.total()), (PAGES, 0));
        check_eq!(manager().census().free_frames, free + PAGES);
        let mut slots: alloc::vec::Vec<u64> = (0..PAGES).filter_map(|page| swapped.slot(page)).collect();
        slots.sort_unstable();
        slots.dedup();
        check_eq!(slots.len() as u64, PAGES);
        for page in (0..PAGES).rev() {
            swapped.check_contents(page)?;
        }
        Ok(())
    }

    fn protection_holds_for_pages_on_the_disk() -> TestResult {
        let (none, read, write) = (Protection::empty(), Protection::READ, Protection::READ_WRITE);
        for (steps, last) in [(&[none][..], none), (&[read], read), (&[none, read], read), (&[read, write], write)] {
            let swapped = Swapped::new()?;
            check_eq!(swapped.space.swap_out(swapped.range)?.freed, PAGES);
            for protection in steps {
                swapped.space.protect(swapped.range, *protection)?;
            }
            check!((0..PAGES).all(|page| swapped.slot(page).is_some()), "a change of protection reads no page")?;
            for page in 0..PAGES {
                check_eq!(probe::load(swapped.address(page)).is_ok(), last.is_accessible());
                if last.is_accessible() {
                    swapped.check_contents(page)?;
                }
                check_eq!(probe::store(swapped.address(page), 0).is_ok(), last == write);
            }
        }
        Ok(())
    }

    fn pages_stay_on_the_disk_for_the_host() -> TestResult {
        let swapped = Swapped::new()?;
        check_eq!(swapped.space.swap_out(swapped.range)?.freed, PAGES);
        Ok(())
    }

    fn a_read_error_is_that_of_one_page() -> TestResult {
        let swapped = Swapped::new()?;
        check_eq!(swapped.space.swap_out(swapped.range)?.freed, PAGES);
        let Some(bad) = (0..PAGES).find(|page| swapped.slot(*page) == Some(BAD_SLOT)) else {
            fail!("no page is in slot {BAD_SLOT}")
        };
        for _ in 0..2 {
            let error = probe::load(swapped.address(bad)).err().and_then(|error| error.failure);
            check_eq!(error, Some(Failure::Access(FaultError::Disk(swapped.address(bad)))));
            check_eq!(swapped.slot(bad), Some(BAD_SLOT));
        }
        for page in (0..PAGES).filter(|page| *page != bad) {
            swapped.check_contents(page)?;
        }
        Ok(())
    }

    fn a_device_that_follows_reads_what_comes_back() -> TestResult {
        let device = device::all()?[0].id;
        let swapped = Swapped::new()?;
        let copy = Buffer::new(device, PAGES)?;
        let mirror = Mirror::open(swapped.space, swapped.range, device)?;
        let read = || -> Result<_, TestFailure> {
            Ok(mirror.read(swapped.range, &copy)?.map(|done| (done.pages, done.faults)))
        };
        check_eq!(read()?, Ok((PAGES, 1)));
        check_eq!(swapped.space.swap_out(swapped.range)?.freed, PAGES);
        // Other contents for the frames that the device knew.
        let others = PageRange::covering(swapped.address(0) + PAGES * PAGE_BYTES, PAGES * PAGE_BYTES)?;
        swapped.space.map_anonymous(others, Protection::READ_WRITE)?;
        for page in 0..PAGES {
            store_bytes(others.page(page).start_address(), &pattern(PAGES + page));
        }
        check_eq!(read()?, Ok((PAGES, 1)));
        for page in 0..PAGES {
            let mut found = PageBuffer::zeros();
            copy.load(page, &mut found);
            check!(found.0 == pattern(page), "the device has read other contents from page {page}")?;
            check_eq!(swapped.slot(page), None);
        }
        Ok(())
    }

    fn a_write_error_loses_nothing() -> TestResult {
        let swapped = Swapped::new()?;
        let report = swapped.space.swap_out(swapped.range)?;
        check_eq!((report.freed, report.stayed.total()), (PAGES - 1, 1));
        for page in 0..PAGES {
            swapped.check_contents(page)?;
        }
        Ok(())
    }
}
