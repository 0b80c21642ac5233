//! Tests inside the kernel: how one is written, found and run.
//!
//! A test stands beside the code it tests and registers itself:
//! ```ignore
//! kernel_test! {
//!     fn the_clock_ticks() -> TestResult {
//!         check_eq!(2 + 2, 4);
//!         Ok(())
//!     }
//! }
//! ```
//! The name of a test is its path without the name of the crate. It goes to the host before the test
//! runs, so a test that never returns is known by name. Whatever can leak is counted before and
//! after; a difference is a failure of its own kind.
//!
//! Some tests run only when they are named. Those below `harness::dies` are made to fail, each in another way, to show
//! that every way is reported. Those below `disk::tests::apart` and `disk::tests::swapped` need a machine other than that
//! of the rest.
#![deny(unsafe_code)]
mod check;
mod dies;

pub use check::{TestFailure, TestResult, need_cpus};
pub(crate) use check::{check, check_eq, fail};

use crate::census::Census;
use crate::link;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use ferry_protocol::exit::ExitCode;
use ferry_protocol::link::{FromKernel, TestEnd, cut};
use ferry_protocol::options::Selection;

/// A registered test.
pub struct Test {
    path: &'static str,
    function: fn() -> TestResult,
}

/// All of them, in an order of the linker's making; `sorted` gives them one.
#[linkme::distributed_slice]
pub static TESTS: [Test];

impl Test {
    /// For `kernel_test!`.
    pub const fn new(path: &'static str, function: fn() -> TestResult) -> Self {
        Self { path, function }
    }

    /// The path without the name of the crate.
    pub fn name(&self) -> &'static str {
        self.path.split_once("::").map_or(self.path, |(_, name)| name)
    }

    /// Whether only its name runs it.
    fn only_named(&self) -> bool {
        let apart = ["harness::dies::", "disk::tests::apart::"].iter().any(|module| self.name().starts_with(module));
        apart || self.swaps()
    }

    /// Whether the memory manager shall have the swap disk. Others would not run short of memory then.
    fn swaps(&self) -> bool {
        self.name().starts_with("disk::tests::swapped::")
    }
}

/// Defines tests and registers them.
macro_rules! kernel_test {
    ($($(#[$attribute:meta])* fn $name:ident() -> $result:ty $body:block)+) => {$(
        $(#[$attribute])*
        fn $name() -> $result $body

        #[allow(unsafe_code, reason = "the registration puts a static into a link section")]
        const _: () = {
            #[::linkme::distributed_slice($crate::harness::TESTS)]
            static TEST: $crate::harness::Test =
                $crate::harness::Test::new(concat!(module_path!(), "::", stringify!($name)), $name);
        };
    )+};
}
pub(crate) use kernel_test;

fn sorted() -> Vec<&'static Test> {
    let mut tests: Vec<_> = TESTS.iter().collect();
    tests.sort_by_key(|test| test.name());
    tests
}

/// Sends the name of every test but those that run only when they are named.
pub fn list() -> ExitCode {
    for test in sorted().into_iter().filter(|test| !test.only_named()) {
        link::send(&FromKernel::Test { name: test.name() });
    }
    ExitCode::Success
}

/// Runs what is selected and reports each test. A name that no test has counts as a failed test.
pub fn run(selection: Selection) -> ExitCode {
    // Taken into use now, so that what stays of them is in the census before the first test. Without a device or a disk the
    // tests that need it say so.
    if let Err(problem) = crate::memory::device::all() {
        log::warn!("{problem}");
    }
    let swaps = sorted().into_iter().any(|test| test.swaps() && selection.names().any(|name| name == test.name()));
    if let Err(problem) = if swaps { crate::disk::attach() } else { crate::disk::find() } {
        log::warn!("{problem}");
    }
    let mut code = ExitCode::Success;
    let mut report = |end: TestEnd| {
        let (word, text) = match end {
            TestEnd::Passed => ("ok", ""),
            TestEnd::Failed(text) => ("FAILED: ", text),
            TestEnd::Leaked(text) => ("LEAKED: ", text),
            TestEnd::Ignored(text) => ("ignored: ", text),
        };
        crate::println!("{word}{text}");
        if matches!(end, TestEnd::Failed(_) | TestEnd::Leaked(_)) {
            code = ExitCode::Failed;
        }
        link::send(&FromKernel::TestEnded(end));
    };
    for test in sorted() {
        let named = selection.names().any(|name| name == test.name());
        if named || selection == Selection::ALL && !test.only_named() {
            start(test.name());
            match run_one(test) {
                Ok(()) => report(TestEnd::Passed),
                Err(Bad::Failed(text)) => report(TestEnd::Failed(cut(&text))),
                Err(Bad::Leaked(text)) => report(TestEnd::Leaked(cut(&text))),
                Err(Bad::Ignored(text)) => report(TestEnd::Ignored(cut(&text))),
            }
        }
    }
    if selection != Selection::ALL {
        for name in selection.names().filter(|name| TESTS.iter().all(|test| test.name() != *name)) {
            start(name);
            report(TestEnd::Failed("there is no test of this name; the option command=list-tests names them"));
        }
    }
    code
}

fn start(name: &str) {
    link::send(&FromKernel::TestStarted { name });
    crate::print!("test {name} ... ");
}

enum Bad {
    Failed(String),
    Leaked(String),
    Ignored(String),
}

fn run_one(test: &Test) -> Result<(), Bad> {
    let before = Census::take();
    (test.function)().map_err(|failure| {
        let text = format!("{failure}");
        if failure.ignored { Bad::Ignored(text) } else { Bad::Failed(text) }
    })?;
    let difference = before.difference(&Census::take());
    if difference.is_empty() { Ok(()) } else { Err(Bad::Leaked(difference)) }
}
