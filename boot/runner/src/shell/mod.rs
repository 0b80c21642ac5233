//! The shell, from outside: lines in, text out, and what a script that fails ends with.
//!
//! A script stops at its first line that is not done, unless the next one expects just that (`expect error TEXT`). At a
//! terminal nothing stops: the person sees the error.
mod input;

use std::path::PathBuf;
use std::time::Duration;

use ferry_protocol::exit::ExitCode;
use ferry_protocol::link::{self, FromKernel, ToShell, VERSION};
use ferry_protocol::options::{self, Command, Trace};
use ferry_protocol::shell::PROMPT;

use crate::artifacts::{self, Artifact};
use crate::demo::failure::Failure;
use crate::demo::report::console_line;
use crate::error::{Error, Refusal};
use crate::machine::MachineOptions;
use crate::qemu::{Boot, End, Event, Machine, Qemu};
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
    Talk { input, screen, verbose: options.verbose, failed: None }.converse(&mut machine)
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
    failed: Option<NotDone>,
}

impl Talk<'_> {
    fn converse(mut self, machine: &mut Machine) -> Result<(), Error> {
        let (mut heard, mut done, mut told) = (false, false, String::new());
        loop {
            match machine.next(std::time::Instant::now() + PATIENCE) {
                Event::Line(line) => {
                    heard = true;
                    if self.verbose || !is_chatter(&line) {
                        console_line(self.screen, &line);
                    }
                }
                Event::Record(mut frame) => {
                    heard = true;
                    let bytes = frame.len();
                    match link::decode(&mut frame).map_err(|_| Failure::Garbled { bytes })? {
                        FromKernel::Hello { version: VERSION } => {}
                        FromKernel::Hello { version } => return Err(Failure::Version(version).into()),
                        FromKernel::Text { text } => self.screen.plain(text),
                        FromKernel::Prompt { done } => match self.next(done, &told)? {
                            Some(line) => {
                                told = line;
                                // A link that is closed shows as the machine's end, which is reported with its reason.
                                let _ = machine.tell(&ToShell::Line(&told));
                            }
                            None => {
                                let _ = machine.tell(&ToShell::End);
                            }
                        },
                        FromKernel::Done => done = true,
                        other => return Err(Failure::Unexpected(format!("{other:?}")).into()),
                    }
                }
                Event::Ended(End::Code(ExitCode::Success)) if done => return self.conclude(),
                Event::Ended(end @ End::Qemu { .. }) if !heard => {
                    return Err(Refusal::QemuGaveUp(end.to_string()).into());
                }
                Event::Ended(end) => return Err(Failure::Ended(end).into()),
                Event::TimedOut => {
                    let (lines, last) = (machine.stop(), format!("the line {told:?}"));
                    return Err(Failure::TimedOut { limit: PATIENCE, last, lines }.into());
                }
            }
        }
    }

    /// What to do after the line `told`, which was done or not; `None` for nothing more.
    fn next(&mut self, done: bool, told: &str) -> Result<Option<String>, Error> {
        if self.input.is_terminal() {
            return Ok(self.input.next_line().map_err(Refusal::from)?);
        }
        let failed = (!done).then(|| NotDone { number: self.input.line_number(), line: told.trim().to_owned() });
        let next = self.input.next_line().map_err(Refusal::from)?;
        let is_expected = next.as_ref().is_some_and(|line| line.trim_start().starts_with(EXPECTS_REFUSAL));
        if failed.is_some() && (!is_expected || told.trim_start().starts_with("expect")) {
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
