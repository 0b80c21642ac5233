//! The command line.
use std::ffi::OsString;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use ferry_protocol::options::{Inject, InjectStep, Scenario, Trace};

use crate::arguments::{ExperimentArguments, RunArguments, ShellArguments, SoakArguments};
use crate::device::{self, DeviceChoice};
use crate::error::{Error, Refusal, STATUS_REFUSED};
use crate::machine::{Accelerator, MOST_CPUS, MachineError, MachineOptions};
use crate::qemu::StartError;
use crate::qemu::debugger::Debugger;
use crate::screen::Screen;
use crate::size::Size;
use crate::swap::{SwapFault, SwapSize};
use crate::{bench, demo, doctor, experiment, explore, fuzz, mutants, report, run_dir, shell, soak, sys, test_command};

/// A run under a debugger lasts as long as its user thinks; a day bounds it.
const DEBUG_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Whether the interrupt key is for gdb, which then halts the machine, and not for this tool.
static INTERRUPTS_ARE_GDBS: AtomicBool = AtomicBool::new(false);

/// What a shell reports for a process that a signal ended, less the signal's number.
const SIGNAL_STATUS: i32 = 128;

/// Ferry moves anonymous pages between RAM and the memory behind a PCI BAR, and proves it from outside.
#[derive(Parser, Debug)]
#[command(
    name = "ferry",
    bin_name = "./run.sh",
    version,
    override_usage = "./run.sh [COMMAND] [OPTIONS]",
    disable_help_subcommand = true
)]
#[command(after_help = "Without a command: demo. Exit status: 0 done and verified, 1 the system under test failed, \
                        2 usage or environment.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Ferry a file to the device and back, with every step checked from outside
    Demo(DemoArguments),
    /// Write a page that replays a run in a browser
    Report(ReportArguments),
    /// Run every test there is: host, simulator, in-kernel
    Test(TestArguments),
    /// Break the source on purpose, place by place, and see whether the tests notice
    Mutants(mutants::Options),
    /// Map, migrate, fork, pin and look, line by line: a monitor with help, completion and scripts
    #[command(mut_arg("memory", |memory| memory.default_value("64M")))]
    #[command(mut_arg("vram", |vram| vram.default_value("2M")))]
    #[command(mut_arg("swap", |swap| swap.default_value("16M")))]
    Shell(ShellArguments),
    /// Do the demo under gdb, which knows pages: ferry walk, entry, areas, frame
    Debug(DebugArguments),
    /// Measure what operations cost, in guest instructions
    Bench(BenchArguments),
    /// Do random things on all CPUs at once, with contents, counts and leaks checked all along
    #[command(mut_arg("cpus", |cpus| cpus.default_value("4")))]
    #[command(mut_arg("memory", |memory| memory.default_value("64M")))]
    #[command(mut_arg("vram", |vram| vram.default_value("2M")))]
    #[command(mut_arg("swap", |swap| swap.default_value("64M")))]
    #[command(mut_arg("device", |device| device.default_values(["ivshmem", "ivshmem", "ivshmem,type=coherent"])))]
    Soak(SoakArguments),
    /// Run an experiment of kernel/examples; without a name: say which there are
    #[command(mut_arg("cpus", |cpus| cpus.default_value("2")))]
    #[command(mut_arg("swap", |swap| swap.default_value("4M")))]
    Run(RunArguments),
    /// Explore what several CPUs may do to the memory manager: schedules in the simulator, and every order in a model
    Explore(ExploreArguments),
    /// Give whatever reads bytes from outside the wrong ones: tables, files, rings, frames
    Fuzz(FuzzArguments),
    /// Say what is installed, what is missing and what to run
    Doctor,
    /// Run the experiment that this kernel is (what `cargo run --example` calls)
    #[command(hide = true)]
    #[command(mut_arg("cpus", |cpus| cpus.default_value("2")))]
    #[command(mut_arg("swap", |swap| swap.default_value("4M")))]
    BootExperiment {
        /// The kernel's ELF
        kernel: PathBuf,
        #[command(flatten)]
        experiment: ExperimentArguments,
    },
    /// Do the demo with this kernel (what `cargo run` calls)
    #[command(hide = true)]
    Boot {
        /// The kernel's ELF
        kernel: PathBuf,
        #[command(flatten)]
        demo: DemoArguments,
    },
}

