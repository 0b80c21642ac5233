//! The arguments of the commands that have no run of the demo in them.
use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::Args;
use ferry_protocol::options::Trace;

use crate::cli::{MachineArguments, parse_trace, seconds};
use crate::error::Refusal;
use crate::{shell, soak};

const SECONDS_PER_MINUTE: u32 = 60;

#[derive(Args, Debug)]
pub(crate) struct ShellArguments {
    /// Do the lines of this file; without it those of standard input
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    #[command(flatten)]
    machine: MachineArguments,
    /// What becomes of events: ring, or off, which makes `trace` impossible
    #[arg(long, value_name = "MODE", default_value = "ring", value_parser = parse_trace)]
    trace: Trace,
    /// Show QEMU's command line and the kernel's console
    #[arg(long)]
    verbose: bool,
}

impl ShellArguments {
    pub(crate) fn into_options(self) -> Result<shell::Options, Refusal> {
        let Self { script, machine, trace, verbose } = self;
        Ok(shell::Options { script, machine: machine.try_into()?, trace, verbose })
    }
}

#[derive(Args, Debug)]
pub(crate) struct SoakArguments {
    /// For how long
    #[arg(long, value_name = "N", default_value = "1")]
    minutes: NonZeroU32,
    /// What all actions follow from [default: a new one, which is printed]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Stop after so many rounds, if the time is not over before
    #[arg(long, value_name = "N")]
    rounds: Option<NonZeroU32>,
    /// Play this round of the seed again and again
    #[arg(long, value_name = "R", requires = "seed")]
    round: Option<u64>,
    #[command(flatten)]
    machine: MachineArguments,
}

impl SoakArguments {
    pub(crate) fn into_options(self) -> Result<soak::Options, Refusal> {
        let Self { minutes, seed, rounds, round, machine } = self;
        let (length, rounds) = (seconds(minutes) * SECONDS_PER_MINUTE, rounds.map(|rounds| rounds.get().into()));
        Ok(soak::Options { length, seed, rounds, round, machine: machine.try_into()? })
    }
}
