//! What only several CPUs show: stale translations on another CPU, faults and migrations at the same time, and what a
//! shootdown costs.
//!
//! A CPU whose translation cache is to be warm does all its part in one piece of work: entering a space empties the cache.
use super::{Room, WARM_PAGES, first_word, pages_at, the_device};
use crate::arch::cpus::shootdown::flush;
use crate::arch::cpus::{count, run_on};
use crate::arch::per_cpu::{MOST_CPUS, PerCpu};
use crate::arch::probe::{self, ProbeError};
use crate::harness::{TestFailure, TestResult, check, check_eq, kernel_test, need_cpus};
use crate::memory::fault::Failure;
use crate::memory::{AddressSpace, manager, run_in};
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use ferry_mm::address::{PAGE_BYTES, PageRange, TABLE_ENTRIES};
use ferry_mm::machine::{CpuId, CpuSet};
use ferry_mm::migrate::{MigrateError, Report};
use ferry_mm::page_table::entry::Entry;
use ferry_mm::page_table::flush::{FlushRequest, FlushScope, PAGE_BY_PAGE_LIMIT};
use ferry_mm::space::{Access, FaultError, Protection};
use x86_64::VirtAddr;

/// The CPU of the test and one more.
pub(super) const BOTH: CpuSet = CpuSet::from_bits(0b11);

/// Steps that two CPUs take in turn. Whoever waits here answers others by interrupt only.
struct Turns(AtomicU64);

impl Turns {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    fn reach(&self, step: u64) {
        self.0.store(step, SeqCst);
    }

    fn wait_for(&self, step: u64) {
        while self.0.load(SeqCst) < step {
            spin_loop();
        }
    }
}

/// Runs `work` on each of `cpus`, in `space`; the CPU of the test is in it and stays. The first failure of any counts.
pub(super) fn in_space(space: AddressSpace, cpus: CpuSet, work: impl Fn(CpuId) -> TestResult + Sync) -> TestResult {
    run_in(space, cpus, work).into_iter().flatten().collect()
}

/// Has CPU 1 write every page of `range`, then has the CPU of the test do `weaken`, then lets CPU 1 `look`.
fn with_warm_neighbour(
    space: AddressSpace,
    range: PageRange,
    weaken: impl Fn() -> TestResult + Sync,
    look: impl Fn() -> TestResult + Sync,
) -> TestResult {
    let turns = Turns::new();
    in_space(space, BOTH, |cpu| {
        if cpu == CpuId::BOOT {
            turns.wait_for(1);
            let result = weaken();
            turns.reach(2);
            return result;
        }
        let warmed = (0..range.pages()).try_for_each(|index| {
            let address = range.page(index).start_address();
            probe::load(address).and_then(|value| probe::store(address, value))
        });
        turns.reach(1);
        turns.wait_for(2);
        warmed?;
        look()
    })
}

fn failure(result: Result<impl Sized, ProbeError>) -> Option<Failure> {
    result.err().and_then(|error| error.failure)
}

/// Interrupts and flushes of each CPU so far.
fn flush_counts() -> [(u64, u64); MOST_CPUS] {
    core::array::from_fn(|cpu| {
        let counters = &PerCpu::of(cpu).counters;
        (counters.interrupts.load(Relaxed), counters.flushes.load(Relaxed))
    })
}

/// The difference since `before`, for the first three CPUs.
fn since(before: &[(u64, u64); MOST_CPUS]) -> [(u64, u64); 3] {
    let after = flush_counts();
    core::array::from_fn(|cpu| (after[cpu].0 - before[cpu].0, after[cpu].1 - before[cpu].1))
}

/// The word of `cpu` in page `index`.
pub(super) fn word(range: PageRange, index: u64, cpu: CpuId) -> VirtAddr {
    range.page(index).start_address() + cpu.number() as u64 * size_of::<u64>() as u64
}

