//! The bench: what operations cost, in guest instructions, beside what they cost elsewhere.
//!
//! ```text
//!   kernel ────────────────────────▶ measurements ─┐
//!   the same, seen by the referee ─▶ measurements ─┴─ equal? ─▶ figures ─▶ table, JSON
//!                            └─────▶ what it saw ─── equal?
//! ```
//!
//! Once with one CPU, once with several. In reading order: [`session`] (a boot), [`referee`] (what was seen from outside),
//! [`figures`] (from measurements to figures), [`peer`] (what is known of others), [`table`] (how it is shown).
pub mod failure;
pub mod figures;
pub mod flame;
pub mod history;
pub mod peer;
pub mod phases;
pub mod referee;
pub mod session;
pub mod table;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::artifacts::{self, Artifact};
use crate::demo::failure::Failure;
use crate::error::{Error, Refusal};
use crate::json::Json;
use crate::machine::MachineOptions;
use crate::qemu::{Clock, Qemu, StartError};
use crate::run_dir::RunDir;
use crate::screen::Screen;
use crate::symbols::Symbols;
use failure::BenchFailure;
use figures::{Figure, KNOWN_LOOP};
use history::{Comparison, Tools};
use phases::Profile;
use referee::{Seen, Sight};
use session::{Programs, Window};

/// CPUs of the machine that shows what flushes on several CPUs take.
const MANY_CPUS: u32 = 4;

/// Room for what the referee writes.
const SIGHT_BYTES: u64 = 64 << 20;

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the figures go as JSON.
    pub json: Option<PathBuf>,
    /// Where a flame graph goes; without one, nothing is profiled.
    pub flame: Option<PathBuf>,
    /// Whether the figures become those that later runs are compared with.
    pub save: bool,
    /// When to give up, for each boot.
    pub timeout: Duration,
    /// Whether to show QEMU's command line and the kernel's console.
    pub verbose: bool,
}

/// What all boots measured, and what the referee saw.
#[derive(Default)]
struct Results {
    figures: Vec<Figure>,
    loops: Vec<Window>,
    /// Windows of the kernel and what was seen of each, for the table that holds the two against each other.
    seen: Vec<(Window, Seen)>,
    /// Numbers that agree.
    compared: u64,
    profiles: Vec<Profile>,
}

/// Measures, shows and writes the figures.
///
/// # Errors
/// Refused where a machine does not start or a file cannot be written; failed where two measurements of a kind differ, the referee
/// counts otherwise, or a figure is worse than in an earlier run with the same tools.
pub fn run(options: &Options, screen: &mut Screen) -> Result<(), Error> {
    let qemu = Qemu::find().map_err(Refusal::from)?;
    let programs = [Artifact::Loader, Artifact::Kernel, Artifact::Referee];
    let [loader, kernel, referee] = artifacts::build(programs).map_err(Refusal::from)?;
    let programs = Programs { loader: &loader, kernel: &kernel };
    let tools = Tools { rustc: rustc()?, qemu: qemu.version().to_string() };
    let Tools { rustc, qemu } = &tools;
    screen
        .plain(format_args!("machine  QEMU {qemu} (TCG), one tick per instruction, 1 CPU, then {MANY_CPUS}; {rustc}"));
    let mut results = Results::default();
    for cpus in [1, MANY_CPUS] {
        let machine = MachineOptions { cpus, ..MachineOptions::default() };
        measure(programs, &referee, &machine, options, &mut results, screen)?;
    }
    table::show(screen, &results.figures);
    table::show_referee(screen, &results.seen, results.compared);
    if let Some(path) = &options.flame {
        table::show_phases(screen, &results.profiles);
        write(path, &flame::svg(&results.profiles))?;
        screen.plain(format_args!("flame graph: {}; open it in a browser", path.display()));
    }
    if let Some(path) = &options.json {
        let text = format!("{}\n", json(&results, &tools));
        std::fs::write(path, text).map_err(|source| Refusal::Json { path: path.clone(), source })?;
    }
    if options.save {
        write(&history::path(), &history::text(&tools, &results.figures))?;
        screen.plain(format_args!("saved to {}", history::path().display()));
        return Ok(());
    }
    let comparison = history::compare(&history::path(), &tools, &results.figures).map_err(Failure::from)?;
    screen.plain(match comparison {
        Comparison::NoHistory => {
            "nothing to compare with; --save makes this run the one that later ones are compared with".to_owned()
        }
        Comparison::OtherTools(Tools { rustc, qemu }) => {
            format!("not compared with the saved figures, which are of {rustc} and QEMU {qemu}")
        }
        Comparison::Compared { better, worse } => {
            format!("against the saved figures: {better} better, {worse} worse, all within what is tolerated")
        }
    });
    Ok(())
}

