//! The binaries that the machine boots, built with Cargo.
//!
//! The profile is that of this tool: a release `ferry` boots a release kernel; the one that a debugger looks into has its own.
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tinyjson::JsonValue;

/// One program to build.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Artifact {
    /// The PVH loader.
    Loader,
    /// The kernel that does the demo.
    Kernel,
    /// The kernel that holds the in-kernel tests.
    TestKernel,
    /// The plugin that watches QEMU.
    Referee,
}

/// How the programs are built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Profile {
    /// As this tool was.
    Own,
    /// As a release, with everything that a debugger wants to know.
    Debugging,
}

impl Profile {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Own if cfg!(debug_assertions) => &[],
            Self::Own => &["--release"],
            Self::Debugging => &["--profile", "debugging"],
        }
    }
}

impl Artifact {
    /// What Cargo is asked for.
    pub fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Loader => &["--package", "ferry-loader", "--bin", "ferry-loader"],
            Self::Kernel => &["--package", "ferry-kernel", "--bin", "ferry-kernel"],
            Self::TestKernel => {
                &["--package", "ferry-kernel", "--features", "ferry-kernel/tests", "--bin", "ferry-kernel-tests"]
            }
            Self::Referee => &["--package", "ferry-referee", "--lib"],
        }
    }

    /// The name of the program.
    pub fn binary(self) -> &'static str {
        match self {
            Self::Loader => "ferry-loader",
            Self::Kernel => "ferry-kernel",
            Self::TestKernel => "ferry-kernel-tests",
            Self::Referee => "ferry_referee",
        }
    }
}

/// A program or shared library that Cargo has made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Product {
    /// The name of its target.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Whether it is a program.
    pub runs: bool,
}

/// Lets Cargo say on its output what it makes, and to people what is wrong.
pub const MESSAGES: &str = "--message-format=json-render-diagnostics";

/// Why there is no such program.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// Cargo cannot be run.
    #[error("cannot run {}: {source}; install Rust from https://rustup.rs", .program.to_string_lossy())]
    NoCargo {
        /// What was run.
        program: OsString,
        /// Why it failed.
        source: io::Error,
    },
    /// The source does not compile; Cargo's messages are on the terminal.
    #[error("the kernel does not build; Cargo's messages are above")]
    Build,
    /// Cargo succeeded without naming what it made.
    #[error("Cargo built {0} but did not say where; check that this Cargo is the one of Rust 1.95 or newer")]
    NotNamed(String),
}

/// The directory of the workspace.
pub fn workspace() -> &'static Path {
    const PACKAGE: &str = env!("CARGO_MANIFEST_DIR");
    Path::new(PACKAGE).ancestors().nth(2).unwrap_or(Path::new(PACKAGE))
}

/// The Cargo to use: the one that runs this process, if one does.
pub fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Builds these programs where anything has changed and returns their paths, in the same order.
///
/// # Errors
/// [`ArtifactError`] where Cargo is missing or the build fails.
pub fn build<const N: usize>(artifacts: [Artifact; N]) -> Result<[PathBuf; N], ArtifactError> {
    build_as(Profile::Own, artifacts)
}

/// The same, in this profile.
///
/// # Errors
/// As [`build`].
pub fn build_as<const N: usize>(profile: Profile, artifacts: [Artifact; N]) -> Result<[PathBuf; N], ArtifactError> {
    let mut command = cargo_build(profile);
    for artifact in artifacts {
        command.args(artifact.arguments());
    }
    let made = run_cargo(command)?;
    let mut paths = [const { PathBuf::new() }; N];
    for (path, artifact) in paths.iter_mut().zip(artifacts) {
        *path = named(&made, artifact.binary())?;
    }
    Ok(paths)
}

/// Builds the kernel of an example, in the profile of this tool.
///
/// # Errors
/// As [`build`].
pub fn build_example(name: &str) -> Result<PathBuf, ArtifactError> {
    let mut command = cargo_build(Profile::Own);
    command.args(["--package", "ferry-kernel", "--example", name]);
    named(&run_cargo(command)?, name)
}

fn cargo_build(profile: Profile) -> Command {
    let mut command = Command::new(cargo());
    command.current_dir(workspace()).args(["build", "--locked", "--quiet", MESSAGES]).args(profile.arguments());
    command
}

fn named(made: &[Product], name: &str) -> Result<PathBuf, ArtifactError> {
    let found = made.iter().find(|product| product.name == name);
    found.map(|product| product.path.clone()).ok_or_else(|| ArtifactError::NotNamed(name.to_owned()))
}

/// Runs a command of Cargo with [`MESSAGES`] among its arguments; returns the programs and shared libraries that it made, or
/// found made.
///
/// # Errors
/// [`ArtifactError`] where Cargo is missing or fails.
pub fn run_cargo(mut command: Command) -> Result<Vec<Product>, ArtifactError> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let program = || command.get_program().to_owned();
    let output = output.map_err(|source| ArtifactError::NoCargo { program: program(), source })?;
    if !output.status.success() {
        return Err(ArtifactError::Build);
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(product).collect())
}

/// The program or shared library in one of Cargo's messages, where that is about one.
fn product(message: &str) -> Option<Product> {
    let JsonValue::Object(message) = message.parse().ok()? else { return None };
    let JsonValue::Object(target) = message.get("target")? else { return None };
    let JsonValue::String(name) = target.get("name")? else { return None };
    if let JsonValue::String(path) = message.get("executable")? {
        return Some(Product { name: name.clone(), path: PathBuf::from(path), runs: true });
    }
    let JsonValue::Array(files) = message.get("filenames")? else { return None };
    files.iter().find_map(|file| match file {
        JsonValue::String(path) if path.ends_with(".so") => {
            Some(Product { name: name.clone(), path: PathBuf::from(path), runs: false })
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_in_cargos_messages() {
        let library = r#"{"reason":"compiler-artifact","target":{"name":"ferry-kernel"},"executable":null,"filenames":["/t/a.rlib"]}"#;
        let shared = r#"{"reason":"compiler-artifact","target":{"name":"ferry_referee"},"executable":null,"filenames":["/t/b.so"]}"#;
        let program =
            r#"{"reason":"compiler-artifact","target":{"name":"ferry-kernel"},"executable":"/t/ferry-kernel"}"#;
        let made = |name: &str, path: &str, runs| Some(Product { name: name.into(), path: path.into(), runs });
        assert_eq!(product(library), None);
        assert_eq!(product(program), made("ferry-kernel", "/t/ferry-kernel", true));
        assert_eq!(product(shared), made("ferry_referee", "/t/b.so", false));
        assert_eq!(product("warning: not json"), None);
    }

    #[test]
    fn the_workspace_is_two_levels_up() {
        assert!(workspace().join("boot/runner/Cargo.toml").is_file());
    }
}