#[derive(Args, Debug)]
struct DemoArguments {
    /// The file to ferry [default: the kernel's own image]
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    #[command(flatten)]
    machine: MachineArguments,
    /// Write the result as one JSON object
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// End the run as failed after so many seconds
    #[arg(long, value_name = "SECONDS", default_value = "300")]
    timeout: NonZeroU32,
    /// Let the N-th step of a kind fail: alloc:N, device-alloc:N, copy:N, disk-read:N or disk-write:N
    #[arg(long, value_name = "KIND:N", value_parser = parse_inject)]
    inject: Option<Inject>,
    /// Record every event: off, ring (the newest are kept) or full (none is lost)
    #[arg(long, value_name = "MODE", default_value = "off", value_parser = parse_trace)]
    trace: Trace,
    /// Write the events as a Chrome trace, for Perfetto; without --trace that means full
    #[arg(long, value_name = "FILE")]
    trace_out: Option<PathBuf>,
    /// Report each access of a CPU that brings a page home, with its instruction
    #[arg(long)]
    strict: bool,
    /// Show QEMU's command line
    #[arg(long)]
    verbose: bool,
}

#[derive(Args, Debug)]
struct DebugArguments {
    /// The file to ferry [default: the kernel's own image]
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    #[command(flatten)]
    machine: MachineArguments,
    /// Let gdb follow the commands in this file and end after the last
    #[arg(long, value_name = "FILE")]
    batch: Option<PathBuf>,
    /// Show QEMU's command line
    #[arg(long)]
    verbose: bool,
}

#[derive(Args, Debug)]
struct ReportArguments {
    /// The page to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Show this scenario instead of the demo
    #[arg(long, value_name = "NAME", value_parser = parse_scenario)]
    scenario: Option<Scenario>,
    /// The file that the demo ferries [default: the kernel's own image]
    #[arg(long, value_name = "FILE", conflicts_with = "scenario")]
    input: Option<PathBuf>,
    #[command(flatten)]
    machine: MachineArguments,
    /// Write the events as a Chrome trace, too
    #[arg(long, value_name = "FILE")]
    trace_out: Option<PathBuf>,
    /// Write the raw records, too
    #[arg(long, value_name = "FILE")]
    records: Option<PathBuf>,
    /// End the run as failed after so many seconds
    #[arg(long, value_name = "SECONDS", default_value = "300")]
    timeout: NonZeroU32,
}

#[derive(Args, Debug)]
struct BenchArguments {
    /// Write the figures as one JSON object
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Profile every operation, and draw a flame graph (SVG)
    #[arg(long, value_name = "FILE")]
    flame: Option<PathBuf>,
    /// Make these the figures that later runs are compared with (docs/bench.json)
    #[arg(long)]
    save: bool,
    /// End a boot as failed after so many seconds
    #[arg(long, value_name = "SECONDS", default_value = "300")]
    timeout: NonZeroU32,
    /// Show QEMU's command line and the kernel's console
    #[arg(long)]
    verbose: bool,
}

#[derive(Args, Debug)]
pub(crate) struct MachineArguments {
    /// Virtual CPUs
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_cpus())]
    cpus: u32,
    /// Guest RAM
    #[arg(long, value_name = "SIZE", default_value = "256M")]
    memory: Size,
    /// Memory behind the BAR of each device, a power of two
    #[arg(long, value_name = "SIZE", default_value = "64M")]
    vram: Size,
    /// none, or ivshmem with ,type=coherent, ,bus=bridge and ,addr=SLOT; may be given several times
    #[arg(long, value_name = "DEVICE", default_value = "ivshmem")]
    device: Vec<DeviceChoice>,
    /// The disk for pages that RAM has no room for; 0 for none
    #[arg(long, value_name = "SIZE", default_value = "auto")]
    swap: SwapSize,
    /// What that disk does wrong: read:SLOT, write:SLOT or stall
    #[arg(long, value_name = "FAULT")]
    swap_fault: Option<SwapFault>,
    /// How instructions are executed
    #[arg(long, value_name = "ACCEL", default_value = "tcg")]
    accel: Accelerator,
}

/// Without options: the model, then schedules, about a minute in all. A violation is shown with the command that replays it,
/// and the exit status is 1.
#[derive(Args, Debug)]
struct ExploreArguments {
    /// Run so many schedules, each with a seed of its own, and no model
    #[arg(long, value_name = "N")]
    schedules: Option<NonZeroU64>,
    /// The seed of the first schedule; the others follow [default: 1]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Check the model of the protocol, and run no schedules
    #[arg(long)]
    model: bool,
    /// Make this mistake in the model's protocol, such as no-flush, to see it found
    #[arg(long, value_name = "MISTAKE", conflicts_with_all = ["schedules", "seed"])]
    broken: Option<String>,
    /// Run schedules of the source with this seeded mutant in it (see `mutants --list`), to see it found
    #[arg(long, value_name = "NAME", conflicts_with_all = ["model", "broken"])]
    mutant: Option<String>,
}

