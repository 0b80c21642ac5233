//! `ferry test`: every test there is, as `cargo test` runs them.
//!
//! Host and simulator tests are ordinary ones; the in-kernel tests are cases of this package's test `kernel`.
use std::process::Command;
use std::time::Duration;

use crate::artifacts::{cargo, workspace};
use crate::error::{Error, Refusal};
use crate::kernel_tests::{CPUS_VARIABLE, TIMEOUT_VARIABLE};
use crate::qemu::Qemu;

/// What to run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Part of the names to run, or all.
    pub filter: Option<String>,
    /// The filter is a whole name.
    pub exact: bool,
    /// List instead of running.
    pub list: bool,
    /// CPUs of the machine that the in-kernel tests run on.
    pub cpus: u32,
    /// When an in-kernel test is called hung.
    pub timeout: Option<Duration>,
}

/// Runs or lists the tests; their output goes to the terminal as it comes.
///
/// # Errors
/// Where Cargo or QEMU is missing, or a test fails.
pub fn run(options: &Options) -> Result<(), Error> {
    Qemu::find().map_err(Refusal::from)?;
    let mut command = Command::new(cargo());
    command.current_dir(workspace()).args(arguments(options, cfg!(debug_assertions)));
    command.env(CPUS_VARIABLE, options.cpus.to_string());
    if let Some(timeout) = options.timeout {
        command.env(TIMEOUT_VARIABLE, timeout.as_secs().to_string());
    }
    let status = command.status().map_err(|source| Refusal::Program { program: "cargo".to_owned(), source })?;
    if status.success() { Ok(()) } else { Err(Error::TestsFailed) }
}

fn arguments(options: &Options, debug: bool) -> Vec<String> {
    let mut arguments: Vec<String> = ["test", "--workspace", "--locked", "--no-fail-fast"].map(String::from).into();
    if !debug {
        arguments.push("--release".into());
    }
    arguments.push("--".into());
    arguments.extend(options.list.then(|| "--list".into()));
    arguments.extend(options.exact.then(|| "--exact".into()));
    arguments.extend(options.filter.clone());
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_reach_the_tests() {
        let options = Options { filter: Some("entry".into()), exact: true, list: true, cpus: 1, timeout: None };
        let line = arguments(&options, false).join(" ");
        assert_eq!(line, "test --workspace --locked --no-fail-fast --release -- --list --exact entry");
    }
}
