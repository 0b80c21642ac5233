//! The run of a scenario: booted, followed to its end, its event stream kept.
use std::path::PathBuf;
use std::time::Duration;

use ferry_protocol::exit::ExitCode;
use ferry_protocol::link::{self, FromKernel, VERSION};
use ferry_protocol::options::{Command, Options, Scenario, Trace};

use crate::artifacts::{self, Artifact};
use crate::demo::failure::Failure;
use crate::demo::report::console_line;
use crate::error::{Error, Refusal};
use crate::machine::MachineOptions;
use crate::qemu::{Boot, End, Event, Machine, Qemu};
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
    let deadline = machine.started() + timeout;
    let (mut done, mut heard) = (false, false);
    loop {
        match machine.next(deadline) {
            Event::Line(line) => {
                heard = true;
                console_line(screen, &line);
            }
            Event::Record(mut frame) => {
                heard = true;
                let bytes = frame.len();
                match link::decode(&mut frame).map_err(|_| Failure::Garbled { bytes })? {
                    FromKernel::Hello { version: VERSION } => {}
                    FromKernel::Hello { version } => return Err(Failure::Version(version).into()),
                    FromKernel::Done => done = true,
                    other => return Err(Failure::Unexpected(format!("{other:?}")).into()),
                }
            }
            Event::Ended(End::Code(ExitCode::Success)) if done => {
                return Ok((machine.trace().map_err(TraceError::from).map_err(Failure::from)?, kernel));
            }
            Event::Ended(end @ End::Qemu { .. }) if !heard => return Err(Refusal::QemuGaveUp(end.to_string()).into()),
            Event::Ended(end) => return Err(Failure::Ended(end).into()),
            Event::TimedOut => {
                let (lines, last) = (machine.stop(), format!("the scenario {} was under way", scenario.name()));
                return Err(Failure::TimedOut { limit: timeout, last, lines }.into());
            }
        }
    }
}
