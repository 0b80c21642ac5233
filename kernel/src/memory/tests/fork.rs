//! Fork, copy-on-write, moved and discarded pages, eviction.
use super::{Room, WARM_PAGES, first_word, pages_at, pattern, the_device};
use crate::arch::areas::{load_byte, load_bytes, store_bytes};
use crate::arch::probe;
use crate::harness::{TestFailure, TestResult, check, check_eq, kernel_test};
use crate::memory::{AddressSpace, enter, manager};
use ferry_mm::address::{PAGE_BYTES, PageRange};
use ferry_mm::page_table::entry::Entry;
use ferry_mm::space::{Access, Leave, Protection, Residency, Term};
use x86_64::VirtAddr;

/// Runs `body` with this CPU in `space`, then returns to `home`.
fn inside<R>(space: AddressSpace, home: AddressSpace, body: impl FnOnce() -> R) -> R {
    enter(space);
    let result = body();
    enter(home);
    result
}

fn fork(parent: AddressSpace) -> Result<Room, TestFailure> {
    Ok(Room { space: parent.fork()? })
}

/// Whether page `index` of `range` holds its pattern, as this CPU loads it.
fn holds_pattern(range: PageRange, index: u64) -> bool {
    let mut bytes = [0; PAGE_BYTES as usize];
    load_bytes(range.page(index).start_address(), &mut bytes);
    bytes == pattern(index)
}