/// A migration may give way to a fork.
fn gives_way(result: Result<Report, MigrateError>) -> Result<(), MigrateError> {
    match result {
        Ok(_) | Err(MigrateError::Again(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

kernel_test! {
    fn cpus_fault_on_pages_of_one_space_at_the_same_time() -> TestResult {
        const PAGES: u64 = 2048;
        need_cpus(2)?;
        let cpus = count() as u64;
        let room = Room::enter()?;
        let range = room.map(PAGES)?;
        let arrived = AtomicU64::new(0);
        in_space(room.space, need_cpus(count())?, |cpu| {
            arrived.fetch_add(1, SeqCst);
            while arrived.load(SeqCst) < cpus {
                spin_loop();
            }
            // Every CPU has pages in every table, side by side with those of the others; and all share the last.
            for index in (cpu.number() as u64..PAGES).step_by(cpus as usize).chain([PAGES - 1]) {
                probe::store(word(range, index, cpu), index ^ cpu.number() as u64)?;
            }
            Ok(())
        })?;
        check_eq!(room.space.resident().ram, PAGES);
        for index in 0..PAGES - 1 {
            let owner = CpuId::new((index % cpus) as usize).unwrap_or(CpuId::BOOT);
            for cpu in (0..count()).filter_map(CpuId::new) {
                let expected = if cpu == owner { index ^ cpu.number() as u64 } else { 0 };
                check_eq!(probe::load(word(range, index, cpu))?, expected);
            }
        }
        for cpu in (0..count()).filter_map(CpuId::new) {
            check_eq!(probe::load(word(range, PAGES - 1, cpu))?, (PAGES - 1) ^ cpu.number() as u64);
        }
        Ok(())
    }

    fn each_cpu_in_a_space_of_its_own() -> TestResult {
        const PAGES: u64 = 512;
        need_cpus(2)?;
        let results = run_on(need_cpus(count())?, |cpu| {
            let room = Room::enter()?;
            let range = room.map_filled(PAGES)?;
            room.space.unmap(pages_at(0, PAGES / 2)?)?;
            room.space.map_anonymous(pages_at(0, PAGES / 2)?, Protection::READ_WRITE)?;
            for index in 0..PAGES {
                let expected = if index < PAGES / 2 { 0 } else { first_word(index) };
                check_eq!(probe::load(range.page(index).start_address())?, expected);
                probe::store(range.page(index).start_address(), cpu.number() as u64)?;
            }
            let own = (0..PAGES).all(|index| probe::load(range.page(index).start_address()) == Ok(cpu.number() as u64));
            check!(own, "CPU {} sees another's page", cpu.number())
        });
        results.into_iter().flatten().collect()
    }

    fn another_cpu_cannot_reach_an_unmapped_page() -> TestResult {
        need_cpus(2)?;
        let room = Room::enter()?;
        let range = room.map_filled(WARM_PAGES)?;
        let goes = |index: &u64| !index.is_multiple_of(TABLE_ENTRIES);
        // The first page of each table stays, so that no table goes: freeing one flushes on its own account.
        let unmap = || {
            (0..WARM_PAGES).step_by(TABLE_ENTRIES as usize).try_for_each(|first| {
                Ok(room.space.unmap(pages_at(first + 1, TABLE_ENTRIES - 1)?)?)
            })
        };
        with_warm_neighbour(room.space, range, unmap, || {
            for address in (0..WARM_PAGES).filter(goes).map(|index| range.page(index).start_address()) {
                check_eq!(failure(probe::load(address)), Some(Failure::Access(FaultError::NoArea(address))));
            }
            Ok(())
        })
    }

    fn another_cpu_cannot_write_a_page_that_became_read_only() -> TestResult {
        need_cpus(2)?;
        let room = Room::enter()?;
        let range = room.map_filled(WARM_PAGES)?;
        with_warm_neighbour(room.space, range, || Ok(room.space.protect(range, Protection::READ)?), || {
            for index in 0..WARM_PAGES {
                let address = range.page(index).start_address();
                let forbidden = Failure::Access(FaultError::Forbidden(address, Access::Write, Protection::READ));
                check_eq!(failure(probe::store(address, 0)), Some(forbidden));
                check_eq!(probe::load(address)?, first_word(index));
            }
            Ok(())
        })
    }

    fn a_store_of_another_cpu_after_a_migration_is_not_lost_in_the_old_frame() -> TestResult {
        need_cpus(2)?;
        let device = the_device()?;
        let room = Room::enter()?;
        let range = room.map_filled(WARM_PAGES)?;
        let before = manager().statistics().read();
        let migrate = || {
            check_eq!(room.space.migrate_to_device(range, device)?.moved, WARM_PAGES);
            Ok(())
        };
        with_warm_neighbour(room.space, range, migrate, || {
            for index in 0..WARM_PAGES {
                probe::store(word(range, index, CpuId::BOOT), index)?;
            }
            Ok(())
        })?;
        for index in 0..WARM_PAGES {
            check_eq!(probe::load(word(range, index, CpuId::BOOT))?, index);
        }
        // Through a stale translation a store would have made no fault.
        check_eq!(manager().statistics().read().special_faults - before.special_faults, WARM_PAGES);
        Ok(())
    }

    fn another_cpu_sees_the_zero_page_replaced() -> TestResult {
        need_cpus(2)?;
        let room = Room::enter()?;
        let (range, turns) = (room.map(WARM_PAGES)?, Turns::new());
        in_space(room.space, BOTH, |cpu| {
            let addresses = || (0..WARM_PAGES).map(|index| (index + 1, range.page(index).start_address()));
            if cpu == CpuId::BOOT {
                turns.wait_for(1);
                let stored = addresses().try_for_each(|(value, address)| probe::store(address, value));
                turns.reach(2);
                return Ok(stored?);
            }
            let zeros = addresses().all(|(_, address)| probe::load(address) == Ok(0));
            turns.reach(1);
            turns.wait_for(2);
            check!(zeros, "an untouched page is not zero")?;
            for (value, address) in addresses() {
                check_eq!(probe::load(address)?, value);
            }
            Ok(())
        })
    }

    fn a_migration_costs_one_interrupt_for_each_other_cpu_of_the_space_and_none_on_the_way_home() -> TestResult {
        const PAGES: u64 = 512;
        need_cpus(2)?;
        let device = the_device()?;
        let room = Room::enter()?;
        let (range, turns) = (room.map_filled(PAGES)?, Turns::new());
        check!(range.start_address().is_aligned(PAGES * PAGE_BYTES), "{:?}", range.start_address())?;
        let touch = || (0..PAGES).try_for_each(|index| {
            check_eq!(probe::load(range.page(index).start_address())?, first_word(index));
            Ok(())
        });
        // CPU 2, where there is one, is not in the space.
        in_space(room.space, BOTH, |cpu| {
            if cpu != CpuId::BOOT {
                // Uses the space all along, and brings the pages of the first migration home.
                touch()?;
                turns.reach(1);
                turns.wait_for(2);
                let touched = touch();
                turns.reach(3);
                turns.wait_for(4);
                return touched;
            }
            turns.wait_for(1);
            let before = flush_counts();
            let moved = room.space.migrate_to_device(range, device)?.moved;
            let there = since(&before);
            turns.reach(2);
            turns.wait_for(3);
            let by_faults = since(&before);
            let again = room.space.migrate_to_device(range, device)?.moved;
            let twice = since(&before);
            let home = room.space.migrate_to_system(range)?.moved;
            let by_call = since(&before);
            turns.reach(4);
            check_eq!((moved, again, home), (PAGES, PAGES, PAGES));
            check_eq!(there, [(0, 1), (1, 1), (0, 0)]);
            check_eq!(by_faults, there);
            check_eq!(twice, [(0, 2), (2, 2), (0, 0)]);
            check_eq!(by_call, twice);
            Ok(())
        })
    }

    fn a_fault_elsewhere_does_not_wait_for_an_open_migration() -> TestResult {
        need_cpus(2)?;
        let device = the_device()?;
        let room = Room::enter()?;
        let (range, turns) = (room.map(64)?, Turns::new());
        in_space(room.space, BOTH, |cpu| {
            if cpu != CpuId::BOOT {
                turns.wait_for(1);
                // In the same table as the pages that are under way.
                let stored = probe::store(range.page(40).start_address(), 4);
                turns.reach(2);
                return Ok(stored?);
            }
            let collected = room.space.collect(pages_at(0, 32)?, device)?;
            turns.reach(1);
            turns.wait_for(2);
            drop(collected);
            Ok(())
        })
    }

    fn a_fault_on_a_page_under_way_waits_and_then_brings_it_home() -> TestResult {
        need_cpus(2)?;
        let device = the_device()?;
        let room = Room::enter()?;
        let (range, turns) = (room.map_filled(8)?, Turns::new());
        let before = manager().statistics().read().special_faults;
        in_space(room.space, BOTH, |cpu| {
            if cpu != CpuId::BOOT {
                turns.wait_for(1);
                check_eq!(probe::load(range.page(3).start_address())?, first_word(3));
                return Ok(());
            }
            let collected = room.space.collect(range, device);
            turns.reach(1);
            let collected = collected?;
            // Until the other CPU has met the entry; its handler waits with interrupts off, and answers the flush.
            while manager().statistics().read().special_faults == before {
                spin_loop();
            }
            flush(FlushRequest { cpus: BOTH, scope: FlushScope::LowerHalf });
            check_eq!(collected.unmap()?.copy().finalize().moved, 8);
            Ok(())
        })?;
        check!(matches!(room.space.entry(range.page(3).start_address()).decode(), Entry::Present { .. }), "page 3 is away")?;
        check_eq!(room.space.resident().device, 7);
        Ok(())
    }

    fn cpus_that_change_protections_of_one_space_flush_each_other() -> TestResult {
        const ROUNDS: u64 = 400;
        need_cpus(2)?;
        let room = Room::enter()?;
        let cpus = need_cpus(count())?;
        let range = room.map_filled(4 * MOST_CPUS as u64)?;
        in_space(room.space, cpus, |cpu| {
            let own = pages_at(4 * cpu.number() as u64, 4)?;
            let address = own.start_address();
            for round in 0..ROUNDS {
                probe::store(address, round)?;
                room.space.protect(own, Protection::READ)?;
                check!(probe::store(address, 0).is_err(), "CPU {} writes a read-only page", cpu.number())?;
                check_eq!(probe::load(address)?, round);
                room.space.protect(own, Protection::READ_WRITE)?;
            }
            Ok(())
        })?;
        check_eq!(probe::load(range.start_address())?, ROUNDS - 1);
        Ok(())
    }

    fn no_store_is_lost_while_pages_come_and_go() -> TestResult {
        const PAGES: u64 = 32;
        const JOURNEYS: u64 = 200;
        need_cpus(2)?;
        let device = the_device()?;
        let room = Room::enter()?;
        let range = room.map_filled(PAGES)?;
        let (over, moved) = (AtomicBool::new(false), AtomicU64::new(0));
        for (index, cpu) in (0..PAGES).flat_map(|index| (0..count()).filter_map(CpuId::new).map(move |cpu| (index, cpu))) {
            probe::store(word(range, index, cpu), 0)?;
        }
        let stored: [AtomicU64; MOST_CPUS] = [const { AtomicU64::new(0) }; MOST_CPUS];
        in_space(room.space, need_cpus(count())?, |cpu| {
            if cpu == CpuId::BOOT {
                let travelled = (0..JOURNEYS).try_for_each(|_| {
                    moved.fetch_add(room.space.migrate_to_device(range, device)?.moved, Relaxed);
                    let _ = room.space.migrate_to_system(range)?;
                    Ok::<(), TestFailure>(())
                });
                over.store(true, SeqCst);
                return travelled;
            }
            let mut value = 0;
            while !over.load(SeqCst) {
                for own in (0..PAGES).map(|index| word(range, index, cpu)) {
                    let before = probe::load(own)?;
                    check!(before == value, "CPU {} finds {before} at v{own:#x} where it stored {value}", cpu.number())?;
                    probe::store(own, value + 1)?;
                }
                value += 1;
            }
            stored[cpu.number()].store(value, Relaxed);
            Ok(())
        })?;
        for cpu in (1..count()).filter_map(CpuId::new) {
            for index in 0..PAGES {
                check_eq!(probe::load(word(range, index, cpu))?, stored[cpu.number()].load(Relaxed));
            }
        }
        check!(moved.load(Relaxed) > 0, "nothing moved, so nothing was tried")
    }

    fn a_few_pages_are_flushed_one_by_one_on_another_cpu_too() -> TestResult {
        need_cpus(2)?;
        let room = Room::enter()?;
        let range = room.map_filled(PAGE_BY_PAGE_LIMIT)?;
        let protect = || Ok(room.space.protect(range, Protection::READ)?);
        with_warm_neighbour(room.space, range, protect, || {
            for address in (0..PAGE_BY_PAGE_LIMIT).rev().map(|index| range.page(index).start_address()) {
                check!(probe::store(address, 0).is_err(), "v{address:#x} can be written")?;
            }
            Ok(())
        })
    }

    fn two_migrations_of_the_same_pages_and_a_fork_leave_every_page_whole() -> TestResult {
        const PAGES: u64 = 64;
        const ROUNDS: u64 = 40;
        need_cpus(3)?;
        let device = the_device()?;
        let room = Room::enter()?;
        let range = room.map_filled(PAGES)?;
        in_space(room.space, CpuSet::from_bits(0b111), |cpu| {
            for _ in 0..ROUNDS {
                match cpu.number() {
                    0 => room.space.fork()?.destroy()?,
                    1 => gives_way(room.space.migrate_to_device(range, device))?,
                    _ => {
                        gives_way(room.space.migrate_to_device(range, device))?;
                        gives_way(room.space.migrate_to_system(range))?;
                    }
                }
            }
            Ok(())
        })?;
        for index in 0..PAGES {
            check_eq!(probe::load(range.page(index).start_address())?, first_word(index));
        }
        Ok(())
    }
}
