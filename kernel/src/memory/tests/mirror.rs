//! A device that follows an address space while the space changes, beside what the peer suite (`hmm`) covers: stores that
//! copy, pages that are discarded or moved, several spaces and devices, transfers that fail, and a mirror that closes.
use super::peer::{Contents, Done, Peer, ints, negated, zeros};
use super::{Room, device_numbered, driver, pages_at, the_device};
use crate::arch::cpus::run_on;
use crate::arch::probe;
use crate::harness::{TestResult, check, check_eq, kernel_test, need_cpus};
use crate::memory::mirror::{Buffer, Mirror};
use crate::memory::{enter, leave, manager};
use core::sync::atomic::{AtomicBool, Ordering};
use ferry_device::command::Command;
use ferry_device::context::MAX_OPERATIONS;
use ferry_device::request::OperationStatus;
use ferry_mm::frame::DeviceId;
use ferry_mm::machine::Machine;
use ferry_mm::space::Leave;

/// Pages of most buffers.
const PAGES: u64 = 16;

/// The end of an operation on all of them for which the device had to ask.
const ASKED: Done = Done { pages: PAGES, faults: 1 };

/// The end of one for which it knew where they are.
const KNEW: Done = Done { pages: PAGES, faults: 0 };

/// Makes the `count`-th transfer between RAM and the device from now on fail.
fn fail_dma(device: DeviceId, count: u64) -> TestResult {
    driver::with_driver(device, |device, patience| device.run(Command::FailDma(count), patience))?;
    Ok(())
}

