//! Pages that several CPUs want at once, one in RAM and the others on the device: who gets them, and who waits.
use super::many_cpus::{BOTH, in_space, word};
use super::{Room, first_word, the_device};
use crate::arch::cpus::count;
use crate::arch::probe;
use crate::harness::{TestFailure, TestResult, check, check_eq, kernel_test, need_cpus};
use crate::memory::{AddressSpace, manager};
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use ferry_mm::address::PageRange;
use ferry_mm::frame::MOST_REFUSALS;
use ferry_mm::machine::CpuId;
use ferry_mm::migrate::{MigrateOptions, Mode};
use ferry_mm::page_table::entry::Entry;
use ferry_mm::stats::Reason;

/// What a CPU that reads pages did while they were copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Seen {
    /// Pages that were moved meanwhile.
    moved: u64,
    /// Loads that it made.
    loads: u64,
    /// Faults that it took on entries that are not present.
    faults: u64,
}

/// Lets CPU 1 read the pages of `range` without a pause, while the CPU of the test moves at least `pages` of them to the device, and
/// home again each time; what CPU 1 did from each call for pages until their copies were complete.
fn read_amid_copies(space: AddressSpace, range: PageRange, pages: u64, mode: Mode) -> Result<Seen, TestFailure> {
    let device = the_device()?;
    let options = MigrateOptions { mode, ..MigrateOptions::default() };
    let (over, loads) = (AtomicBool::new(false), AtomicU64::new(0));
    let sums = [const { AtomicU64::new(0) }; 3];
    // CPU 0 takes no fault, so all are the reader's.
    let look = || (loads.load(SeqCst), manager().statistics().read().special_faults);
    let migrate = || -> Result<(), TestFailure> {
        let before = look();
        let (after, copied) = match mode {
            Mode::Stop => {
                let copied = space.collect_with(range, device, options)?.unmap()?.copy();
                (look(), copied)
            }
            Mode::Transactional => {
                let ahead = space.protect_for_copy(range, device, options)?.copy();
                (look(), ahead.collect()?.unmap()?.copy())
            }
        };
        let counts = [copied.finalize().moved, after.0 - before.0, after.1 - before.1];
        sums.iter().zip(counts).for_each(|(sum, count)| _ = sum.fetch_add(count, SeqCst));
        let _ = space.migrate_to_system(range)?;
        Ok(())
    };
    in_space(space, BOTH, |cpu| {
        if cpu == CpuId::BOOT {
            let mut migrated = Ok(());
            while migrated.is_ok() && sums[0].load(SeqCst) < pages {
                migrated = migrate();
            }
            over.store(true, SeqCst);
            return migrated;
        }
        for index in (0..range.pages()).cycle().take_while(|_| !over.load(SeqCst)) {
            check_eq!(probe::load(range.page(index).start_address())?, first_word(index));
            loads.fetch_add(1, SeqCst);
        }
        Ok(())
    })?;
    let [moved, loads, faults] = sums.map(AtomicU64::into_inner);
    Ok(Seen { moved, loads, faults })
}

kernel_test! {
    fn a_cpu_gets_its_page_however_many_others_want_it_on_the_device() -> TestResult {
        const ACCESSES: u64 = 1000;
        need_cpus(2)?;
        let device = the_device()?;
        let room = Room::enter()?;
        let range = room.map_filled(1)?;
        let (over, refused) = (AtomicBool::new(false), AtomicU64::new(0));
        let before = manager().statistics().read().special_faults;
        in_space(room.space, need_cpus(count())?, |cpu| {
            if cpu != CpuId::BOOT {
                while !over.load(SeqCst) {
                    let stayed = room.space.migrate_to_device(range, device)?.stayed;
                    refused.fetch_add(stayed.count(Reason::JustCameHome), SeqCst);
                    spin_loop();
                }
                return Ok(());
            }
            let accessed = (0..ACCESSES).try_for_each(|value| {
                while !matches!(room.space.entry(range.start_address()).decode(), Entry::Device { .. }) {
                    spin_loop();
                }
                probe::store(range.start_address(), value)
            });
            over.store(true, SeqCst);
            Ok(accessed?)
        })?;
        check_eq!(probe::load(range.start_address())?, ACCESSES - 1);
        // Each fault but the first of an access means that the others were refused as often as they may be.
        let faults = manager().statistics().read().special_faults - before;
        let bound = ACCESSES + refused.load(SeqCst) / u64::from(MOST_REFUSALS) + 1;
        check!((ACCESSES..=bound).contains(&faults), "{faults} faults for {ACCESSES} accesses, at most {bound}")
    }

    fn a_reader_takes_no_fault_while_ten_thousand_pages_are_copied() -> TestResult {
        const PAGES: u64 = 10_000;
        need_cpus(2)?;
        let room = Room::enter()?;
        let range = room.map_filled(64)?;
        let [stopped, in_use] = [Mode::Stop, Mode::Transactional].map(|mode| read_amid_copies(room.space, range, PAGES, mode));
        let (stopped, in_use) = (stopped?, in_use?);
        check!(stopped.moved >= PAGES && in_use.moved >= PAGES, "{stopped:?}, {in_use:?}")?;
        check!(in_use.faults == 0, "while its pages were in use, the reader took faults: {in_use:?}")?;
        check!(in_use.loads > stopped.loads, "it read no more than where it had to wait: {in_use:?}, {stopped:?}")
    }

    fn a_writer_wins_against_migrations_of_pages_in_use() -> TestResult {
        const PAGES: u64 = 16;
        const ROUNDS: u64 = 500;
        need_cpus(2)?;
        let device = the_device()?;
        let room = Room::enter()?;
        let range = room.map_filled(PAGES)?;
        let options = MigrateOptions { mode: Mode::Transactional, ..MigrateOptions::default() };
        let (over, written) = (AtomicBool::new(false), AtomicU64::new(0));
        let last = AtomicU64::new(0);
        in_space(room.space, BOTH, |cpu| {
            if cpu == CpuId::BOOT {
                let travelled = (0..ROUNDS).try_for_each(|_| {
                    let stayed = room.space.migrate_to_device_with(range, device, options)?.stayed;
                    written.fetch_add(stayed.count(Reason::Written), Relaxed);
                    let _ = room.space.migrate_to_system(range)?;
                    Ok::<(), TestFailure>(())
                });
                over.store(true, SeqCst);
                return travelled;
            }
            let mut value = first_word(0);
            while !over.load(SeqCst) {
                for index in 0..PAGES {
                    let own = word(range, index, cpu);
                    probe::store(own, value)?;
                    check_eq!(probe::load(own)?, value);
                }
                value += 1;
            }
            last.store(value - 1, SeqCst);
            Ok(())
        })?;
        for index in 0..PAGES {
            check_eq!(probe::load(range.page(index).start_address())?, first_word(index));
            check_eq!(probe::load(word(range, index, CpuId::new(1).unwrap_or(CpuId::BOOT)))?, last.load(SeqCst));
        }
        check!(written.load(Relaxed) > 0, "no store met a copy, so nothing was tried")
    }
}
