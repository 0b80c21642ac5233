//! The kernel's options: a short text of `key=value` lines.
//!
//! Text, because a person who starts the kernel by hand then can write it. The host tool writes it
//! with [`Options`]' `Display`, the kernel reads it with [`Options::parse`]; a line that is not
//! understood is an error that names it, never ignored.
use core::fmt;

/// What the kernel shall do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Command<'a> {
    /// Ferry the input to the device and back.
    #[default]
    Demo,
    /// Run these in-kernel tests, in the order in which the kernel lists them.
    Test(Selection<'a>),
    /// Send the names of all in-kernel tests.
    ListTests,
    /// Run a scenario.
    Scenario(Scenario),
    /// Measure what operations cost.
    Bench,
    /// Do random things on all CPUs.
    Soak(Soak),
    /// Do what a person says, line by line.
    Shell,
    /// Do what the kernel was built for; only one that is an experiment can.
    Experiment,
}

/// Which random things are done. The host says after each round whether there shall be another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Soak {
    /// What the actions of all rounds follow from.
    pub seed: u64,
    /// The first round, from 0.
    pub round: u64,
    /// Whether every round is that one.
    pub again: bool,
}

impl Soak {
    const AGAIN: &str = "again";
    const ONWARDS: &str = "onwards";

    /// Reads `SEED,ROUND,again` or `SEED,ROUND,onwards`.
    ///
    /// # Errors
    /// `None` where it is neither.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(',');
        let (seed, round) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let again = match parts.next()? {
            Self::AGAIN => true,
            Self::ONWARDS => false,
            _ => return None,
        };
        parts.next().is_none().then_some(Self { seed, round, again })
    }
}

impl fmt::Display for Soak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, round, again } = self;
        write!(f, "{seed},{round},{}", if *again { Self::AGAIN } else { Self::ONWARDS })
    }
}

/// Which in-kernel tests shall run: exact names separated by commas, or `*` for every test.
///
/// A kernel that was lost to one test is booted again with the names that are left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Selection<'a>(pub &'a str);

impl<'a> Selection<'a> {
    /// Every test there is.
    pub const ALL: Selection<'static> = Selection("*");

    /// Whether the test of this full path shall run.
    pub fn wants(self, name: &str) -> bool {
        self == Self::ALL || self.names().any(|wanted| wanted == name)
    }

    /// The names as they were written; with [`Selection::ALL`] the one name `*`.
    pub fn names(self) -> impl Iterator<Item = &'a str> {
        self.0.split(',').filter(|name| !name.is_empty())
    }
}

/// A step that shall fail, for fault injection: the `count`-th one of its kind, counted from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inject {
    /// Which kind of step.
    pub step: InjectStep,
    /// Which one of them, from 1.
    pub count: u64,
}

/// A kind of step that can be made to fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InjectStep {
    /// Allocation of a RAM frame.
    Alloc,
    /// Allocation of a device frame.
    DeviceAlloc,
    /// Copy of one page between RAM and the device.
    Copy,
    /// Read of one page from the swap disk.
    DiskRead,
    /// Write of one page to the swap disk.
    DiskWrite,
}

impl InjectStep {
    /// Every kind, with the name it has in options.
    pub const NAMES: &'static [(&'static str, InjectStep)] = &[
        ("alloc", Self::Alloc),
        ("device-alloc", Self::DeviceAlloc),
        ("copy", Self::Copy),
        ("disk-read", Self::DiskRead),
        ("disk-write", Self::DiskWrite),
    ];
}

impl Inject {
    /// Reads `STEP:N`, such as `copy:3`.
    ///
    /// # Errors
    /// `None` where the step has no such name or `N` is not a number from 1.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, count) = text.split_once(':')?;
        let (_, step) = InjectStep::NAMES.iter().find(|(known, _)| *known == name)?;
        match count.parse() {
            Ok(count) if count > 0 => Some(Self { step: *step, count }),
            _ => None,
        }
    }
}

impl fmt::Display for Inject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = InjectStep::NAMES.iter().find(|(_, step)| *step == self.step).map_or("?", |(name, _)| name);
        write!(f, "{name}:{}", self.count)
    }
}

/// What becomes of the event stream (see [`crate::trace`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Trace {
    /// There is none.
    #[default]
    Off,
    /// The newest records are kept and sent at the end of the run; those that were lost are counted.
    Ring,
    /// Every record is sent when it happens; the kernel waits for the port.
    Full,
}

impl Trace {
    /// Every value, with the name it has in options.
    pub const NAMES: &'static [(&'static str, Trace)] =
        &[("off", Self::Off), ("ring", Self::Ring), ("full", Self::Full)];

    /// The value of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(name, _)| *name == text).map(|(_, trace)| *trace)
    }

    /// The name it has in options.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, trace)| *trace == self).map_or("?", |(name, _)| name)
    }
}

/// A small program of the kernel that shows one thing, for the report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scenario {
    /// Pages go to the device and come home.
    ThereAndBack,
    /// Two spaces share pages until one stores.
    CopyOnWrite,
    /// A pinned page stays.
    PinnedPage,
    /// Pages are on the swap disk when they shall migrate.
    SwapThenMigrate,
    /// One page goes back and forth.
    PingPong,
    /// A device is emptied.
    Eviction,
    /// A flush is left out.
    MissingFlush,
}