kernel_test! {
    fn a_store_of_the_parent_is_not_the_childs() -> TestResult {
        let parent = Room::enter()?;
        let range = parent.map_filled(WARM_PAGES)?;
        let child = fork(parent.space)?;
        // Through the writable translations that the parent had before, were they not flushed.
        for index in 0..WARM_PAGES {
            store_bytes(range.page(index).start_address(), &[0]);
        }
        let intact = inside(child.space, parent.space, || (0..WARM_PAGES).all(|index| holds_pattern(range, index)));
        check!(intact, "the child sees a store that the parent made after the fork")?;
        for index in 0..WARM_PAGES {
            check_eq!(load_byte(range.page(index).start_address()), 0);
        }
        enter(parent.space);
        drop(child);
        enter(parent.space);
        Ok(())
    }

    fn a_store_of_the_child_is_not_the_parents() -> TestResult {
        let parent = Room::enter()?;
        let range = parent.map_filled(16)?;
        let child = fork(parent.space)?;
        inside(child.space, parent.space, || {
            for index in 0..16 {
                store_bytes(range.page(index).start_address(), &[0]);
            }
        });
        check!((0..16).all(|index| holds_pattern(range, index)), "the parent sees a store of the child")?;
        for space in [parent.space, child.space] {
            check_eq!(space.resident(), Residency { ram: 16, ..Residency::default() });
        }
        Ok(())
    }

    fn the_last_sharer_writes_in_place() -> TestResult {
        let parent = Room::enter()?;
        let range = parent.map_filled(1)?;
        let frame = parent.space.entry(range.start_address()).decode().frame();
        drop(fork(parent.space)?);
        enter(parent.space);
        store_bytes(range.start_address(), &[0]);
        check_eq!(parent.space.entry(range.start_address()).decode().frame(), frame);
        Ok(())
    }

    fn a_pinned_page_stays_the_parents_and_the_child_gets_a_copy() -> TestResult {
        let parent = Room::enter()?;
        let range = parent.map_filled(2)?;
        let pin = parent.space.pin(range.start_address(), Access::Write, Term::Long)?;
        let child = fork(parent.space)?;
        store_bytes(range.start_address(), &[0]);
        check_eq!(parent.space.entry(range.start_address()).decode().frame(), Some(pin.frame()));
        check!(inside(child.space, parent.space, || holds_pattern(range, 0)), "the child sees the parent's store")?;
        drop(pin);
        Ok(())
    }

    fn a_shared_page_goes_to_the_device_for_both() -> TestResult {
        let device = the_device()?;
        let parent = Room::enter()?;
        let range = parent.map_filled(64)?;
        let child = fork(parent.space)?;
        let free = manager().census().free_frames;
        check_eq!(parent.space.migrate_to_device(range, device)?.moved, 64);
        check_eq!(manager().census().free_frames, free + 64);
        for index in 0..64 {
            let address = range.page(index).start_address();
            check_eq!(parent.space.entry(address), child.space.entry(address));
            check!(matches!(parent.space.entry(address).decode(), Entry::Device { writable: false, .. }), "page {index}")?;
        }
        for space in [parent.space, child.space] {
            check_eq!(space.resident(), Residency { device: 64, ..Residency::default() });
        }
        for index in 0..64 {
            store_bytes(range.page(index).start_address(), &[0]);
        }
        let intact = inside(child.space, parent.space, || (0..64).all(|index| holds_pattern(range, index)));
        check!(intact, "the child sees a store that the parent made after the fork")?;
        Ok(())
    }

    fn a_page_on_the_device_is_shared_by_a_fork() -> TestResult {
        let device = the_device()?;
        let parent = Room::enter()?;
        let range = parent.map_filled(8)?;
        check_eq!(parent.space.migrate_to_device(range, device)?.moved, 8);
        let child = fork(parent.space)?;
        inside(child.space, parent.space, || {
            for index in 0..8 {
                store_bytes(range.page(index).start_address(), &[0]);
            }
        });
        check!((0..8).all(|index| holds_pattern(range, index)), "the parent sees a store of the child")?;
        Ok(())
    }

    fn evicting_the_device_brings_the_pages_of_every_space_home() -> TestResult {
        let device = the_device()?;
        let parent = Room::enter()?;
        let range = parent.map_filled(32)?;
        let child = fork(parent.space)?;
        check_eq!(parent.space.migrate_to_device(range, device)?.moved, 32);
        let evicted = manager().evict_device(device);
        manager().device(device).into_iter().for_each(|device| device.reopen());
        check_eq!(evicted.map(|evicted| (evicted.returned, evicted.busy)), Some((32, 0)));
        let faults = manager().statistics().read().special_faults;
        check!((0..32).all(|index| holds_pattern(range, index)), "the parent lost a page")?;
        let intact = inside(child.space, parent.space, || (0..32).all(|index| holds_pattern(range, index)));
        check!(intact, "the child lost a page")?;
        check_eq!(manager().statistics().read().special_faults, faults);
        for space in [parent.space, child.space] {
            check_eq!(space.resident(), Residency { ram: 32, ..Residency::default() });
        }
        Ok(())
    }

    fn moved_pages_keep_their_contents_here_and_on_the_device() -> TestResult {
        let device = the_device()?;
        let room = Room::enter()?;
        let range = room.map_filled(WARM_PAGES)?;
        check_eq!(room.space.migrate_to_device(pages_at(0, 16)?, device)?.moved, 16);
        let target = VirtAddr::new(0x0000_0055_0000_3000);
        let moved = room.space.relocate(range, target, Leave::Empty)?;
        for index in 0..WARM_PAGES {
            check_eq!(probe::load(moved.page(index).start_address())?, first_word(index));
            // A stale translation would still read the page here.
            check_eq!(probe::load(range.page(index).start_address())?, 0);
        }
        check_eq!(room.space.migrate_to_device(moved, device)?.moved, WARM_PAGES);
        check_eq!(probe::load(moved.page(7).start_address())?, first_word(7));
        Ok(())
    }

    fn discarded_pages_read_as_zeros() -> TestResult {
        let device = the_device()?;
        let room = Room::enter()?;
        let range = room.map_filled(WARM_PAGES)?;
        check_eq!(room.space.migrate_to_device(pages_at(8, 8)?, device)?.moved, 8);
        room.space.discard(range)?;
        for index in 0..WARM_PAGES {
            check_eq!(probe::load(range.page(index).start_address())?, 0);
        }
        check_eq!(room.space.resident(), Residency { zero: WARM_PAGES, ..Residency::default() });
        room.space.protect(range, Protection::READ)?;
        Ok(())
    }
}
