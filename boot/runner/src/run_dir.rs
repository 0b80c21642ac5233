//! The directory of one run: the memory files of the machine and its options.
//!
//! Invariants:
//! 1. Only this user may read it: it holds the machine's memory.
//! 2. It is gone when the run is over, however that comes: by drop, by [`remove_all`] when a signal or a panic ends
//!    the process. After [`RunDir::unlink`] nothing is left even if the process is killed; the mappings live on.
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::size::Size;
use crate::sys;

/// Memory as a file system, where memory files belong.
const SHARED_MEMORY: &str = "/dev/shm";

/// How many names are tried before the directory is said to be impossible to create.
const ATTEMPTS: u32 = 1000;

/// The number in the next directory's name. Never used twice: a run that has removed its directory early removes it again
/// when it is over, and must not find another run's there.
static NEXT: AtomicU32 = AtomicU32::new(0);

static LIVE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Why there is no directory for a run.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// No candidate has room for the memory files.
    #[error(
        "the machine's memory files take {needed}, but {best} has only {free} free; choose a smaller --memory, \
         --vram or --swap, or set TMPDIR to a directory with room",
        best = best.display()
    )]
    NoRoom {
        /// What the memory files may grow to.
        needed: Size,
        /// The candidate with the most room.
        best: PathBuf,
        /// Its room.
        free: Size,
    },
    /// The operating system refused.
    #[error("cannot create a directory for the run in {}: {source}; set TMPDIR to one that can be written", path.display())]
    Create {
        /// Where it was tried.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// A directory that lives as long as this value.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Creates a fresh directory where `needed` bytes can be written: in shared memory where it has room, else in the
    /// directory for temporary files.
    ///
    /// # Errors
    /// [`RunDirError`] where no place has room or the directory cannot be created.
    pub fn create(needed: u64) -> Result<Self, RunDirError> {
        let parent = choose(needed)?;
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        let mut live = live();
        for _ in 0..ATTEMPTS {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("ferry-{}-{number}", std::process::id()));
            match builder.create(&path) {
                Ok(()) => {
                    live.push(path.clone());
                    return Ok(Self { path });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(source) => return Err(RunDirError::Create { path: parent, source }),
            }
        }
        Err(RunDirError::Create { path: parent, source: io::ErrorKind::AlreadyExists.into() })
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Removes it early, once everybody who needs its files has opened them.
    pub fn unlink(&self) {
        remove(&self.path);
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        self.unlink();
    }
}

/// Removes the directories of all runs of this process; for the paths on which nothing is dropped.
pub fn remove_all() {
    let paths = std::mem::take(&mut *live());
    for path in paths {
        remove_tree(&path);
    }
}

fn remove(path: &Path) {
    let mut live = live();
    if let Some(i) = live.iter().position(|known| known == path) {
        live.swap_remove(i);
        remove_tree(path);
    }
}

fn remove_tree(path: &Path) {
    if let Err(error) = std::fs::remove_dir_all(path) {
        eprintln!("ferry: cannot remove {}: {error}", path.display());
    }
}

fn live() -> MutexGuard<'static, Vec<PathBuf>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Checks that there is a place with room for `needed` bytes.
///
/// # Errors
/// [`RunDirError::NoRoom`].
pub fn check_room(needed: u64) -> Result<(), RunDirError> {
    choose(needed).map(drop)
}

fn choose(needed: u64) -> Result<PathBuf, RunDirError> {
    let mut best: Option<(PathBuf, u64)> = None;
    for path in [PathBuf::from(SHARED_MEMORY), std::env::temp_dir()] {
        let free = sys::free_bytes(&path).unwrap_or(0);
        if free >= needed && path.is_dir() {
            return Ok(path);
        }
        if best.as_ref().is_none_or(|(_, most)| free > *most) {
            best = Some((path, free));
        }
    }
    let (best, free) = best.unwrap_or_default();
    Err(RunDirError::NoRoom { needed: Size(needed), best, free: Size(free) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn is_private_and_goes_with_its_owner() {
        let run = RunDir::create(1).unwrap();
        let path = run.path.clone();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::write(run.file("memory"), "x").unwrap();
        drop(run);
        assert!(!path.exists());
    }

    #[test]
    fn a_directory_that_went_early_takes_no_later_one_along() {
        let early = RunDir::create(1).unwrap();
        early.unlink();
        let later = RunDir::create(1).unwrap();
        drop(early);
        assert!(later.path.is_dir());
    }

    #[test]
    fn no_room_names_both_numbers() {
        let error = RunDir::create(u64::MAX).unwrap_err();
        assert!(matches!(error, RunDirError::NoRoom { needed: Size(u64::MAX), free: Size(1..), .. }), "{error}");
    }
}
