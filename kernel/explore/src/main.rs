//! `ferry-explore`: what `./run.sh explore` runs.
use std::process::ExitCode;
use std::time::Duration;

use ferry_explore::arguments::{Arguments, UsageError};
use ferry_explore::model::{self, CASTS, Checked};
use ferry_explore::schedules::{self, Options};

/// Exit status where an option is wrong.
const STATUS_USAGE: u8 = 2;

/// For how long schedules are explored where nobody says how many.
const SCHEDULES_TIME: Duration = Duration::from_secs(40);

fn main() -> ExitCode {
    match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => run(&arguments),
        Err(error) => refuse(&error),
    }
}

fn refuse(error: &UsageError) -> ExitCode {
    eprintln!("ferry-explore: {error}");
    STATUS_USAGE.into()
}

fn run(arguments: &Arguments) -> ExitCode {
    if arguments.explores_model() && !check_model(arguments) {
        return (schedules::STATUS_VIOLATION as u8).into();
    }
    if arguments.explores_schedules() {
        explore_schedules(arguments);
    }
    ExitCode::SUCCESS
}

/// Checks the model and says what came of it; whether every property holds.
fn check_model(arguments: &Arguments) -> bool {
    println!("model      3 CPUs, 3 pages, 2 device frames: every interleaving of {} casts", CASTS.len());
    let Checked { states, transitions, violation, time } = model::check(&CASTS, arguments.broken);
    let (states, transitions) = (grouped(states as u64), grouped(transitions as u64));
    match violation {
        None => println!(
            "model      {states} states, {transitions} transitions, no violation ({:.1} s)",
            time.as_secs_f64()
        ),
        Some(violation) => {
            println!("model      violated after {states} states, {transitions} transitions: {}", violation.property);
            println!("  at first: {}", violation.cast);
            for step in violation.steps {
                println!("  {step}");
            }
            let broken = arguments.broken.map(|broken| format!(" --broken {}", broken.name())).unwrap_or_default();
            println!("replay it with: ./run.sh explore --model{broken}");
            return false;
        }
    }
    true
}

/// Explores schedules and says how many; does not come back where one shows a violation.
fn explore_schedules(arguments: &Arguments) {
    let (seed, schedules) = (arguments.seed, arguments.schedules);
    let time = schedules.is_none().then_some(SCHEDULES_TIME);
    match schedules {
        Some(count) => println!("schedules  {} from seed {seed} on", grouped(count)),
        None => println!("schedules  from seed {seed} on, for {} seconds", SCHEDULES_TIME.as_secs()),
    }
    let explored = schedules::explore(Options { seed, schedules: schedules.unwrap_or(u64::MAX), time });
    let seconds = explored.time.as_secs_f64();
    println!(
        "schedules  {} managed, {} steps, no violation ({seconds:.1} s, {} a minute)",
        grouped(explored.schedules),
        grouped(explored.steps),
        grouped((explored.schedules as f64 * 60.0 / seconds.max(f64::MIN_POSITIVE)) as u64),
    );
}

/// A number with a comma after every three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}
