//! Why a command does not end with success: refused before the system ran, or failed while it did.
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use crate::artifacts::ArtifactError;
use crate::demo::failure::Failure;
use crate::experiment::catalogue::CatalogueError;
use crate::fuzz::{self, EngineError};
use crate::input::InputError;
use crate::machine::MachineError;
use crate::mutants::tree::TreeError;
use crate::mutants::verdict::Killer;
use crate::qemu::{QemuError, StartError};

/// Exit status: the system under test failed.
pub const STATUS_FAILED: u8 = 1;

/// Exit status: usage or environment.
pub const STATUS_REFUSED: u8 = 2;

/// Usage or environment is not as it must be.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The machine that was asked for cannot be.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The input cannot be.
    #[error(transparent)]
    Input(#[from] InputError),
    /// No QEMU to use.
    #[error(transparent)]
    Qemu(#[from] QemuError),
    /// The kernel does not build.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// There is no such experiment.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// The machine cannot be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The mutants cannot be made.
    #[error(transparent)]
    Mutants(#[from] TreeError),
    /// No mutant has such a name.
    #[error("no mutant's name contains {0:?}; ./run.sh mutants --list shows them")]
    NoMutant(String),
    /// The mutants do not compile.
    #[error("the workspace with its mutants does not build; Cargo's messages are above, and name the lines in {}", .0.display())]
    MutantsBuild(PathBuf),
    /// QEMU ended before the kernel said its first word.
    #[error(
        "QEMU did not start the machine: {0}; `./run.sh doctor` checks the installation, --verbose shows the command"
    )]
    QemuGaveUp(String),
    /// The JSON report cannot be written.
    #[error("cannot write {}: {source}; name a file in a directory that exists and can be written", path.display())]
    Json {
        /// Where it should go.
        path: PathBuf,
        /// Why it cannot.
        source: io::Error,
    },
    /// A file that was asked for cannot be written.
    #[error("cannot write {}: {source}; name a file in a directory that exists and can be written", path.display())]
    Output {
        /// Where it should go.
        path: PathBuf,
        /// Why it cannot.
        source: io::Error,
    },
    /// The shell has nothing to read.
    #[error(transparent)]
    Shell(#[from] crate::shell::InputError),
    /// A program that is needed cannot be run.
    #[error("cannot run {program}: {source}; `./run.sh doctor` says what is missing")]
    Program {
        /// Its name.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// No mutant of the host has this name.
    #[error("no mutant is named {0}, or only a booted kernel shows it; ./run.sh mutants --list shows them")]
    NoHostMutant(String),
    /// The explorer was given what it does not know; it has said what.
    #[error(
        "the explorer did nothing ({0}); its own message is above, and ./run.sh explore --help shows what there is"
    )]
    Explorer(ExitStatus),
    /// There is no such target to fuzz.
    #[error(transparent)]
    FuzzTarget(#[from] fuzz::CatalogueError),
    /// Nothing can be fuzzed.
    #[error(transparent)]
    Fuzzer(#[from] EngineError),
    /// Something that `doctor` looks for is missing; its table says what.
    #[error("something that Ferry needs is missing; the table above says what to run")]
    Unfit,
}

/// Either kind.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Exit status 2.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Exit status 1.
    #[error("{0}")]
    Failed(Box<Failure>),
    /// Exit status 1, and the explorer has said what is violated.
    #[error("the exploration found a violation; it is shown above, with the command that replays it")]
    Violated,
    /// Exit status 1, and the inputs that break so many targets are named above.
    #[error("inputs break {0} of the targets; they are above, with the commands that replay them")]
    Broken(u64),
    /// Exit status 1, and the tests' own output has said why.
    #[error("some tests failed; the list is above")]
    TestsFailed,
    /// Exit status 1: the tests fail without a mutant, so they say nothing about one.
    #[error("without any mutant the tests fail, {0}; ./run.sh test shows why")]
    UnmutatedFails(Killer),
    /// Exit status 1: so many mutants are not as their list says.
    #[error(
        "{0} of the mutants survived or died against what their list says; the lines above say which and what to do"
    )]
    MutantsUnexplained(usize),
}

impl Error {
    /// The process status that tells the two apart.
    pub fn status(&self) -> u8 {
        match self {
            Self::Refused(_) => STATUS_REFUSED,
            Self::Failed(_)
            | Self::Violated
            | Self::Broken(_)
            | Self::TestsFailed
            | Self::UnmutatedFails(_)
            | Self::MutantsUnexplained(_) => STATUS_FAILED,
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}
