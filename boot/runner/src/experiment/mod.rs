//! `ferry run`: a kernel of the user's own, built from one file in `kernel/examples` and booted.
//!
//! ```text
//!   kernel/examples/NAME.rs ─▶ Cargo ─▶ kernel ─▶ QEMU ─▶ its lines, and how it ended: passed, failed, leaked, lost
//! ```
//!
//! In reading order: [`catalogue`] (which ones there are), [`session`] (one boot).
pub mod catalogue;
pub mod session;

use std::path::{Path, PathBuf};
use std::time::Duration;

use ferry_protocol::options::Trace;

use crate::artifacts::{self, Artifact};
use crate::error::{Error, Refusal};
use crate::machine::MachineOptions;
use crate::qemu::{Qemu, StartError};
use crate::screen::Screen;
use crate::{run_dir, trace};
use catalogue::Catalogue;

/// What an experiment runs on, and how it is followed.
#[derive(Clone, Debug)]
pub struct Options {
    /// The machine.
    pub machine: MachineOptions,
    /// What becomes of the event stream.
    pub trace: Trace,
    /// Where to write it as a Chrome trace.
    pub trace_out: Option<PathBuf>,
    /// When to give up.
    pub timeout: Duration,
    /// Whether to show QEMU's command line.
    pub verbose: bool,
}

/// Says which experiments there are.
///
/// # Errors
/// The folder cannot be read.
pub fn list(screen: &Screen) -> Result<(), Error> {
    let catalogue = Catalogue::read().map_err(Refusal::from)?;
    screen.plain("Experiments in kernel/examples; ./run.sh run NAME runs one:\n");
    for experiment in catalogue.experiments() {
        screen.plain(format_args!("  {:<20} {}", experiment.name, experiment.summary));
    }
    Ok(())
}

/// Builds and runs the experiment `name`.
///
/// # Errors
/// Refused where there is no such experiment, it does not build or the machine does not start; failed where it fails.
pub fn run(name: &str, options: &Options, screen: &mut Screen) -> Result<(), Error> {
    Catalogue::read().and_then(|catalogue| catalogue.check(name)).map_err(Refusal::from)?;
    prepare(&options.machine)?;
    let kernel = artifacts::build_example(name).map_err(Refusal::from)?;
    boot(name, &kernel, options, screen)
}

/// Runs an experiment that is built.
///
/// # Errors
/// Refused where the machine does not start, failed where the experiment fails.
pub fn run_kernel(kernel: &Path, options: &Options, screen: &mut Screen) -> Result<(), Error> {
    prepare(&options.machine)?;
    let name = kernel.file_stem().unwrap_or_default().to_string_lossy();
    boot(&name, kernel, options, screen)
}

/// Refuses what can be refused before anything is built.
fn prepare(machine: &MachineOptions) -> Result<(), Refusal> {
    machine.check()?;
    run_dir::check_room(machine.backing_bytes()).map_err(StartError::from)?;
    Qemu::find()?;
    Ok(())
}

fn boot(name: &str, kernel: &Path, options: &Options, screen: &mut Screen) -> Result<(), Error> {
    let [loader] = artifacts::build([Artifact::Loader]).map_err(Refusal::from)?;
    screen.restart_clock();
    let mut stream = session::run(name, &loader, kernel, options, screen)?;
    if options.trace != Trace::Off {
        trace::conclude(&mut stream, options.trace_out.as_deref(), screen)?;
    }
    screen.plain(format_args!("{name}: done in {:.2} s; nothing left over", screen.elapsed().as_secs_f64()));
    Ok(())
}
