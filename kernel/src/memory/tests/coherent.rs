//! Coherent device memory on the real machine: the CPU maps the BAR, and the device works on the same bytes from outside.
use super::{Room, WARM_PAGES, device_numbered, first_word, pages_at, pattern};
use crate::arch::areas::{load_bytes, store_bytes};
use crate::arch::cpus::run_on;
use crate::arch::probe;
use crate::harness::{TestFailure, TestResult, check, check_eq, fail, kernel_test, need_cpus};
use crate::memory::device::Attached;
use crate::memory::fault::Failure;
use crate::memory::{AddressSpace, device, enter, leave, manager};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use ferry_device::DeviceType;
use ferry_mm::address::{PAGE_BYTES, PageRange};
use ferry_mm::frame::{AnyFrame, DeviceFrame, DeviceId};
use ferry_mm::machine::Machine;
use ferry_mm::page_table::entry::{Entry, LeafFlags};
use ferry_mm::space::{Access, FaultError, Leave, Protection, Residency, Term};
use ferry_mm::stats::Reason;
use x86_64::VirtAddr;

/// Pages of the control area, which lie before the first frame in a BAR.
const CONTROL_PAGES: u64 = 8;

/// A coherent device of the machine.
fn coherent() -> Result<&'static Attached, TestFailure> {
    match device::all()?.iter().find(|device| device.device_type == DeviceType::Coherent) {
        Some(device) => Ok(device),
        None => fail!("the machine has no coherent device"),
    }
}

/// The device frame of a page, found by the address in its entry, and the entry's flags; `None` where that is not behind the BAR.
fn behind_bar(device: &Attached, space: AddressSpace, address: VirtAddr) -> Option<(DeviceFrame, LeafFlags)> {
    let Entry::Present { frame, flags } = space.entry(address).decode() else { return None };
    let page = frame.start_address().as_u64().checked_sub(device.range.start.as_u64())? / PAGE_BYTES;
    let is_frame = (CONTROL_PAGES..device.range.bytes / PAGE_BYTES).contains(&page);
    is_frame.then(|| (DeviceFrame::new(device.id, (page - CONTROL_PAGES) as u32), flags))
}

/// Whether page `index` of `range` holds its pattern, each byte inverted where `inverted` says so.
fn holds(range: PageRange, index: u64, inverted: bool) -> bool {
    let mut bytes = [0; PAGE_BYTES as usize];
    load_bytes(range.page(index).start_address(), &mut bytes);
    bytes == pattern(index).map(|byte| if inverted { !byte } else { byte })
}

/// A room whose pages are filled and in the memory of `device`.
fn moved(device: DeviceId, pages: u64) -> Result<(Room, PageRange), TestFailure> {
    let room = Room::enter()?;
    let range = room.map_filled(pages)?;
    check_eq!(room.space.migrate_to_device(range, device)?.moved, pages);
    Ok((room, range))
}

