//! How an experiment ends.
use alloc::string::{String, ToString};
use core::fmt;
use core::panic::Location;

/// How an experiment ends: `Ok`, or the first call that did not do what it should.
pub type Outcome = Result<(), Failure>;

/// An error of any call, and the `?` that found it.
#[derive(Debug)]
pub struct Failure {
    location: &'static Location<'static>,
    text: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.location.file(), self.location.line(), self.text)
    }
}

impl<E: core::error::Error> From<E> for Failure {
    #[track_caller]
    fn from(error: E) -> Self {
        Self { location: Location::caller(), text: error.to_string() }
    }
}
