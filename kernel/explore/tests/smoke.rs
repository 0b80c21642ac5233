//! A little of everything, in seconds: some schedules, a small model, and protocols that must be found broken.
use std::process::Command;

use ferry_explore::model::broken::Broken;
use ferry_explore::model::{CASTS, check};
use ferry_explore::schedules::{Options, explore};

/// Casts of which the model is small.
const SMALL: std::ops::Range<usize> = 2..4;

/// Casts in one of which each mistake shows.
const TELLING: std::ops::Range<usize> = 1..4;

#[test]
fn some_schedules_show_no_violation() {
    // Where one does, the process ends and says which.
    let explored = explore(Options { seed: 1, schedules: 300, time: None });
    assert_eq!(explored.schedules, 300);
    assert!(explored.steps > 300 * 100, "{explored:?}");
}

#[test]
fn one_seed_is_one_schedule() {
    let steps = |seed| explore(Options { seed, schedules: 1, time: None }).steps;
    for seed in [1, 2, 3] {
        assert_eq!(steps(seed), steps(seed), "seed {seed}");
    }
}

#[test]
fn the_protocol_holds_in_every_interleaving_of_two_casts() {
    let checked = check(&CASTS[SMALL], None);
    assert!(checked.violation.is_none(), "{:?}", checked.violation);
    assert!(checked.transitions > 1_000_000, "{checked:?}");
}

#[test]
fn every_broken_protocol_is_found() {
    for (name, broken) in Broken::ALL {
        assert!(check(&CASTS[TELLING], Some(broken)).violation.is_some(), "{name} is not found");
    }
}

#[test]
fn a_violation_is_shown_with_its_steps_and_ends_with_status_1() {
    let output = Command::new(env!("CARGO_BIN_EXE_ferry-explore")).args(["--broken", "deaf-waits"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("nobody waits for ever") && text.contains("--model --broken deaf-waits"), "{text}");
}
