//! The soak: a short one, and how it refuses what it cannot do. Long ones are a command of their own.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too, end a test by a panic")]

mod support;

use support::{ferry, run};

#[test]
fn a_round_on_four_cpus_holds_and_tells_what_was_done() {
    let ran = run(&mut ferry(&["soak", "--rounds", "1", "--seed", "7"]));
    ran.is_verified();
    let counts: Vec<u64> = ran
        .out
        .lines()
        .filter_map(|line| {
            let [_, done, refused] = line.split_whitespace().collect::<Vec<_>>().try_into().ok()?;
            let number = |text: &str| text.replace(',', "").parse::<u64>().ok();
            Some(number(done)? + number(refused)?)
        })
        .collect();
    // Every action, and four CPUs with 600 of them each.
    assert_eq!((counts.len(), counts.iter().sum::<u64>()), (16, 2400), "{}", ran.out);
    assert!(counts.iter().all(|count| *count > 0), "{}", ran.out);
    assert!(ran.out.contains("no violation in 1 rounds with 2,400 actions on 4 CPUs"), "{}", ran.out);
}

#[test]
fn a_round_without_its_seed_is_refused() {
    let ran = run(&mut ferry(&["soak", "--round", "3"]));
    ran.is_refused("--seed");
}
