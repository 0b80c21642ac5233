//! The swap disk's image, read from outside: slot N is the page at N times 4096 bytes.
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::sys::{PAGE_BYTES, PageBytes};

/// The image, open for reading; it stays readable when the file's name is gone.
///
/// It is read, not mapped: a mapping would fill the holes of a sparse file that lies in memory.
#[derive(Debug)]
pub struct SwapImage {
    file: File,
    slots: u64,
}

impl SwapImage {
    /// Opens the image that QEMU was or will be given.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let slots = file.metadata()?.len() / PAGE_BYTES as u64;
        Ok(Self { file, slots })
    }

    /// How many slots there are.
    pub fn slots(&self) -> u64 {
        self.slots
    }

    /// What stands in `slot`, or `None` beyond the last one. A slot that was never written is zero.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn page(&self, slot: u64) -> io::Result<Option<PageBytes>> {
        if slot >= self.slots {
            return Ok(None);
        }
        let mut page = [0; PAGE_BYTES];
        self.file.read_exact_at(&mut page, slot * PAGE_BYTES as u64)?;
        Ok(Some(page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_pages_and_nothing_is_beyond_the_last() {
        let directory = crate::run_dir::RunDir::create(0).unwrap();
        let path = directory.file("swap");
        std::fs::write(&path, [[1; PAGE_BYTES], [2; PAGE_BYTES]].concat()).unwrap();
        let image = SwapImage::open(&path).unwrap();
        directory.unlink();
        assert_eq!(image.slots(), 2);
        assert_eq!(image.page(1).unwrap(), Some([2; PAGE_BYTES]));
        assert!(image.page(2).unwrap().is_none() && image.page(u64::MAX).unwrap().is_none());
    }
}
