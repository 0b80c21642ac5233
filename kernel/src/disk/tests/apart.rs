//! Tests that each need a machine of their own; the host names them, in `boot/runner/tests/disk.rs`.
use super::{Page, the_disk};
use crate::disk::{DiskError, find};
use crate::harness::{TestResult, check_eq, kernel_test};

/// Slots of the disk that the host gives these tests.
const PAGES: u64 = 256;

/// The slot in which it fails.
const BAD_SLOT: u64 = 7;

/// More requests than the indices of the queue's rings count.
const MANY: u64 = (1 << 16) + 1000;

kernel_test! {
    fn a_machine_without_a_disk_has_none() -> TestResult {
        check_eq!(find()?.is_none(), true);
        Ok(())
    }

    fn reading_one_slot_fails() -> TestResult {
        let disk = the_disk()?;
        let page = Page::new()?;
        for slot in 0..PAGES {
            page.write(disk, slot)?;
        }
        for slot in (0..PAGES).rev().filter(|slot| *slot != BAD_SLOT) {
            let bad = DiskError::Io { slot: BAD_SLOT };
            page.check_fails(bad, |frame| disk.read_page(BAD_SLOT, frame))?;
            page.check(disk, slot)?;
        }
        Ok(())
    }

    fn writing_one_slot_fails() -> TestResult {
        let disk = the_disk()?;
        let page = Page::new()?;
        for slot in 0..PAGES {
            let bad = DiskError::Io { slot: BAD_SLOT };
            check_eq!(page.write(disk, slot), if slot == BAD_SLOT { Err(bad) } else { Ok(()) });
        }
        for slot in (0..PAGES).filter(|slot| *slot != BAD_SLOT) {
            page.check(disk, slot)?;
        }
        Ok(())
    }

    fn a_disk_that_stalls_is_lost() -> TestResult {
        let disk = the_disk()?;
        let page = Page::new()?;
        let lost = DiskError::TimedOut { slot: BAD_SLOT };
        // The one access that goes through may have been QEMU's own, which looks for a partition table.
        if disk.read_page(BAD_SLOT, page.frame).is_ok() {
            page.check_fails(lost, |frame| disk.read_page(BAD_SLOT, frame))?;
        }
        // At once, and about any slot.
        page.check_fails(lost, |frame| disk.read_page(0, frame))?;
        page.check_fails(lost, |frame| disk.write_page(2, frame))
    }

    fn every_other_slot_is_written() -> TestResult {
        let disk = the_disk()?;
        let page = Page::new()?;
        check_eq!(disk.pages(), PAGES);
        for slot in (1..PAGES).step_by(2) {
            page.write(disk, slot)?;
        }
        Ok(())
    }

    fn the_rings_indices_turn_over() -> TestResult {
        let disk = the_disk()?;
        let page = Page::new()?;
        for request in 0..MANY / 2 {
            let slot = request % PAGES;
            page.write(disk, slot)?;
            page.check(disk, slot)?;
        }
        Ok(())
    }
}
