//! What the kernel is asked to do: the options, and the command in them.
#![forbid(unsafe_code)]
use crate::demo;
use crate::disk;
use crate::fw_cfg::{self, FwCfgError};
use crate::memory::device;
use crate::trace::{self, NoStream};
use crate::{bench, println, scenarios, shell, soak};
use core::fmt;
use ferry_protocol::exit::ExitCode;
use ferry_protocol::fw_cfg::{OPTIONS, OPTIONS_MAX_BYTES};
use ferry_protocol::options::{BadLine, Command, Options, Trace};

/// Why the options are not understood.
enum OptionsError<'a> {
    Unreadable(FwCfgError),
    NotText(core::str::Utf8Error),
    BadLine(BadLine<'a>),
}

impl fmt::Display for OptionsError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => error.fmt(f),
            Self::NotText(error) => write!(f, "the fw_cfg file {OPTIONS} is no text: {error}"),
            Self::BadLine(BadLine(line)) => {
                write!(f, "the fw_cfg file {OPTIONS} has a line that is not understood: {line:?}")
            }
        }
    }
}

/// Reads the options and does what they say.
pub fn run() -> ExitCode {
    follow(execute)
}

/// Reads the options, begins the event stream that they ask for, and does `work`.
pub(crate) fn follow(work: impl FnOnce(&Options) -> ExitCode) -> ExitCode {
    let mut buffer = [0; OPTIONS_MAX_BYTES];
    match read(&mut buffer) {
        Ok(options) => match begin_stream(options.trace) {
            Ok(()) => work(&options),
            Err(error) => {
                println!("error: {error}");
                ExitCode::BadOptions
            }
        },
        Err(error) => {
            println!("error: {error}");
            ExitCode::BadOptions
        }
    }
}

fn read(buffer: &mut [u8]) -> Result<Options<'_>, OptionsError<'_>> {
    let mut fw_cfg = fw_cfg::open().map_err(OptionsError::Unreadable)?;
    let file = match fw_cfg.file(OPTIONS) {
        Ok(file) => file,
        // Started by hand, without options.
        Err(FwCfgError::Missing(_)) => return Ok(Options::default()),
        Err(error) => return Err(OptionsError::Unreadable(error)),
    };
    let bytes = fw_cfg.read_whole(&file, buffer).map_err(OptionsError::Unreadable)?;
    let text = core::str::from_utf8(bytes).map_err(OptionsError::NotText)?;
    Options::parse(text).map_err(OptionsError::BadLine)
}

fn begin_stream(mode: Trace) -> Result<(), NoStream> {
    if mode != Trace::Off {
        // Frames of devices and disk belong to the state in which the stream begins. What is wrong with one, the command says.
        let _ = (device::all(), disk::attach());
    }
    trace::begin(mode)
}

fn execute(options: &Options) -> ExitCode {
    match options.command {
        Command::Scenario(scenario) => scenarios::run(scenario),
        Command::Bench => bench::run(),
        Command::Soak(soak) => soak::run(soak),
        Command::Shell => shell::run(),
        Command::Demo => demo::run(options.inject, options.strict),
        #[cfg(feature = "tests")]
        Command::Test(selection) => crate::harness::run(selection),
        #[cfg(feature = "tests")]
        Command::ListTests => crate::harness::list(),
        Command::Experiment => {
            println!("error: this kernel has no experiment in it; boot one that is built from kernel/examples");
            ExitCode::BadOptions
        }
        #[cfg(not(feature = "tests"))]
        Command::Test(_) | Command::ListTests => {
            println!("error: this kernel has no tests in it; boot ferry-kernel-tests, built with --features tests");
            ExitCode::BadOptions
        }
    }
}
