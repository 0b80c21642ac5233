//! gdb with the commands that know pages, against what `ferry` reads from outside at the same moment.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too, end a test by a panic")]

mod support;

use support::{Scratch, ferry, noise, run};

/// Bytes of the input: three pages.
const INPUT_BYTES: usize = 2 * 4096 + 100;

/// Where the kernel maps the input, and the page that `ferry` shows: the middle one.
const SAMPLE: &str = "0x12345678a000";

/// Stops where the kernel waits for the host's answer at its second checkpoint: the pages are on the device.
const AT_SECOND_CHECKPOINT: &str = "break ferry_kernel::link::wait\ncontinue\ncontinue\n";

fn debug(scratch: &Scratch, commands: &str) -> support::Ran {
    let input = scratch.file("input", noise(INPUT_BYTES));
    let batch = scratch.file("batch", commands);
    run(ferry(&["debug", "--input"]).arg(input).arg("--batch").arg(batch))
}

/// The lines that tell an entry of this level, without what stands before them.
fn entries<'o>(out: &'o str, level: &str) -> Vec<&'o str> {
    out.lines().filter_map(|line| line.find(level).map(|start| &line[start..])).collect()
}

#[test]
fn the_walk_is_the_one_from_outside() {
    let scratch = Scratch::new();
    let commands = format!("{AT_SECOND_CHECKPOINT}ferry walk {SAMPLE}\n");
    let ran = debug(&scratch, &commands);
    ran.is_verified();
    // Populated from outside, migrated from outside and by gdb, home from outside; the upper tables stay.
    for level in ["L4[", "L3[", "L2["] {
        let lines = entries(&ran.out, level);
        assert!(lines.len() >= 3 && lines.iter().all(|line| *line == lines[0]), "{lines:?}");
    }
    let leaves = entries(&ran.out, "L1[");
    let away: Vec<_> = leaves.iter().filter(|line| line.contains("on device 0")).collect();
    assert!(away.len() >= 2 && away.iter().all(|line| *line == away[0]), "{leaves:?}\n{}", ran.out);
}

#[test]
fn areas_and_frames_are_what_the_memory_manager_knows() {
    let scratch = Scratch::new();
    let commands = format!(
        "break ferry_kernel::link::wait\ncontinue\nferry areas\nferry walk {SAMPLE}\n\
         python gdb.execute('ferry frame %d' % (list(walk(number('$cr3'), {SAMPLE}))[-1][2] % (1 << 52) >> 12))\n\
         ferry entry 0x000fffffffef4602\n"
    );
    let ran = debug(&scratch, &commands);
    ran.is_verified();
    assert!(ran.out.contains("  v0x0000123456789000  3 pages, read, write\n"), "{}", ran.out);
    assert!(ran.out.contains(": an anonymous page, 1 references, 1 mappings, 0 pins, not locked\n"), "{}", ran.out);
    let told = "0x000fffffffef4602  not present: on device 0, device frame 267; writable when it comes home\n";
    assert!(ran.out.contains(told), "{}", ran.out);
}

#[test]
fn a_command_that_fails_is_the_runs_failure() {
    let scratch = Scratch::new();
    let ran = debug(&scratch, "ferry walk\n");
    ran.has_failed("a command for gdb failed");
    assert!(ran.err.contains("ferry walk ADDRESS: give an address"), "{}", ran.err);
}
