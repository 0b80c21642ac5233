//! The way to the device and home.
use super::{Room, WARM_PAGES, first_word, pattern, the_device};
use crate::arch::areas::{load_byte, load_bytes, store_bytes};
use crate::arch::probe;
use crate::harness::{TestResult, check, check_eq, fail, kernel_test};
use crate::memory::fault::Failure;
use crate::memory::manager;
use alloc::vec::Vec;
use ferry_mm::address::PAGE_BYTES;
use ferry_mm::inject::Step;
use ferry_mm::page_table::entry::{Entry, LeafFlags, RawEntry};
use ferry_mm::space::{Access, FaultError, Protection, Residency, Term};
use ferry_mm::stats::Reason;

kernel_test! {
    fn pages_go_and_come_home_one_fault_each() -> TestResult {
        let device = the_device()?;
        let room = Room::enter()?;
        let range = room.map_filled(WARM_PAGES)?;
        let before = manager().statistics().read();
        let report = room.space.migrate_to_device(range, device)?;
        check_eq!((report.moved, report.stayed.total()), (WARM_PAGES, 0));
        check_eq!(room.space.resident(), Residency { device: WARM_PAGES, ..Residency::default() });
        let mut bytes = [0; PAGE_BYTES as usize];
        for index in 0..WARM_PAGES {
            load_bytes(range.page(index).start_address(), &mut bytes);
            check!(bytes == pattern(index), "page {index} came home with other contents")?;
        }
        let after = manager().statistics().read();
        // A stale translation would have read the old frame without a fault.
        check_eq!(after.special_faults - before.special_faults, WARM_PAGES);
        check_eq!(after.returned_by_fault - before.returned_by_fault, WARM_PAGES);
        check_eq!(after.flushes - before.flushes, 1);
        check_eq!(room.space.resident(), Residency { ram: WARM_PAGES, ..Residency::default() });
        Ok(())
    }

    fn a_store_brings_a_page_home_and_is_not_lost() -> TestResult {
        let device = the_device()?;
        let room = Room::enter()?;
        let range = room.map_filled(16)?;
        check_eq!(room.space.migrate_to_device(range, device)?.moved, 16);
        let mut bytes = [0; PAGE_BYTES as usize];
        for index in 0..16 {
            let start = range.page(index).start_address();
            store_bytes(start + 100u64, &[0]);
            load_bytes(start, &mut bytes);
            let mut expected = pattern(index);
            expected[100] = 0;
            check!(bytes == expected, "page {index} lost the store or its contents")?;
        }
        Ok(())
    }

    fn empty_pages_and_the_zero_page_move_and_come_home_as_zeros() -> TestResult {
        let device = the_device()?;
        let room = Room::enter()?;
        // Leave something behind in the device frames that will be used again.
        let filled = room.map_filled(32)?;
        check_eq!(room.space.migrate_to_device(filled, device)?.moved, 32);
        room.space.unmap(filled)?;
        let range = room.map(32)?;
        for index in 0..16 {
            check_eq!(load_byte(range.page(index).start_address()), 0);
        }
        let frames = manager().census().free_frames;
        check_eq!(room.space.migrate_to_device(range, device)?.moved, 32);
        check_eq!(manager().census().free_frames, frames);
        let mut bytes = [0xff; PAGE_BYTES as usize];
        for index in 0..32 {
            load_bytes(range.page(index).start_address(), &mut bytes);
            check!(bytes.iter().all(|byte| *byte == 0), "page {index} holds bytes of a former owner")?;
        }
        Ok(())
    }

    fn a_collected_page_is_out_of_reach_before_anybody_checks_references() -> TestResult {
        let device = the_device()?;
        let room = Room::enter()?;
        let range = room.map_filled(WARM_PAGES)?;
        let collected = room.space.collect(range, device)?;
        for index in 0..WARM_PAGES {
            let address = range.page(index).start_address();
            let failure = probe::load(address).err().and_then(|error| error.failure);
            // A stale translation would have read the frame; the wait for oneself is reported, not spun on.
            check_eq!(failure, Some(Failure::Access(FaultError::WaitsForItself(address))));
        }
        drop(collected);
        check_eq!(probe::load(range.start_address())?, first_word(0));
        Ok(())
    }

    fn a_dropped_migration_restores_every_entry_bit_for_bit() -> TestResult {
        let device = the_device()?;
        let room = Room::enter()?;
        let range = room.map_filled(8)?;
        // Clean and dirty, read-only, untouched, zero page.
        room.space.protect(super::pages_at(2, 2)?, Protection::READ)?;
        room.space.protect(super::pages_at(2, 2)?, Protection::READ_WRITE)?;
        room.space.unmap(super::pages_at(6, 2)?)?;
        room.space.map_anonymous(super::pages_at(6, 2)?, Protection::READ_WRITE)?;
        check_eq!(load_byte(range.page(6).start_address()), 0);
        let entries = || -> Vec<RawEntry> {
            (0..8).map(|index| room.space.entry(range.page(index).start_address())).collect()
        };
        let before = entries();
        check!(before[0].flags().contains(LeafFlags::DIRTY), "a page that was written is dirty")?;
        check!(!before[2].flags().contains(LeafFlags::WRITABLE), "protect never gives leave to write")?;
        drop(room.space.collect(range, device)?);
        check_eq!(entries(), before);
        drop(room.space.collect(range, device)?.unmap()?);
        check_eq!(entries(), before);
        drop(room.space.collect(range, device)?.unmap()?.copy());
        check_eq!(entries(), before);
        Ok(())
    }

    fn a_pinned_page_stays_alone_and_is_restored_exactly() -> TestResult {
        let device = the_device()?;
        let room = Room::enter()?;
        let range = room.map_filled(8)?;
        let pinned = range.page(3).start_address();
        let pin = room.space.pin(pinned, Access::Write, Term::Long)?;
        let before = room.space.entry(pinned);
        let report = room.space.migrate_to_device(range, device)?;
        check_eq!((report.moved, report.stayed.count(Reason::Pinned), report.stayed.total()), (7, 1, 1));
        check_eq!(room.space.entry(pinned), before);
        check_eq!(before.decode().frame(), Some(pin.frame()));
        drop(pin);
        check_eq!(room.space.migrate_to_device(range, device)?.moved, 1);
        Ok(())
    }

    fn a_pinned_frame_outlives_its_area() -> TestResult {
        let room = Room::enter()?;
        let range = room.map_filled(1)?;
        let frames = manager().census().free_frames;
        let pin = room.space.pin(range.start_address(), Access::Read, Term::Long)?;
        room.space.unmap(range)?;
        let Some(used) = manager().descriptor(pin.frame()) else { fail!("the frame has no descriptor") };
        check_eq!((used.references(), used.mappings(), used.pins()), (1, 0, 1));
        drop(pin);
        check!(manager().census().free_frames > frames, "the frame did not come back")?;
        Ok(())
    }

    fn a_call_brings_pages_home_without_a_fault() -> TestResult {
        let device = the_device()?;
        let room = Room::enter()?;
        let range = room.map_filled(64)?;
        check_eq!(room.space.migrate_to_device(range, device)?.moved, 64);
        let before = manager().statistics().read();
        let report = room.space.migrate_to_system(range)?;
        check_eq!((report.moved, report.stayed.total()), (64, 0));
        for index in 0..64 {
            check_eq!(probe::load(range.page(index).start_address())?, first_word(index));
        }
        let after = manager().statistics().read();
        check_eq!(after.faults, before.faults);
        // Nothing that was not present needs a flush.
        check_eq!(after.flushes, before.flushes);
        Ok(())
    }

    fn a_page_on_the_device_obeys_its_new_protection() -> TestResult {
        let device = the_device()?;
        let room = Room::enter()?;
        let range = room.map_filled(4)?;
        check_eq!(room.space.migrate_to_device(range, device)?.moved, 4);
        room.space.protect(range, Protection::READ)?;
        let address = range.start_address();
        check!(probe::store(address, 0).is_err(), "a store was allowed")?;
        check_eq!(probe::load(address)?, first_word(0));
        check!(probe::store(address, 0).is_err(), "coming home gave leave to write")?;
        room.space.protect(range, Protection::READ_WRITE)?;
        probe::store(address, 7)?;
        check_eq!(probe::load(address)?, 7);
        Ok(())
    }

    fn a_copy_that_fails_on_the_way_out_leaves_the_page_at_home() -> TestResult {
        let device = the_device()?;
        let room = Room::enter()?;
        let range = room.map_filled(4)?;
        manager().injector().arm(Step::Copy, 2);
        let report = room.space.migrate_to_device(range, device)?;
        check_eq!((report.moved, report.stayed.count(Reason::CopyFailed)), (3, 1));
        for index in 0..4 {
            check_eq!(probe::load(range.page(index).start_address())?, first_word(index));
        }
        Ok(())
    }

    fn a_copy_that_fails_on_the_way_home_poisons_that_page_only() -> TestResult {
        let device = the_device()?;
        let room = Room::enter()?;
        let range = room.map_filled(2)?;
        check_eq!(room.space.migrate_to_device(range, device)?.moved, 2);
        manager().injector().arm(Step::Copy, 1);
        let address = range.start_address();
        for _ in 0..2 {
            let failure = probe::load(address).err().and_then(|error| error.failure);
            check_eq!(failure, Some(Failure::Access(FaultError::Poisoned(address))));
        }
        check_eq!(room.space.entry(address).decode(), Entry::Poison);
        check_eq!(probe::load(range.page(1).start_address())?, first_word(1));
        check_eq!(room.space.resident(), Residency { ram: 1, ..Residency::default() });
        Ok(())
    }

    fn without_memory_a_page_stays_on_the_device_and_can_come_home_later() -> TestResult {
        let device = the_device()?;
        let room = Room::enter()?;
        let range = room.map_filled(1)?;
        check_eq!(room.space.migrate_to_device(range, device)?.moved, 1);
        manager().injector().arm(Step::Alloc, 1);
        let address = range.start_address();
        let failure = probe::load(address).err().and_then(|error| error.failure);
        check_eq!(failure, Some(Failure::Access(FaultError::OutOfMemory(address))));
        check_eq!(probe::load(address)?, first_word(0));
        Ok(())
    }
}
