//! What libFuzzer says on its standard error, as numbers and as a finding.
//!
//! ```text
//!   #4096  NEW  cov: 412 ft: 980 corp: 98/4Kb ...        places of the code reached, inputs kept
//!   thread '<unnamed>' panicked at ...                   what was found: from here ...
//!   ==123== ERROR: libFuzzer: deadly signal              ... to here
//!   ... Test unit written to FILE                        the input
//!   stat::number_of_executed_units: 4096                 inputs
//! ```
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::engine::EngineError;

/// Lines of its end that are shown where it ended for no known reason.
const LAST_LINES: usize = 5;

/// What was seen of a run.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Watched {
    /// Inputs tried.
    pub inputs: u64,
    /// Edges of the code that some input has reached.
    pub places: u64,
    /// Inputs that reach something that the others do not.
    pub kept: u64,
    /// What an input broke.
    pub finding: Option<String>,
    /// That input.
    pub file: Option<PathBuf>,
}

/// Runs it to its end.
///
/// # Errors
/// It cannot be run, or ends without a finding and not well.
pub(super) fn watch(mut fuzzer: Command) -> Result<Watched, EngineError> {
    let output = fuzzer.stdout(Stdio::null()).stderr(Stdio::piped()).output().map_err(EngineError::Run)?;
    let text = String::from_utf8_lossy(&output.stderr);
    let mut watched = read(&text);
    if output.status.success() {
        watched.finding = None;
    } else if watched.finding.is_none() {
        let lines: Vec<_> = text.lines().rev().take(LAST_LINES).collect();
        let last: Vec<_> = lines.into_iter().rev().collect();
        return Err(EngineError::Ended(format!("{} ({})", last.join(" | "), output.status)));
    }
    Ok(watched)
}

fn read(text: &str) -> Watched {
    let mut watched = Watched::default();
    let mut finding: Vec<&str> = Vec::new();
    let mut is_finding = false;
    for line in text.lines() {
        let after = |word: &str| line.split_once(word).map(|(_, rest)| rest.trim_start());
        if let Some(number) = after(" cov: ").and_then(leading_number) {
            watched.places = number;
        }
        watched.kept = after(" corp: ").and_then(leading_number).unwrap_or(watched.kept);
        if let Some(number) = line.strip_prefix('#').and_then(leading_number) {
            watched.inputs = number;
        }
        if let Some(number) = after("stat::number_of_executed_units:").and_then(leading_number) {
            watched.inputs = number;
        }
        if let Some(file) = after("Test unit written to ") {
            watched.file = Some(PathBuf::from(file));
        }
        is_finding |= line.starts_with("thread '");
        if let Some(error) = after("ERROR: libFuzzer: ") {
            // A panic has said it better; a hang and a signal of the CPU have nobody else to say it.
            if !is_finding {
                finding.push(error);
            }
            is_finding = false;
        }
        if is_finding && !line.trim().is_empty() && !line.starts_with("note: ") {
            finding.push(line);
        }
    }
    watched.finding = (!finding.is_empty()).then(|| finding.join("\n"));
    watched
}

fn leading_number(text: &str) -> Option<u64> {
    text.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_end() {
        let text = "INFO: Seed: 1\n#2\tINITED cov: 20 ft: 21 corp: 1/1b\n#4096\tNEW    cov: 412 ft: 980 corp: 98/4Kb lim: 4\n\
                    Done 5000 runs in 2 second(s)\nstat::number_of_executed_units: 5000\n";
        let expected = Watched { inputs: 5000, places: 412, kept: 98, finding: None, file: None };
        assert_eq!(read(text), expected);
    }

    #[test]
    fn a_panic_and_its_input_are_found() {
        let text = "#7\tNEW    cov: 3 ft: 4 corp: 2/4Kb\n\nthread '<unnamed>' (9) panicked at a.rs:5:9:\nassertion failed\n  left: 1\n\
                    note: run with `RUST_BACKTRACE=1`\n==9== ERROR: libFuzzer: deadly signal\nNOTE: libFuzzer has\n\
                    artifact_prefix='f/'; Test unit written to f/acpi-crash-1\n";
        let watched = read(text);
        assert_eq!(
            watched.finding.as_deref(),
            Some("thread '<unnamed>' (9) panicked at a.rs:5:9:\nassertion failed\n  left: 1")
        );
        assert_eq!((watched.file, watched.inputs), (Some("f/acpi-crash-1".into()), 7));
    }

    #[test]
    fn a_hang_is_a_finding_without_a_panic() {
        let watched =
            read("ALARM: working on the last Unit for 10 seconds\n==9== ERROR: libFuzzer: timeout after 10 seconds\n");
        assert_eq!(watched.finding.as_deref(), Some("timeout after 10 seconds"));
    }
}