impl Scenario {
    /// Every scenario, with the name it has in options.
    pub const NAMES: &'static [(&'static str, Scenario)] = &[
        ("there-and-back", Self::ThereAndBack),
        ("copy-on-write", Self::CopyOnWrite),
        ("pinned-page", Self::PinnedPage),
        ("swap-then-migrate", Self::SwapThenMigrate),
        ("ping-pong", Self::PingPong),
        ("eviction", Self::Eviction),
        ("missing-flush", Self::MissingFlush),
    ];

    /// The scenario of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(name, _)| *name == text).map(|(_, scenario)| *scenario)
    }

    /// The name it has in options.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, scenario)| *scenario == self).map_or("?", |(name, _)| name)
    }
}

/// Everything that the kernel can be told at its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options<'a> {
    /// What to do.
    pub command: Command<'a>,
    /// The step that shall fail, if one shall.
    pub inject: Option<Inject>,
    /// What becomes of the event stream.
    pub trace: Trace,
    /// Whether every access that brings a page home is told to the host.
    pub strict: bool,
}

/// A line of the options text that is not understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadLine<'a>(pub &'a str);

impl<'a> Options<'a> {
    /// Reads the options text.
    ///
    /// # Errors
    /// The first line that is not understood.
    pub fn parse(text: &'a str) -> Result<Self, BadLine<'a>> {
        let mut options = Self::default();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            match line.split_once('=') {
                Some(("command", "demo")) => options.command = Command::Demo,
                Some(("command", "shell")) => options.command = Command::Shell,
                Some(("command", "list-tests")) => options.command = Command::ListTests,
                Some(("command", "bench")) => options.command = Command::Bench,
                Some(("command", "experiment")) => options.command = Command::Experiment,
                Some(("test", name)) => options.command = Command::Test(Selection(name)),
                Some(("scenario", name)) => {
                    options.command = Command::Scenario(Scenario::parse(name).ok_or(BadLine(line))?);
                }
                Some(("soak", soak)) => options.command = Command::Soak(Soak::parse(soak).ok_or(BadLine(line))?),
                Some(("trace", name)) => options.trace = Trace::parse(name).ok_or(BadLine(line))?,
                Some(("inject", inject)) => options.inject = Some(Inject::parse(inject).ok_or(BadLine(line))?),
                Some(("strict", "yes")) => options.strict = true,
                _ => return Err(BadLine(line)),
            }
        }
        Ok(options)
    }
}

impl fmt::Display for Options<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.command {
            Command::Demo => writeln!(f, "command=demo")?,
            Command::ListTests => writeln!(f, "command=list-tests")?,
            Command::Shell => writeln!(f, "command=shell")?,
            Command::Bench => writeln!(f, "command=bench")?,
            Command::Experiment => writeln!(f, "command=experiment")?,
            Command::Test(selection) => writeln!(f, "test={}", selection.0)?,
            Command::Scenario(scenario) => writeln!(f, "scenario={}", scenario.name())?,
            Command::Soak(soak) => writeln!(f, "soak={soak}")?,
        }
        if let Some(inject) = self.inject {
            writeln!(f, "inject={inject}")?;
        }
        if self.trace != Trace::Off {
            writeln!(f, "trace={}", self.trace.name())?;
        }
        if self.strict {
            writeln!(f, "strict=yes")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn what_is_written_is_read_back() {
        let some = Command::Test(Selection("frame::buddy::splits,frame::buddy::merges"));
        for command in [
            Command::Demo,
            Command::ListTests,
            Command::Shell,
            Command::Bench,
            Command::Experiment,
            Command::Test(Selection::ALL),
            Command::Scenario(Scenario::PingPong),
            Command::Soak(Soak { seed: u64::MAX, round: 3, again: true }),
            Command::Soak(Soak { seed: 0, round: 0, again: false }),
            some,
        ] {
            for inject in [None, Some(Inject { step: InjectStep::DeviceAlloc, count: 7 })] {
                for (_, trace) in Trace::NAMES {
                    let options = Options { command, inject, trace: *trace, strict: *trace == Trace::Off };
                    assert_eq!(Options::parse(&options.to_string()), Ok(options));
                }
            }
        }
    }

    #[test]
    fn a_selection_wants_whole_names_only() {
        let some = Selection("frame::buddy::splits,entry::swap");
        assert!(some.wants("entry::swap") && some.wants("frame::buddy::splits"));
        assert!(!some.wants("entry") && !some.wants("entry::swap::zero") && !some.wants("*"));
        assert!(Selection::ALL.wants("entry"));
        assert!(!Selection("").wants(""));
    }

    #[test]
    fn a_line_that_is_not_understood_is_named() {
        for bad in [
            "speed=fast",
            "command=dance",
            "inject=copy",
            "inject=copy:0",
            "inject=copy:x",
            "inject=tea:1",
            "strict=no",
            "trace=on",
            "soak=1,2,often",
            "soak=1,2",
            "soak=1,2,again,3",
            "soak=a,2,again",
        ] {
            let text = std::format!("command=demo\n{bad}\n");
            assert_eq!(Options::parse(&text), Err(BadLine(bad)));
        }
    }
}
