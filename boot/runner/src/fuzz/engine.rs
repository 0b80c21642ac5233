//! The program of `kernel/fuzz`: built with libFuzzer and the instrumentation that this needs, run for one target at a time.
//!
//! The instrumentation is LLVM's, asked for by flags of the stable compiler: counters for each edge of the code, and a call at
//! each comparison, from which libFuzzer learns what numbers the code waits for. Overflow of numbers and broken
//! `debug_assert!`s panic here, other than in a release. Stable Rust has no address sanitizer; what is fuzzed is safe code but
//! for the accessor of the BAR, and that works between pages that must not change.
//!
//! All of it is built below `target/fuzz`, since nothing else is built with these flags.
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::CORPUS;
use super::watch::{Watched, watch};
use crate::artifacts::{ArtifactError, MESSAGES, cargo, run_cargo, workspace};
use crate::headed_files::HeadedFile;

/// The program and its package.
const PROGRAM: &str = "ferry-fuzz";

/// Where everything of this command is, in the directory of what is built.
const DIRECTORY: &str = "fuzz";

/// Named, so that the flags are for the program and not for what runs while it is built.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Flags of the compiler.
const FLAGS: [&str; 8] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    // The pass leaves no counters in what the linker merges.
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
    "-Coverflow-checks",
];

/// Variables by which the program learns its target, and where the target's seeds shall be written.
const TARGET: &str = "FERRY_FUZZ_TARGET";
const SEEDS: &str = "FERRY_FUZZ_SEEDS";

/// An input that takes so many seconds hangs.
const HANGS_AFTER: u32 = 10;

/// Most memory that an input may take, in mebibytes.
const MOST_MEMORY: u32 = 1024;

/// Why nothing was fuzzed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Cargo is missing, or does not build it.
    #[error("the fuzzer cannot be built ({0}); it needs a C++ compiler, on Debian and Ubuntu: apt-get install g++")]
    Build(#[from] ArtifactError),
    /// A folder or file cannot be used.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program cannot be run.
    #[error("cannot run {PROGRAM}: {0}")]
    Run(io::Error),
    /// The program ended without a finding and without having done its work.
    #[error("{PROGRAM} ended early and said: {0}")]
    Ended(String),
}

/// How a target is fuzzed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// What all inputs follow from.
    pub seed: u32,
    /// For how long.
    pub length: Duration,
}

/// The program, built.
pub struct Engine {
    program: PathBuf,
    directory: PathBuf,
}

impl Engine {
    /// Builds it.
    ///
    /// # Errors
    /// [`EngineError::Build`].
    pub fn build() -> Result<Self, EngineError> {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
        let directory = workspace().join(target).join(DIRECTORY);
        let mut build = Command::new(cargo());
        build.current_dir(workspace()).args(["build", "--release", "--locked", "--quiet", MESSAGES]);
        build
            .args(["--package", PROGRAM, "--features", "libfuzzer", "--target", TRIPLE, "--target-dir"])
            .arg(&directory);
        build.env_remove("CARGO_ENCODED_RUSTFLAGS").env("RUSTFLAGS", FLAGS.join(" "));
        let product = run_cargo(build)?.into_iter().find(|product| product.name == PROGRAM && product.runs);
        let program = product.ok_or_else(|| ArtifactError::NotNamed(PROGRAM.to_owned()))?.path;
        Ok(Self { program, directory })
    }

    /// Fuzzes a target, from its seeds and from what once broke it.
    ///
    /// # Errors
    /// [`EngineError`] but `Build`.
    pub fn fuzz(&self, target: &HeadedFile, run: Run) -> Result<Watched, EngineError> {
        // Empty, so that one seed makes one run.
        let kept = self.directory.join("corpus").join(&target.name);
        let _ = std::fs::remove_dir_all(&kept);
        make_folder(&kept)?;
        let mut fuzzer = self.on(target)?;
        fuzzer.env(SEEDS, &kept).arg(format!("-seed={}", run.seed));
        fuzzer.arg(format!("-max_total_time={}", run.length.as_secs().max(1))).arg("-print_final_stats=1");
        let known = workspace().join(CORPUS).join(&target.name);
        fuzzer.arg(&kept).args(known.is_dir().then_some(known));
        watch(fuzzer)
    }

    /// Gives one input to a target.
    ///
    /// # Errors
    /// [`EngineError`] but `Build`.
    pub fn replay(&self, target: &HeadedFile, input: &Path) -> Result<Watched, EngineError> {
        let unusable = |source| EngineError::File { path: input.to_owned(), source };
        std::fs::File::open(input).map_err(unusable)?;
        let mut fuzzer = self.on(target)?;
        fuzzer.arg(input.canonicalize().map_err(unusable)?);
        watch(fuzzer)
    }

    fn on(&self, target: &HeadedFile) -> Result<Command, EngineError> {
        let findings = self.directory.join("findings");
        make_folder(&findings)?;
        let mut fuzzer = Command::new(&self.program);
        fuzzer.env(TARGET, &target.name).env("RUST_BACKTRACE", "0").stdin(Stdio::null());
        fuzzer.arg(format!("-artifact_prefix={}/{}-", findings.display(), target.name));
        fuzzer.args([format!("-timeout={HANGS_AFTER}"), format!("-rss_limit_mb={MOST_MEMORY}")]);
        Ok(fuzzer)
    }
}

fn make_folder(path: &Path) -> Result<(), EngineError> {
    std::fs::create_dir_all(path).map_err(|source| EngineError::File { path: path.to_owned(), source })
}
