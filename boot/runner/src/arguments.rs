//! The arguments of the commands that have no run of the demo in them.
use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::Args;
use ferry_protocol::options::Trace;

use crate::cli::{MachineArguments, parse_trace, seconds, trace_for};
use crate::error::Refusal;
use crate::{experiment, shell, soak};

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

#[derive(Args, Debug)]
#[command(
    after_help = "An experiment is one file, kernel/examples/NAME.rs, which need not be named anywhere else: copy \
                        kernel/examples/my_first.rs and change it."
)]
pub(crate) struct RunArguments {
    /// The experiment: the name of its file, without .rs
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) experiment: ExperimentArguments,
}

#[derive(Args, Debug)]
pub(crate) struct ExperimentArguments {
    #[command(flatten)]
    machine: MachineArguments,
    /// End the run as failed after so many seconds
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    timeout: NonZeroU32,
    /// Record every event: off, ring (the newest are kept) or full (none is lost)
    #[arg(long, value_name = "MODE", default_value = "off", value_parser = parse_trace)]
    trace: Trace,
    /// Write the events as a Chrome trace, for Perfetto; without --trace that means full
    #[arg(long, value_name = "FILE")]
    trace_out: Option<PathBuf>,
    /// Show QEMU's command line
    #[arg(long)]
    verbose: bool,
}

impl ExperimentArguments {
    pub(crate) fn into_options(self) -> Result<experiment::Options, Refusal> {
        let Self { machine, timeout, trace, trace_out, verbose } = self;
        let trace = trace_for(trace, &trace_out);
        Ok(experiment::Options { machine: machine.try_into()?, trace, trace_out, timeout: seconds(timeout), verbose })
    }
}
