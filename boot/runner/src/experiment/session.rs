//! One boot of an experiment, followed to its end.
use std::path::Path;

use ferry_protocol::exit::ExitCode;
use ferry_protocol::link::{self, FromKernel, TestEnd, VERSION};
use ferry_protocol::options::{self, Command};

use super::Options;
use crate::demo::failure::Failure;
use crate::error::{Error, Refusal};
use crate::machine::MachineOptions;
use crate::qemu::{Boot, End, Event, Machine};
use crate::screen::Screen;
use crate::trace::TraceError;

/// How an experiment went that did not pass.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ExperimentFailure {
    /// It returned an error.
    #[error("the experiment {name} failed at {text}")]
    Failed {
        /// Its name.
        name: String,
        /// Where, and the error.
        text: String,
    },
    /// It passed, but something is left that was not there before.
    #[error("the experiment {name} leaves something behind: {text}")]
    Leaked {
        /// Its name.
        name: String,
        /// The difference.
        text: String,
    },
    /// The kernel ended while it ran, as by a panic.
    #[error("the experiment {name} was not finished: {end}")]
    Lost {
        /// Its name.
        name: String,
        /// How the kernel ended.
        end: End,
    },
}

/// Boots the experiment `name`, shows what it prints and judges how it ends; returns the bytes of the event stream.
///
/// # Errors
/// Refused where the machine does not start, failed where the experiment does not pass.
pub fn run(name: &str, loader: &Path, kernel: &Path, options: &Options, screen: &mut Screen) -> Result<Vec<u8>, Error> {
    let text = options::Options { command: Command::Experiment, trace: options.trace, ..Default::default() };
    let machine = MachineOptions { trace: options.trace != options::Trace::Off, ..options.machine.clone() };
    let boot = Boot {
        machine: &machine,
        loader,
        kernel,
        options: &text.to_string(),
        input: None,
        verbose: options.verbose,
        debugger: None,
        clock: None,
    };
    let mut machine = Machine::start(&boot).map_err(Refusal::from)?;
    let deadline = machine.started() + options.timeout;
    let (mut verdict, mut heard) = (None, false);
    loop {
        match machine.next(deadline) {
            Event::Line(line) => {
                heard = true;
                screen.plain(line);
            }
            Event::Record(mut frame) => {
                heard = true;
                let bytes = frame.len();
                match link::decode(&mut frame).map_err(|_| Failure::Garbled { bytes })? {
                    FromKernel::Hello { version: VERSION } | FromKernel::TestStarted { .. } | FromKernel::Done => {}
                    FromKernel::Hello { version } => return Err(Failure::Version(version).into()),
                    FromKernel::TestEnded(end) if verdict.is_none() => verdict = Some(judge(name, end)),
                    other => return Err(Failure::Unexpected(format!("{other:?}")).into()),
                }
            }
            Event::Ended(end @ End::Qemu { .. }) if !heard => return Err(Refusal::QemuGaveUp(end.to_string()).into()),
            Event::Ended(end) => {
                return match (verdict, end) {
                    (Some(Ok(())), End::Code(ExitCode::Success)) => {
                        Ok(machine.trace().map_err(TraceError::from).map_err(Failure::from)?)
                    }
                    (Some(Err(failure)), End::Code(ExitCode::Failed)) => Err(Failure::from(failure).into()),
                    (_, end) => Err(Failure::from(ExperimentFailure::Lost { name: name.to_owned(), end }).into()),
                };
            }
            Event::TimedOut => {
                let (lines, last) = (machine.stop(), format!("the experiment {name} was under way"));
                return Err(Failure::TimedOut { limit: options.timeout, last, lines }.into());
            }
        }
    }
}

fn judge(name: &str, end: TestEnd) -> Result<(), ExperimentFailure> {
    let name = name.to_owned();
    match end {
        TestEnd::Passed => Ok(()),
        TestEnd::Leaked(text) => Err(ExperimentFailure::Leaked { name, text: text.to_owned() }),
        TestEnd::Failed(text) | TestEnd::Ignored(text) => {
            Err(ExperimentFailure::Failed { name, text: text.to_owned() })
        }
    }
}
