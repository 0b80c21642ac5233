//! What a test returns, and how it finds that something does not hold.
use alloc::format;
use alloc::string::String;
use core::fmt;
use core::panic::Location;

/// How a test ends: `Ok`, or the first thing that does not hold.
pub type TestResult = Result<(), TestFailure>;

/// What does not hold, and where it was found.
#[derive(Debug)]
pub struct TestFailure {
    location: &'static Location<'static>,
    text: String,
}

impl TestFailure {
    /// A failure at the caller's place.
    #[track_caller]
    pub fn new(text: String) -> Self {
        Self { location: Location::caller(), text }
    }
}

impl fmt::Display for TestFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
