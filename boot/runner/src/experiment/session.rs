//! One boot of an experiment, followed to its end.
use std::path::Path;

use ferry_protocol::exit::ExitCode;
use ferry_protocol::link::{FromKernel, TestEnd};
use ferry_protocol::options::{self, Command};

use super::Options;
use crate::conversation::{self, Partner, Patience, unexpected};
use crate::demo::failure::Failure;
use crate::error::{Error, Refusal};
use crate::machine::MachineOptions;
use crate::qemu::{Boot, End, Machine};
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
    let mut watch = Watch { name, screen, verdict: None };
    conversation::follow(&mut machine, Patience::InAll(options.timeout), &mut watch)?;
    match watch.verdict {
        Some(Ok(())) => Ok(machine.trace().map_err(TraceError::from).map_err(Failure::from)?),
        Some(Err(failure)) => Err(Failure::from(failure).into()),
        None => Err(Failure::Incomplete("saying how the experiment went").into()),
    }
}

/// Whoever watches an experiment.
struct Watch<'a> {
    name: &'a str,
    screen: &'a mut Screen,
    verdict: Option<Result<(), ExperimentFailure>>,
}

impl Partner for Watch<'_> {
    fn line(&mut self, line: &str) {
        self.screen.plain(line);
    }

    fn record(&mut self, record: FromKernel<'_>, _: &mut Machine) -> Result<(), Error> {
        match record {
            FromKernel::TestStarted { .. } => {}
            FromKernel::TestEnded(end) if self.verdict.is_none() => self.verdict = Some(judge(self.name, end)),
            other => return Err(unexpected(&other)),
        }
        Ok(())
    }

    fn under_way(&self) -> String {
        format!("the experiment {} was under way", self.name)
    }

    fn ended(&mut self, end: End) -> Error {
        match (self.verdict.take(), end) {
            (Some(Err(failure)), End::Code(ExitCode::Failed)) => Failure::from(failure).into(),
            (_, end) => Failure::from(ExperimentFailure::Lost { name: self.name.to_owned(), end }).into(),
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
