//! Tests in the kernel that are made to fail: each must be reported as exactly what it is.
//!
//! They are the kernel's `harness::dies`; its list of tests leaves them out.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too, end a test by a panic")]

use std::sync::OnceLock;
use std::time::Duration;

use ferry::kernel_tests::{Outcome, Report, Session, Suite};
use ferry::qemu::End;
use ferry_protocol::exit::ExitCode;

/// Long enough for a boot and a report, short enough to wait for a test that hangs.
const HANGS_AFTER: Duration = Duration::from_secs(10);

/// One of them dies on CPU 2; how many CPUs other tests have does not matter here.
const CPUS: u32 = 3;

fn suite() -> Suite {
    static SUITE: OnceLock<Suite> = OnceLock::new();
    SUITE.get_or_init(|| Suite::build().unwrap().with_timeout(HANGS_AFTER).with_cpus(CPUS)).clone()
}

fn report(name: &str) -> Report {
    let name = format!("harness::dies::{name}");
    Session::new(suite(), [name.clone()]).run(&name).expect_err("a test that is made to fail")
}

/// Checks that the kernel was lost with this code, and that its report says these words.
fn lost(name: &str, code: ExitCode, words: &[&str]) {
    let report = report(name);
    assert_eq!(report.outcome, Outcome::Lost(End::Code(code)), "{report}");
    let text = report.lines.join("\n");
    for word in words {
        assert!(text.contains(word), "{name}: {word:?} is not in\n{text}");
    }
}

#[test]
fn a_failure_names_its_place() {
    let report = report("fails");
    assert!(matches!(&report.outcome, Outcome::Failed(why) if why.contains("dies.rs:")), "{report}");
}

#[test]
fn a_leak_names_the_difference() {
    let report = report("leaks");
    assert!(matches!(&report.outcome, Outcome::Leaked(difference) if difference.contains("heap")), "{report}");
}

#[test]
fn a_hang_is_a_hang() {
    let report = report("hangs");
    assert_eq!(report.outcome, Outcome::Hung(HANGS_AFTER), "{report}");
    assert!(report.lines.iter().any(|line| line.contains("harness::dies::hangs")), "{report}");
}

#[test]
fn panics() {
    lost("panics", ExitCode::Panic, &["a panic on purpose", "dies.rs"]);
    lost("panics_twice", ExitCode::NestedPanic, &[]);
}

#[test]
fn another_cpu() {
    lost("panics_on_another_cpu", ExitCode::Panic, &["==== panic on CPU 2 ====", "not where the test began"]);
    let report = ["==== invalid opcode on CPU 1 ====", "meets_an_invalid_instruction_on_another_cpu"];
    lost("meets_an_invalid_instruction_on_another_cpu", ExitCode::UnexpectedException, &report);
    lost("overflows_the_stack_of_another_cpu", ExitCode::StackOverflow, &["==== stack overflow on CPU 1 ===="]);
}

#[test]
fn a_cpu_that_does_not_answer_a_flush_is_named() {
    let (name, answers_within) = ("harness::dies::flushes_a_cpu_that_does_not_answer", Duration::from_secs(60));
    let suite = suite().with_timeout(answers_within);
    let report = Session::new(suite, [name.to_owned()]).run(name).expect_err("a test that is made to fail");
    assert_eq!(report.outcome, Outcome::Lost(End::Code(ExitCode::Panic)), "{report}");
    let text = report.lines.join("\n");
    assert!(text.contains("CPU 1 has not answered a flush") && text.contains("panic on CPU 0"), "{report}");
}

#[test]
fn backtraces_carry_symbols() {
    lost("panics", ExitCode::Panic, &["harness::dies::panics", " at kernel/src/harness/dies.rs:"]);
}

#[test]
fn stray_accesses() {
    lost("reads_a_null_pointer", ExitCode::UnexpectedException, &[]);
    lost("writes_to_code", ExitCode::UnexpectedException, &[]);
    lost("executes_data", ExitCode::UnexpectedException, &[]);
    lost("reads_a_pointer_that_is_not_canonical", ExitCode::UnexpectedException, &[]);
    lost("meets_an_invalid_instruction", ExitCode::UnexpectedException, &[]);
}

#[test]
fn locks_against_their_rules() {
    for (name, broken) in [
        ("takes_locks_in_a_forbidden_order", "lock order: Frames is wanted while Trace is held"),
        ("allocates_inside_the_fault_handler", "lock order: Heap is wanted in a page fault"),
        ("prints_in_an_interrupt_handler", "lock order: Console is wanted in an interrupt handler"),
        ("allocates_frames_while_a_lock_forbids_it", "lock order: a frame is wanted while Driver is held"),
        (
            "waits_for_the_disk_while_a_lock_forbids_it",
            "lock order: a disk or a device is waited for while Areas is held",
        ),
    ] {
        lost(name, ExitCode::Panic, &[broken]);
    }
}

#[test]
fn a_stack_overflow() {
    lost("overflows_its_stack", ExitCode::StackOverflow, &["stack"]);
}

#[test]
fn a_test_that_loses_the_kernel_does_not_take_the_next_one_along() {
    // In the order of the kernel's own list. The second boot has a failure behind it, too.
    let names = ["fails", "leaks", "panics", "reads_a_null_pointer"].map(|name| format!("harness::dies::{name}"));
    let mut session = Session::new(suite(), names.clone());
    let outcomes = names.map(|name| session.run(&name).unwrap_err().outcome);
    assert!(matches!(outcomes[0], Outcome::Failed(_)), "{:?}", outcomes[0]);
    assert!(matches!(outcomes[1], Outcome::Leaked(_)), "{:?}", outcomes[1]);
    assert_eq!(outcomes[2], Outcome::Lost(End::Code(ExitCode::Panic)));
    assert_eq!(outcomes[3], Outcome::Lost(End::Code(ExitCode::UnexpectedException)));
}

#[test]
fn a_test_that_does_not_exist_fails() {
    let report = Session::new(suite(), ["no::such::test".to_owned()]).run("no::such::test").unwrap_err();
    assert!(matches!(report.outcome, Outcome::Failed(_)), "{report}");
}
