//! The event stream end to end: the demo's events alone rebuild the guest's tables at every checkpoint.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too, end a test by a panic")]

mod support;

use support::{Scratch, demo, noise};
use tinyjson::JsonValue;

/// Ferries some pages with these arguments; what the tool said.
fn traced(pages: usize, arguments: &[&str]) -> String {
    let scratch = Scratch::new();
    let input = scratch.file("input", noise(pages * 4096));
    let (ran, _) = demo(&[&["--input", input.to_str().unwrap()], arguments].concat());
    ran.is_verified();
    ran.out
}

/// The number before ` events` in the last line.
fn events(out: &str) -> u64 {
    let line = out.lines().last().unwrap();
    let count = line.strip_prefix("trace    ").unwrap().split(' ').next().unwrap();
    count.replace(',', "").parse().unwrap()
}

#[test]
fn the_events_of_a_demo_rebuild_its_tables_at_every_checkpoint() {
    // The host compares at each checkpoint and stops the run where anything differs; one line tells of each comparison.
    let out = traced(300, &["--trace", "full", "--vram", "1M"]);
    let compared: Vec<&str> = out.lines().filter(|line| line.contains(" events replayed: ")).collect();
    // Three checkpoints in each of two rounds, one before and one after them.
    assert_eq!(compared.len(), 8, "{out}");
    // Four entries on the way to each page, until there is no page any more.
    assert!(compared[..7].iter().all(|line| line.ends_with(" 1,200 entries as in guest RAM")), "{compared:?}");
    assert!(out.ends_with(" none lost\n"), "{out}");
}

#[test]
fn a_ring_keeps_the_newest_events_and_counts_the_others() {
    let out = traced(1000, &["--trace", "ring"]);
    assert!(events(&out) >= 8192 && out.contains(" older ones lost"), "{out}");
    let few = traced(3, &["--trace", "ring"]);
    assert!(events(&few) > 50 && few.ends_with(" none lost\n"), "{few}");
}

#[test]
fn a_run_becomes_a_chrome_trace() {
    let scratch = Scratch::new();
    let path = scratch.path().join("trace.json");
    let out = traced(5, &["--trace-out", path.to_str().unwrap()]);
    assert!(events(&out) > 50);
    let json: JsonValue = std::fs::read_to_string(path).unwrap().parse().unwrap();
    let events: &Vec<JsonValue> = json["traceEvents"].get().unwrap();
    let named = |name: &str| events.iter().filter(|event| event["name"].get::<String>().unwrap() == name).count();
    assert_eq!([named("collect"), named("unmap"), named("copy"), named("finalize")], [1; 4]);
    let faults = events.iter().filter(|event| event["name"].get::<String>().unwrap().starts_with("fault "));
    // Each page once for its first store, and once on its way home.
    assert_eq!(faults.count(), 10);
}

#[test]
fn without_a_trace_there_is_no_third_port() {
    let (ran, _) = demo(&["--verbose"]);
    ran.is_verified();
    assert!(!ran.err.contains("chardev:trace") && !ran.out.contains("trace "), "{}", ran.err);
}
