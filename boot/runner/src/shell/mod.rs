//! The shell, from outside: lines in, text out, and what a script that fails ends with.
//!
//! A script stops at its first line that is not done, unless the next one expects just that (`expect error TEXT`). At a
//! terminal nothing stops: the person sees the error.
mod input;

use std::path::PathBuf;
use std::time::Duration;

use ferry_protocol::link::{FromKernel, ToShell};
use ferry_protocol::options::{self, Command, Trace};
use ferry_protocol::shell::PROMPT;

use crate::artifacts::{self, Artifact};
use crate::conversation::{self, Partner, Patience, unexpected};
use crate::demo::failure::Failure;
use crate::demo::report::console_line;
use crate::error::{Error, Refusal};
use crate::machine::MachineOptions;
use crate::qemu::{Boot, Machine, Qemu};
use crate::screen::Screen;

use input::Input;
pub use input::InputError;

/// How long the kernel may take for a command, or to boot.
const PATIENCE: Duration = Duration::from_secs(120);

/// What expects that the line before was refused.
const EXPECTS_REFUSAL: &str = "expect error";

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the lines come from; standard input without one.
    pub script: Option<PathBuf>,
    /// On what machine.
    pub machine: MachineOptions,
    /// What becomes of events.
    pub trace: Trace,
    /// Show the kernel's console, too.
    pub verbose: bool,
}

/// Boots, and does what the lines say.
///
/// # Errors
/// Refused where it cannot start, failed where a line of a script is not done or the kernel does not end as it should.
pub fn run(options: &Options, screen: &mut Screen) -> Result<(), Error> {
    options.machine.check().map_err(Refusal::from)?;
    let input = Input::open(options.script.as_deref()).map_err(Refusal::from)?;
    Qemu::find().map_err(Refusal::from)?;
    let [loader, kernel] = artifacts::build([Artifact::Loader, Artifact::Kernel]).map_err(Refusal::from)?;
    let machine = MachineOptions { trace: options.trace != Trace::Off, ..options.machine.clone() };
    let command = Command::Shell;
    let text = options::Options { command, trace: options.trace, ..options::Options::default() }.to_string();
    let boot = Boot {
        machine: &machine,
        loader: &loader,
        kernel: &kernel,
        options: &text,
        input: None,
        verbose: options.verbose,
        debugger: None,
        clock: None,
    };
    if input.is_terminal() {
        screen.plain("Ferry's shell: `help` lists the commands, the Tab key completes, `quit` ends. Try: map heap 16K");
    }
    let mut machine = Machine::start(&boot).map_err(Refusal::from)?;
    let mut talk = Talk { input, screen, verbose: options.verbose, told: String::new(), failed: None };
    conversation::follow(&mut machine, Patience::ForEachRecord(PATIENCE), &mut talk)?;
    talk.conclude()
}

/// A line that was not done.
struct NotDone {
    number: usize,
    line: String,
}

/// Where the conversation is.
struct Talk<'a> {
    input: Input,
    screen: &'a mut Screen,
    verbose: bool,
    /// The line that the kernel has been told last.
    told: String,
    /// The line at which a script ends before its own end.
    failed: Option<NotDone>,
}

impl Partner for Talk<'_> {
    fn line(&mut self, line: &str) {
        if self.verbose || !is_chatter(line) {
            console_line(self.screen, line);
        }
    }

    fn record(&mut self, record: FromKernel<'_>, machine: &mut Machine) -> Result<(), Error> {
        match record {
            FromKernel::Text { text } => self.screen.plain(text),
            FromKernel::Prompt { done } => {
                let next = self.next(done)?;
                // A link that is closed shows as the machine's end, which is reported with its reason.
                let _ = machine.tell(&next.as_deref().map_or(ToShell::End, ToShell::Line));
                self.told = next.unwrap_or_else(|| std::mem::take(&mut self.told));
            }
            other => return Err(unexpected(&other)),
        }
        Ok(())
    }

    fn under_way(&self) -> String {
        format!("the line {:?}", self.told)
    }
}

impl Talk<'_> {
    /// What to do after the last line, which was done or not; `None` for nothing more.
    fn next(&mut self, done: bool) -> Result<Option<String>, Error> {
        if self.input.is_terminal() {
            return Ok(self.input.next_line().map_err(Refusal::from)?);
        }
        let failed = (!done).then(|| NotDone { number: self.input.line_number(), line: self.told.trim().to_owned() });
        let next = self.input.next_line().map_err(Refusal::from)?;
        let is_expected = next.as_ref().is_some_and(|line| line.trim_start().starts_with(EXPECTS_REFUSAL));
        if failed.is_some() && (!is_expected || self.told.trim_start().starts_with("expect")) {
            self.failed = failed;
            return Ok(None);
        }
        if let Some(line) = &next {
            self.screen.plain(format_args!("{PROMPT}{line}"));
        }
        Ok(next)
    }

    fn conclude(self) -> Result<(), Error> {
        match self.failed {
            Some(NotDone { number, line }) => Err(Failure::NotDone { number, line }.into()),
            None => Ok(()),
        }
    }
}

/// Whether a console line only says that something works.
fn is_chatter(line: &str) -> bool {
    line.starts_with("INFO") || line.starts_with("Ferry ")
}
