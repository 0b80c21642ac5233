//! Which experiments there are: the files of one folder, each told by the first line of its header.
use crate::artifacts::workspace;
use crate::headed_files::{self, HeadedFile, Unreadable};

/// The folder, in the workspace.
pub const FOLDER: &str = "kernel/examples";

/// Edits, at most, between a name and the one that was meant.
const MOST_EDITS: usize = 3;

/// Why there is no such experiment.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The folder or a file in it cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
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
pub struct Catalogue(Vec<HeadedFile>);

impl Catalogue {
    /// Reads the folder.
    ///
    /// # Errors
    /// [`CatalogueError::Unreadable`].
    pub fn read() -> Result<Self, CatalogueError> {
        Ok(Self(headed_files::read(&workspace().join(FOLDER))?))
    }

    /// The experiments, by name.
    pub fn experiments(&self) -> &[HeadedFile] {
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
            |name: &&str| HeadedFile { name: (*name).to_owned(), summary: String::new(), source: String::new() };
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
}
