//! How a test in the kernel ended.
use std::fmt;
use std::time::Duration;

use crate::qemu::End;

/// The one thing that happened to a test.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It passed and left everything as it found it.
    Passed,
    /// It returned an error.
    Failed(String),
    /// The machine lacks what it needs; no failure.
    Ignored(String),
    /// It passed, but counts differ before and after.
    Leaked(String),
    /// The kernel ended while it ran.
    Lost(End),
    /// It did not end in time.
    Hung(Duration),
    /// The kernel ran another one, or said something that has no place here.
    Confused(String),
    /// The kernel could not be booted for it.
    NotBooted(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => write!(f, "passed"),
            Self::Ignored(why) => write!(f, "ignored: {why}"),
            Self::Failed(why) => write!(f, "failed: {why}"),
            Self::Leaked(difference) => write!(f, "leaked: {difference}"),
            Self::Lost(end) => write!(f, "the kernel was lost: {end}"),
            Self::Hung(limit) => write!(f, "hung: it did not end within {} s", limit.as_secs()),
            Self::Confused(what) => write!(f, "the kernel did something else: {what}"),
            Self::NotBooted(why) => write!(f, "the kernel could not be booted for it: {why}"),
        }
    }
}

/// How a test ended that has not failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Completed {
    /// It passed.
    Passed,
    /// The machine lacks what it needs: this.
    Ignored(String),
}

/// A test that did not pass: how it ended, and what stood on the console since the one before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// The last console lines, oldest first.
    pub lines: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lines.as_slice() {
            [] => write!(f, "{}\n    the console was silent", self.outcome),
            lines => write!(f, "{}\n    the last console lines:\n    | {}", self.outcome, lines.join("\n    | ")),
        }
    }
}