kernel_test! {
    fn a_copying_store_reaches_a_device_that_has_read_the_page() -> TestResult {
        for number in [0, 2] {
            let parent = Room::enter()?;
            let range = parent.map(PAGES)?;
            let mut peer = Peer::open(&parent, range, device_numbered(number)?)?;
            peer.fill_memory(ints);
            let child = Room { space: parent.space.fork()? };
            check_eq!(peer.read(range)?, Ok(ASKED));
            peer.check_mirror(ints)?;
            peer.fill_memory(negated);
            // What the device knew are the child's frames now.
            let read = peer.read(range)?;
            peer.check_mirror(negated)?;
            check_eq!(read, Ok(ASKED));
            enter(child.space);
            peer.check_memory(ints)?;
            drop(child);
            enter(parent.space);
        }
        Ok(())
    }

    fn a_device_that_could_write_copies_after_a_fork() -> TestResult {
        for number in [0, 2] {
            let parent = Room::enter()?;
            let range = parent.map(PAGES)?;
            let mut peer = Peer::open(&parent, range, device_numbered(number)?)?;
            peer.fill_mirror(ints);
            check_eq!(peer.write(range)?, Ok(ASKED));
            let child = Room { space: parent.space.fork()? };
            peer.fill_mirror(negated);
            check_eq!(peer.write(range)?, Ok(ASKED));
            peer.check_memory(negated)?;
            enter(child.space);
            peer.check_memory(ints)?;
            drop(child);
            enter(parent.space);
        }
        Ok(())
    }

    fn what_changes_while_the_device_asks_is_not_kept() -> TestResult {
        const MANY: u64 = 256;
        const ROUNDS: u32 = 4;
        let (cpus, device) = (need_cpus(3)?, the_device()?);
        let parent = Room::enter()?;
        let range = parent.map(MANY)?;
        let copy = Buffer::new(device, MANY)?;
        let mirror = Mirror::open(parent.space, range, device)?;
        let reader = manager().machine().cpu();
        for round in 0..ROUNDS {
            Contents::store_all(range, |page| ints(page).plus(round));
            let child = Room { space: parent.space.fork()? };
            let stored = AtomicBool::new(false);
            let results = run_on(cpus, |cpu| {
                if cpu == reader {
                    while !stored.load(Ordering::Acquire) {
                        check_eq!(mirror.read(range, &copy)?.map(|done| done.pages), Ok(MANY));
                    }
                } else if cpu.number() == 1 {
                    // Each page gets another frame; the one that the device may have seen is the child's.
                    enter(parent.space);
                    Contents::store_all(range, |page| negated(page).plus(round));
                    leave();
                    stored.store(true, Ordering::Release);
                } else {
                    // Has the lock of the device's page table most of the time, so that the others wait for it between
                    // what they have seen and what they do.
                    while !stored.load(Ordering::Acquire) {
                        check_eq!(mirror.exclusive_pages(range)?, 0);
                        manager().machine().relax();
                    }
                }
                Ok(())
            });
            results.into_iter().flatten().collect::<TestResult>()?;
            check_eq!(mirror.read(range, &copy)?.map(|done| done.pages), Ok(MANY));
            for page in 0..MANY {
                let expected = negated(page).plus(round);
                check!(Contents::read(&copy, page) == expected, "page {page} of round {round}, as the device has read it")?;
            }
            drop(child);
            enter(parent.space);
        }
        Ok(())
    }

    fn discarded_pages_are_empty_for_the_device() -> TestResult {
        let room = Room::enter()?;
        let range = room.map(PAGES)?;
        let mut peer = Peer::open(&room, range, the_device()?)?;
        peer.fill_memory(ints);
        check_eq!(peer.read(range)?, Ok(ASKED));
        room.space.discard(range.part(2, 4))?;
        check_eq!(peer.read(range)?, Ok(ASKED));
        let expected = |page| if (2..6).contains(&page) { zeros() } else { ints(page) };
        peer.check_mirror(expected)?;
        peer.check_memory(expected)
    }

    fn moved_pages_are_followed() -> TestResult {
        for leave in [Leave::Nothing, Leave::Empty] {
            let room = Room::enter()?;
            let range = room.map(PAGES)?;
            let mut peer = Peer::open(&room, pages_at(0, 2 * PAGES)?, the_device()?)?;
            let in_front = |contents: fn(u64) -> Contents| move |page| if page < PAGES { contents(page) } else { zeros() };
            Contents::store_all(range, ints);
            check_eq!(peer.read(range)?, Ok(ASKED));
            peer.check_mirror(in_front(ints))?;
            let moved = room.space.relocate(range, pages_at(PAGES, PAGES)?.start_address(), leave)?;
            peer.fill_mirror(in_front(negated));
            if leave == Leave::Nothing {
                check_eq!(peer.read(range)?, Err(OperationStatus::Fault));
                peer.check_mirror(in_front(negated))?;
            } else {
                check_eq!(peer.read(range)?, Ok(ASKED));
                peer.check_mirror(|_| zeros())?;
            }
            check_eq!(peer.read(moved)?, Ok(ASKED));
            peer.check_mirror(in_front(ints))?;
            peer.fill_mirror(in_front(negated));
            check_eq!(peer.write(moved)?, Ok(KNEW));
            for page in 0..PAGES {
                check!(Contents::load(moved, page) == negated(page), "page {page} of the new place, {leave:?}")?;
            }
        }
        Ok(())
    }

    fn two_spaces_on_one_device_are_kept_apart() -> TestResult {
        let device = the_device()?;
        let one = Room::enter()?;
        let range = one.map(PAGES)?;
        let mut peer = Peer::open(&one, range, device)?;
        peer.fill_memory(ints);
        let other = Room::enter()?;
        // The same addresses.
        check_eq!(other.map(PAGES)?, range);
        let mut others = Peer::open(&other, range, device)?;
        others.fill_memory(negated);
        check_eq!((peer.read(range)?, others.read(range)?), (Ok(ASKED), Ok(ASKED)));
        peer.check_mirror(ints)?;
        others.check_mirror(negated)?;
        other.space.discard(range)?;
        check_eq!((peer.read(range)?, others.read(range)?), (Ok(KNEW), Ok(ASKED)));
        peer.check_mirror(ints)?;
        others.check_mirror(|_| zeros())?;
        drop(others);
        check_eq!(peer.read(range)?, Ok(KNEW));
        peer.check_mirror(ints)
    }

    fn one_space_on_two_devices_is_the_same_for_both() -> TestResult {
        let room = Room::enter()?;
        let range = room.map(PAGES)?;
        let mut one = Peer::open(&room, range, device_numbered(0)?)?;
        let mut other = Peer::open(&room, range, device_numbered(2)?)?;
        one.fill_mirror(ints);
        check_eq!(one.write(range)?, Ok(ASKED));
        check_eq!(other.read(range)?, Ok(ASKED));
        other.check_mirror(ints)?;
        let child = Room { space: room.space.fork()? };
        check_eq!((one.read(range)?, other.read(range)?), (Ok(ASKED), Ok(ASKED)));
        one.fill_memory(negated);
        for peer in [&mut one, &mut other] {
            check_eq!(peer.read(range)?, Ok(ASKED));
            peer.check_mirror(negated)?;
        }
        drop(child);
        enter(room.space);
        // Each takes the page from the other, which must not use what it knew.
        let (page, mut word) = (range.part(3, 1), negated(3).first_word());
        for round in 0..4 {
            let (taker, loser) = if round % 2 == 0 { (&mut one, &mut other) } else { (&mut other, &mut one) };
            check_eq!(taker.add(page, 5)?, Ok(word));
            word = word.wrapping_add(5);
            check_eq!((taker.exclusive_pages(range)?, loser.exclusive_pages(range)?), (1, 0));
            check_eq!(loser.read(range)?.map(|done| done.pages), Ok(PAGES));
            loser.check_mirror(|page| if page == 3 { negated(3).with_first_word(word) } else { negated(page) })?;
        }
        Ok(())
    }

    fn a_device_adds_to_a_page_wherever_it_is() -> TestResult {
        for number in [0, 2] {
            let device = device_numbered(number)?;
            let room = Room::enter()?;
            let range = room.map(PAGES)?;
            let mut peer = Peer::open(&room, range, device)?;
            for page in 0..4 {
                ints(page).store(range, page);
            }
            // Page 0 is in RAM, 1 on the device itself, 2 on another one, 3 with the device alone, 4 was never touched.
            check_eq!(room.space.migrate_to_device(range.part(1, 1), device)?.moved, 1);
            check_eq!(room.space.migrate_to_device(range.part(2, 1), device_numbered(1)?)?.moved, 1);
            check_eq!(peer.make_exclusive(range.part(3, 1))?, 1);
            for (page, before) in (0..5).map(|page| (page, if page < 4 { ints(page).first_word() } else { 0 })) {
                check_eq!(peer.add(range.part(page, 1), 7)?, Ok(before));
                check_eq!(peer.add(range.part(page, 1), 1)?, Ok(before + 7));
                check_eq!(probe::load(range.page(page).start_address())?, before + 8);
            }
        }
        Ok(())
    }

    fn a_mirror_closes_while_its_operation_waits() -> TestResult {
        let device = the_device()?;
        let room = Room::enter()?;
        let range = room.map(PAGES)?;
        Contents::store_all(range, ints);
        // More often than there are places for operations.
        for _ in 0..=MAX_OPERATIONS {
            let mut peer = Peer::open(&room, range, device)?;
            peer.fill_mirror(negated);
            let waiting = peer.begin_read(range)?;
            // A command ends after all that the device has asked before.
            driver::with_driver(device, |device, patience| device.ping(patience))?;
            check!(peer.is_under_way(&waiting), "nobody has answered it")?;
            peer = peer.reopen(&room, device)?;
            check!(!peer.is_under_way(&waiting), "its context is gone")?;
            peer.check_mirror(negated)?;
            check_eq!(peer.read(range)?, Ok(ASKED));
            peer.check_mirror(ints)?;
        }
        Ok(())
    }

    fn a_failed_transfer_ends_the_operation_where_it_is() -> TestResult {
        for number in [0, 2] {
            let device = device_numbered(number)?;
            let room = Room::enter()?;
            let range = room.map(PAGES)?;
            let mut peer = Peer::open(&room, range, device)?;
            peer.fill_memory(ints);
            peer.fill_mirror(negated);
            fail_dma(device, 4)?;
            check_eq!(peer.read(range)?, Err(OperationStatus::DmaFailed));
            peer.check_mirror(|page| if page < 3 { ints(page) } else { negated(page) })?;
            check_eq!(peer.read(range)?, Ok(KNEW));
            peer.check_mirror(ints)?;
            peer.fill_mirror(negated);
            fail_dma(device, PAGES)?;
            check_eq!(peer.write(range)?, Err(OperationStatus::DmaFailed));
            peer.check_memory(|page| if page < PAGES - 1 { negated(page) } else { ints(page) })?;
            check_eq!(peer.write(range)?, Ok(KNEW));
            peer.check_memory(negated)?;
            fail_dma(device, 1)?;
            check_eq!(peer.add(range.part(5, 1), 7)?, Err(OperationStatus::DmaFailed));
            peer.check_memory(negated)?;
            check_eq!(peer.add(range.part(5, 1), 7)?, Ok(negated(5).first_word()));
            let added = negated(5).with_first_word(negated(5).first_word().wrapping_add(7));
            peer.check_memory(|page| if page == 5 { added } else { negated(page) })?;
        }
        Ok(())
    }
}
