//! The test programs of a copy: built once, then run as one mutant after the other.
//!
//! A program runs its tests one at a time, in the order in which it lists them. So which test it was that hangs or ends
//! the program follows from those whose results it has written.
//!
//! Invariants:
//! 1. The first test that fails ends the program.
//! 2. Every run is bounded in time and in memory.
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

/// The programs of the packages of one suite.
pub struct Programs {
    programs: Vec<Program>,
}

/// One of them.
struct Program {
    path: PathBuf,
    /// Its tests, in the order in which it runs them.
    tests: Vec<String>,
}

/// How long a program may run.
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

    /// Runs them, as the mutant `name` or as what the source says; returns who failed first, or nothing.
    ///
    /// # Errors
    /// Where a program cannot be run.
    pub fn run(&self, mutant: Option<&str>, limit: Limit) -> Result<Option<Killer>, Refusal> {
        for program in &self.programs {
            let failed = |source| Refusal::Program { program: program.path.display().to_string(), source };
            if let Some(killer) = program.run(mutant, limit).map_err(failed)? {
                return Ok(Some(killer));
            }
        }
        Ok(None)
    }
}

impl Program {
    fn at(path: PathBuf) -> io::Result<Self> {
        let output = Command::new(&path).args(["--list", "--format=terse"]).env_remove(VARIABLE).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let tests = text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect();
        Ok(Self { path, tests })
    }

    fn run(&self, mutant: Option<&str>, limit: Limit) -> io::Result<Option<Killer>> {
        let mut command = Command::new(&self.path);
        command.arg("--test-threads=1").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        // A failure that a property test writes down would be tried first by the next mutant, too.
        command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true").env_remove(VARIABLE);
        command.envs(mutant.map(|name| (VARIABLE, name)));
        sys::end_with_parent(&mut command);
        sys::bound_memory(&mut command, MOST_MEMORY);
        let mut child = command.spawn()?;
        let (end, text) = follow(&mut child, Instant::now() + limit.0);
        // Ended already, or of no use any more.
        let _ = child.kill();
        let status = child.wait()?;
        Ok(match end {
            End::Failed(test) => Some(Killer::Test(test)),
            End::TimedOut => Some(Killer::Hang(self.running(&text))),
            End::Closed if status.success() => None,
            End::Closed => Some(Killer::Abort(self.running(&text))),
        })
    }

    /// The test that was running when the program had written `text`.
    fn running(&self, text: &str) -> String {
        let done = text.lines().filter(|line| line.starts_with("test ") && !line.ends_with("... ")).count();
        self.tests.get(done).map_or("no test", String::as_str).to_owned()
    }
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

/// Reads what a program writes until it ends, a test fails, or the time is over.
fn follow(child: &mut Child, deadline: Instant) -> (End, String) {
    let (sender, receiver) = mpsc::channel();
    if let Some(output) = child.stdout.take() {
        std::thread::spawn(move || {
            BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
    }
    let mut text = String::new();
    loop {
        let end = match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                text += &line;
                text.push('\n');
                match failed(&line) {
                    Some(test) => End::Failed(test.to_owned()),
                    None => continue,
                }
            }
            Err(RecvTimeoutError::Timeout) => End::TimedOut,
            Err(RecvTimeoutError::Disconnected) => End::Closed,
        };
        return (end, text);
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
        let program = Program { path: PathBuf::new(), tests: ["a", "b", "c"].map(String::from).into() };
        assert_eq!(program.running("\nrunning 3 tests\ntest a ... ok\ntest b ... ok\ntest c ... "), "c");
        assert_eq!(program.running("\nrunning 3 tests\n"), "a");
    }

    #[test]
    fn a_program_that_hangs_or_dies_is_ended_and_named() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = crate::run_dir::RunDir::create(0).unwrap();
        let run = |name: &str, text: &str, seconds| {
            let path = scratch.file(name);
            std::fs::write(&path, format!("#!/bin/sh\necho 'test first ... ok'\n{text}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            let program = Program { path, tests: ["first", "second"].map(String::from).into() };
            program.run(Some("m"), Limit(Duration::from_secs(seconds))).unwrap()
        };
        assert_eq!(run("hangs", "exec sleep 600", 1), Some(Killer::Hang("second".into())));
        assert_eq!(run("dies", "kill -ABRT $$", 60), Some(Killer::Abort("second".into())));
        let fails = "echo 'test second ... FAILED'; exec sleep 600";
        assert_eq!(run("fails", fails, 60), Some(Killer::Test("second".into())));
        assert_eq!(run("passes", "test $FERRY_MUTANT = m", 60), None);
    }
}