/// libFuzzer changes inputs and keeps those that reach new places of the code; a check with an oracle of its own follows each. An
/// input that panics, hangs or contradicts the oracle is written to a file, and the exit status is 1. The tests run the same
/// targets for seconds, without libFuzzer.
#[derive(Args, Debug)]
struct FuzzArguments {
    /// Fuzz this target only
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// For so long, all targets together
    #[arg(long, value_name = "N", default_value = "2")]
    minutes: NonZeroU32,
    /// What all inputs follow from; the same seed tries the same inputs
    #[arg(long, value_name = "S", default_value = "1")]
    seed: NonZeroU32,
    /// Give the target this one input
    #[arg(long, value_name = "FILE", requires = "target", conflicts_with_all = ["minutes", "seed"])]
    input: Option<PathBuf>,
    /// Say which targets there are
    #[arg(long)]
    list: bool,
}

#[derive(Args, Debug)]
struct TestArguments {
    /// Run only tests whose name contains this
    filter: Option<String>,
    /// Take the filter as the whole name
    #[arg(long, requires = "filter")]
    exact: bool,
    /// List the tests instead of running them
    #[arg(long)]
    list: bool,
    /// Virtual CPUs for the in-kernel tests
    #[arg(long, value_name = "N", default_value = "4", value_parser = parse_cpus())]
    cpus: u32,
    /// Call an in-kernel test hung after so many seconds
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<NonZeroU32>,
}

impl TryFrom<MachineArguments> for MachineOptions {
    type Error = MachineError;

    fn try_from(arguments: MachineArguments) -> Result<Self, MachineError> {
        let MachineArguments { cpus, memory, vram, device, swap, swap_fault, accel } = arguments;
        Ok(Self {
            cpus,
            memory,
            vram,
            devices: device::devices(&device)?,
            swap,
            swap_fault,
            accelerator: accel,
            trace: false,
        })
    }
}

impl ReportArguments {
    fn into_options(self) -> Result<report::Options, Refusal> {
        let Self { out, scenario, input, machine, trace_out, records, timeout } = self;
        let (machine, timeout) = (machine.try_into()?, seconds(timeout));
        Ok(report::Options { scenario, input, machine, out, records, trace_out, timeout })
    }
}

impl DemoArguments {
    fn into_options(self, kernel: Option<PathBuf>) -> Result<demo::Options, Refusal> {
        let trace = trace_for(self.trace, &self.trace_out);
        Ok(demo::Options {
            kernel,
            input: self.input,
            machine: MachineOptions { trace: trace != Trace::Off, ..self.machine.try_into()? },
            json: self.json,
            timeout: seconds(self.timeout),
            inject: self.inject,
            trace,
            trace_out: self.trace_out,
            strict: self.strict,
            verbose: self.verbose,
            debugger: None,
        })
    }
}

/// A file for the events asks for all of them.
pub(crate) fn trace_for(trace: Trace, out: &Option<PathBuf>) -> Trace {
    match (trace, out) {
        (Trace::Off, Some(_)) => Trace::Full,
        (trace, _) => trace,
    }
}

impl DebugArguments {
    fn into_options(self) -> Result<demo::Options, Refusal> {
        let debugger = self.batch.map_or(Debugger::Interactive, Debugger::Batch);
        Ok(demo::Options {
            kernel: None,
            input: self.input,
            machine: self.machine.try_into()?,
            json: None,
            timeout: DEBUG_TIMEOUT,
            inject: None,
            trace: Trace::Off,
            trace_out: None,
            strict: false,
            verbose: self.verbose,
            debugger: Some(debugger),
        })
    }
}

fn parse_cpus() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(MOST_CPUS))
}

pub(crate) fn seconds(count: NonZeroU32) -> Duration {
    Duration::from_secs(count.get().into())
}

pub(crate) fn parse_trace(text: &str) -> Result<Trace, String> {
    Trace::parse(text).ok_or_else(|| {
        let names: Vec<_> = Trace::NAMES.iter().map(|(name, _)| *name).collect();
        format!("the trace is one of {}", names.join(", "))
    })
}

fn parse_scenario(text: &str) -> Result<Scenario, String> {
    Scenario::parse(text).ok_or_else(|| {
        let names: Vec<_> = Scenario::NAMES.iter().map(|(name, _)| *name).collect();
        format!("a scenario is one of {}", names.join(", "))
    })
}

fn parse_inject(text: &str) -> Result<Inject, String> {
    Inject::parse(text).ok_or_else(|| {
        let kinds: Vec<_> = InjectStep::NAMES.iter().map(|(name, _)| format!("{name}:N")).collect();
        format!("a step to fail is one of {}, with N from 1", kinds.join(", "))
    })
}

