//! `ferry fuzz`: wrong bytes for whatever reads bytes from outside, by the program of `kernel/fuzz`.
//!
//! ```text
//!   catalogue: which targets ──▶ engine: builds the program once, runs it for each ──▶ a line, or a finding
//! ```
//!
//! A finding is a file with the input; the same command with `--input` gives it to its target once more.
pub mod catalogue;
mod engine;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Refusal};
use crate::headed_files::HeadedFile;
use crate::screen::Screen;
use crate::size::grouped;
pub use catalogue::CatalogueError;
pub use engine::EngineError;
use engine::{Engine, Run};
use watch::Watched;

/// The folder of the inputs that once broke something, in the workspace; one folder for each target.
pub const CORPUS: &str = "kernel/fuzz/corpus";

/// Widest name of a target, for the column.
const NAME_WIDTH: usize = 12;

/// What to fuzz.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Only this target.
    pub target: Option<String>,
    /// For how long, all targets together.
    pub length: Duration,
    /// What all inputs follow from.
    pub seed: u32,
    /// One input, in a file.
    pub input: Option<PathBuf>,
}

/// Shows on `screen` which targets there are.
///
/// # Errors
/// [`CatalogueError::Unreadable`].
pub fn list(screen: &Screen) -> Result<(), Error> {
    for HeadedFile { name, summary, .. } in catalogue::read().map_err(Refusal::from)? {
        screen.plain(format_args!("{name:NAME_WIDTH$}  {summary}"));
    }
    Ok(())
}

/// Fuzzes, and shows on `screen` what was done.
///
/// # Errors
/// Refused where there is no such target, its program cannot be built or run, or the input cannot be read; failed where an
/// input breaks a target.
pub fn run(options: &Options, screen: &mut Screen) -> Result<(), Error> {
    let targets = catalogue::chosen(options.target.as_deref()).map_err(Refusal::from)?;
    let engine = Engine::build().map_err(Refusal::from)?;
    let mut broken = 0;
    if let (Some(input), [target]) = (&options.input, &targets[..]) {
        let watched = engine.replay(target, input).map_err(Refusal::from)?;
        broken += u64::from(watched.finding.is_some());
        match &watched.finding {
            Some(text) => {
                screen.plain(format_args!("{}: {} breaks it:", target.name, input.display()));
                show_finding(screen, text);
            }
            None => screen.plain(format_args!("{}: nothing is wrong with {}", target.name, input.display())),
        }
    } else {
        let length = options.length / u32::try_from(targets.len()).unwrap_or(u32::MAX).max(1);
        let seed = options.seed;
        screen.plain(format_args!("fuzz: seed {seed}, {:.1} s for each target", length.as_secs_f64()));
        for target in &targets {
            let run = Run { seed, length };
            let watched = engine.fuzz(target, run).map_err(Refusal::from)?;
            broken += u64::from(watched.finding.is_some());
            show(screen, target, &watched);
        }
    }
    if broken == 0 { Ok(()) } else { Err(Error::Broken(broken)) }
}

fn show(screen: &Screen, target: &HeadedFile, watched: &Watched) {
    screen.plain(format_args!(
        "{:NAME_WIDTH$}  {} inputs, {} places of the code reached, {} inputs reach something of their own{}",
        target.name,
        grouped(watched.inputs),
        grouped(watched.places),
        grouped(watched.kept),
        if watched.finding.is_some() { ", and one breaks it:" } else { "" },
    ));
    let (Some(text), Some(file)) = (&watched.finding, &watched.file) else { return };
    show_finding(screen, text);
    let file = file.display();
    screen.detail(format_args!("replay it with: ./run.sh fuzz --target {} --input {file}", target.name));
    screen.detail(format_args!("once it is mended, keep it: cp {file} {CORPUS}/{}/", target.name));
}

fn show_finding(screen: &Screen, text: &str) {
    for line in text.lines() {
        screen.detail(format_args!("| {line}"));
    }
}
