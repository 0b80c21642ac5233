//! The soak, from outside: booted, followed round by round, its counts and its seed told.
//!
//! The kernel checks contents, counts and leaks in each round (`kernel/src/soak`). What it cannot say of itself, that it hangs,
//! is found here: a round that does not end.
use std::time::{Duration, SystemTime};

use ferry_protocol::link::{FromHost, FromKernel};
use ferry_protocol::options::{self, Command};

use crate::artifacts::{self, Artifact};
use crate::conversation::{self, Partner, Patience, unexpected};
use crate::demo::failure::Failure;
use crate::demo::report::console_line;
use crate::error::{Error, Refusal};
use crate::machine::MachineOptions;
use crate::qemu::{Boot, End, Machine, Qemu};
use crate::screen::Screen;
use crate::size::grouped;

/// A round takes about a second; one that takes so long does not end.
const LONGEST_ROUND: Duration = Duration::from_secs(180);

/// The screen shows a line at most so often.
const BETWEEN_LINES: Duration = Duration::from_secs(15);

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// For how long.
    pub length: Duration,
    /// What all actions follow from; `None` for a new one.
    pub seed: Option<u64>,
    /// At most so many rounds.
    pub rounds: Option<u64>,
    /// One round only, this one, again and again.
    pub round: Option<u64>,
    /// On what machine.
    pub machine: MachineOptions,
}

/// Soaks, and shows on `screen` what was done.
///
/// # Errors
/// Refused where it cannot start, failed where anything does not hold; the text has the command that plays the round again.
pub fn run(options: &Options, screen: &mut Screen) -> Result<(), Error> {
    options.machine.check().map_err(Refusal::from)?;
    Qemu::find().map_err(Refusal::from)?;
    let [loader, kernel] = artifacts::build([Artifact::Loader, Artifact::Kernel]).map_err(Refusal::from)?;
    let seed = options.seed.unwrap_or_else(seed_of_now);
    let (cpus, seconds) = (options.machine.cpus, options.length.as_secs());
    screen.plain(format_args!("soak: seed {seed}, {cpus} CPUs, {seconds} s"));
    screen.restart_clock();
    let soak = options::Soak { seed, round: options.round.unwrap_or(0), again: options.round.is_some() };
    let text = options::Options { command: Command::Soak(soak), ..options::Options::default() }.to_string();
    let boot = Boot {
        machine: &options.machine,
        loader: &loader,
        kernel: &kernel,
        options: &text,
        input: None,
        verbose: false,
        debugger: None,
        clock: None,
    };
    let mut follower = Follower {
        options,
        soak,
        screen,
        under_way: soak.round,
        rounds: 0,
        actions: 0,
        shown: Duration::ZERO,
        counts: Vec::new(),
    };
    let mut machine = Machine::start(&boot).map_err(Refusal::from)?;
    conversation::follow(&mut machine, Patience::ForEachRecord(LONGEST_ROUND), &mut follower)?;
    follower.conclude();
    Ok(())
}

/// A seed that was not used before, most likely.
fn seed_of_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}

/// Whoever follows the run, and what is known of it.
struct Follower<'a> {
    options: &'a Options,
    soak: options::Soak,
    screen: &'a mut Screen,
    /// The round that was begun last.
    under_way: u64,
    rounds: u64,
    actions: u64,
    shown: Duration,
    /// Name, times done, times refused.
    counts: Vec<(String, u64, u64)>,
}

impl Partner for Follower<'_> {
    fn line(&mut self, line: &str) {
        console_line(self.screen, line);
    }

    fn record(&mut self, record: FromKernel<'_>, machine: &mut Machine) -> Result<(), Error> {
        match record {
            FromKernel::SoakRound { round, actions } => {
                (self.actions, self.rounds) = (actions, self.rounds + 1);
                self.show();
                let over = self.screen.elapsed() >= self.options.length || self.options.rounds == Some(self.rounds);
                self.under_way = round + u64::from(!self.soak.again);
                // A link that is closed shows as the machine's end, which is reported with its reason.
                let _ = machine.answer(if over { FromHost::Stop } else { FromHost::Continue });
            }
            FromKernel::SoakViolation { round, text } => {
                return Err(Failure::Soak { found: text.to_owned(), again: self.again(round) }.into());
            }
            FromKernel::SoakCount { action, done, refused } => self.counts.push((action.to_owned(), done, refused)),
            other => return Err(unexpected(&other)),
        }
        Ok(())
    }

    fn under_way(&self) -> String {
        format!("round {} began; again: {}", self.under_way, self.again(self.under_way))
    }

    fn ended(&mut self, end: End) -> Error {
        Failure::Soak { found: end.to_string(), again: self.again(self.under_way) }.into()
    }
}

impl Follower<'_> {
    /// The command that plays a round again.
    fn again(&self, round: u64) -> String {
        format!("./run.sh soak --seed {} --round {round} --cpus {}", self.soak.seed, self.options.machine.cpus)
    }

    fn show(&mut self) {
        let elapsed = self.screen.elapsed();
        if elapsed >= self.shown + BETWEEN_LINES {
            self.shown = elapsed;
            self.screen.event(format_args!("{} rounds, {} actions", grouped(self.rounds), grouped(self.actions)));
        }
    }

    fn conclude(&self) {
        let screen = &*self.screen;
        screen.plain(format_args!("{:<12} {:>12} {:>12}", "action", "done", "refused"));
        for (action, done, refused) in &self.counts {
            screen.plain(format_args!("{action:<12} {:>12} {:>12}", grouped(*done), grouped(*refused)));
        }
        screen.plain(format_args!(
            "no violation in {} rounds with {} actions on {} CPUs, {:.0} s; seed {}",
            grouped(self.rounds),
            grouped(self.actions),
            self.options.machine.cpus,
            screen.elapsed().as_secs_f64(),
            self.soak.seed
        ));
    }
}
