//! Which targets there are: the files of one folder, each told by the first line of its header.
use std::io;
use std::path::PathBuf;

use crate::artifacts::workspace;

/// The folder, in the workspace.
pub const FOLDER: &str = "kernel/fuzz/src/targets";

/// The file in it that is no target.
const LIST: &str = "mod";

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Its name: that of its file.
    pub name: String,
    /// The first line of its header.
    pub summary: String,
}

/// Why there is no such target.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The folder or a file in it cannot be read.
    #[error("cannot read {}: {source}; run ./run.sh from a complete copy of the repository", path.display())]
    Unreadable {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No file has this name.
    #[error("there is no target '{0}' in {FOLDER}; ./run.sh fuzz --list shows them")]
    Unknown(String),
}

/// All of them, by name.
///
/// # Errors
/// [`CatalogueError::Unreadable`].
pub fn read() -> Result<Vec<Target>, CatalogueError> {
    let folder = workspace().join(FOLDER);
    let unreadable = |path: &PathBuf| {
        let path = path.clone();
        move |source| CatalogueError::Unreadable { path, source }
    };
    let mut targets = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(unreadable(&folder))? {
        let path = entry.map_err(unreadable(&folder))?.path();
        let Some(name) = path.file_stem().and_then(|stem| stem.to_str()).filter(|stem| *stem != LIST) else { continue };
        let source = std::fs::read_to_string(&path).map_err(unreadable(&path))?;
        let summary = source.lines().next().and_then(|line| line.strip_prefix("//! ")).unwrap_or_default();
        targets.push(Target { name: name.to_owned(), summary: summary.to_owned() });
    }
    targets.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(targets)
}

/// The one of this name, or all of them.
///
/// # Errors
/// [`CatalogueError`].
pub fn chosen(name: Option<&str>) -> Result<Vec<Target>, CatalogueError> {
    let targets = read()?;
    let Some(name) = name else { return Ok(targets) };
    match targets.into_iter().find(|target| target.name == name) {
        Some(target) => Ok(vec![target]),
        None => Err(CatalogueError::Unknown(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_says_what_it_is() {
        let targets = read().expect("the folder is there");
        assert!(targets.iter().any(|target| target.name == "acpi"), "{targets:?}");
        assert!(targets.iter().all(|target| target.summary.len() > 10 && target.name != LIST), "{targets:?}");
    }

    #[test]
    fn a_target_that_does_not_exist_is_named() {
        assert!(matches!(chosen(Some("tea")), Err(CatalogueError::Unknown(name)) if name == "tea"));
        assert_eq!(chosen(Some("elf")).map(|targets| targets.len()).ok(), Some(1));
    }
}
