//! The shell: every script of the book does what it says, mistakes are told, and a script that fails says where.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too, end a test by a panic")]

mod support;

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use ferry_protocol::shell::COMMANDS;
use support::{Ran, Scratch, ferry, run};

fn script(name: &str) -> Ran {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/scripts").join(name);
    run(ferry(&["shell", "--script"]).arg(path))
}

/// Types `text` into the shell's standard input.
fn typed(text: &str) -> Ran {
    let mut shell = ferry(&["shell"]);
    let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    Ran::of(child.wait_with_output().unwrap())
}

/// What the first command `line` of a transcript printed.
fn printed<'o>(out: &'o str, line: &str) -> Vec<&'o str> {
    let mut lines = out.lines().skip_while(|shown| *shown != format!("ferry> {line}")).skip(1);
    lines.by_ref().take_while(|shown| !shown.starts_with("ferry> ")).collect()
}

#[test]
fn a_first_session_shows_a_page_leave_and_return() {
    let ran = script("first-session.ferry");
    ran.is_verified();
    // Four phases, and the entry under way in between.
    for phase in ["phase 1, collect", "phase 2, check", "phase 3, copy", "phase 4, finalize"] {
        assert!(ran.out.lines().any(|line| line.starts_with(phase)), "{phase}\n{}", ran.out);
    }
    let steps = printed(&ran.out, "step migrate heap");
    assert!(steps.iter().any(|line| line.ends_with("not present: on its way (migrating)")), "{steps:?}");
    let leaves = printed(&ran.out, "pt heap 4");
    assert!(leaves.len() == 4 && leaves.iter().all(|line| line.contains("on device 0")), "{leaves:?}");
}

#[test]
fn without_its_flush_a_store_is_lost_and_with_it_none_is() {
    script("broken-flush.ferry").is_verified();
}

#[test]
fn a_fork_shares_until_a_store_and_a_pin_keeps_a_page() {
    script("shared-pages.ferry").is_verified();
}

#[test]
fn every_mistake_is_told_and_nothing_is_lost() {
    script("mistakes.ferry").is_verified();
}

#[test]
fn the_first_line_that_is_not_done_ends_a_script_and_is_named() {
    let ran = typed("map heap 4K\nread heap\nexpect is 0x0\n\n# a comment\nwrite nowhere 1\nread heap\n");
    ran.has_failed("line 6, \"write nowhere 1\", was not done; its error is above");
    assert!(ran.out.contains("error: nothing is called \"nowhere\"; there is heap"), "{}", ran.out);
    assert_eq!(printed(&ran.out, "read heap"), ["v0x123456789000 is 0x0 (1 fault: 1 page got the zero page)"]);
    assert_eq!(ran.out.matches("ferry> read heap").count(), 1, "it went on:\n{}", ran.out);
}

#[test]
fn an_expectation_that_is_not_met_fails_the_script() {
    let ran = typed("map heap 4K\nexpect 2 pages\nexpect error 2 pages\n");
    ran.has_failed("line 2, \"expect 2 pages\", was not done");
}

#[test]
fn everything_can_be_looked_at() {
    let mut lines =
        "map heap 8K\nwrite heap 1\ntrace migrate heap\nstats\nframes\nframes heap\ndevice\nspace\nunpin\nhelp\n"
            .to_owned();
    lines += "step fault heap write\ndevice invert heap\nevict\nmaps\ninject alloc 1000000\n";
    for command in COMMANDS {
        lines += &format!("help {}\n", command.name);
    }
    let ran = typed(&lines);
    ran.is_verified();
    let traced = printed(&ran.out, "trace migrate heap");
    for part in ["migration of 2 pages to device 0: collect", "| entry L1 of v0x123456789000: present", "| flush of "] {
        assert!(traced.iter().any(|line| line.contains(part)), "{part}: {traced:#?}");
    }
    assert_eq!(printed(&ran.out, "help").len(), COMMANDS.len() + 1);
    for command in COMMANDS {
        assert_eq!(printed(&ran.out, &format!("help {}", command.name)).len(), 3, "{}", command.name);
    }
}

#[test]
fn what_cannot_be_read_is_refused_before_anything_is_booted() {
    run(&mut ferry(&["shell", "--script", "/nowhere/at.all"])).is_refused("cannot read the script /nowhere/at.all");
    let scratch = Scratch::new();
    let long = scratch.file("long", format!("help\n{}\n", "x".repeat(300)));
    run(ferry(&["shell", "--script"]).arg(long)).is_refused("line 2 has 300 bytes");
}
