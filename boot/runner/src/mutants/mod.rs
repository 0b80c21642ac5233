//! `ferry mutants`: is there a test for each way in which coherence or ownership could be broken?
//!
//! ```text
//!   kernel/mutants/*.mutant ─▶ catalogue ─▶ splice ─▶ tree, built once ─┬─▶ programs, on the host ─┬─▶ verdict
//!                                 the workspace ──────▶                 └─▶ kernel, in QEMU ───────┘
//! ```
//!
//! A mutant is a change for the worse: a flush left out, two writes the wrong way round, a reference not taken. All of them
//! are in one build, and a run chooses one by its name. A mutant that no test sees is a test that is missing, or a line
//! that nothing needs.
//!
//! Invariants:
//! 1. The tests pass where no mutant is chosen, or nothing is run.
//! 2. Mutants on the host run side by side, one on each CPU; those in QEMU one after the other, after them.
//! 3. A mutant that hangs beside another one runs again alone, and only that counts: its tests may only have been slow.
pub mod catalogue;
mod kernel;
mod programs;
mod splice;
pub mod tree;
pub mod verdict;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::artifacts::ArtifactError;
use crate::error::{Error, Refusal};
use crate::json::Json;
use crate::qemu::Qemu;
use crate::screen::Screen;
use catalogue::{Mutant, Suite};
use kernel::Kernel;
use programs::{Limit, Programs};
use tree::{Side, Tree, TreeError};
use verdict::{Fate, Verdict};

/// How long a test may take without a mutant.
const UNMUTATED_LIMIT: Limit = Limit(Duration::from_secs(300));

/// A mutant hangs where a test takes so many times longer than the slowest one without a mutant,
const PATIENCE: u32 = 4;

/// and at least this.
const LEAST_LIMIT: Duration = Duration::from_secs(20);

/// Widths of the columns with fate and name.
const FATE_WIDTH: usize = 14;
const NAME_WIDTH: usize = 48;

/// What to run, as the command line says it.
#[derive(clap::Args, Clone, PartialEq, Eq, Debug)]
#[command(
    after_help = "Each mutant is a change for the worse, written down in kernel/mutants. All are built into one copy \
                        of the workspace below target/mutants. `killed` names the test that saw it; `survived` is a test \
                        that is missing; `equivalent` says why no test can see it."
)]
pub struct Options {
    /// Run only mutants whose name contains this; given several times, one of these
    #[arg(long, value_name = "NAME")]
    pub filter: Vec<String>,
    /// List the mutants instead of running them
    #[arg(long)]
    pub list: bool,
    /// Write the result as one JSON object
    #[arg(long, value_name = "FILE", conflicts_with = "list")]
    pub json: Option<PathBuf>,
}

/// Runs or lists the mutants.
///
/// # Errors
/// Refused where something is missing or does not build, failed where a mutant is not as its list says.
pub fn run(options: &Options, screen: &mut Screen) -> Result<(), Error> {
    let mutants = catalogue::read().map_err(TreeError::from).map_err(Refusal::from)?;
    if let Some(filter) =
        options.filter.iter().find(|filter| !mutants.iter().any(|mutant| mutant.name.contains(*filter)))
    {
        return Err(Refusal::NoMutant(filter.clone()).into());
    }
    let chosen =
        |mutant: &Mutant| options.filter.is_empty() || options.filter.iter().any(|filter| mutant.name.contains(filter));
    let selected: Vec<_> = mutants.iter().enumerate().filter(|(_, mutant)| chosen(mutant)).collect();
    if options.list {
        list(&selected, screen);
        return Ok(());
    }
    let mut verdicts = Vec::new();
    for suite in [Suite::Simulator, Suite::Device] {
        let of_suite: Vec<_> = selected.iter().map(|(_, mutant)| *mutant).filter(|m| m.suite == suite).collect();
        if !of_suite.is_empty() {
            verdicts.extend(on_the_host(&mutants, &suite, &of_suite, screen)?);
        }
    }
    let of_kernel: Vec<_> = selected.iter().copied().filter(|(_, mutant)| Side::Kernel.shows(mutant)).collect();
    if !of_kernel.is_empty() {
        verdicts.extend(in_the_kernel(&mutants, &of_kernel, screen)?);
    }
    conclude(&verdicts, options, screen)
}

fn list(selected: &[(usize, &Mutant)], screen: &Screen) {
    for (_, mutant) in selected {
        screen.plain(format_args!("{:NAME_WIDTH$}  {:10}  {}", mutant.name, mutant.breaks, mutant.why));
    }
    screen.plain(format_args!("{} mutants", selected.len()));
}

