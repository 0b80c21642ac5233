//! The tests inside the kernel as cases of `cargo test`.
//!
//! They are named `kernel::` and their path in the kernel, such as `kernel::frame::buddy::splits`. They run one after
//! the other, in one boot as far as possible; see `ferry::kernel_tests`.
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use ferry::error::Error;
use ferry::kernel_tests::{Completed, Session, Suite};
use libtest_mimic::{Arguments, Completion, Trial};

/// What the names begin with, so that a filter can choose all of them.
const PREFIX: &str = "kernel::";

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    match prepare() {
        Ok((suite, names)) => {
            // One at a time and in order: they share a machine.
            arguments.test_threads = Some(1);
            libtest_mimic::run(&arguments, trials(&arguments, suite, &names)).exit_code()
        }
        Err(error) => {
            eprintln!("ferry: the in-kernel tests cannot run: {error}");
            ExitCode::from(error.status())
        }
    }
}

fn prepare() -> Result<(Suite, Vec<String>), Error> {
    let suite = Suite::build()?;
    let names = suite.list()?;
    Ok((suite, names))
}

fn trials(arguments: &Arguments, suite: Suite, names: &[String]) -> Vec<Trial> {
    let selected = names.iter().filter(|name| {
        let probe = Trial::test(format!("{PREFIX}{name}"), || Ok(()));
        !arguments.is_filtered_out(&probe)
    });
    let session = Arc::new(Mutex::new(Session::new(suite, selected.cloned())));
    let trial = |name: &String| {
        let (session, name) = (Arc::clone(&session), name.clone());
        Trial::ignorable_test(format!("{PREFIX}{name}"), move || {
            let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
            match session.run(&name) {
                Ok(Completed::Passed) => Ok(Completion::Completed),
                Ok(Completed::Ignored(why)) => Ok(Completion::ignored_with(why)),
                Err(report) => Err(report.to_string().into()),
            }
        })
    };
    names.iter().map(trial).collect()
}
