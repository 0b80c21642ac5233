//! `run.sh` on machines where something is missing, played by a `PATH` of our own.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too, end a test by a panic")]

mod support;

use std::process::Command;

use support::{Ran, Scratch, run};

/// Programs that the script itself needs.
const TOOLS: [&str; 8] = ["bash", "dirname", "head", "mktemp", "rm", "sed", "sort", "tail"];

/// A machine with Rust, a linker and nothing of QEMU.
struct Machine {
    scratch: Scratch,
}

impl Machine {
    fn bare() -> Self {
        let scratch = Scratch::new();
        for tool in TOOLS.into_iter().chain(["env"]) {
            let path = std::env::var_os("PATH").unwrap();
            let mut candidates = std::env::split_paths(&path).map(|directory| directory.join(tool));
            let path = candidates.find(|path| path.is_file()).unwrap_or_else(|| panic!("no {tool} here"));
            std::os::unix::fs::symlink(path, scratch.path().join(tool)).unwrap();
        }
        scratch.script("cc", "exit 0");
        scratch.script("cargo", "exit 0");
        // What run.sh hands over to.
        std::fs::create_dir_all(scratch.path().join("target/release")).unwrap();
        scratch.script("target/release/ferry", r#"echo "ferry was called with: $*""#);
        Self { scratch }
    }

    fn with(self, name: &str, script: &str) -> Self {
        self.scratch.script(name, script);
        self
    }

    fn without(self, name: &str) -> Self {
        std::fs::remove_file(self.scratch.path().join(name)).unwrap();
        self
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(ferry::artifacts::workspace().join("run.sh"));
        let path = self.scratch.path();
        command.args(arguments).env_clear().env("PATH", path).env("HOME", path).env("TMPDIR", path);
        run(command.env("CARGO_TARGET_DIR", path.join("target")))
    }
}

const QEMU_7_2: &str = "echo 'QEMU emulator version 7.2.22 (Debian)'";

/// An apt-get that installs a QEMU of this version beside itself.
fn apt_get(version: &str) -> String {
    format!(
        r#"if [[ $1 == install ]]; then
    printf '#!/bin/bash\necho "QEMU emulator version {version}"\n' > "${{0%/*}}/qemu-system-x86_64"
    {chmod} +x "${{0%/*}}/qemu-system-x86_64"
fi"#,
        chmod = "/bin/chmod"
    )
}

#[test]
fn everything_there_hands_over() {
    let machine = Machine::bare().with("qemu-system-x86_64", QEMU_7_2);
    for (arguments, called) in [(&[][..], "with: \n"), (&["demo", "--vram", "4M"][..], "with: demo --vram 4M\n")] {
        let ran = machine.run(arguments);
        assert_eq!((ran.status, ran.err.as_str()), (0, ""));
        assert!(ran.out.ends_with(called), "{:?}", ran.out);
    }
}

#[test]
fn what_only_informs_needs_no_qemu() {
    let machine = Machine::bare();
    for argument in ["--help", "-h", "--version", "doctor", "dance"] {
        let ran = machine.run(&[argument]);
        assert_eq!(ran.out, format!("ferry was called with: {argument}\n"), "{}", ran.err);
    }
}

#[test]
fn a_missing_qemu_is_installed_and_said_so() {
    let machine =
        Machine::bare().with("apt-get", &apt_get("8.2.2")).with("sudo", r#"shift; [[ $# -eq 0 ]] || exec "$@""#);
    let ran = machine.run(&["demo"]);
    assert_eq!((ran.status, ran.out.as_str()), (0, "ferry was called with: demo\n"), "{}", ran.err);
    assert!(ran.err.contains("installing Debian's package qemu-system-x86"), "{}", ran.err);
}

#[test]
fn a_debugger_is_wanted_where_one_is_used() {
    let machine = Machine::bare().with("qemu-system-x86_64", QEMU_7_2);
    for command in ["debug", "test"] {
        machine.run(&[command]).is_refused("gdb is not installed and there is no apt-get; install gdb with Python");
    }
    assert_eq!(machine.run(&["demo"]).status, 0);
}

#[test]
fn where_it_may_not_install_it_names_package_and_command() {
    let none = Machine::bare().run(&[]);
    none.is_refused("qemu-system-x86_64 is not installed and there is no apt-get");
    let failing = Machine::bare().with("apt-get", "echo 'E: Unable to locate package' >&2; exit 100");
    let ran = failing.with("sudo", r#"shift; exec "$@""#).run(&[]);
    assert_eq!(ran.status, 2);
    assert!(ran.err.contains("E: Unable to locate package"), "{}", ran.err);
    assert!(ran.err.contains("apt-get install --no-install-recommends qemu-system-x86"), "{}", ran.err);
}

#[test]
fn an_old_qemu_is_refused() {
    let machine = Machine::bare().with("qemu-system-x86_64", "echo 'QEMU emulator version 6.2.0'");
    machine.run(&[]).is_refused("is version 6.2, but Ferry needs 7.2 or newer");
    let machine = Machine::bare().with("qemu-system-x86_64", "exit 1").with("gdb", "exit 0");
    machine.run(&["test"]).is_refused("does not say its version");
}

#[test]
fn a_missing_rust_or_linker_is_named() {
    Machine::bare().without("cargo").run(&["doctor"]).is_refused("install Rust from https://rustup.rs");
    Machine::bare().without("cc").run(&["doctor"]).is_refused("apt-get install gcc");
}
