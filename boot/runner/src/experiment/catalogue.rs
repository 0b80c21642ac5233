//! Which experiments there are: the files of one folder, each told by the first line of its header.
use std::io;
use std::path::PathBuf;

use crate::artifacts::workspace;

/// The folder, in the workspace.
pub const FOLDER: &str = "kernel/examples";

/// Edits, at most, between a name and the one that was meant.
const MOST_EDITS: usize = 3;

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Experiment {
    /// Its name: that of its file.
    pub name: String,
    /// The first line of its header.
    pub summary: String,
    /// Its source.
    pub source: String,
}

/// Why there is no such experiment.
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
    #[error("there is no experiment '{name}' in {FOLDER}{}; ./run.sh run lists them", meant(.nearest))]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// A name that is much like it.
        nearest: Option<String>,
    },
}

fn meant(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |name| format!(" (did you mean {name}?)"))
}

/// All of them, by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Catalogue(Vec<Experiment>);

impl Catalogue {
    /// Reads the folder.
    ///
    /// # Errors
    /// [`CatalogueError::Unreadable`].
    pub fn read() -> Result<Self, CatalogueError> {
        let folder = workspace().join(FOLDER);
        let unreadable = |path: &PathBuf| {
            let path = path.clone();
            move |source| CatalogueError::Unreadable { path, source }
        };
        let mut experiments = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(unreadable(&folder))? {
            let path = entry.map_err(unreadable(&folder))?.path();
            let (Some(name), true) = (path.file_stem(), path.extension().is_some_and(|extension| extension == "rs"))
            else {
                continue;
            };
            let name = name.to_string_lossy().into_owned();
            let source = std::fs::read_to_string(&path).map_err(unreadable(&path))?;
            experiments.push(Experiment { name, summary: summary(&source).to_owned(), source });
        }
        experiments.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Self(experiments))
    }

    /// The experiments, by name.
    pub fn experiments(&self) -> &[Experiment] {
        &self.0
    }

    /// Whether there is one of this name.
    ///
    /// # Errors
    /// [`CatalogueError::Unknown`], with the name that was probably meant.
    pub fn check(&self, name: &str) -> Result<(), CatalogueError> {
        if self.0.iter().any(|experiment| experiment.name == name) {
            return Ok(());
        }
        let distances = self.0.iter().map(|experiment| (edits(name, &experiment.name), &experiment.name));
        let nearest = distances.min().filter(|(distance, _)| *distance <= MOST_EDITS).map(|(_, name)| name.clone());
        Err(CatalogueError::Unknown { name: name.to_owned(), nearest })
    }
}

/// The first line of a file's header.
fn summary(source: &str) -> &str {
    source.lines().next().and_then(|line| line.strip_prefix("//! ")).unwrap_or_default()
}

/// How many letters are to be put in, taken out or changed to make one text of the other (Wagner and Fischer, 1974).
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    // The row of distances from what was read of `from` to each beginning of `to`.
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for letter in from.chars() {
        let mut diagonal = row[0];
        row[0] += 1;
        for (i, other) in to.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[i + 1];
            row[i + 1] = changed.min(diagonal + 1).min(row[i] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalogue(names: &[&str]) -> Catalogue {
        let experiment =
            |name: &&str| Experiment { name: (*name).to_owned(), summary: String::new(), source: String::new() };
        Catalogue(names.iter().map(experiment).collect())
    }

    #[test]
    fn edits_are_counted() {
        for (from, to, count) in
            [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("ping_pong", "pingpong", 1)]
        {
            assert_eq!((edits(from, to), edits(to, from)), (count, count), "{from} and {to}");
        }
    }

    #[test]
    fn a_wrong_name_is_answered_with_a_near_one() {
        let nearest = |name: &str| match catalogue(&["copy_on_write", "ping_pong"]).check(name) {
            Err(CatalogueError::Unknown { nearest, .. }) => nearest,
            other => panic!("{other:?}"),
        };
        assert_eq!(nearest("pingpong").as_deref(), Some("ping_pong"));
        assert_eq!(nearest("copy-on-write").as_deref(), Some("copy_on_write"));
        assert_eq!(nearest("something_else"), None);
        assert!(catalogue(&["ping_pong"]).check("ping_pong").is_ok());
    }

    #[test]
    fn the_summary_is_the_first_line() {
        assert_eq!(summary("//! Pages go.\n//! More.\n"), "Pages go.");
        assert_eq!(summary("#![no_std]\n"), "");
    }
}
