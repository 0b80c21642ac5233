//! The scheduler: which CPU goes on, chosen by a seed.
//!
//! One seed is one schedule, so a schedule is replayed by its seed alone. (Shuttle's own schedulers draw a run's choices from one
//! stream, and its PCT scheduler learns from the runs before: there, a schedule is replayed with all that came before it.)
//!
//! | strategy | what it does | what it finds |
//! |---|---|---|
//! | random | any CPU, at each moment | races of a few steps |
//! | reluctant | the same CPU most of the time | a step of one CPU between two of another |
//! | stalling | now and then one CPU stands still for long, as after an interrupt | much of one CPU inside a step of another |
//! | PCT | the CPU of the highest priority; it loses its place at a few moments | long overtaking |
//!
//! PCT is probabilistic concurrency testing (Burckhardt et al., ASPLOS 2010): a bug of depth d, one that needs d - 1 moments of
//! change, is found with a known probability whatever the number of steps.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ferry_sim::Random;
use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};

/// How many moments of change PCT may have: the depth of a bug, less one.
const MOST_CHANGES: usize = 4;

/// Steps among which PCT chooses its moments of change. Schedules are of different lengths.
const HORIZONS: [usize; 3] = [256, 1024, 4096];

/// A reluctant schedule changes its CPU at this many of 256 moments.
const RELUCTANCE: u8 = 16;

/// A stalling schedule lets the running CPU stand still at this many of 256 moments.
const STALLS: u8 = 5;

/// For how many steps a CPU stands still: from 2 to the power of the first to that of the second.
const STALL_BITS: std::ops::Range<usize> = 5..13;

/// Hands out the seeds of a run to the host threads that explore it.
#[derive(Debug)]
pub(super) struct Seeds {
    first: u64,
    next: AtomicU64,
    most: u64,
    deadline: Option<Instant>,
}

impl Seeds {
    /// The seeds from `first` on, `most` of them, and none after the deadline.
    pub(super) fn new(first: u64, most: u64, deadline: Option<Instant>) -> Self {
        Self { first, next: AtomicU64::new(0), most, deadline }
    }

    /// How many have been handed out.
    pub(super) fn used(&self) -> u64 {
        self.next.load(Ordering::Relaxed).min(self.most)
    }

    fn take(&self) -> Option<u64> {
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.most).then(|| self.first.wrapping_add(number))
    }
}

/// How the next CPU is chosen.
#[derive(Debug)]
enum Strategy {
    Random,
    Reluctant,
    Stalling {
        /// The step at which each task goes on.
        until: Vec<usize>,
        /// Turns of waits in a row: whoever could end them may stand still.
        yields: usize,
    },
    Pct {
        /// The priority of each task, by its number; the highest runs.
        priorities: Vec<u64>,
        /// The priority of the next task that loses its place: below all others.
        lowest: u64,
        /// Steps at which the running task loses its place.
        changes: Vec<usize>,
    },
}

/// The scheduler of one host thread.
#[derive(Debug)]
pub(super) struct Seeded {
    seeds: Arc<Seeds>,
    random: Random,
    strategy: Strategy,
    steps: usize,
}

impl Seeded {
    pub(super) fn new(seeds: Arc<Seeds>) -> Self {
        Self { seeds, random: Random::new(0, 0), strategy: Strategy::Random, steps: 0 }
    }

    fn choose_strategy(&mut self) -> Strategy {
        match self.random.below(8) {
            0 => Strategy::Random,
            1 => Strategy::Reluctant,
            2..6 => Strategy::Stalling { until: Vec::new(), yields: 0 },
            _ => {
                let count = 1 + self.random.below(MOST_CHANGES);
                let horizon = HORIZONS[self.random.below(HORIZONS.len())];
                let changes = (0..count).map(|_| self.random.below(horizon)).collect();
                Strategy::Pct { priorities: Vec::new(), lowest: u64::from(u32::MAX), changes }
            }
        }
    }

    /// Any of `tasks`; not `waiting`, where there is another.
    fn any_of(&mut self, tasks: &[TaskId], waiting: Option<TaskId>) -> Option<TaskId> {
        let others = tasks.iter().copied().filter(|task| Some(*task) != waiting);
        match others.clone().count() {
            0 => waiting,
            count => others.clone().nth(self.random.below(count)),
        }
    }

    /// The current task most of the time, unless it waits.
    fn reluctantly_one_of(&mut self, tasks: &[TaskId], current: Option<TaskId>, is_yielding: bool) -> Option<TaskId> {
        if current.is_some() && !is_yielding && !self.random.chance(RELUCTANCE) {
            return current;
        }
        self.any_of(tasks, current.filter(|_| is_yielding))
    }
}

impl Scheduler for Seeded {
    fn new_execution(&mut self) -> Option<Schedule> {
        let seed = self.seeds.take()?;
        super::failure::set_current_seed(seed);
        self.random = Random::new(seed, 0);
        self.strategy = self.choose_strategy();
        self.steps = 0;
        Some(Schedule::new(seed))
    }

    fn next_task(&mut self, runnable: &[&Task], current: Option<TaskId>, is_yielding: bool) -> Option<TaskId> {
        self.steps += 1;
        let tasks: Vec<TaskId> = runnable.iter().map(|task| task.id()).collect();
        let current = current.filter(|current| tasks.contains(current));
        match &mut self.strategy {
            Strategy::Random => self.any_of(&tasks, current.filter(|_| is_yielding)),
            Strategy::Reluctant => self.reluctantly_one_of(&tasks, current, is_yielding),
            Strategy::Stalling { until, yields } => {
                until.resize(until.len().max(1 + tasks.iter().map(|task| usize::from(*task)).max()?), 0);
                *yields = if is_yielding { *yields + 1 } else { 0 };
                if *yields > 2 * tasks.len() {
                    until.fill(0);
                }
                let moves = |task: &TaskId, until: &[usize]| until[usize::from(*task)] <= self.steps;
                // Somebody goes on, or nobody would stand still for longer than anybody else.
                if let Some(current) = current
                    && tasks.iter().any(|task| *task != current && moves(task, until))
                    && self.random.chance(STALLS)
                {
                    let bits = STALL_BITS.start + self.random.below(STALL_BITS.len());
                    until[usize::from(current)] = self.steps + (1 << bits);
                }
                let moving: Vec<_> = tasks.iter().copied().filter(|task| moves(task, until)).collect();
                let tasks = if moving.is_empty() { tasks } else { moving };
                let current = current.filter(|current| tasks.contains(current));
                self.reluctantly_one_of(&tasks, current, is_yielding)
            }
            Strategy::Pct { priorities, lowest, changes } => {
                for task in tasks.iter().map(|task| usize::from(*task)) {
                    while priorities.len() <= task {
                        priorities.push(u64::from(u32::MAX) + 1 + (self.random.draw() >> 1));
                    }
                }
                if let Some(current) = current
                    && (is_yielding || changes.contains(&self.steps))
                {
                    *lowest -= 1;
                    priorities[usize::from(current)] = *lowest;
                }
                tasks.into_iter().max_by_key(|task| priorities[usize::from(*task)])
            }
        }
    }

    fn next_u64(&mut self) -> u64 {
        self.random.draw()
    }
}
