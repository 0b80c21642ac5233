//! `ferry explore`: schedules of the simulator and a model of the protocol, by the program of `kernel/explore`.
//!
//! That is a workspace of its own, because what it is made of would turn on `std` in crates of the kernel. So it is built by a call of
//! Cargo of its own, into a directory beside what is built here. No machine is booted.
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::artifacts::{ArtifactError, MESSAGES, cargo, run_cargo, workspace};
use crate::error::{Error, Refusal, STATUS_FAILED};
use crate::mutants::catalogue;
use crate::mutants::tree::{Side, Tree, TreeError, VARIABLE};

/// The manifest of the explorer's workspace, from the root of this one.
pub const MANIFEST: &str = "kernel/explore/Cargo.toml";

/// Where it is built, in the directory where everything is.
const DIRECTORY: &str = "explore";

const PROGRAM: &str = "ferry-explore";

/// What to explore.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// So many schedules, and no model unless it is asked for, too.
    pub schedules: Option<u64>,
    /// The seed of the first schedule.
    pub seed: Option<u64>,
    /// The model, and no schedules unless they are asked for, too.
    pub model: bool,
    /// A mistake in the model's protocol.
    pub broken: Option<String>,
    /// A mutant in the source; then no model, which has none of it.
    pub mutant: Option<String>,
}

impl Options {
    fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        let numbers = [("--schedules", self.schedules), ("--seed", self.seed)];
        for (option, number) in numbers {
            arguments.extend(number.iter().flat_map(|number| [option.to_owned(), number.to_string()]));
        }
        arguments.extend(self.model.then(|| "--model".to_owned()));
        arguments.extend(self.mutant.as_ref().map(|_| "--no-model".to_owned()));
        arguments.extend(self.broken.iter().flat_map(|name| ["--broken".to_owned(), name.clone()]));
        arguments
    }
}

/// Where the explorer's workspace is built.
pub fn target_directory() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    workspace().join(target).join(DIRECTORY)
}

/// Builds the explorer and lets it explore; its output goes to the terminal as it comes.
///
/// # Errors
/// Where Cargo is missing, the explorer does not build, an option has a value that it does not know, or it finds a violation.
pub fn run(options: &Options) -> Result<(), Error> {
    let mut build = match &options.mutant {
        None => of_the_source(),
        Some(name) => with_mutants(name)?,
    };
    build.args(["--quiet", MESSAGES, "--manifest-path", MANIFEST]);
    let products = run_cargo(build).map_err(Refusal::from)?;
    let program = products.into_iter().find(|product| product.name == PROGRAM).map(|product| product.path);
    let mut explorer =
        Command::new(program.ok_or_else(|| ArtifactError::NotNamed(PROGRAM.to_owned())).map_err(Refusal::from)?);
    explorer.args(options.arguments()).stdin(Stdio::null());
    explorer.envs(options.mutant.as_ref().map(|name| (VARIABLE, name)));
    let status = explorer.status().map_err(|source| Refusal::Program { program: PROGRAM.to_owned(), source })?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) if code != i32::from(STATUS_FAILED) => Err(Refusal::Explorer(status).into()),
        // A signal, such as that of a stack that overflowed, is as bad as a violation.
        _ => Err(Error::Violated),
    }
}

/// The build of the explorer, of the source as it is.
fn of_the_source() -> Command {
    let mut build = Command::new(cargo());
    build.current_dir(workspace()).args(["build", "--release", "--locked", "--target-dir"]).arg(target_directory());
    build
}

/// The build of the explorer in the copy that has every mutant, of which `name` must be one.
fn with_mutants(name: &str) -> Result<Command, Refusal> {
    let mutants = catalogue::read().map_err(TreeError::from)?;
    if !mutants.iter().any(|mutant| mutant.name == name && Side::Host.shows(mutant)) {
        return Err(Refusal::NoHostMutant(name.to_owned()));
    }
    Ok(Tree::prepare()?.cargo("build"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_reach_the_explorer() {
        assert_eq!(Options::default().arguments(), [""; 0]);
        let options =
            Options { schedules: Some(3), seed: Some(9), model: true, broken: Some("no-flush".into()), mutant: None };
        let line = options.arguments().join(" ");
        assert_eq!(line, "--schedules 3 --seed 9 --model --broken no-flush");
        let options = Options { mutant: Some("any".into()), ..Options::default() };
        assert_eq!(options.arguments(), ["--no-model"]);
    }
}
