//! What the tool refuses, and how it ends when QEMU or the user ends things: without a boot of the real machine.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too, end a test by a panic")]

mod support;

use std::process::Stdio;
use std::time::{Duration, Instant};

use support::{Scratch, ferry, run};

fn refused(arguments: &[&str], part: &str) {
    run(&mut ferry(arguments)).is_refused(part);
}

#[test]
fn commands_and_options_that_do_not_exist() {
    refused(&["dance"], "unrecognized subcommand 'dance'");
    refused(&["demo", "--fast"], "unexpected argument '--fast'");
    refused(&["--fast"], "unexpected argument '--fast'");
    refused(&["demo", "file"], "unexpected argument 'file'");
    refused(&["test", "--exact"], "<FILTER>");
    refused(&["mutants", "--filter", "no-such-mutant"], "no mutant's name contains \"no-such-mutant\"");
    refused(&["mutants", "--list", "--json", "file"], "--json");
    refused(&["run", "pingpong"], "no experiment 'pingpong' in kernel/examples (did you mean ping_pong?)");
    refused(&["run", "../ping_pong"], "did you mean ping_pong?");
    refused(&["run", "ping_pong", "--memory", "1M"], "give it at least --memory");
    refused(&["explore", "--schedules", "0"], "--schedules");
    refused(&["explore", "--seed", "mine"], "--seed");
    refused(&["explore", "--mutant", "tea"], "no mutant is named tea");
    refused(&["explore", "--broken", "no-flush", "--seed", "1"], "cannot be used with");
    refused(&["fuzz", "--target", "tea"], "there is no target 'tea'");
    refused(&["fuzz", "--input", "file"], "--target");
    refused(&["fuzz", "--seed", "0"], "--seed");
}

#[test]
fn sizes_that_make_no_sense() {
    refused(&["--memory", "lots"], "such as 64M");
    refused(&["--memory", "0"], "give it at least --memory");
    refused(&["--memory", "1M"], "give it at least --memory");
    refused(&["--memory", "99999999G"], "is too large");
    refused(&["--vram", "3M"], "use 2M or 4M");
    refused(&["--vram", "4K"], "use at least 1M");
    refused(&["--vram", "1024G"], "use at most 64G");
    refused(&["--cpus", "9"], "9 is not in 1..=8");
    refused(&["--cpus", "0"], "--cpus");
    refused(&["--timeout", "0"], "--timeout");
}

#[test]
fn values_that_do_not_exist() {
    refused(&["--device", "floppy"], "choose none or ivshmem");
    refused(&["--device", "ivshmem,addr=77"], "addr=1 to addr=30");
    refused(&["--inject", "tea:1"], "alloc:N");
    refused(&["--inject", "copy:0"], "from 1");
    refused(&["--accel", "magic"], "--accel");
}

#[test]
fn files_that_cannot_be_the_input() {
    refused(&["--input", "/no/such/file"], "there is no file /no/such/file");
    refused(&["--input", "/"], "/ is a directory");
    refused(&["--input", "/dev/zero"], "/dev/zero is a pipe or a device");
    refused(&["--input", ""], "a value is required");
    let scratch = Scratch::new();
    let large = scratch.path().join("large");
    std::fs::File::create(&large).unwrap().set_len(300 << 20).unwrap();
    let without_swap = ["--swap", "0", "--input", large.to_str().unwrap()];
    refused(&without_swap, "but --memory 256M with --swap 0 leaves room for");
    refused(&without_swap, "use --memory 512M");
    refused(&["--memory", "32M", "--swap", "64M", "--input", large.to_str().unwrap()], "leaves room for");
}

#[test]
fn an_input_that_this_user_may_not_read() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    let secret = scratch.file("secret", "x");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::read(&secret).is_ok() {
        // Root may read everything; a file below a file nobody can.
        refused(&["--input", secret.join("below").to_str().unwrap()], "cannot read");
    } else {
        refused(&["--input", secret.to_str().unwrap()], "cannot read");
    }
}

#[test]
fn json_that_cannot_be_written() {
    let scratch = Scratch::new();
    let json = scratch.path().join("missing/result.json");
    let ran = run(ferry(&["--json"]).arg(json).env("PATH", with_qemu(&scratch, "exit 1")));
    ran.is_refused("cannot write");
}

