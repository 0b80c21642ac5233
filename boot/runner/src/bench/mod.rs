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
pub mod peer;
pub mod referee;
pub mod session;
pub mod table;

use std::path::PathBuf;
use std::time::Duration;

use crate::artifacts::{self, Artifact};
use crate::demo::failure::Failure;
use crate::error::{Error, Refusal};
use crate::json::Json;
use crate::machine::MachineOptions;
use crate::qemu::{Clock, Qemu, StartError};
use crate::run_dir::RunDir;
use crate::screen::Screen;
use crate::size::grouped;
use failure::BenchFailure;
use figures::{Figure, KNOWN_LOOP};
use referee::Sight;
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
    /// When to give up, for each boot.
    pub timeout: Duration,
    /// Whether to show QEMU's command line and the kernel's console.
    pub verbose: bool,
}

/// Measures, shows and writes the figures.
///
/// # Errors
/// Refused where a machine does not start or a file cannot be written, failed where two measurements of a kind differ.
pub fn run(options: &Options, screen: &mut Screen) -> Result<(), Error> {
    let qemu = Qemu::find().map_err(Refusal::from)?;
    let programs = [Artifact::Loader, Artifact::Kernel, Artifact::Referee];
    let [loader, kernel, referee] = artifacts::build(programs).map_err(Refusal::from)?;
    let programs = Programs { loader: &loader, kernel: &kernel };
    screen.plain(format_args!(
        "machine  QEMU {} (TCG), one tick per instruction; 1 CPU, then {MANY_CPUS}",
        qemu.version()
    ));
    let run_dir = RunDir::create(SIGHT_BYTES).map_err(StartError::from).map_err(Refusal::from)?;
    let seen = run_dir.file("seen");
    let (mut figures, mut loops, mut compared) = (Vec::new(), Vec::new(), 0);
    for cpus in [1, MANY_CPUS] {
        let machine = MachineOptions { cpus, ..MachineOptions::default() };
        let mut boot = |clock| session::run(programs, &machine, clock, options.timeout, options.verbose, screen);
        let first = boot(Clock::Instructions)?;
        let second = boot(Clock::Observed { referee: &referee, seen: &seen, profile: false })?;
        compare_boots(&first, &second)?;
        let text = std::fs::read_to_string(&seen).map_err(|_| BenchFailure::Blind).map_err(Failure::from)?;
        let sight = Sight::parse(&text).map_err(Failure::from)?;
        compared += sight.compare(&second, machine.vram.bytes()).map_err(Failure::from)?;
        loops.extend(first.iter().filter(|window| window.name == KNOWN_LOOP).cloned());
        figures.extend(figures::figures(&first).map_err(Failure::from)?);
    }
    table::show(screen, &figures);
    screen.plain(format_args!(
        "The referee, a plugin of QEMU, counted the same: {} numbers compared.",
        grouped(compared)
    ));
    if let Some(path) = &options.json {
        let text = format!("{}\n", json(&figures, &loops));
        std::fs::write(path, text).map_err(|source| Refusal::Json { path: path.clone(), source })?;
    }
    Ok(())
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

fn json(figures: &[Figure], loops: &[Window]) -> Json {
    let known = |window: &Window| {
        Json::object([("instructions", window.pages.into()), ("counted", window.counts.instructions.into())])
    };
    Json::object([
        ("calibration", Json::object([("known_loops", Json::Array(loops.iter().map(known).collect()))])),
        ("results", Json::Array(figures.iter().map(table::json).collect())),
    ])
}
