//! Areas and faults.
use super::{Room, WARM_PAGES, first_word, pages_at, pattern};
use crate::arch::areas::{load_byte, load_bytes, store_bytes};
use crate::arch::probe::{self, ProbeError};
use crate::harness::{TestResult, check, check_eq, kernel_test};
use crate::memory::fault::Failure;
use crate::memory::manager;
use ferry_mm::address::{PAGE_BYTES, TABLE_ENTRIES};
use ferry_mm::page_table::entry::Entry;
use ferry_mm::space::{Access, FaultError, Protection, Residency};
use x86_64::VirtAddr;

fn failure(result: Result<impl Sized, ProbeError>) -> Option<Failure> {
    result.err().and_then(|error| error.failure)
}

kernel_test! {
    fn an_untouched_page_reads_as_zeros_from_the_zero_page() -> TestResult {
        let room = Room::enter()?;
        let range = room.map(2)?;
        let mut bytes = [0xff; PAGE_BYTES as usize];
        load_bytes(range.start_address(), &mut bytes);
        check!(bytes.iter().all(|byte| *byte == 0), "an untouched page is not all zeros")?;
        check_eq!(room.space.entry(range.start_address()).decode().frame(), Some(manager().zero_frame().into()));
        check_eq!(room.space.entry(range.page(1).start_address()).decode(), Entry::Empty);
        check_eq!(room.space.resident(), Residency { zero: 1, ..Residency::default() });
        Ok(())
    }

    fn a_store_gets_a_frame_of_zeros_whatever_was_in_it() -> TestResult {
        let room = Room::enter()?;
        // Leave something behind in frames that will be used again.
        let range = room.map_filled(64)?;
        room.space.unmap(range)?;
        let range = room.map(64)?;
        let mut bytes = [0; PAGE_BYTES as usize];
        for index in 0..64 {
            let start = range.page(index).start_address();
            store_bytes(start + 17u64, &[0xaa]);
            load_bytes(start, &mut bytes);
            let others = bytes.iter().enumerate().all(|(offset, byte)| (offset == 17) == (*byte != 0));
            check!(others && bytes[17] == 0xaa, "page {index} holds bytes of a former owner")?;
        }
        check_eq!(room.space.resident(), Residency { ram: 64, ..Residency::default() });
        Ok(())
    }

    fn a_store_replaces_the_zero_page_also_in_the_translation_cache() -> TestResult {
        let room = Room::enter()?;
        let range = room.map(WARM_PAGES)?;
        for index in 0..WARM_PAGES {
            check_eq!(load_byte(range.page(index).start_address()), 0);
        }
        for index in 0..WARM_PAGES {
            let start = range.page(index).start_address();
            store_bytes(start, &[index as u8 | 1]);
            check_eq!(load_byte(start), index as u8 | 1);
        }
        Ok(())
    }

    fn an_unmapped_page_cannot_be_reached_through_a_stale_translation() -> TestResult {
        let room = Room::enter()?;
        let range = room.map_filled(WARM_PAGES)?;
        // The first page of each table stays, so that no table goes: freeing one flushes on its own account.
        for first in (0..WARM_PAGES).step_by(TABLE_ENTRIES as usize) {
            room.space.unmap(pages_at(first + 1, TABLE_ENTRIES - 1)?)?;
        }
        for index in (0..WARM_PAGES).filter(|index| !index.is_multiple_of(TABLE_ENTRIES)) {
            let address = range.page(index).start_address();
            check_eq!(failure(probe::load(address)), Some(Failure::Access(FaultError::NoArea(address))));
        }
        Ok(())
    }

    fn part_of_an_area_can_be_unmapped() -> TestResult {
        let room = Room::enter()?;
        let range = room.map_filled(5)?;
        room.space.unmap(pages_at(1, 3)?)?;
        check_eq!(probe::load(range.start_address())?, first_word(0));
        check_eq!(probe::load(range.page(4).start_address())?, first_word(4));
        for index in 1..4 {
            check!(probe::load(range.page(index).start_address()).is_err(), "page {index} is still there")?;
        }
        check_eq!(room.space.resident(), Residency { ram: 2, ..Residency::default() });
        Ok(())
    }

    fn a_read_only_page_refuses_stores_at_once_and_keeps_its_contents() -> TestResult {
        let room = Room::enter()?;
        let range = room.map_filled(WARM_PAGES)?;
        room.space.protect(range, Protection::READ)?;
        for index in 0..WARM_PAGES {
            let address = range.page(index).start_address();
            let forbidden = Failure::Access(FaultError::Forbidden(address, Access::Write, Protection::READ));
            check_eq!(failure(probe::store(address, 0)), Some(forbidden));
            check_eq!(probe::load(address)?, first_word(index));
        }
        room.space.protect(range, Protection::READ_WRITE)?;
        store_bytes(range.start_address(), &[1]);
        check_eq!(load_byte(range.start_address()), 1);
        Ok(())
    }

    fn without_any_access_a_page_is_out_of_reach_and_comes_back() -> TestResult {
        let room = Room::enter()?;
        let range = room.map_filled(3)?;
        room.space.protect(range, Protection::empty())?;
        for index in 0..3 {
            check!(probe::load(range.page(index).start_address()).is_err(), "page {index} can be read")?;
        }
        room.space.protect(range, Protection::READ)?;
        for index in 0..3 {
            check_eq!(probe::load(range.page(index).start_address())?, first_word(index));
        }
        Ok(())
    }

    fn a_page_is_never_executable() -> TestResult {
        let room = Room::enter()?;
        let range = room.map_filled(1)?;
        check_eq!(
            room.space.fault(range.start_address(), Access::Execute),
            Err(FaultError::Forbidden(range.start_address(), Access::Execute, Protection::READ_WRITE))
        );
        Ok(())
    }

    fn addresses_without_an_area_are_refused_by_name() -> TestResult {
        let _room = Room::enter()?;
        let low = VirtAddr::new(0x1000);
        check_eq!(failure(probe::load(low)), Some(Failure::OutsideAreas));
        let hole = VirtAddr::new(0x7000_0000_0000);
        check_eq!(failure(probe::load(hole)), Some(Failure::Access(FaultError::NoArea(hole))));
        Ok(())
    }

    fn two_spaces_keep_their_pages_apart() -> TestResult {
        let first = Room::enter()?;
        let range = first.map_filled(WARM_PAGES)?;
        let second = Room::enter()?;
        second.map(WARM_PAGES)?;
        for index in 0..WARM_PAGES {
            check_eq!(load_byte(range.page(index).start_address()), 0);
        }
        drop(second);
        super::enter(first.space);
        let mut bytes = [0; PAGE_BYTES as usize];
        for index in (0..WARM_PAGES).step_by(97) {
            load_bytes(range.page(index).start_address(), &mut bytes);
            check!(bytes == pattern(index), "page {index} changed while another space was in use")?;
        }
        Ok(())
    }
}
