//! Which targets there are: the files of one folder, each told by the first line of its header.
use crate::artifacts::workspace;
use crate::headed_files::{self, HeadedFile, Unreadable};

/// The folder, in the workspace.
pub const FOLDER: &str = "kernel/fuzz/src/targets";

/// The file in it that is no target.
const LIST: &str = "mod";

/// Why there is no such target.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The folder or a file in it cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// No file has this name.
    #[error("there is no target '{0}' in {FOLDER}; ./run.sh fuzz --list shows them")]
    Unknown(String),
}

/// All of them, by name.
///
/// # Errors
/// [`CatalogueError::Unreadable`].
pub fn read() -> Result<Vec<HeadedFile>, CatalogueError> {
    let mut targets = headed_files::read(&workspace().join(FOLDER))?;
    targets.retain(|file| file.name != LIST);
    Ok(targets)
}

/// The one of this name, or all of them.
///
/// # Errors
/// [`CatalogueError`].
pub fn chosen(name: Option<&str>) -> Result<Vec<HeadedFile>, CatalogueError> {
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
