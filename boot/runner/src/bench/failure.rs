//! Why the bench's figures are not to be believed.
use super::session::Window;

/// What does not hold.
#[derive(Debug, thiserror::Error)]
pub enum BenchFailure {
    /// The same was measured twice, with two results.
    #[error(
        "{} of {} pages was measured twice, with different results: {:?}, then {:?}; something else ran in between",
        .first.name, .first.pages, .first.counts, .second.counts
    )]
    Unequal {
        /// The one.
        first: Box<Window>,
        /// The other.
        second: Box<Window>,
    },
    /// A measurement is missing that belongs to another.
    #[error("the kernel did not measure {0} as often as it must; rebuild kernel and tool together")]
    Missing(String),
}
