//! A copy of the workspace in which every mutant is there and one is chosen when a program runs.
//!
//! ```text
//!   target/mutants/host/tree      the workspace, mutants of the suites that run on the host
//!   target/mutants/host/build     what Cargo makes of it
//!   target/mutants/kernel/...     the same, mutants that a booted kernel must show
//! ```
//!
//! The source itself has no hooks: a crate that has mutants gets a module `mutant` in the copy, which knows the choice.
//! On the host that is the environment variable `FERRY_MUTANT`; a kernel has no environment, so its number is written
//! into its image.
//!
//! Invariants:
//! 1. A file is written only where it differs, so that Cargo builds again only what has changed.
//! 2. What is not in the workspace is not in the copy.
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::catalogue::{self, CatalogueError, Mutant, Suite};
use super::splice::{SpliceError, splice};
use crate::artifacts::{cargo, workspace};

/// The environment variable with the name of the mutant, for programs on the host.
pub const VARIABLE: &str = "FERRY_MUTANT";

/// The module that each mutated crate gets.
const ON_THE_HOST: &str = include_str!("choice/on_the_host.rs");
const IN_THE_KERNEL: &str = include_str!("choice/in_the_kernel.rs");

/// Where its file is, in a crate.
const MODULE_FILE: &str = "src/mutant.rs";

/// Where a crate's own modules are named.
const ROOT_FILE: &str = "src/lib.rs";

/// Where the list of names goes.
const NAMES: &str = "/* NAMES */";

/// Where the programs of a copy run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// As processes of the host.
    Host,
    /// In QEMU.
    Kernel,
}

/// The copy.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
    build: PathBuf,
}

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The list of mutants is wrong.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// A mutant has no place.
    #[error(transparent)]
    Splice(#[from] SpliceError),
    /// A mutant's file is not there, or in no crate with a library.
    #[error("the mutant {mutant} is to be in {file}, which is no source file of a library here; correct its `file`")]
    NoFile {
        /// The mutant.
        mutant: String,
        /// Its file.
        file: String,
    },
    /// A file or directory cannot be read or written.
    #[error("cannot copy the workspace to {}: {source}; it needs room and leave to write there", path.display())]
    Copy {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Kernel => "kernel",
        }
    }

    /// Whether the programs of this side show what `mutant` breaks.
    pub fn shows(self, mutant: &Mutant) -> bool {
        matches!(mutant.suite, Suite::Kernel(_)) == (self == Self::Kernel)
    }
}

impl Tree {
    /// The copy for the host, with every mutant of the workspace that the host can show.
    ///
    /// A program that Cargo builds in it ([`Tree::cargo`]) is the mutant that [`VARIABLE`] names.
    ///
    /// # Errors
    /// [`TreeError`] where it cannot be made.
    pub fn prepare() -> Result<Self, TreeError> {
        Self::of(&catalogue::read()?, Side::Host)
    }

    /// The copy for one side, where the number of a mutant is its place in `mutants`.
    ///
    /// # Errors
    /// [`TreeError`] where it cannot be made.
    pub fn of(mutants: &[Mutant], side: Side) -> Result<Self, TreeError> {
        let directory = workspace().join("target/mutants").join(side.name());
        let tree = Self { root: directory.join("tree"), build: directory.join("build") };
        let mut changed = mutated_files(mutants, side)?;
        let mut kept = BTreeSet::new();
        for path in files(workspace()).map_err(copying(workspace()))? {
            let from = workspace().join(&path);
            let bytes = match changed.remove(&path) {
                Some(text) => text.into_bytes(),
                None => std::fs::read(&from).map_err(copying(&from))?,
            };
            tree.write(&path, &bytes)?;
            kept.insert(path);
        }
        for (path, text) in changed {
            tree.write(&path, text.as_bytes())?;
            kept.insert(path);
        }
        for path in files(&tree.root).map_err(copying(&tree.root))? {
            if !kept.contains(&path) {
                let gone = tree.root.join(path);
                std::fs::remove_file(&gone).map_err(copying(&gone))?;
            }
        }
        Ok(tree)
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo, at work in it and with a target directory of its own.
    pub fn cargo(&self, subcommand: &str) -> Command {
        let mut command = Command::new(cargo());
        command.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.build);
        // Both branches of a choice are there, so much is unused or out of reach.
        command.args(["--config", "build.rustflags=[\"--cap-lints=allow\"]", subcommand, "--locked"]);
        command.args((!cfg!(debug_assertions)).then_some("--release"));
        command
    }

