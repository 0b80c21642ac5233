//! The test programs of a copy: built once, then run as one mutant after the other.
//!
//! A program runs its tests one at a time, in the order in which it lists them. So which test it was that hangs or ends
//! the program follows from those whose results it has written.
//!
//! The quick tests run before the slow ones, which the run without a mutant tells apart: most mutants die early.
//!
//! Invariants:
//! 1. The first test that fails ends the program.
//! 2. Every test is bounded in time, and the program in memory.
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::catalogue::Suite;
use super::tree::{Tree, VARIABLE};
use super::verdict::Killer;
use crate::artifacts;
use crate::error::Refusal;
use crate::sys;

/// Memory of a test program: far above what the tests need, far below what a host has.
const MOST_MEMORY: u64 = 4 << 30;

/// A test is slow that takes more than one part in so many of the time of its program.
const SLOW_PART: u32 = 50;

/// The programs of the packages of one suite.
pub struct Programs {
    programs: Vec<Program>,
}

/// One of them.
struct Program {
    path: PathBuf,
    /// Its quick tests, in the order in which it runs them.
    quick: Vec<String>,
    /// The others.
    slow: Vec<String>,
}

/// A test that uses no CPU hangs after so many times the CPU time that it may use: it may wait because others have the CPUs.
const MOST_WAITING: u32 = 10;

/// How much CPU time a test may take.
#[derive(Clone, Copy, Debug)]
pub struct Limit(pub Duration);

impl Suite {
    /// The packages whose tests are the suite; those that find most stand first.
    pub fn packages(&self) -> &'static [&'static str] {
        match self {
            Self::Simulator => &["ferry-sim", "ferry-mm"],
            Self::Device => &["ferry-device-model", "ferry-device"],
            Self::Kernel(_) => &[],
        }
    }
}

impl Programs {
    /// Builds the tests of a suite.
    ///
    /// # Errors
    /// Where Cargo is missing or the copy does not compile.
    pub fn build(tree: &Tree, suite: &Suite) -> Result<Self, Refusal> {
        let mut programs = Vec::new();
        for package in suite.packages() {
            let mut command = tree.cargo("test");
            command.args(["--no-run", "--quiet", artifacts::MESSAGES, "--package", package]);
            for made in artifacts::run_cargo(command)?.into_iter().filter(|product| product.runs) {
                let failed = |source| Refusal::Program { program: made.path.display().to_string(), source };
                programs.push(Program::at(made.path.clone()).map_err(failed)?);
            }
        }
        Ok(Self { programs })
    }

    /// Runs them as what the source says, and tells the slow tests from the quick ones. Returns the longest time that a test
    /// took, or who failed.
    ///
    /// # Errors
    /// Where a program cannot be run.
    pub fn run_unmutated(&mut self, limit: Limit) -> Result<Result<Duration, Killer>, Refusal> {
        let mut slowest = Duration::ZERO;
        for program in &mut self.programs {
            let ran = program.run(None, &program.quick, limit).map_err(program.failed())?;
            if let Some(killer) = ran.killer {
                return Ok(Err(killer));
            }
            slowest = slowest.max(ran.took.iter().copied().max().unwrap_or_default());
            let quick_below = ran.took.iter().sum::<Duration>() / SLOW_PART;
            let timed = std::mem::take(&mut program.quick).into_iter().zip(ran.took);
            let (quick, slow): (Vec<_>, Vec<_>) = timed.partition(|(_, took)| *took <= quick_below);
            program.quick = quick.into_iter().map(|(test, _)| test).collect();
            program.slow = slow.into_iter().map(|(test, _)| test).collect();
        }
        Ok(Ok(slowest))
    }

    /// Runs them as the mutant of this name; returns who failed first, or nothing.
    ///
    /// # Errors
    /// Where a program cannot be run.
    pub fn run(&self, mutant: &str, limit: Limit) -> Result<Option<Killer>, Refusal> {
        let quick = self.programs.iter().map(|program| (program, &program.quick));
        let slow = self.programs.iter().map(|program| (program, &program.slow));
        for (program, tests) in quick.chain(slow) {
            let ran = program.run(Some(mutant), tests, limit).map_err(program.failed())?;
            if ran.killer.is_some() {
                return Ok(ran.killer);
            }
        }
        Ok(None)
    }
}

impl Program {
    fn at(path: PathBuf) -> io::Result<Self> {
        let output = Command::new(&path).args(["--list", "--format=terse"]).env_remove(VARIABLE).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let quick = text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect();
        Ok(Self { path, quick, slow: Vec::new() })
    }

