//! The book as a test: each command that a page of `docs/` or README shows is run, and must print what the page shows.
//!
//! Cases are named `book::`, the page, and the command, such as `book::walk: ./run.sh shell --script docs/scripts/walk.ferry`.
//! How a block is written, and what may vary, is in `support/console_block.rs`.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too, end a test by a panic")]

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ferry::artifacts::workspace;
use libtest_mimic::{Arguments, Failed, Trial};
use support::console_block::{CHECKS, Shown, chapter, commands, compare};
use support::{ferry, run};

/// Pages of `docs/` that teach nothing by themselves: lists that other tests hold against the source, and the figures of a bench
/// that takes longer than the rest of the book.
const WITHOUT_A_COMMAND: [&str; 5] = ["SUMMARY", "costs", "lessons", "rules", "testing"];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let pages = pages();
    let mut trials: Vec<_> = pages.iter().flat_map(|path| of_page(path)).collect();
    trials.extend(CHECKS.map(|(name, check)| {
        let check = move || {
            check();
            Ok(())
        };
        Trial::test(format!("book::comparison::{name}"), check)
    }));
    trials.push(Trial::test("book::every_chapter_has_a_command", every_chapter_has_a_command));
    trials.push(Trial::test("book::every_script_is_run_by_somebody", every_script_is_run_by_somebody));
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn pages() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(workspace().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    pages.sort();
    pages.push(workspace().join("README.md"));
    pages
}

fn of_page(path: &Path) -> Vec<Trial> {
    let page = chapter(path);
    match commands(&std::fs::read_to_string(path).unwrap()) {
        Ok(shown) => {
            let trial = |shown: Shown| Trial::test(format!("book::{page}: {}", shown.command), move || check(&shown));
            shown.into_iter().map(trial).collect()
        }
        Err(wrong) => vec![Trial::test(format!("book::{page}"), move || Err(Failed::from(&wrong)))],
    }
}

/// Runs a command and compares.
fn check(shown: &Shown) -> Result<(), Failed> {
    let words: Vec<_> = shown.command.split_whitespace().collect();
    let ["./run.sh", arguments @ ..] = &*words else {
        return Err(format!("a command begins with ./run.sh, and this one is {:?}", shown.command).into());
    };
    let ran = run(ferry(arguments).current_dir(workspace()));
    if ran.status != 0 {
        return Err(format!("it ended with status {}:\n{}{}", ran.status, ran.out, ran.err).into());
    }
    compare(&shown.prints, &ran.out).map_err(|wrong| format!("{wrong}\n\nall of it, now:\n{}", ran.out).into())
}

fn every_chapter_has_a_command() -> Result<(), Failed> {
    let has_none = |path: &PathBuf| commands(&std::fs::read_to_string(path).unwrap()).is_ok_and(|all| all.is_empty());
    let chapters = pages().into_iter().filter(|path| path.parent().is_some_and(|parent| parent.ends_with("docs")));
    let without: Vec<_> = chapters.filter(has_none).map(|path| chapter(&path)).collect();
    if without == WITHOUT_A_COMMAND { Ok(()) } else { Err(format!("these have no command: {without:?}").into()) }
}

fn every_script_is_run_by_somebody() -> Result<(), Failed> {
    let scripts = std::fs::read_dir(workspace().join("docs/scripts")).unwrap();
    let mut idle: BTreeSet<_> = scripts.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let mut readers = vec![workspace().join("boot/runner/tests/shell.rs")];
    readers.extend(pages());
    for reader in readers {
        let text = std::fs::read_to_string(reader).unwrap();
        idle.retain(|script| !text.contains(&**script));
    }
    if idle.is_empty() { Ok(()) } else { Err(format!("nobody runs {idle:?}").into()) }
}
