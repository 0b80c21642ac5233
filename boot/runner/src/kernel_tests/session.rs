//! Runs selected tests one after the other, over as many boots as that takes.
//!
//! Invariants:
//! 1. Names are asked for in the order in which they were selected, which is the kernel's own.
//! 2. Every wait is bounded by the suite's timeout, counted anew for each test.
//! 3. The last test of a boot has passed only when the kernel has ended with success after it.
use std::collections::VecDeque;

use ferry_protocol::exit::ExitCode;
use ferry_protocol::fw_cfg::OPTIONS_MAX_BYTES;
use ferry_protocol::link::{self, FromKernel, TestEnd, VERSION};
use ferry_protocol::options::{Command, Options, Selection};

use super::{Completed, Outcome, Report, Suite};
use crate::qemu::{End, Event, Machine};

/// Console lines that are shown of a test that did not pass.
const SHOWN_LINES: usize = 24;

/// Room in the options text for everything but the names.
const OPTIONS_OVERHEAD: usize = 64;

/// Tests under way.
pub struct Session {
    suite: Suite,
    left: VecDeque<String>,
    machine: Option<Running>,
}

struct Running {
    machine: Machine,
    /// Tests that this boot was given and has not ended yet.
    left: usize,
    /// One of them did not pass, so the kernel will end as failed.
    failed: bool,
    /// Console lines since the last test ended.
    lines: VecDeque<String>,
}

impl Session {
    /// A session that will run these tests, in this order.
    pub fn new(suite: Suite, names: impl IntoIterator<Item = String>) -> Self {
        Self { suite, left: names.into_iter().collect(), machine: None }
    }

    /// Runs the next test, which is `name`.
    ///
    /// # Errors
    /// The report of a test that did not pass.
    pub fn run(&mut self, name: &str) -> Result<Completed, Report> {
        let (outcome, lines) = self.outcome(name);
        self.left.pop_front();
        match outcome {
            Outcome::Passed => Ok(Completed::Passed),
            Outcome::Ignored(why) => Ok(Completed::Ignored(why)),
            outcome => Err(Report { outcome, lines }),
        }
    }

    fn outcome(&mut self, name: &str) -> (Outcome, Vec<String>) {
        if self.left.front().map(String::as_str) != Some(name) {
            return (Outcome::Confused(format!("the next test is {:?}", self.left.front())), Vec::new());
        }
        let mut running = match self.machine.take() {
            Some(running) => running,
            None => match self.boot() {
                Ok(running) => running,
                Err(why) => return (Outcome::NotBooted(why), Vec::new()),
            },
        };
        let outcome = running.run(&self.suite, name);
        let lines = running.lines.drain(..).collect();
        let lost = !matches!(outcome, Outcome::Passed | Outcome::Ignored(_) | Outcome::Failed(_) | Outcome::Leaked(_));
        if !lost && running.left > 0 {
            self.machine = Some(running);
        }
        (outcome, lines)
    }

    fn boot(&self) -> Result<Running, String> {
        let (names, count) = batch(&self.left);
        let options = Options { command: Command::Test(Selection(&names)), ..Options::default() };
        let machine = self.suite.boot(&options).map_err(|refusal| refusal.to_string())?;
        Ok(Running { machine, left: count, failed: false, lines: VecDeque::new() })
    }
}

/// As many of the names as fit into the options text, and how many those are.
fn batch(left: &VecDeque<String>) -> (String, usize) {
    let (mut text, mut count) = (String::new(), 0);
    for name in left {
        if count > 0 && text.len() + 1 + name.len() > OPTIONS_MAX_BYTES - OPTIONS_OVERHEAD {
            break;
        }
        if count > 0 {
            text.push(',');
        }
        text += name;
        count += 1;
    }
    (text, count)
}

impl Running {
    /// Follows the test `name` to its end.
    fn run(&mut self, suite: &Suite, name: &str) -> Outcome {
        let deadline = suite.deadline();
        let mut ended = None;
        loop {
            match self.machine.next(deadline) {
                Event::Line(line) => self.keep(line),
                Event::Record(mut frame) => match link::decode(&mut frame) {
                    Ok(FromKernel::Hello { version: VERSION } | FromKernel::Done) => {}
                    Ok(FromKernel::TestStarted { name: started }) if started == name && ended.is_none() => {}
                    Ok(FromKernel::TestEnded(end)) if ended.is_none() => {
                        self.left = self.left.saturating_sub(1);
                        self.failed |= matches!(end, TestEnd::Failed(_) | TestEnd::Leaked(_));
                        let outcome = owned(end);
                        if self.left > 0 {
                            return outcome;
                        }
                        // The last one of this boot: what follows must be a good end.
                        ended = Some(outcome);
                    }
                    Ok(other) => return Outcome::Confused(format!("{other:?}")),
                    Err(_) => return Outcome::Confused("bytes on the link that are no record".to_owned()),
                },
                Event::Ended(End::Code(code)) if code == self.expected_code() => {
                    return ended.unwrap_or_else(|| Outcome::Confused("it ended without running it".to_owned()));
                }
                Event::Ended(end) => return Outcome::Lost(end),
                Event::TimedOut => {
                    let lines = self.machine.stop();
                    let skip = lines.len().saturating_sub(SHOWN_LINES);
                    self.lines = lines.into_iter().skip(skip).collect();
                    return Outcome::Hung(suite.timeout);
                }
            }
        }
    }

    fn expected_code(&self) -> ExitCode {
        if self.failed { ExitCode::Failed } else { ExitCode::Success }
    }

    fn keep(&mut self, line: String) {
        if self.lines.len() == SHOWN_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

fn owned(end: TestEnd) -> Outcome {
    match end {
        TestEnd::Passed => Outcome::Passed,
        TestEnd::Ignored(why) => Outcome::Ignored(why.to_owned()),
        TestEnd::Failed(why) => Outcome::Failed(why.to_owned()),
        TestEnd::Leaked(difference) => Outcome::Leaked(difference.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_fit_the_options_text_and_lose_nobody() {
        let name = |i| format!("module::submodule::test_number_{i:04}");
        let mut left: VecDeque<String> = (0..500).map(name).collect();
        let mut seen = Vec::new();
        while !left.is_empty() {
            let (text, count) = batch(&left);
            let options = Options { command: Command::Test(Selection(&text)), ..Options::default() };
            assert!(options.to_string().len() <= OPTIONS_MAX_BYTES);
            assert_eq!(Selection(&text).names().count(), count);
            seen.extend(left.drain(..count));
        }
        assert_eq!(seen, (0..500).map(name).collect::<Vec<_>>());
    }
}
