//! Output for people: lines on standard output, a progress bar on standard error where that is a terminal.
//!
//! A reader that goes away (`ferry | head`) is no reason to stop: what cannot be written is dropped.
use std::fmt::Display;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A step shorter than this shows no bar.
const BAR_AFTER: Duration = Duration::from_millis(300);

/// Width of the column with the time.
const TIME_WIDTH: usize = 8;

/// Where a run is shown.
pub struct Screen {
    started: Instant,
    bar: Option<Bar>,
}

struct Bar {
    label: &'static str,
    since: Instant,
    shown: ProgressBar,
}

impl Screen {
    /// A screen whose clock starts now.
    pub fn new() -> Self {
        Self { started: Instant::now(), bar: None }
    }

    /// Time since the screen was made or its clock restarted.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Starts the clock anew.
    pub fn restart_clock(&mut self) {
        self.started = Instant::now();
    }

    /// A line without the time.
    pub fn plain(&self, text: impl Display) {
        let write = || {
            // See the module's text: a closed pipe is not an error.
            let _ = writeln!(io::stdout(), "{text}");
        };
        match &self.bar {
            Some(bar) => bar.shown.suspend(write),
            None => write(),
        }
    }

    /// A line of what has just happened, with the time since the start.
    pub fn event(&self, text: impl Display) {
        let seconds = self.elapsed().as_secs_f64();
        self.plain(format_args!("{seconds:>width$.2} s  {text}", width = TIME_WIDTH - 2));
    }

    /// A line that belongs to the event above.
    pub fn detail(&self, text: impl Display) {
        self.plain(format_args!("{:TIME_WIDTH$}  {text}", ""));
    }

    /// How far the step called `label` is.
    pub fn progress(&mut self, label: &'static str, done: u64, total: u64) {
        if self.bar.as_ref().is_none_or(|bar| bar.label != label) {
            self.clear_progress();
            self.bar = Some(Bar { label, since: Instant::now(), shown: ProgressBar::hidden() });
        }
        if let Some(bar) = &mut self.bar {
            if bar.shown.is_hidden() && bar.since.elapsed() >= BAR_AFTER {
                bar.shown = visible(label, total);
            }
            bar.shown.set_position(done.min(total));
        }
    }

    /// Takes the bar away.
    pub fn clear_progress(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.shown.finish_and_clear();
        }
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

/// A bar on standard error; hidden by itself where that is no terminal.
fn visible(label: &'static str, total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{prefix:>12} [{bar:40}] {human_pos}/{human_len} pages");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar.set_prefix(label);
    bar
}