/// Boots twice, with the referee the second time, and adds what came of it.
fn measure(
    programs: Programs,
    referee: &Path,
    machine: &MachineOptions,
    options: &Options,
    results: &mut Results,
    screen: &mut Screen,
) -> Result<(), Error> {
    let run_dir = RunDir::create(SIGHT_BYTES).map_err(StartError::from).map_err(Refusal::from)?;
    let seen = run_dir.file("seen");
    let profile = options.flame.is_some() && machine.cpus == 1;
    let mut boot = |clock| session::run(programs, machine, clock, options.timeout, options.verbose, screen);
    let first = boot(Clock::Instructions)?;
    let second = boot(Clock::Observed { referee, seen: &seen, profile })?;
    compare_boots(&first, &second)?;
    let text = std::fs::read_to_string(&seen).map_err(|_| BenchFailure::Blind).map_err(Failure::from)?;
    let sight = Sight::parse(&text).map_err(Failure::from)?;
    results.compared += sight.compare(&second, machine.vram.bytes()).map_err(Failure::from)?;
    results.loops.extend(first.iter().filter(|window| window.name == KNOWN_LOOP).cloned());
    results.figures.extend(figures::figures(&first).map_err(Failure::from)?);
    if profile {
        let symbols = Symbols::of(programs.kernel);
        let mut resolver = symbols.resolver();
        // Of each operation once, where copies are marked and so left out.
        let metered = second.iter().zip(&sight.windows).filter(|(window, _)| window.metered).step_by(2);
        results.profiles.extend(metered.map(|(window, seen)| Profile::new(window, &seen.profile, &mut resolver)));
    }
    results.seen.extend(second.into_iter().zip(sight.windows));
    Ok(())
}

/// What the compiler says that it is.
fn rustc() -> Result<String, Refusal> {
    let program = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let output = Command::new(&program).arg("--version").output();
    let output = output.map_err(|source| Refusal::Program { program, source })?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn write(path: &Path, text: &str) -> Result<(), Refusal> {
    std::fs::write(path, text).map_err(|source| Refusal::Output { path: path.to_owned(), source })
}

/// Demands that two boots measured the same.
fn compare_boots(first: &[Window], second: &[Window]) -> Result<(), Failure> {
    for (one, other) in first.iter().zip(second) {
        figures::equal(one, other)?;
    }
    if first.len() == second.len() {
        return Ok(());
    }
    let longer = if first.len() > second.len() { first } else { second };
    let missing = longer[first.len().min(second.len())].name.clone();
    Err(BenchFailure::Missing(missing).into())
}

fn json(results: &Results, tools: &Tools) -> Json {
    let known = |window: &Window| {
        Json::object([("instructions", window.pages.into()), ("counted", window.counts.instructions.into())])
    };
    let calibration = Json::object([
        ("known_loops", Json::Array(results.loops.iter().map(known).collect())),
        ("compared_with_referee", results.compared.into()),
        ("rustc", tools.rustc.clone().into()),
        ("qemu", tools.qemu.clone().into()),
    ]);
    let figures = results.figures.iter().map(table::json).collect();
    Json::object([("calibration", calibration), ("results", Json::Array(figures))])
}