#[test]
fn help_and_version_are_no_errors() {
    for arguments in [["--help"], ["--version"], ["-h"], ["-V"]] {
        let ran = run(&mut ferry(&arguments));
        assert_eq!((ran.status, ran.err.as_str()), (0, ""));
        assert!(ran.out.contains("erry"));
    }
}

/// A `PATH` whose QEMU says version 7.2 and then does `body`; the rest is the machine's own.
fn with_qemu(scratch: &Scratch, body: &str) -> String {
    let version = r#"if [[ "$*" == --version ]]; then echo "QEMU emulator version 7.2.0 (test)"; exit; fi"#;
    scratch.script("qemu-system-x86_64", &format!("{version}\n{body}"));
    format!("{}:{}", scratch.path().display(), std::env::var("PATH").unwrap())
}

#[test]
fn qemu_missing_or_too_old() {
    let scratch = Scratch::new();
    let ran = run(ferry(&[]).env("PATH", scratch.path()));
    ran.is_refused("qemu-system-x86_64 is not installed; on Debian and Ubuntu: apt-get install");
    scratch.script("qemu-system-x86_64", "echo QEMU emulator version 6.2.0");
    let ran = run(ferry(&[]).env("PATH", scratch.path()));
    ran.is_refused("is version 6.2, but Ferry needs 7.2 or newer");
    scratch.script("qemu-system-x86_64", "echo something else");
    run(ferry(&[]).env("PATH", scratch.path())).is_refused("names no version");
}

#[test]
fn qemu_that_does_not_start_is_quoted() {
    let scratch = Scratch::new();
    let path = with_qemu(&scratch, "echo 'no such device: ivshmem-plain' >&2; exit 1");
    let ran = run(ferry(&[]).env("PATH", path));
    assert_eq!(ran.status, 2, "{}{}", ran.out, ran.err);
    assert!(ran.err.contains("no such device: ivshmem-plain") && ran.err.contains("./run.sh doctor"), "{}", ran.err);
}

#[test]
fn a_machine_that_resets_is_a_triple_fault() {
    let scratch = Scratch::new();
    let ran = run(ferry(&[]).env("PATH", with_qemu(&scratch, "echo hello; exit 0")));
    ran.has_failed("triple fault");
}

#[test]
fn a_run_that_does_not_end_is_ended_and_leaves_nothing() {
    let scratch = Scratch::new();
    let path = with_qemu(&scratch, "echo $$ > $(dirname $0)/pid; printf 'first\\nlast words'; exec sleep 1000");
    let ran = run(ferry(&["--timeout", "1"]).env("PATH", path));
    ran.has_failed("did not end within 1 s");
    assert!(ran.err.contains("last words"), "{}", ran.err);
    assert!(!is_alive(&scratch), "QEMU still runs");
}

#[test]
fn an_interrupt_ends_everything() {
    let scratch = Scratch::new();
    let path = with_qemu(&scratch, "echo $$ > $(dirname $0)/pid; exec sleep 1000");
    let mut child = ferry(&[]).env("PATH", path).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let directories = || {
        let prefix = format!("ferry-{}-", child.id());
        let names = std::fs::read_dir("/dev/shm").unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_str().is_some_and(|name| name.starts_with(&prefix))).count()
    };
    wait_until("QEMU runs", || scratch.path().join("pid").exists() && is_alive(&scratch));
    let before = directories();
    let interrupted = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    wait_until("its directory is gone", || directories() == 0);
    assert_eq!(child.wait().unwrap().code(), Some(130), "as shells report SIGINT; {before} directories before");
    wait_until("QEMU is gone", || !is_alive(&scratch));
}

fn is_alive(scratch: &Scratch) -> bool {
    let pid = std::fs::read_to_string(scratch.path().join("pid")).unwrap_or_default();
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap_or_default();
    // A zombie has ended and waits for its new parent.
    !pid.trim().is_empty() && !status.is_empty() && !status.contains("State:\tZ")
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    // A build of the kernel may come first.
    let deadline = Instant::now() + Duration::from_secs(300);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