/// Reads the command line, does what it says and returns the process status.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    if let Err(error) = clean_up_however_it_ends() {
        eprintln!("ferry: cannot watch for signals: {error}; check the limits of this user");
        return STATUS_REFUSED.into();
    }
    let cli = match Cli::try_parse_from(with_default_command(arguments.into_iter().collect())) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            eprintln!("ferry: {}", one_sentence(&error.to_string()));
            return STATUS_REFUSED.into();
        }
        Err(help) => {
            // Help and version are what was asked for; a closed pipe does not matter.
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    match execute(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ferry: {error}");
            error.status().into()
        }
    }
}

fn execute(command: Command) -> Result<(), Error> {
    match command {
        Command::Demo(arguments) => demo::run(&arguments.into_options(None)?, &mut Screen::new()),
        Command::Debug(arguments) => {
            let options = arguments.into_options()?;
            Debugger::check().map_err(StartError::from).map_err(Refusal::from)?;
            INTERRUPTS_ARE_GDBS.store(true, Ordering::Relaxed);
            demo::run(&options, &mut Screen::new())
        }
        Command::Boot { kernel, demo } => demo::run(&demo.into_options(Some(kernel))?, &mut Screen::new()),
        Command::Test(arguments) => {
            let TestArguments { filter, exact, list, cpus, timeout } = arguments;
            let timeout = timeout.map(seconds);
            test_command::run(&test_command::Options { filter, exact, list, cpus, timeout })
        }
        Command::Mutants(options) => mutants::run(&options, &mut Screen::new()),
        Command::Report(arguments) => report::run(&arguments.into_options()?, &mut Screen::new()),
        Command::Bench(BenchArguments { json, flame, save, timeout, verbose }) => {
            let timeout = seconds(timeout);
            bench::run(&bench::Options { json, flame, save, timeout, verbose }, &mut Screen::new())
        }
        Command::Shell(arguments) => shell::run(&arguments.into_options()?, &mut Screen::new()),
        Command::Soak(arguments) => soak::run(&arguments.into_options()?, &mut Screen::new()),
        Command::Run(RunArguments { name: None, .. }) => experiment::list(&Screen::new()),
        Command::Run(RunArguments { name: Some(name), experiment }) => {
            experiment::run(&name, &experiment.into_options()?, &mut Screen::new())
        }
        Command::BootExperiment { kernel, experiment } => {
            experiment::run_kernel(&kernel, &experiment.into_options()?, &mut Screen::new())
        }
        Command::Explore(ExploreArguments { schedules, seed, model, broken, mutant }) => {
            let schedules = schedules.map(NonZeroU64::get);
            explore::run(&explore::Options { schedules, seed, model, broken, mutant })
        }
        Command::Fuzz(FuzzArguments { list: true, .. }) => fuzz::list(&Screen::new()),
        Command::Fuzz(FuzzArguments { target, minutes, seed, input, .. }) => {
            let length = seconds(minutes) * 60;
            fuzz::run(&fuzz::Options { target, length, seed: seed.get(), input }, &mut Screen::new())
        }
        Command::Doctor => doctor::run(),
    }
}

/// The demo is what happens without a command.
fn with_default_command(mut arguments: Vec<OsString>) -> Vec<OsString> {
    const OF_ITS_OWN: [&str; 4] = ["-h", "--help", "-V", "--version"];
    let needs_one = match arguments.get(1).and_then(|first| first.to_str()) {
        Some(first) => first.starts_with('-') && !OF_ITS_OWN.contains(&first),
        None => arguments.len() <= 1,
    };
    if needs_one {
        arguments.insert(arguments.len().min(1), "demo".into());
    }
    arguments
}

/// The first paragraph of a message of `clap`, on one line.
fn one_sentence(message: &str) -> String {
    let paragraph: Vec<_> = message.lines().take_while(|line| !line.trim().is_empty()).map(str::trim).collect();
    let text = paragraph.join(" ");
    format!("{}; ./run.sh --help shows what there is", text.strip_prefix("error: ").unwrap_or(&text))
}

fn clean_up_however_it_ends() -> std::io::Result<()> {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        run_dir::remove_all();
        default(panic);
    }));
    sys::on_termination(|signal| {
        if signal == sys::INTERRUPT && INTERRUPTS_ARE_GDBS.load(Ordering::Relaxed) {
            return;
        }
        run_dir::remove_all();
        std::process::exit(SIGNAL_STATUS + signal);
    })
}

#[cfg(test)]
mod tests;
