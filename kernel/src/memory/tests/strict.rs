//! Strict mode: what is noted of an access that brings a page home, and what is not.
use super::{Room, the_device};
use crate::arch::areas::{load_byte, store_bytes};
use crate::arch::layout;
use crate::harness::{TestResult, check, check_eq, kernel_test};
use crate::memory::strict::{CAPACITY, enable, lost, take};
use x86_64::VirtAddr;

/// Strict mode for as long as this lives; it ends with an empty ring.
struct Strict;

impl Strict {
    fn begin() -> Self {
        enable(true);
        Self
    }
}

impl Drop for Strict {
    fn drop(&mut self) {
        enable(false);
        while take().is_some() {}
    }
}

kernel_test! {
    fn each_access_that_brings_a_page_home_is_noted_with_its_instruction() -> TestResult {
        let device = the_device()?;
        let room = Room::enter()?;
        let range = room.map_filled(4)?;
        check_eq!(room.space.migrate_to_device(range, device)?.moved, range.pages());
        let _strict = Strict::begin();
        let address = |index: u64, offset: u64| range.page(index).start_address() + offset;
        load_byte(address(2, 77));
        store_bytes(address(0, 4000), &[1]);
        // Both pages are at home now.
        load_byte(address(2, 0));
        store_bytes(address(0, 0), &[1]);
        let noted = [take(), take()].map(|record| record.map(|record| (record.address, record.write)));
        check_eq!(noted, [Some((address(2, 77), false)), Some((address(0, 4000), true))]);
        check!(take().is_none(), "an access to a page at home was noted")
    }

    fn the_instruction_is_the_one_that_faulted() -> TestResult {
        let device = the_device()?;
        let room = Room::enter()?;
        let range = room.map_filled(2)?;
        check_eq!(room.space.migrate_to_device(range, device)?.moved, range.pages());
        let _strict = Strict::begin();
        let mut instructions = [VirtAddr::zero(); 2];
        for (index, instruction) in instructions.iter_mut().enumerate() {
            store_bytes(range.page(index as u64).start_address(), &[7]);
            *instruction = take().map_or(VirtAddr::zero(), |record| record.instruction);
        }
        // `rep movsb` (Intel SDM 2B): what every copy is made of, wherever the compiler has put it.
        for instruction in instructions {
            check!(layout::KERNEL.contains(instruction), "v{instruction:#x} is no code")?;
            let code = crate::arch::probe::load(instruction)?.to_le_bytes();
            check_eq!([code[0], code[1]], [0xf3, 0xa4]);
        }
        Ok(())
    }

    fn what_finds_no_place_is_counted() -> TestResult {
        const MORE: u64 = 3;
        let device = the_device()?;
        let room = Room::enter()?;
        let range = room.map_filled(CAPACITY + MORE)?;
        check_eq!(room.space.migrate_to_device(range, device)?.moved, range.pages());
        let _strict = Strict::begin();
        let lost_before = lost();
        for index in 0..CAPACITY + MORE {
            load_byte(range.page(index).start_address());
        }
        check_eq!(lost() - lost_before, MORE);
        let mut noted = 0;
        while let Some(record) = take() {
            check_eq!(record.address, range.page(noted).start_address());
            noted += 1;
        }
        check_eq!(noted, CAPACITY);
        // There is room again.
        check_eq!(room.space.migrate_to_device(range, device)?.moved, range.pages());
        load_byte(range.page(5).start_address());
        check_eq!(take().map(|record| record.address), Some(range.page(5).start_address()));
        Ok(())
    }

    fn nothing_is_noted_where_it_is_off() -> TestResult {
        let device = the_device()?;
        let room = Room::enter()?;
        let range = room.map_filled(1)?;
        check_eq!(room.space.migrate_to_device(range, device)?.moved, range.pages());
        load_byte(range.start_address());
        check!(take().is_none(), "a record was made")
    }
}
