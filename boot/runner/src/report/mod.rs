//! The report: one page that replays a run in a browser, from disk, without a network.
//!
//! ```text
//!   a demo or a scenario, traced ─▶ records ─▶ columns (numbers, packed) ─┐
//!   stories ──────────────────────────────────────────────────────────────┼─▶ page: one HTML file
//!   page/*.css, page/*.js (as they are, no build step) ───────────────────┘
//! ```
//!
//! In reading order: [`stories`] (what is told beside the timeline), [`mod@record`] (the run), [`columns`] (the data), [`page`] (the file).
pub mod columns;
pub mod page;
pub mod record;
pub mod stories;

use std::path::PathBuf;
use std::time::Duration;

use ferry_protocol::options::{Scenario, Trace};

use crate::error::{Error, Refusal};
use crate::machine::MachineOptions;
use crate::screen::Screen;
use crate::size::Size;
use crate::swap::SwapSize;
use crate::trace::TraceError;
use crate::trace::replay::Replay;
use crate::trace::stream::Stream;
use crate::{demo, trace};
use stories::Story;

/// The disk of the scenario that swaps.
const SWAP: Size = Size::mebibytes(1);

/// What to report on.
#[derive(Clone, Debug)]
pub struct Options {
    /// The scenario, or the demo.
    pub scenario: Option<Scenario>,
    /// What the demo ferries.
    pub input: Option<PathBuf>,
    /// The machine.
    pub machine: MachineOptions,
    /// Where the page goes.
    pub out: PathBuf,
    /// Where the raw records go, for those who want to check the page.
    pub records: Option<PathBuf>,
    /// Where a Chrome trace of the same run goes.
    pub trace_out: Option<PathBuf>,
    /// When to give up.
    pub timeout: Duration,
}

/// Runs the demo or a scenario with a full trace and writes the page.
///
/// # Errors
/// Refused where it cannot start or a file cannot be written, failed where the run or its trace does not hold.
pub fn run(options: &Options, screen: &mut Screen) -> Result<(), Error> {
    let machine = MachineOptions { trace: true, ..options.machine.clone() };
    let (mut bytes, story, kernel) = match options.scenario {
        Some(scenario) => {
            let machine = match scenario {
                Scenario::SwapThenMigrate => MachineOptions { swap: SwapSize::Fixed(SWAP), ..machine },
                _ => machine,
            };
            let (bytes, kernel) = record::scenario(scenario, &machine, options.timeout, screen)?;
            (bytes, stories::of(scenario), kernel)
        }
        None => {
            let demo = demo::Options {
                kernel: None,
                input: options.input.clone(),
                machine,
                json: None,
                timeout: options.timeout,
                trace: Trace::Full,
                trace_out: None,
                inject: None,
                verbose: false,
                strict: false,
                debugger: None,
            };
            (demo::record(&demo, screen)?, stories::DEMO, record::kernel()?)
        }
    };
    if let Some(path) = &options.records {
        write(path, &bytes)?;
    }
    // Decoding takes the frames apart.
    let mut again = bytes.clone();
    let html = build(&mut bytes, &story, &crate::symbols::Symbols::of(&kernel))?;
    write(&options.out, html.as_bytes())?;
    if let Some(path) = &options.trace_out {
        trace::conclude(&mut again, Some(path), screen)?;
    }
    let size = Size(html.len().next_multiple_of(1 << 10) as u64);
    screen.plain(format_args!("report   {}: {size}; open it in a browser, from disk", options.out.display()));
    Ok(())
}

/// The page of a run whose event stream is `bytes`.
///
/// # Errors
/// Where the stream does not hold.
pub fn build(bytes: &mut [u8], story: &Story, symbols: &crate::symbols::Symbols) -> Result<String, Error> {
    let failed = |error: TraceError| demo::failure::Failure::Trace(error);
    let stream = Stream::decode(bytes).map_err(TraceError::from).map_err(failed)?;
    // A page that contradicts itself helps nobody.
    Replay::of(&stream, stream.records.len()).map_err(TraceError::from).map_err(failed)?;
    Ok(page::page(&stream, story, symbols))
}

fn write(path: &std::path::Path, bytes: &[u8]) -> Result<(), Refusal> {
    std::fs::write(path, bytes).map_err(|source| Refusal::Output { path: path.to_owned(), source })
}
