//! The file that the demo ferries.
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::sys::{PAGE_BYTES, PageBytes};

/// Largest file that QEMU's fw_cfg can hand to a guest (its sizes are 32-bit).
const MOST_BYTES: u64 = u32::MAX as u64;

/// Why a file cannot be the input.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// There is no such file.
    #[error("there is no file {}; name an existing one with --input", .0.display())]
    Missing(PathBuf),
    /// It exists but cannot be read.
    #[error("cannot read {}: {source}; choose a file that this user may read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is a directory, a pipe or a device.
    #[error("{} is {what}; --input takes a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// fw_cfg cannot carry it.
    #[error("{} has {bytes} bytes, but QEMU hands over at most {MOST_BYTES}; choose a smaller file", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
}

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hash([u8; 32]);

impl Hash {
    /// The digest of these parts, one after the other.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }
}

impl std::fmt::Display for Hash {
    /// Hexadecimal; `{:.12}` writes the first twelve digits.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        f.write_str(&digits[..f.precision().unwrap_or(digits.len()).min(digits.len())])
    }
}

/// The input: a copy of the file as it was when the run began.
pub struct Input {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Input {
    /// Reads `path`.
    ///
    /// # Errors
    /// [`InputError`] where it is no regular file that this user can read, or too large.
    pub fn read(path: &Path) -> Result<Self, InputError> {
        let size = Self::size(path)?;
        if size > MOST_BYTES {
            return Err(InputError::TooLarge { path: path.to_owned(), bytes: size });
        }
        let bytes = std::fs::read(path).map_err(|source| unreadable(path, source))?;
        Ok(Self { path: path.to_owned(), bytes })
    }

    /// Size of the file at `path` in bytes, without reading it.
    ///
    /// # Errors
    /// [`InputError`] where it is no regular file.
    pub fn size(path: &Path) -> Result<u64, InputError> {
        let status = std::fs::metadata(path).map_err(|source| unreadable(path, source))?;
        let not_a_file = |what| Err(InputError::NotAFile { path: path.to_owned(), what });
        if status.is_dir() {
            return not_a_file("a directory");
        }
        if !status.is_file() {
            return not_a_file("a pipe or a device");
        }
        Ok(status.len())
    }

    /// Where it came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Pages that it fills, the last one perhaps in part.
    pub fn pages(&self) -> u64 {
        self.bytes.len().div_ceil(PAGE_BYTES) as u64
    }

    /// Page `index` as it stands in fresh memory: zero behind the end of the input.
    ///
    /// # Panics
    /// Where there is no such page.
    pub fn page(&self, index: u64) -> PageBytes {
        let mut page = [0; PAGE_BYTES];
        let part = self.part(index);
        page[..part.len()].copy_from_slice(part);
        page
    }

    /// Page `index` after the device has inverted every byte of it.
    ///
    /// # Panics
    /// Where there is no such page.
    pub fn inverted_page(&self, index: u64) -> PageBytes {
        self.page(index).map(|byte| !byte)
    }

    /// The bytes of the input that stand in page `index`; fewer than a page only in the last one.
    ///
    /// # Panics
    /// Where there is no such page.
    pub fn part(&self, index: u64) -> &[u8] {
        let start = index as usize * PAGE_BYTES;
        &self.bytes[start..self.bytes.len().min(start + PAGE_BYTES)]
    }

    /// SHA-256 of the input.
    pub fn hash(&self) -> Hash {
        Hash::of([self.bytes()])
    }

    /// SHA-256 of the input with every byte inverted: what must come home.
    pub fn inverted_hash(&self) -> Hash {
        let inverted: Vec<u8> = self.bytes.iter().map(|byte| !byte).collect();
        Hash::of([inverted.as_slice()])
    }
}

fn unreadable(path: &Path, source: io::Error) -> InputError {
    match source.kind() {
        io::ErrorKind::NotFound => InputError::Missing(path.to_owned()),
        _ => InputError::Unreadable { path: path.to_owned(), source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(bytes: Vec<u8>) -> Input {
        Input { path: PathBuf::from("test"), bytes }
    }

    #[test]
    fn pages_are_padded_with_zeros_and_inverted_whole() {
        let odd = input(vec![0x0f; PAGE_BYTES + 1]);
        assert_eq!(odd.pages(), 2);
        assert_eq!(odd.page(0), [0x0f; PAGE_BYTES]);
        assert_eq!((odd.page(1)[0], odd.page(1)[1]), (0x0f, 0));
        assert_eq!((odd.inverted_page(1)[0], odd.inverted_page(1)[1]), (0xf0, 0xff));
        assert_eq!((odd.part(0).len(), odd.part(1).len()), (PAGE_BYTES, 1));
        assert_eq!(input(vec![]).pages(), 0);
        assert_eq!(input(vec![1; PAGE_BYTES]).pages(), 1);
    }

    #[test]
    fn hashes_are_those_of_the_standard() {
        // FIPS 180-4 examples: the empty message and "abc".
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(input(vec![]).hash().to_string(), empty);
        assert_eq!(input(b"abc".to_vec()).hash().to_string(), abc);
        assert_eq!(input(b"abc".map(|byte| !byte).to_vec()).inverted_hash().to_string(), abc);
        assert_eq!(format!("{:.6}", input(vec![]).hash()), "e3b0c4");
    }

    #[test]
    fn what_is_no_file_is_refused() {
        assert!(matches!(Input::read(Path::new("/nothing/here")), Err(InputError::Missing(_))));
        assert!(matches!(Input::read(Path::new("/")), Err(InputError::NotAFile { what: "a directory", .. })));
        assert!(matches!(Input::read(Path::new("/dev/null")), Err(InputError::NotAFile { .. })));
    }
}
