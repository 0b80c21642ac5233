//! The Rust files of one folder, each told by the first line of its header: experiments, fuzz targets.
use std::io;
use std::path::{Path, PathBuf};

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeadedFile {
    /// Its name, without the extension.
    pub name: String,
    /// The first line of its header; empty where it has none.
    pub summary: String,
    /// All of it.
    pub source: String,
}

/// The folder or a file in it cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {source}; run ./run.sh from a complete copy of the repository", path.display())]
pub struct Unreadable {
    /// The folder or file.
    path: PathBuf,
    /// Why.
    source: io::Error,
}

/// All of `folder`, by name.
///
/// # Errors
/// [`Unreadable`].
pub fn read(folder: &Path) -> Result<Vec<HeadedFile>, Unreadable> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| Unreadable { path, source }
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable(folder))? {
        let path = entry.map_err(unreadable(folder))?.path();
        let (Some(name), true) = (path.file_stem(), path.extension().is_some_and(|extension| extension == "rs")) else {
            continue;
        };
        let name = name.to_string_lossy().into_owned();
        let source = std::fs::read_to_string(&path).map_err(unreadable(&path))?;
        files.push(HeadedFile { name, summary: summary(&source).to_owned(), source });
    }
    files.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(files)
}

fn summary(source: &str) -> &str {
    source.lines().next().and_then(|line| line.strip_prefix("//! ")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_the_first_line() {
        assert_eq!(summary("//! Pages go.\n//! More.\n"), "Pages go.");
        assert_eq!(summary("#![no_std]\n"), "");
    }

    #[test]
    fn what_is_not_there_is_named() {
        let error = read(Path::new("/nowhere/at.all")).unwrap_err();
        assert!(error.to_string().starts_with("cannot read /nowhere/at.all: "), "{error}");
    }
}
