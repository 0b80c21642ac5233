//! The explorer: its own tests, and what its command says.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too, end a test by a panic")]

mod support;

use std::process::Command;

use ferry::artifacts::{cargo, workspace};
use ferry::explore::{MANIFEST, target_directory};
use support::{ferry, run};

/// It is a workspace of its own, so that Cargo does not come to its tests by itself.
#[test]
fn the_tests_of_the_explorer_pass() {
    let mut tests = Command::new(cargo());
    tests.current_dir(workspace()).args(["test", "--release", "--locked", "--quiet", "--manifest-path", MANIFEST]);
    let output = tests.arg("--target-dir").arg(target_directory()).output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{out}\n{err}");
}

#[test]
fn schedules_are_counted() {
    let ran = run(&mut ferry(&["explore", "--schedules", "40", "--seed", "9"]));
    assert_eq!(ran.status, 0, "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("schedules  40 managed") && !ran.out.contains("model"), "{}", ran.out);
}

#[test]
fn a_mistake_in_the_protocol_is_shown_and_one_that_does_not_exist_is_refused() {
    let ran = run(&mut ferry(&["explore", "--broken", "free-before-answers"]));
    assert_eq!(ran.status, 1, "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("replay it with: ./run.sh explore --model --broken free-before-answers"), "{}", ran.out);
    let ran = run(&mut ferry(&["explore", "--broken", "tea"]));
    assert_eq!(ran.status, 2, "{}{}", ran.out, ran.err);
    assert!(ran.err.contains("choose one of no-flush"), "{}", ran.err);
}