    fn failed(&self) -> impl FnOnce(io::Error) -> Refusal + use<> {
        let program = self.path.display().to_string();
        move |source| Refusal::Program { program, source }
    }

    fn run(&self, mutant: Option<&str>, tests: &[String], limit: Limit) -> io::Result<Ran> {
        if tests.is_empty() {
            // Without a name the program would run all.
            return Ok(Ran::default());
        }
        let mut command = Command::new(&self.path);
        command.args(["--test-threads=1", "--exact"]).args(tests);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        // A failure that a property test writes down would be tried first by the next mutant, too.
        command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true").env_remove(VARIABLE);
        command.envs(mutant.map(|name| (VARIABLE, name)));
        sys::end_with_parent(&mut command);
        sys::bound_memory(&mut command, MOST_MEMORY);
        let mut child = command.spawn()?;
        let (end, took) = follow(&mut child, limit);
        // Ended already, or of no use any more.
        let _ = child.kill();
        let status = child.wait()?;
        let running = || tests.get(took.len()).map_or("no test", String::as_str).to_owned();
        let killer = match end {
            End::Failed(test) => Some(Killer::Test(test)),
            End::TimedOut => Some(Killer::Hang(running())),
            End::Closed if status.success() => None,
            End::Closed => Some(Killer::Abort(running())),
        };
        Ok(Ran { killer, took })
    }
}

/// A run of one program.
#[derive(Default)]
struct Ran {
    /// Who failed, if somebody did.
    killer: Option<Killer>,
    /// How long each test took that ended.
    took: Vec<Duration>,
}

/// How a program's output ended.
enum End {
    /// With a test that failed.
    Failed(String),
    /// Not, within the time.
    TimedOut,
    /// With the program.
    Closed,
}

/// Reads what a program writes until it ends, a test fails, or one takes too long. Returns how long each test took that ended.
fn follow(child: &mut Child, limit: Limit) -> (End, Vec<Duration>) {
    let (sender, receiver) = mpsc::channel();
    if let Some(output) = child.stdout.take() {
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        std::thread::spawn(move || lines.try_for_each(|line| sender.send(line)));
    }
    let used = || sys::cpu_time(child.id()).unwrap_or_default();
    let (mut took, mut since, mut used_before) = (Vec::new(), Instant::now(), used());
    loop {
        match receiver.recv_timeout(limit.0) {
            Ok(line) => {
                if let Some(test) = failed(&line) {
                    return (End::Failed(test.to_owned()), took);
                }
                if line.starts_with("test ") && line.contains(" ... ") {
                    took.push(since.elapsed());
                    (since, used_before) = (Instant::now(), used());
                }
            }
            Err(RecvTimeoutError::Timeout)
                if used().saturating_sub(used_before) < limit.0 && since.elapsed() < limit.0 * MOST_WAITING => {}
            Err(RecvTimeoutError::Timeout) => return (End::TimedOut, took),
            Err(RecvTimeoutError::Disconnected) => return (End::Closed, took),
        }
    }
}

/// The test that has failed, in a line of the test harness.
fn failed(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_harness_says_which_test_it_was() {
        assert_eq!(failed("test a::c ... FAILED"), Some("a::c"));
        assert_eq!((failed("test a::b ... ok"), failed("test result: FAILED. 1 passed")), (None, None));
    }

    #[test]
    fn a_program_that_hangs_waits_or_dies_is_ended_and_named() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = crate::run_dir::RunDir::create(0).unwrap();
        let run = |name: &str, text: &str, milliseconds| {
            let path = scratch.file(name);
            std::fs::write(&path, format!("#!/bin/sh\necho 'test first ... ok'\n{text}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            let program = Program { path, quick: Vec::new(), slow: Vec::new() };
            let tests = ["first", "second"].map(String::from);
            program.run(Some("m"), &tests, Limit(Duration::from_millis(milliseconds))).unwrap().killer
        };
        assert_eq!(run("hangs", "while :; do :; done", 500), Some(Killer::Hang("second".into())));
        assert_eq!(run("waits", "exec sleep 600", 50), Some(Killer::Hang("second".into())));
        assert_eq!(run("dies", "kill -ABRT $$", 60_000), Some(Killer::Abort("second".into())));
        let fails = "echo 'test second ... FAILED'; exec sleep 600";
        assert_eq!(run("fails", fails, 60_000), Some(Killer::Test("second".into())));
        assert_eq!(run("passes", "test $FERRY_MUTANT = m", 60_000), None);
    }
}