fn on_the_host<'m>(
    all: &[Mutant],
    suite: &Suite,
    mutants: &[&'m Mutant],
    screen: &Screen,
) -> Result<Vec<Verdict<'m>>, Error> {
    let tree = Tree::of(all, Side::Host).map_err(Refusal::from)?;
    screen.event(format_args!("building the tests of {} with all mutants", suite.packages().join(" and ")));
    let mut programs = Programs::build(&tree, suite).map_err(|error| at(&tree, error))?;
    let started = Instant::now();
    let slowest = programs.run_unmutated(UNMUTATED_LIMIT)?.map_err(Error::UnmutatedFails)?;
    let limit = Limit((slowest * PATIENCE).max(LEAST_LIMIT));
    screen.event(format_args!("they pass without a mutant, in {:.1} s", started.elapsed().as_secs_f64()));
    let next = AtomicUsize::new(0);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let (sender, receiver) = mpsc::channel();
    let (mut verdicts, hung) = std::thread::scope(|scope| {
        for _ in 0..workers {
            let (sender, next, programs) = (sender.clone(), &next, &programs);
            scope.spawn(move || {
                while let Some(&mutant) = mutants.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let started = Instant::now();
                    let killer = programs.run(&mutant.name, limit);
                    let verdict = killer.map(|killer| Verdict::of(mutant, killer, started));
                    if sender.send(verdict).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let (mut verdicts, mut hung) = (Vec::new(), Vec::new());
        for verdict in receiver {
            let verdict = verdict?;
            if verdict.fate.is_by_hang() {
                hung.push(verdict.mutant);
                continue;
            }
            show(&verdict, screen);
            verdicts.push(verdict);
        }
        Ok::<_, Refusal>((verdicts, hung))
    })?;
    for mutant in hung {
        let started = Instant::now();
        let verdict = Verdict::of(mutant, programs.run(&mutant.name, limit)?, started);
        show(&verdict, screen);
        verdicts.push(verdict);
    }
    Ok(verdicts)
}

fn in_the_kernel<'m>(
    all: &[Mutant],
    mutants: &[(usize, &'m Mutant)],
    screen: &Screen,
) -> Result<Vec<Verdict<'m>>, Error> {
    Qemu::find().map_err(Refusal::from)?;
    let tree = Tree::of(all, Side::Kernel).map_err(Refusal::from)?;
    screen.event("building the kernel with all mutants");
    let kernel = Kernel::build(&tree).map_err(|error| match error {
        Error::Refused(refusal) => at(&tree, refusal).into(),
        failed => failed,
    })?;
    let filters: Vec<_> = mutants.iter().filter_map(|(_, mutant)| mutant.suite.kernel_filter()).collect();
    let started = Instant::now();
    if let Some(killer) = kernel.run(None, &kernel.tests(&filters))? {
        return Err(Error::UnmutatedFails(killer));
    }
    screen.event(format_args!("its tests pass without a mutant, in {:.1} s", started.elapsed().as_secs_f64()));
    let mut verdicts = Vec::new();
    for &(number, mutant) in mutants {
        let started = Instant::now();
        let tests = kernel.tests(&mutant.suite.kernel_filter().into_iter().collect::<Vec<_>>());
        let verdict = Verdict::of(mutant, kernel.run(Some(number), &tests)?, started);
        show(&verdict, screen);
        verdicts.push(verdict);
    }
    Ok(verdicts)
}

/// Says of a build that failed where it failed.
fn at(tree: &Tree, refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Artifact(ArtifactError::Build) => Refusal::MutantsBuild(tree.root().to_owned()),
        other => other,
    }
}

fn show(verdict: &Verdict, screen: &Screen) {
    let Verdict { mutant, fate, took } = verdict;
    let seconds = took.as_secs_f64();
    screen.event(format_args!("{:FATE_WIDTH$}{:NAME_WIDTH$}  {fate} ({seconds:.1} s)", fate.word(), mutant.name));
}

fn conclude(verdicts: &[Verdict], options: &Options, screen: &Screen) -> Result<(), Error> {
    let count = |is: fn(&Fate) -> bool| verdicts.iter().filter(|verdict| is(&verdict.fate)).count();
    let (killed, equivalent) = (count(Fate::is_killed), count(Fate::is_equivalent));
    let unexplained = verdicts.len() - killed - equivalent;
    screen.plain(format_args!(
        "{} mutants: {killed} killed, {equivalent} equivalent, {unexplained} unexplained; {:.0} s",
        verdicts.len(),
        screen.elapsed().as_secs_f64()
    ));
    if let Some(path) = &options.json {
        let json = Json::object([
            ("mutants", Json::Array(verdicts.iter().map(Verdict::to_json).collect())),
            ("killed", (killed as u64).into()),
            ("equivalent", (equivalent as u64).into()),
            ("unexplained", (unexplained as u64).into()),
            ("wall_ms", (screen.elapsed().as_millis() as u64).into()),
        ]);
        let json_error = |source| Refusal::Json { path: path.clone(), source };
        std::fs::write(path, format!("{json}\n")).map_err(json_error)?;
    }
    if unexplained > 0 { Err(Error::MutantsUnexplained(unexplained)) } else { Ok(()) }
}
