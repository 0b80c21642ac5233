//! Where lines come from: a person at a terminal, with editing, history and completion; or a script.
use std::collections::VecDeque;
use std::io::{self, BufRead, IsTerminal};
use std::path::{Path, PathBuf};

use ferry_protocol::shell::{COMMANDS, MAX_LINE_BYTES, PROMPT};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::Validator;
use rustyline::{Config, Context, Editor, Helper};

/// Why there are no lines.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The script cannot be read.
    #[error("cannot read the script {}: {source}; name a text file, or leave --script out and type", path.display())]
    Script {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Standard input cannot be read.
    #[error("cannot read commands from standard input: {0}; use --script FILE")]
    Standard(#[source] io::Error),
    /// The terminal cannot be used.
    #[error("cannot read from this terminal: {0}; use --script FILE")]
    Terminal(#[source] ReadlineError),
    /// A line is longer than the kernel takes.
    #[error("line {number} has {bytes} bytes, but a command has at most {MAX_LINE_BYTES}; make it shorter")]
    TooLong {
        /// Its number, from 1.
        number: usize,
        /// Its length.
        bytes: usize,
    },
}

/// Where lines come from.
pub enum Input {
    /// A person.
    Terminal(Box<Editor<Completion, MemHistory>>),
    /// A script, with the number of the line that comes next.
    Script {
        /// The lines that are left.
        lines: VecDeque<String>,
        /// How many have been handed out.
        read: usize,
    },
}

impl Input {
    /// The lines of a script; without one those of standard input, which may be a terminal.
    ///
    /// # Errors
    /// See [`InputError`].
    pub fn open(script: Option<&Path>) -> Result<Self, InputError> {
        let lines = match script {
            Some(path) => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|source| InputError::Script { path: path.to_owned(), source })?;
                text.lines().map(str::to_owned).collect()
            }
            None if io::stdin().is_terminal() => {
                let config = Config::builder().auto_add_history(true).build();
                let mut editor = Editor::with_history(config, MemHistory::new()).map_err(InputError::Terminal)?;
                editor.set_helper(Some(Completion::default()));
                return Ok(Self::Terminal(Box::new(editor)));
            }
            None => io::stdin().lock().lines().collect::<Result<VecDeque<_>, _>>().map_err(InputError::Standard)?,
        };
        for (number, line) in (1..).zip(&lines) {
            check(number, line)?;
        }
        Ok(Self::Script { lines, read: 0 })
    }

    /// Whether a person types, who sees what fails and goes on.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// The number of the line that was read last, from 1.
    pub fn line_number(&self) -> usize {
        match self {
            Self::Terminal(_) => 0,
            Self::Script { read, .. } => *read,
        }
    }

    /// The next line; `None` where there is none. A terminal has echoed it.
    ///
    /// # Errors
    /// See [`InputError`].
    pub fn next_line(&mut self) -> Result<Option<String>, InputError> {
        match self {
            Self::Terminal(editor) => loop {
                match editor.readline(PROMPT) {
                    Ok(line) if line.len() > MAX_LINE_BYTES => {
                        eprintln!("ferry: {}", InputError::TooLong { number: 1, bytes: line.len() })
                    }
                    Ok(line) => {
                        if let Some(helper) = editor.helper_mut() {
                            helper.learn(&line);
                        }
                        return Ok(Some(line));
                    }
                    // The interrupt key takes the line back, the end-of-input key ends the shell.
                    Err(ReadlineError::Interrupted) => {}
                    Err(ReadlineError::Eof) => return Ok(None),
                    Err(error) => return Err(InputError::Terminal(error)),
                }
            },
            Self::Script { lines, read } => {
                *read += 1;
                Ok(lines.pop_front())
            }
        }
    }
}

fn check(number: usize, line: &str) -> Result<(), InputError> {
    if line.len() > MAX_LINE_BYTES { Err(InputError::TooLong { number, bytes: line.len() }) } else { Ok(()) }
}

/// Completes commands, and the names that `map` was given.
#[derive(Default)]
pub struct Completion {
    names: Vec<String>,
}

impl Completion {
    fn learn(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        if let (Some("map"), Some(name)) = (words.next(), words.next()) {
            self.names.push(name.to_owned());
        }
    }

    /// Where the word that is being typed begins, and what it may become.
    fn candidates(&self, line: &str) -> (usize, Vec<String>) {
        let start = line.rfind(char::is_whitespace).map_or(0, |space| space + 1);
        let (before, word) = line.split_at(start);
        let commands = COMMANDS.iter().map(|command| command.name.to_owned());
        let words: Vec<String> = match before.trim() {
            "" | "help" | "trace" => commands.collect(),
            "break" | "repair" => vec!["flush".to_owned()],
            "step" => vec!["migrate".to_owned(), "fault".to_owned()],
            _ => self.names.clone(),
        };
        (start, words.into_iter().filter(|candidate| candidate.starts_with(word)).collect())
    }
}

impl Completer for Completion {
    type Candidate = String;

    fn complete(&self, line: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(self.candidates(&line[..position]))
    }
}

impl Hinter for Completion {
    type Hint = String;
}

impl Highlighter for Completion {}
impl Validator for Completion {}
impl Helper for Completion {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_names_are_completed() {
        let mut completion = Completion::default();
        completion.learn("map heap 16K");
        completion.learn("migrate stack");
        assert_eq!(completion.candidates("mi"), (0, vec!["migrate".to_owned()]));
        assert_eq!(completion.candidates("read h"), (5, vec!["heap".to_owned()]));
        assert_eq!(completion.candidates("step m"), (5, vec!["migrate".to_owned()]));
        assert_eq!(completion.candidates("help unp"), (5, vec!["unpin".to_owned()]));
        assert_eq!(completion.candidates("read st"), (5, vec![]));
    }

    #[test]
    fn a_line_that_is_too_long_is_named() {
        let error = check(3, &"x".repeat(MAX_LINE_BYTES + 1)).unwrap_err().to_string();
        assert!(error.starts_with("line 3 has 257 bytes"), "{error}");
    }
}
