//! Why the bench's figures are not to be believed.
use std::path::PathBuf;

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
    /// The referee has written nothing.
    #[error("the referee has seen nothing; QEMU must be built with plugins, as Debian's is")]
    Blind,
    /// The referee's file has a line that is not understood.
    #[error("the referee wrote {0:?}, which is not understood; rebuild it together with this tool")]
    Unreadable(String),
    /// Kernel and referee have seen other numbers of windows.
    #[error(
        "the kernel has measured {kernel} times, and the referee has seen {referee} windows; rebuild both together"
    )]
    Windows {
        /// The kernel's.
        kernel: usize,
        /// The referee's.
        referee: usize,
    },
    /// The referee has worked out another size of the BAR.
    #[error("the BAR has {bytes} bytes, but the referee has found the marked words {seen} bytes apart")]
    Bar {
        /// What it has.
        bytes: u64,
        /// What was seen.
        seen: u64,
    },
    /// Kernel and referee count differently.
    #[error("{name} of {pages} pages on {cpus} CPUs: the kernel counts {kernel} {what}, the referee {referee}")]
    Disagree {
        /// What was measured.
        name: String,
        /// On how many pages.
        pages: u64,
        /// And CPUs.
        cpus: u32,
        /// What was counted.
        what: &'static str,
        /// The kernel's number.
        kernel: u64,
        /// The referee's.
        referee: u64,
    },
    /// A figure is worse than it was.
    #[error("{name} of {pages} pages takes {is} {what}, and took {was} before; find out why, or accept it with --save")]
    Worse {
        /// The operation.
        name: String,
        /// On how many pages.
        pages: u64,
        /// What has grown.
        what: &'static str,
        /// Its value in the file.
        was: u64,
        /// Its value now.
        is: u64,
    },
    /// The file of earlier figures is none.
    #[error("{} does not hold the figures of a run; write it anew with --save", .0.display())]
    History(PathBuf),
}
