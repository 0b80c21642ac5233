//! One boot of the bench: the kernel's measurements, in its order.
use std::path::Path;
use std::time::Duration;

use ferry_protocol::exit::ExitCode;
use ferry_protocol::link::{self, FromKernel, Measured, VERSION};
use ferry_protocol::options::{Command, Options};

use crate::demo::failure::Failure;
use crate::demo::report::console_line;
use crate::error::{Error, Refusal};
use crate::machine::MachineOptions;
use crate::qemu::{Boot, Clock, End, Event, Machine};
use crate::screen::Screen;

/// What was measured once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Window {
    /// What was done, such as `fork`.
    pub name: String,
    /// On how many pages.
    pub pages: u64,
    /// How many CPUs were in the address space.
    pub cpus: u32,
    /// Whether bulk copying was timed apart.
    pub metered: bool,
    /// What was counted.
    pub counts: Counts,
}

/// What can be counted while something is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the names are those of the record")]
pub struct Counts {
    pub instructions: u64,
    pub copy_instructions: u64,
    pub faults: u64,
    pub ipis: u64,
    pub invlpg: u64,
    pub cr3_writes: u64,
    pub bar_bytes_written: u64,
    pub bar_bytes_read: u64,
}

impl From<Measured<'_>> for Window {
    fn from(measured: Measured) -> Self {
        let Measured { name, pages, cpus, metered, instructions, copy_instructions, faults, .. } = measured;
        let Measured { ipis, invlpg, cr3_writes, bar_bytes_written, bar_bytes_read, .. } = measured;
        let counts = Counts {
            instructions,
            copy_instructions,
            faults,
            ipis,
            invlpg,
            cr3_writes,
            bar_bytes_written,
            bar_bytes_read,
        };
        Self { name: name.to_owned(), pages, cpus, metered, counts }
    }
}

/// The programs of a boot.
#[derive(Clone, Copy, Debug)]
pub struct Programs<'a> {
    /// The PVH loader.
    pub loader: &'a Path,
    /// The kernel.
    pub kernel: &'a Path,
}

/// Boots `machine` under `clock` and collects what the kernel measures.
///
/// # Errors
/// Refused where the machine does not start, failed where the kernel gives up.
pub fn run(
    programs: Programs,
    machine: &MachineOptions,
    clock: Clock,
    timeout: Duration,
    verbose: bool,
    screen: &mut Screen,
) -> Result<Vec<Window>, Error> {
    let options = Options { command: Command::Bench, ..Options::default() }.to_string();
    let boot = Boot {
        machine,
        loader: programs.loader,
        kernel: programs.kernel,
        options: &options,
        input: None,
        verbose,
        debugger: None,
        clock: Some(clock),
    };
    let mut machine = Machine::start(&boot).map_err(Refusal::from)?;
    let deadline = machine.started() + timeout;
    let (mut windows, mut done, mut heard) = (Vec::new(), false, false);
    loop {
        match machine.next(deadline) {
            Event::Line(line) => {
                heard = true;
                if verbose || line.contains("ERROR") {
                    console_line(screen, &line);
                }
            }
            Event::Record(mut frame) => {
                heard = true;
                let bytes = frame.len();
                match link::decode(&mut frame).map_err(|_| Failure::Garbled { bytes })? {
                    FromKernel::Hello { version: VERSION } => {}
                    FromKernel::Hello { version } => return Err(Failure::Version(version).into()),
                    FromKernel::Measured(measured) => windows.push(measured.into()),
                    FromKernel::Done => done = true,
                    other => return Err(Failure::Unexpected(format!("{other:?}")).into()),
                }
            }
            Event::Ended(End::Code(ExitCode::Success)) if done => return Ok(windows),
            Event::Ended(end @ End::Qemu { .. }) if !heard => return Err(Refusal::QemuGaveUp(end.to_string()).into()),
            Event::Ended(end) => return Err(Failure::Ended(end).into()),
            Event::TimedOut => {
                let last = windows.last().map_or("the kernel was booting".to_owned(), |window: &Window| {
                    format!("{} of {} pages was measured", window.name, window.pages)
                });
                let lines = machine.stop();
                return Err(Failure::TimedOut { limit: timeout, last, lines }.into());
            }
        }
    }
}
