//! The event stream on the host: decoded, replayed, held against the guest's memory, and written for other tools.
//!
//! ```text
//!   third serial port ─▶ stream (records, continuity) ─▶ replay (the state after any record)
//!                                                          ├─▶ compare (with the tables walked from outside)
//!                                                          ├─▶ view (what a page or a frame is, as one letter each)
//!                                                          └─▶ crate::report (a page that does the same in a browser)
//!   chrome: the same records for Perfetto
//! ```
//!
//! In reading order: [`stream`], [`replay`], [`view`], [`compare`], [`chrome`]. The records are those of [`ferry_protocol::trace`].
pub mod chrome;
pub mod compare;
pub mod replay;
pub mod stream;
pub mod view;

#[cfg(test)]
mod tests;

use std::path::Path;

use crate::error::Refusal;
use crate::screen::Screen;
use crate::size::grouped;
use stream::{Stream, StreamError};

/// Why the event stream does not hold.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// It is damaged.
    #[error("the event stream is damaged: {0}")]
    Stream(#[from] StreamError),
    /// Records contradict each other.
    #[error("the event stream contradicts itself: {0}")]
    Replay(#[from] replay::ReplayError),
    /// It tells another state than the guest's memory shows.
    #[error("the event stream does not tell what the guest's memory shows: {0}")]
    Differs(#[from] compare::Difference),
    /// It cannot be read.
    #[error("the event stream cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
}

/// Says what a finished stream holds, and writes it as a Chrome trace where that was asked for.
///
/// # Errors
/// Where the stream is damaged or the file cannot be written.
pub fn conclude(bytes: &mut [u8], out: Option<&Path>, screen: &Screen) -> Result<(), crate::error::Error> {
    let failed = |error: TraceError| crate::demo::failure::Failure::Trace(error);
    let stream = Stream::decode(bytes).map_err(TraceError::from).map_err(failed)?;
    let (kept, lost) = (stream.records.len() as u64, stream.lost());
    let loss = if lost == 0 { "none lost".to_owned() } else { format!("{} older ones lost", grouped(lost)) };
    screen.plain(format_args!("trace    {} events, {loss}", grouped(kept)));
    if let Some(path) = out {
        let write = || chrome::write(&stream, std::io::BufWriter::new(std::fs::File::create(path)?));
        write().map_err(|source| Refusal::Output { path: path.to_owned(), source })?;
    }
    Ok(())
}