    /// Writes a file where it is not there as it should be.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), TreeError> {
        let to = self.root.join(path);
        if std::fs::read(&to).is_ok_and(|there| there == bytes) {
            return Ok(());
        }
        let parent = to.parent().unwrap_or(&self.root);
        std::fs::create_dir_all(parent).map_err(copying(parent))?;
        std::fs::write(&to, bytes).map_err(copying(&to))?;
        // A script stays one that can be executed.
        let permissions = std::fs::metadata(workspace().join(path)).map(|of| of.permissions());
        permissions.map_or(Ok(()), |permissions| std::fs::set_permissions(&to, permissions)).map_err(copying(&to))
    }
}

fn copying(path: &Path) -> impl FnOnce(io::Error) -> TreeError + use<> {
    let path = path.to_owned();
    move |source| TreeError::Copy { path, source }
}

/// The files that differ from those of the workspace, by their paths in it.
///
/// # Errors
/// [`TreeError`] where a mutant has no place.
pub fn mutated_files(mutants: &[Mutant], side: Side) -> Result<BTreeMap<PathBuf, String>, TreeError> {
    let mut by_file: BTreeMap<&str, Vec<(usize, &Mutant)>> = BTreeMap::new();
    for (number, mutant) in mutants.iter().enumerate().filter(|(_, mutant)| side.shows(mutant)) {
        by_file.entry(&mutant.file).or_default().push((number, mutant));
    }
    let mut changed = BTreeMap::new();
    for (file, of_file) in by_file {
        let name = of_file.first().map_or_else(String::new, |(_, mutant)| mutant.name.clone());
        let none = || TreeError::NoFile { mutant: name.clone(), file: file.to_owned() };
        let source = std::fs::read_to_string(workspace().join(file)).map_err(|_| none())?;
        let text = splice(&source, of_file)?;
        let root = Path::new(file).ancestors().skip(1).find(|path| workspace().join(path).join(ROOT_FILE).is_file());
        let root = root.ok_or_else(none)?;
        let lib = root.join(ROOT_FILE);
        if Path::new(file) == lib {
            return Err(none());
        }
        if !changed.contains_key(&lib) {
            let text = std::fs::read_to_string(workspace().join(&lib)).map_err(|_| none())?;
            changed.insert(lib, format!("{text}\nmod mutant;\n"));
            changed.insert(root.join(MODULE_FILE), module(mutants, side));
        }
        changed.insert(file.into(), text);
    }
    Ok(changed)
}

fn module(mutants: &[Mutant], side: Side) -> String {
    let names: String = mutants.iter().map(|mutant| format!("\n    {:?},", mutant.name)).collect();
    match side {
        Side::Host => ON_THE_HOST.replace(NAMES, &format!("{names}\n")),
        Side::Kernel => IN_THE_KERNEL.to_owned(),
    }
}

/// The files of a workspace, without what is built or hidden; Cargo's settings are not hidden.
fn files(root: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut found, mut directories) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(root.join(&directory))? {
            let entry = entry?;
            let (name, path) = (entry.file_name(), directory.join(entry.file_name()));
            let hidden = name.to_string_lossy().starts_with('.') && name != ".cargo";
            let built = directory.as_os_str().is_empty() && name == "target";
            match entry.file_type()? {
                _ if hidden || built => {}
                kind if kind.is_dir() => directories.push(path),
                _ => found.push(path),
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_those_of_the_source() {
        let found = files(workspace()).unwrap();
        for path in ["Cargo.toml", ".cargo/config.toml", "kernel/mm/src/lib.rs", "run.sh"] {
            assert!(found.contains(&path.into()), "{path}");
        }
        assert!(!found.iter().any(|path| path.starts_with("target") || path.starts_with(".git")));
    }

    #[test]
    fn every_mutant_has_its_place_in_the_source() {
        // Where this fails, its text says which mutant has to follow the source.
        let mutants = catalogue::read().unwrap_or_else(|error| panic!("{error}"));
        for side in [Side::Host, Side::Kernel] {
            let files = mutated_files(&mutants, side).unwrap_or_else(|error| panic!("{error}"));
            let text: String = files.into_values().collect();
            for (number, mutant) in mutants.iter().enumerate().filter(|(_, mutant)| side.shows(mutant)) {
                assert!(text.contains(&format!("crate::mutant::chosen({number})")), "{} is nowhere", mutant.name);
            }
        }
    }
}
