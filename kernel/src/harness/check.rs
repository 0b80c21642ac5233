//! What a test returns, and how it finds that something does not hold.
use crate::arch::cpus;
use alloc::format;
use alloc::string::String;
use core::fmt;
use core::panic::Location;
use ferry_mm::machine::CpuSet;

/// How a test ends: `Ok`, or the first thing that does not hold, or that the machine lacks.
pub type TestResult = Result<(), TestFailure>;

/// What does not hold, and where it was found.
#[derive(Debug)]
pub struct TestFailure {
    /// Nothing is wrong: the machine lacks what the test needs.
    pub(super) ignored: bool,
    location: &'static Location<'static>,
    text: String,
}

impl TestFailure {
    /// A failure at the caller's place.
    #[track_caller]
    pub fn new(text: String) -> Self {
        Self { ignored: false, location: Location::caller(), text }
    }
}

/// The first `count` CPUs of the machine, that of the test among them; where it has fewer the test is ignored.
///
/// # Errors
/// Too few CPUs.
#[track_caller]
pub fn need_cpus(count: usize) -> Result<CpuSet, TestFailure> {
    let have = cpus::count();
    if have < count {
        let text = format!("needs {count} CPUs, and the machine has {have}");
        return Err(TestFailure { ignored: true, location: Location::caller(), text });
    }
    Ok(CpuSet::from_bits((1 << count) - 1))
}

impl fmt::Display for TestFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ignored {
            return f.write_str(&self.text);
        }
        write!(f, "{}:{}: {}", self.location.file(), self.location.line(), self.text)
    }
}

impl<E: core::error::Error> From<E> for TestFailure {
    #[track_caller]
    fn from(error: E) -> Self {
        Self::new(format!("{error}"))
    }
}

/// Ends the test as failed, with a formatted text.
macro_rules! fail {
    ($($text:tt)+) => { return Err($crate::harness::TestFailure::new(alloc::format!($($text)+))) };
}
pub(crate) use fail;

/// A [`TestResult`]: a failure where the condition does not hold, with a formatted text of the values.
macro_rules! check {
    ($condition:expr, $($text:tt)+) => {
        if $condition {
            Ok(())
        } else {
            Err($crate::harness::TestFailure::new(alloc::format!(
                "{} does not hold: {}",
                stringify!($condition),
                format_args!($($text)+),
            )))
        }
    };
}
pub(crate) use check;

/// Ends the test as failed where the two values differ, naming both.
macro_rules! check_eq {
    ($found:expr, $expected:expr) => {
        match (&$found, &$expected) {
            (found, expected) => {
                if *found != *expected {
                    $crate::harness::fail!("{} is {found:?}, expected {expected:?}", stringify!($found),);
                }
            }
        }
    };
}
pub(crate) use check_eq;
