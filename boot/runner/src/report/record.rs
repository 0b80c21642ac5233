//! The run of a scenario: booted, followed to its end, its event stream kept.
use std::path::PathBuf;
use std::time::Duration;

use ferry_protocol::link::FromKernel;
use ferry_protocol::options::{Command, Options, Scenario, Trace};

use crate::artifacts::{self, Artifact};
use crate::conversation::{self, Partner, Patience, unexpected};
use crate::demo::failure::Failure;
use crate::demo::report::console_line;
use crate::error::{Error, Refusal};
use crate::machine::MachineOptions;
use crate::qemu::{Boot, Machine, Qemu};
use crate::screen::Screen;
use crate::trace::TraceError;

/// The workspace's kernel.
///
/// # Errors
/// Where it does not build.
pub fn kernel() -> Result<PathBuf, Refusal> {
    let [kernel] = artifacts::build([Artifact::Kernel])?;
    Ok(kernel)
}

/// Runs `scenario` on `machine` with a full trace; the bytes of its event stream, and the kernel.
///
/// # Errors
/// Refused where the machine does not start, failed where the scenario does not go as its story tells.
pub fn scenario(
    scenario: Scenario,
    machine: &MachineOptions,
    timeout: Duration,
    screen: &mut Screen,
) -> Result<(Vec<u8>, PathBuf), Error> {
    machine.check().map_err(Refusal::from)?;
    Qemu::find().map_err(Refusal::from)?;
    let [loader, kernel] = artifacts::build([Artifact::Loader, Artifact::Kernel]).map_err(Refusal::from)?;
    let options =
        Options { command: Command::Scenario(scenario), trace: Trace::Full, ..Options::default() }.to_string();
    let boot = Boot {
        machine,
        loader: &loader,
        kernel: &kernel,
        options: &options,
        input: None,
        verbose: false,
        debugger: None,
        clock: None,
    };
    let mut machine = Machine::start(&boot).map_err(Refusal::from)?;
    let mut partner = Audience { scenario, screen };
    conversation::follow(&mut machine, Patience::InAll(timeout), &mut partner)?;
    Ok((machine.trace().map_err(TraceError::from).map_err(Failure::from)?, kernel))
}

/// Whoever hears a scenario.
struct Audience<'a> {
    scenario: Scenario,
    screen: &'a mut Screen,
}

impl Partner for Audience<'_> {
    fn line(&mut self, line: &str) {
        console_line(self.screen, line);
    }

    fn record(&mut self, record: FromKernel<'_>, _: &mut Machine) -> Result<(), Error> {
        Err(unexpected(&record))
    }

    fn under_way(&self) -> String {
        format!("the scenario {} was under way", self.scenario.name())
    }
}
