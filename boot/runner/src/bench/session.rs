//! One boot of the bench: the kernel's measurements, in its order.
use std::path::Path;
use std::time::Duration;

use ferry_protocol::link::{FromKernel, Measured};
use ferry_protocol::options::{Command, Options};

use crate::conversation::{self, Partner, Patience, unexpected};
use crate::demo::report::console_line;
use crate::error::{Error, Refusal};
use crate::machine::MachineOptions;
use crate::qemu::{Boot, Clock, Machine};
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
    let mut notes = Notes { windows: Vec::new(), verbose, screen };
    conversation::follow(&mut machine, Patience::InAll(timeout), &mut notes)?;
    Ok(notes.windows)
}

/// Whoever notes what is measured.
struct Notes<'a> {
    windows: Vec<Window>,
    verbose: bool,
    screen: &'a mut Screen,
}

impl Partner for Notes<'_> {
    fn line(&mut self, line: &str) {
        if self.verbose || line.contains("ERROR") {
            console_line(self.screen, line);
        }
    }

    fn record(&mut self, record: FromKernel<'_>, _: &mut Machine) -> Result<(), Error> {
        match record {
            FromKernel::Measured(measured) => self.windows.push(measured.into()),
            other => return Err(unexpected(&other)),
        }
        Ok(())
    }

    fn under_way(&self) -> String {
        let measured = |window: &Window| format!("{} of {} pages was measured", window.name, window.pages);
        self.windows.last().map_or_else(|| "the kernel was booting".to_owned(), measured)
    }
}
