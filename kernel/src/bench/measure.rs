//! One operation, measured: its runs, and what is counted around each.
use super::error::BenchError;
use crate::arch::cpus;
use crate::arch::meter::{self, BarBytes, Boot};
use crate::arch::per_cpu::{Counters, PerCpu};
use crate::link;
use crate::memory::manager;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;
use ferry_protocol::link::{FromKernel, Measured};

/// Turns of the two loops of known length, of `2 * turns + 1` instructions each: one to learn what the meter adds, one to check.
const TURNS: [u64; 2] = [1000, 3000];

/// Empty copies from which is learnt what the meter adds to one.
const EMPTY_COPIES: u64 = 16;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct What {
    /// Its name.
    pub name: &'static str,
    /// Pages it is done to.
    pub pages: u64,
    /// CPUs in the address space.
    pub cpus: u32,
}

impl What {
    fn measured(self) -> Measured<'static> {
        Measured { name: self.name, pages: self.pages, cpus: self.cpus, ..Measured::default() }
    }
}

/// A meter that knows its own part.
pub struct Bench {
    /// What a window adds.
    window: u64,
    /// What a metered copy adds to the time of copies.
    copy: u64,
}

/// Counters of the kernel that an operation moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Counts {
    faults: u64,
    ipis: u64,
    invlpg: u64,
    cr3_writes: u64,
}

impl Counts {
    fn read() -> Self {
        let sum = |counter: fn(&Counters) -> &AtomicU64| {
            (0..cpus::count()).map(|cpu| counter(&PerCpu::of(cpu).counters).load(Relaxed)).sum()
        };
        Self {
            faults: manager().statistics().read().faults,
            ipis: sum(|counters| &counters.interrupts),
            invlpg: sum(|counters| &counters.pages_flushed),
            cr3_writes: sum(|counters| &counters.roots_loaded),
        }
    }
}

impl Bench {
    /// Learns what the meter adds, from loops of known length and from copies of nothing; tells the host of the loops, and before
    /// of what `boot` has cost.
    ///
    /// # Errors
    /// [`BenchError::Clock`].
    pub fn calibrate(boot: Boot) -> Result<Self, BenchError> {
        let length = |turns| 2 * turns + 1;
        let times = TURNS.map(|turns| meter::window(&mut || meter::known_loop(turns)));
        let lengths = TURNS.map(length);
        meter::reset(true);
        for _ in 0..EMPTY_COPIES {
            meter::copying(BarBytes::default(), || ());
        }
        let copy = meter::copied().time / EMPTY_COPIES;
        meter::reset(false);
        let bench = Self { window: times[0].wrapping_sub(lengths[0]), copy };
        let what = What { name: "boot", pages: 1, cpus: cpus::count() as u32 };
        bench.send(Measured { instructions: boot.time - boot.pieces * copy, ..what.measured() });
        for (time, length) in times.into_iter().zip(lengths) {
            if time.wrapping_sub(bench.window) != length {
                return Err(BenchError::Clock { instructions: lengths[1] - lengths[0], time: times[1] - times[0] });
            }
            let what = What { name: "known_loop", pages: length, cpus: 1 };
            bench.send(Measured { instructions: time - bench.window, ..what.measured() });
        }
        Ok(bench)
    }

    /// Measures `work` as often as the host wants, each time from the state that `prepare` makes and `finish` takes away.
    ///
    /// # Errors
    /// Those of the three.
    pub fn measure<S>(
        &self,
        what: What,
        prepare: impl Fn() -> Result<S, BenchError>,
        work: impl Fn(&S) -> Result<(), BenchError>,
        finish: impl Fn(S) -> Result<(), BenchError>,
    ) -> Result<(), BenchError> {
        // The same free frames at the same places each time: none at hand of a CPU, all joined to the largest blocks.
        let prepare = || {
            manager().memory().empty_caches(manager().machine());
            prepare()
        };
        // Once unmeasured: lists of free frames are in the order in which this operation leaves them.
        let state = prepare()?;
        work(&state)?;
        finish(state)?;
        for metered in [false, false, true, true] {
            let state = prepare()?;
            let mut result = Ok(());
            self.run(what, metered, &mut || result = work(&state));
            result?;
            finish(state)?;
        }
        Ok(())
    }

    /// Does `work` once, counts, and tells the host.
    pub fn run(&self, what: What, metered: bool, work: &mut dyn FnMut()) {
        let before = Counts::read();
        meter::reset(metered);
        let time = meter::window(work);
        let copied = meter::copied();
        meter::reset(false);
        let after = Counts::read();
        self.send(Measured {
            metered,
            instructions: time - self.window,
            copy_instructions: copied.time - copied.copies * self.copy,
            faults: after.faults - before.faults,
            ipis: after.ipis - before.ipis,
            invlpg: after.invlpg - before.invlpg,
            cr3_writes: after.cr3_writes - before.cr3_writes,
            bar_bytes_written: copied.bar_bytes_written,
            bar_bytes_read: copied.bar_bytes_read,
            ..what.measured()
        });
    }

    fn send(&self, measured: Measured) {
        link::send(&FromKernel::Measured(measured));
    }
}
