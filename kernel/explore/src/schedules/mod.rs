//! Schedules: the memory manager in the simulator, its CPUs interleaved at every step that another CPU could see.
//!
//! ```text
//!   shuttle ── chooses a task ──▶ CPU 0   CPU 1   CPU 2   CPU 3     each a task that runs a program of its own
//!      ▲                            │
//!      └──── scheduling point ◀─────┤  entry access, lock, part of a copy, each CPU's part of a flush, turn of a wait
//!                                   ▼
//!                              kernel/mm  ──▶  simulated machine: stale and speculative translations, store buffers
//! ```
//!
//! Invariants:
//! 1. Tasks are switched at scheduling points only, one runs at a time, and every choice comes from the seed: one seed, one schedule.
//! 2. The memory manager is the one that boots: it has no code for this, its locks and atomics are its own.
//! 3. A violation ends the process with the command that shows it again.
mod device;
mod failure;
mod ledger;
mod program;
mod scheduler;
mod stage;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ferry_sim::Random;
use shuttle::rand::RngCore;
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

pub use failure::{MUTANT_VARIABLE, STATUS_VIOLATION};
use program::Program;
use scheduler::{Seeded, Seeds};
use stage::Stage;

/// Bytes of a task's stack.
const STACK_BYTES: usize = 512 << 10;

/// Scheduling points of one schedule after which nobody gets anywhere any more.
const MOST_STEPS: usize = 2_000_000;

/// What to explore.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// The seed of the first schedule; the others follow.
    pub seed: u64,
    /// How many schedules.
    pub schedules: u64,
    /// For how long at most; without it, until all are done.
    pub time: Option<Duration>,
}

/// What was explored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Explored {
    /// Schedules.
    pub schedules: u64,
    /// Scheduling points in all of them.
    pub steps: u64,
    /// How long it took.
    pub time: Duration,
}

/// Explores schedules on every host CPU. Ends the process where one shows a violation.
pub fn explore(options: Options) -> Explored {
    let start = Instant::now();
    let seeds = Arc::new(Seeds::new(options.seed, options.schedules, options.time.map(|time| start + time)));
    let steps = Arc::new(AtomicU64::new(0));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers.min(options.schedules as usize) {
            scope.spawn(|| work(&seeds, &steps));
        }
    });
    Explored { schedules: seeds.used(), steps: steps.load(Ordering::Relaxed), time: start.elapsed() }
}

/// What one host thread does: schedule after schedule.
fn work(seeds: &Arc<Seeds>, steps: &Arc<AtomicU64>) {
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    config.failure_persistence = FailurePersistence::None;
    config.max_steps = MaxSteps::FailAfter(MOST_STEPS);
    let steps = steps.clone();
    Runner::new(Seeded::new(seeds.clone()), config).run(move || {
        failure::end_with_violation();
        perform();
        steps.fetch_add(shuttle::current::context_switches() as u64, Ordering::Relaxed);
    });
}

/// One schedule.
fn perform() {
    let seed = shuttle::rand::thread_rng().next_u64();
    let stage = Stage::new(&mut Random::new(seed, 0));
    shuttle::thread::scope(|scope| {
        for number in 0..stage.cpus() {
            let program = Program::new(&stage, number, seed);
            let (sim, cpu) = (stage.world.sim(), stage.world.cpu(number).id());
            scope.spawn(move || sim.on(cpu, || program.run()));
        }
    });
    stage.world.cpu(0).run(|| stage.check_at_the_end());
}
