//! Operations while several CPUs are in the address space: how many interrupts a flush takes.
//!
//! The other CPUs have used every page, so each may hold every translation; they then halt, so that nothing counts but what they
//! are made to do.
use super::error::BenchError;
use super::measure::{Bench, What};
use super::operations::Room;
use crate::arch::cpus::work::{halt_until, wake};
use crate::arch::{areas, cpus};
use crate::memory::{manager, run_in};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use ferry_mm::frame::DeviceId;
use ferry_mm::machine::{CpuId, CpuSet};

const PAGES: u64 = 512;

/// Interrupts that are sent so that an observer's count can be compared with a known number.
const KNOWN_INTERRUPTS: u64 = 5;

/// Turns of a wait that give each of the other CPUs time to halt.
const TURNS_TO_HALT: u32 = 64;

/// Measures the migration of pages that two CPUs, and all of them, have used.
pub(super) fn measure(bench: &Bench, device: DeviceId) -> Result<(), BenchError> {
    known_interrupts(bench);
    let mut sizes = [2, cpus::count()];
    let sizes = if sizes[0] == sizes[1] { &mut sizes[..1] } else { &mut sizes[..] };
    for &mut count in sizes {
        let migrate = |room: &Room| room.migrate(device);
        with_cpus(bench, "migrate_to_device", count, migrate)?;
    }
    Ok(())
}

fn known_interrupts(bench: &Bench) {
    let other = CpuId::new(1).map_or(CpuSet::EMPTY, CpuSet::of);
    bench.run(What { name: "known_interrupts", pages: KNOWN_INTERRUPTS, cpus: 2 }, false, &mut || {
        (0..KNOWN_INTERRUPTS).for_each(|_| wake(other));
    });
}

fn with_cpus(
    bench: &Bench,
    name: &'static str,
    count: usize,
    work: impl Fn(&Room) -> Result<(), BenchError> + Sync,
) -> Result<(), BenchError> {
    let cpus = CpuSet::from_bits((1 << count) - 1);
    let others = CpuSet::from_bits(cpus.bits() & !CpuSet::of(CpuId::BOOT).bits());
    let what = What { name, pages: PAGES, cpus: count as u32 };
    for run in [None, Some(false), Some(false), Some(true), Some(true)] {
        // As in `Bench::measure`.
        manager().memory().empty_caches(manager().machine());
        let room = Room::touched(PAGES)?;
        let (ready, over) = (AtomicU64::new(1), AtomicBool::new(false));
        let results = run_in(room.space, cpus, |cpu| {
            if cpu != CpuId::BOOT {
                areas::load_each(room.range);
                ready.fetch_add(1, SeqCst);
                halt_until(|| over.load(SeqCst));
                return Ok(());
            }
            while ready.load(SeqCst) < count as u64 {
                cpus::relax();
            }
            (0..TURNS_TO_HALT).for_each(|_| core::hint::spin_loop());
            let mut result = Ok(());
            match run {
                Some(metered) => bench.run(what, metered, &mut || result = work(&room)),
                None => result = work(&room),
            }
            over.store(true, SeqCst);
            wake(others);
            result
        });
        results.into_iter().flatten().collect::<Result<(), _>>()?;
        room.tear_down()?;
    }
    Ok(())
}