kernel_test! {
    fn cpu_and_device_work_on_the_same_bytes() -> TestResult {
        let device = coherent()?;
        let (room, range) = moved(device.id, 64)?;
        check_eq!(room.space.resident(), Residency { device: 64, ..Residency::default() });
        let faults = manager().statistics().read().faults;
        let addresses = (0..64).map(|index| range.page(index).start_address());
        let found: alloc::vec::Vec<_> =
            addresses.filter_map(|address| behind_bar(device, room.space, address)).collect();
        check_eq!(found.len(), 64);
        // The memory type of the kernel's window over the BAR, which is write-combining: PAT entry 1.
        let memory_type = LeafFlags::WRITE_THROUGH | LeafFlags::CACHE_DISABLE;
        check!(found.iter().all(|(_, flags)| *flags & memory_type == LeafFlags::WRITE_THROUGH), "memory type")?;
        let frames = found.iter().map(|(frame, _)| *frame);
        check_eq!(device::invert(device.id, frames.clone().step_by(2))?, 32);
        check!((0..64).all(|index| holds(range, index, index % 2 == 0)), "the CPU sees what the device did")?;
        for index in 0..64 {
            store_bytes(range.page(index).start_address(), &pattern(index));
        }
        check_eq!(device::invert(device.id, frames)?, 64);
        check!((0..64).all(|index| holds(range, index, true)), "the device saw what the CPU stored")?;
        check_eq!(manager().statistics().read().faults, faults);
        let report = room.space.migrate_to_system(range)?;
        check_eq!((report.moved, report.stayed.total()), (64, 0));
        check!((0..64).all(|index| holds(range, index, true)), "home, as the device left them")?;
        check_eq!(room.space.resident(), Residency { ram: 64, ..Residency::default() });
        Ok(())
    }

    fn a_warm_translation_is_flushed_on_the_way_home() -> TestResult {
        let device = coherent()?;
        let (room, range) = moved(device.id, WARM_PAGES)?;
        for index in 0..WARM_PAGES {
            store_bytes(range.page(index).start_address(), &first_word(index).to_le_bytes());
        }
        check_eq!(room.space.migrate_to_system(range)?.moved, WARM_PAGES);
        // A stale translation reads the freed frame, which is zero, and its store dirties it.
        for index in 0..WARM_PAGES {
            check_eq!(probe::load(range.page(index).start_address())?, first_word(index));
            probe::store(range.page(index).start_address(), index)?;
        }
        check_eq!(room.space.migrate_to_device(range, device.id)?.moved, WARM_PAGES);
        for index in 0..WARM_PAGES {
            check_eq!(probe::load(range.page(index).start_address())?, index);
        }
        Ok(())
    }

    fn pages_leave_coherent_memory_on_unmap_and_discard() -> TestResult {
        let device = coherent()?;
        let free = || manager().device(device.id).map_or(0, |memory| memory.free());
        let before = free();
        let (room, range) = moved(device.id, WARM_PAGES)?;
        for index in 0..WARM_PAGES {
            check_eq!(probe::load(range.page(index).start_address())?, first_word(index));
        }
        room.space.discard(pages_at(0, WARM_PAGES / 2)?)?;
        for index in 0..WARM_PAGES / 2 {
            check_eq!(probe::load(range.page(index).start_address())?, 0);
        }
        room.space.unmap(pages_at(WARM_PAGES / 2, WARM_PAGES / 2)?)?;
        for index in WARM_PAGES / 2..WARM_PAGES {
            check!(probe::load(range.page(index).start_address()).is_err(), "page {index} is still there")?;
        }
        check_eq!(free(), before);
        Ok(())
    }

    fn a_store_to_a_shared_page_copies_it_into_ram() -> TestResult {
        let device = coherent()?;
        let (parent, range) = moved(device.id, WARM_PAGES)?;
        let child = Room { space: parent.space.fork()? };
        // Through the writable translations that the parent had before, were they not flushed.
        for index in 0..WARM_PAGES {
            store_bytes(range.page(index).start_address(), &[0]);
        }
        enter(child.space);
        let intact = (0..WARM_PAGES).all(|index| holds(range, index, false));
        let shared = range.page(0).start_address();
        let on_device = (behind_bar(device, child.space, shared), behind_bar(device, parent.space, shared));
        drop(child);
        enter(parent.space);
        check!(intact, "the child sees a store that the parent made after the fork")?;
        check!(matches!(on_device, (Some(_), None)), "the child's page is on the device, the parent's in RAM")?;
        check_eq!(parent.space.resident(), Residency { ram: WARM_PAGES, ..Residency::default() });
        Ok(())
    }

    fn moving_and_protecting_keep_pages_in_coherent_memory() -> TestResult {
        let device = coherent()?;
        let (room, range) = moved(device.id, 16)?;
        room.space.protect(range, Protection::empty())?;
        check!(probe::load(range.start_address()).is_err(), "a load was allowed")?;
        room.space.protect(range, Protection::READ)?;
        check!((0..16).all(|index| holds(range, index, false)), "contents changed")?;
        check!(probe::store(range.start_address(), 0).is_err(), "a store was allowed")?;
        let target = room.space.relocate(range, VirtAddr::new(0x0000_0055_0000_3000), Leave::Nothing)?;
        room.space.protect(target, Protection::READ_WRITE)?;
        probe::store(target.start_address(), 5)?;
        let Some((frame, flags)) = behind_bar(device, room.space, target.start_address()) else {
            fail!("the page left the device")
        };
        check!(flags.contains(LeafFlags::WRITE_THROUGH), "the memory type is lost")?;
        check_eq!(device::invert(device.id, [frame])?, 1);
        check_eq!(probe::load(target.start_address())?, !5);
        Ok(())
    }

    fn a_short_pin_stays_on_the_device_and_a_long_one_comes_home() -> TestResult {
        let device = coherent()?;
        let (room, range) = moved(device.id, 4)?;
        let address = |index| range.page(index).start_address();
        let short = room.space.pin(address(0), Access::Write, Term::Short)?;
        let long = room.space.pin(address(2), Access::Write, Term::Long)?;
        check_eq!(Some(short.frame()), behind_bar(device, room.space, address(0)).map(|(frame, _)| frame.into()));
        check!(matches!(long.frame(), AnyFrame::System(_)), "the long pin is on the device")?;
        check_eq!(behind_bar(device, room.space, address(2)), None);
        let before = room.space.entry(address(0));
        let report = room.space.migrate_to_system(range)?;
        check_eq!((report.moved, report.stayed.count(Reason::Pinned), report.stayed.count(Reason::AlreadyThere)), (2, 1, 1));
        let evicted = manager().evict_device(device.id);
        manager().device(device.id).into_iter().for_each(|memory| memory.reopen());
        check_eq!(evicted.map(|evicted| (evicted.returned, evicted.pinned)), Some((0, 1)));
        check_eq!(room.space.entry(address(0)), before);
        drop((short, long));
        check_eq!(room.space.migrate_to_system(range)?.moved, 1);
        check!((0..4).all(|index| holds(range, index, false)), "contents changed")
    }

    fn every_device_is_evicted_by_itself() -> TestResult {
        let devices = [device_numbered(0)?, device_numbered(1)?, device_numbered(2)?, device_numbered(3)?];
        let room = Room::enter()?;
        let range = room.map_filled(256)?;
        for (part, id) in (0..).zip(devices) {
            check_eq!(room.space.migrate_to_device(pages_at(part * 64, 64)?, id)?.moved, 64);
        }
        // Of another device, whichever type: it stays.
        let report = room.space.migrate_to_device(range, devices[2])?;
        check_eq!((report.stayed.count(Reason::ForeignDevice), report.stayed.count(Reason::AlreadyThere)), (192, 64));
        for (left, id) in devices.into_iter().enumerate().map(|(done, id)| (3 - done as u64, id)) {
            let evicted = manager().evict_device(id);
            manager().device(id).into_iter().for_each(|memory| memory.reopen());
            check_eq!(evicted.map(|evicted| (evicted.returned, evicted.busy)), Some((64, 0)));
            check_eq!(room.space.resident(), Residency { ram: 256 - 64 * left, device: 64 * left, ..Residency::default() });
        }
        check!((0..256).all(|index| holds(range, index, false)), "contents changed")
    }

    fn pages_of_a_device_that_dies_are_bus_errors() -> TestResult {
        for id in [device_numbered(1)?, coherent()?.id] {
            let (room, range) = moved(id, WARM_PAGES)?;
            let coherent = manager().device(id).is_some_and(|memory| memory.window().is_some());
            if coherent {
                // Warm translations, which must not outlive the device.
                check!((0..WARM_PAGES).all(|index| holds(range, index, false)), "contents changed")?;
            }
            let lost = manager().device_lost(id).map(|evicted| (evicted.lost, evicted.busy));
            check_eq!(lost, Some((if coherent { WARM_PAGES } else { 0 }, 0)));
            for index in 0..WARM_PAGES {
                let address = range.page(index).start_address();
                let failure = probe::load(address).err().and_then(|error| error.failure);
                let expected =
                    if coherent { FaultError::Poisoned(address) } else { FaultError::DeviceLost(address, id) };
                check_eq!(failure, Some(Failure::Access(expected)));
            }
            check_eq!(room.space.resident(), Residency::default());
            drop(room);
            let Some(memory) = manager().device(id) else { fail!("the device is gone") };
            check_eq!(memory.free(), memory.frames());
            memory.readmit(manager().machine())?;
            let (again, range) = moved(id, 16)?;
            check_eq!(again.space.migrate_to_system(range)?.moved, 16);
            check!((0..16).all(|index| holds(range, index, false)), "a readmitted device is as good as new")?;
        }
        Ok(())
    }

    fn another_cpu_loses_no_store_while_pages_come_and_go() -> TestResult {
        const ROUNDS: u64 = 50;
        let cpus = need_cpus(2)?;
        let device = coherent()?;
        let room = Room::enter()?;
        let range = room.map_filled(8)?;
        let (space, address) = (room.space, range.page(3).start_address());
        let (done, stored) = (AtomicBool::new(false), AtomicU64::new(0));
        let mover = manager().machine().cpu();
        probe::store(address, 0)?;
        let count_up = || -> Result<u64, TestFailure> {
            let mut last = 0;
            while !done.load(Ordering::Relaxed) {
                // What it reads is what it stored: no page comes home older than it left.
                check_eq!(probe::load(address)?, last);
                last += 1;
                probe::store(address, last)?;
                stored.store(last, Ordering::Relaxed);
            }
            Ok(last)
        };
        let come_and_go = || -> Result<u64, TestFailure> {
            for _ in 0..ROUNDS {
                let seen = stored.load(Ordering::Relaxed);
                let _ = space.migrate_to_device(range, device.id)?;
                let _ = space.migrate_to_system(range)?;
                while stored.load(Ordering::Relaxed) == seen && !done.load(Ordering::Relaxed) {
                    manager().machine().relax();
                }
            }
            Ok(0)
        };
        let results = run_on(cpus, |cpu| {
            if cpu == mover {
                let result = come_and_go();
                done.store(true, Ordering::Relaxed);
                return result;
            }
            enter(space);
            let result = count_up();
            leave();
            done.store(true, Ordering::Relaxed);
            result
        });
        let mut last = 0;
        for result in results.into_iter().flatten() {
            last = last.max(result?);
        }
        check!(last >= ROUNDS, "the other CPU stored {last} times")?;
        check_eq!(probe::load(address)?, last);
        Ok(())
    }
}
