//! The demo: a file to the device and back, with every step proven from outside.
//!
//! ```text
//!   Populated ─▶ Migrated ─▶ Transformed ─▶ Returned ─▶ ... next round ... ─▶ TornDown ─▶ Outcome, Done, exit
//!       │            │             │            │                                │
//!       └── at each checkpoint the kernel stands still, and the host looks ──────┘
//! ```
//!
//! In reading order: [`view`] (where a page is), [`verify`] (what is looked at), [`mod@run`] (the conversation), [`summary`] (the counts of both sides
//! against each other, and the JSON), [`report`] (what a person sees), [`failure`] (what can be wrong).
pub mod failure;
pub mod report;
pub mod run;
pub mod summary;
pub mod verify;
pub mod view;

use std::path::{Path, PathBuf};
use std::time::Duration;

use ferry_protocol::options::{self, Command, Inject, Trace};

use crate::artifacts::{self, Artifact, ArtifactError, Profile};
use crate::error::{Error, Refusal};
use crate::input::Input;
use crate::machine::MachineOptions;
use crate::qemu::debugger::Debugger;
use crate::qemu::{Boot, Qemu, StartError};
use crate::run_dir;
use crate::screen::Screen;
use crate::trace;
use summary::Summary;

/// What the demo shall do.
#[derive(Clone, Debug)]
pub struct Options {
    /// The kernel to boot, or the workspace's own.
    pub kernel: Option<PathBuf>,
    /// The file to ferry, or the kernel's image.
    pub input: Option<PathBuf>,
    /// The machine to do it on.
    pub machine: MachineOptions,
    /// Where to write the result as JSON.
    pub json: Option<PathBuf>,
    /// When to give up.
    pub timeout: Duration,
    /// What becomes of the event stream.
    pub trace: Trace,
    /// Where to write it as a Chrome trace.
    pub trace_out: Option<PathBuf>,
    /// The step that shall fail.
    pub inject: Option<Inject>,
    /// Whether each access that brings a page home is reported.
    pub strict: bool,
    /// Whether to show QEMU's command line.
    pub verbose: bool,
    /// The debugger that starts and watches the machine, if one does.
    pub debugger: Option<Debugger>,
}

/// Does the demo and shows it on `screen`.
///
/// # Errors
/// Refused where it cannot start, failed where anything does not hold; in the second case the JSON is written too.
pub fn run(options: &Options, screen: &mut Screen) -> Result<(), Error> {
    let mut trace = record(options, screen)?;
    if options.trace != Trace::Off {
        trace::conclude(&mut trace, options.trace_out.as_deref(), screen)?;
    }
    Ok(())
}

/// The same; returns the bytes of the event stream.
///
/// # Errors
/// As above.
pub fn record(options: &Options, screen: &mut Screen) -> Result<Vec<u8>, Error> {
    options.machine.check().map_err(Refusal::from)?;
    // Refused before anything is built; read only once the kernel is there.
    let bytes = options.input.as_ref().map_or(Ok(0), |path| Input::size(path)).map_err(Refusal::from)?;
    let machine = options.machine.for_input(bytes).map_err(Refusal::from)?;
    run_dir::check_room(machine.backing_bytes()).map_err(StartError::from).map_err(Refusal::from)?;
    let qemu = Qemu::find().map_err(Refusal::from)?;
    let (loader, kernel) = programs(options).map_err(Refusal::from)?;
    let input = Input::read(options.input.as_ref().unwrap_or(&kernel)).map_err(Refusal::from)?;
    let machine = options.machine.for_input(input.bytes().len() as u64).map_err(Refusal::from)?;
    if let Some(path) = &options.json {
        write_json(path, "").map_err(Error::from)?;
    }

    let Options { inject, trace, strict, .. } = *options;
    let text = options::Options { command: Command::Demo, inject, trace, strict }.to_string();
    let boot = Boot {
        machine: &machine,
        loader: &loader,
        kernel: &kernel,
        options: &text,
        input: Some(input.path()),
        verbose: options.verbose,
        debugger: options.debugger.as_ref(),
        clock: None,
    };
    report::introduction(screen, &machine, &qemu, &input);
    screen.restart_clock();
    let mut summary = Summary::new(&input, &machine, options);
    let result = run::run(&boot, &input, options.timeout, trace, &mut summary, screen);
    screen.clear_progress();
    summary.wall = screen.elapsed();
    summary.error = result.as_ref().err().map(ToString::to_string);
    if let Some(path) = &options.json {
        write_json(path, &format!("{}\n", summary.to_json())).map_err(Error::from)?;
    }
    if result.is_ok() {
        report::conclusion(screen, &summary);
    }
    result
}

/// Loader and kernel: the kernel that was given, or the one of the workspace.
fn programs(options: &Options) -> Result<(PathBuf, PathBuf), ArtifactError> {
    let profile = if options.debugger.is_some() { Profile::Debugging } else { Profile::Own };
    match &options.kernel {
        Some(kernel) => artifacts::build_as(profile, [Artifact::Loader]).map(|[loader]| (loader, kernel.clone())),
        None => {
            artifacts::build_as(profile, [Artifact::Loader, Artifact::Kernel]).map(|[loader, kernel]| (loader, kernel))
        }
    }
}

fn write_json(path: &Path, text: &str) -> Result<(), Refusal> {
    std::fs::write(path, text).map_err(|source| Refusal::Json { path: path.to_owned(), source })
}
