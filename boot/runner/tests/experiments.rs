//! Every experiment of `kernel/examples` as a case of `cargo test`, found by listing the folder; and that one which fails, fails.
//!
//! They are named `experiment::` and their name. Each is run with the options that the command line in its header has, if any.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too, end a test by a panic")]

mod support;

use std::process::ExitCode;

use ferry::artifacts::build_example;
use ferry::experiment::catalogue::Catalogue;
use ferry::headed_files::HeadedFile;
use libtest_mimic::{Arguments, Failed, Trial};
use support::{Ran, ferry, run};

/// What the command line in a header begins with.
const COMMAND: &str = "//!     ./run.sh run ";

fn main() -> ExitCode {
    let experiments = Catalogue::read().unwrap().experiments().to_vec();
    assert!(experiments.len() >= 8, "{} experiments are too few: is this where they are?", experiments.len());
    let trials = experiments.into_iter().map(|experiment| {
        let name = format!("experiment::{}", experiment.name);
        Trial::test(name, move || passes(&experiment))
    });
    let failing = [
        Trial::test("experiment::an_error_is_told_with_its_place", || {
            fails(&["run", "swap_round_trip", "--swap", "0"], "kernel/examples/swap_round_trip.rs:")?;
            fails(&["run", "shared_on_two_cpus", "--cpus", "1"], "the experiment needs 2 CPUs, but 1 run; use --cpus 2")
        }),
        Trial::test("experiment::a_panic_is_told_with_its_report", || {
            let ran = boots("panics")?;
            expect(&ran, 1, &ran.err, "the experiment panics was not finished: the kernel panicked")?;
            expect(&ran, 1, &ran.out, "a byte that was stored")?;
            expect(&ran, 1, &ran.out, "at kernel/tests/experiments/panics.rs:")
        }),
        Trial::test("experiment::what_is_left_over_is_told", || {
            let ran = boots("leaks")?;
            expect(&ran, 1, &ran.err, "the experiment leaks leaves something behind: free frames: ")
        }),
        Trial::test("experiment::without_a_name_all_are_listed", || {
            let ran = run(&mut ferry(&["run"]));
            expect(&ran, 0, &ran.out, "  ping_pong            Pages go to the device")
        }),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials.chain(failing).collect()).exit_code()
}

fn passes(experiment: &HeadedFile) -> Result<(), Failed> {
    let HeadedFile { name, source, .. } = experiment;
    // A copy of the template may still name the template, so only what follows the name counts.
    let line = source.lines().find_map(|line| line.strip_prefix(COMMAND)).unwrap_or_default();
    let ran = run(ferry(&["run", name]).args(line.split_whitespace().skip(1)));
    expect(&ran, 0, &ran.out, &format!("{name}: done in "))
}

/// Runs an experiment that is not in the folder.
fn boots(name: &str) -> Result<Ran, Failed> {
    let kernel = build_example(name)?;
    Ok(run(ferry(&["boot-experiment"]).arg(kernel)))
}

fn fails(arguments: &[&str], part: &str) -> Result<(), Failed> {
    let ran = run(&mut ferry(arguments));
    expect(&ran, 1, &ran.err, part)
}

fn expect(ran: &Ran, status: i32, text: &str, part: &str) -> Result<(), Failed> {
    if ran.status == status && text.contains(part) {
        return Ok(());
    }
    Err(format!("status {}, expected {status} and {part:?}\n{}{}", ran.status, ran.out, ran.err).into())
}
