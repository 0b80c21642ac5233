//! What the standard library does not offer: shared read-only mappings and six calls of the operating system.
//!
//! This is the only module of the host tool with `unsafe` code.
//!
//! Invariants:
//! 1. A mapping is read with volatile accesses only and no reference into it is ever made: the guest and the
//!    device model change the same memory at any time.
//! 2. A read outside a mapping is an answer (`None`), not an access.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use memmap2::{MmapOptions, MmapRaw};

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;

/// The bytes of one page, copied out of a mapping.
pub type PageBytes = [u8; PAGE_BYTES];

/// A file that somebody else writes, mapped for reading.
pub struct SharedFile {
    map: MmapRaw,
}

impl SharedFile {
    /// Maps the whole of `path`.
    ///
    /// # Errors
    /// Where the file cannot be opened or mapped.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        Ok(Self { map: MmapOptions::new().map_raw_read_only(&file)? })
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// The little-endian 64-bit word at `offset` bytes, or `None` where it is not inside or not aligned to 8.
    pub fn word(&self, offset: u64) -> Option<u64> {
        let inside = offset.checked_add(8)? <= self.bytes();
        (inside && offset.is_multiple_of(8)).then(|| self.load(offset as usize))
    }

    /// A copy of the page at `offset` bytes, or `None` where it is not inside or not aligned to a page.
    pub fn page(&self, offset: u64) -> Option<PageBytes> {
        let inside = offset.checked_add(PAGE_BYTES as u64)? <= self.bytes();
        if !inside || !offset.is_multiple_of(PAGE_BYTES as u64) {
            return None;
        }
        let mut page = [0; PAGE_BYTES];
        for (i, word) in page.chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(&self.load(offset as usize + i * 8).to_le_bytes());
        }
        Some(page)
    }

    fn load(&self, offset: usize) -> u64 {
        debug_assert!(offset.is_multiple_of(8) && offset + 8 <= self.map.len());
        // SAFETY: both callers have checked that these 8 bytes are inside the mapping and aligned (a mapping starts at
        // a page), and the mapping lives as long as `self`. Volatile, because another process may write them meanwhile.
        unsafe { self.map.as_ptr().add(offset).cast::<u64>().read_volatile() }
    }
}

/// Makes the process of `command` end when the calling thread ends, however it ends.
pub fn end_with_parent(command: &mut Command) {
    // SAFETY: the closure runs between fork and exec; it makes one system call, which is async-signal-safe, and
    // touches no memory of the parent.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}

/// Lets the process of `command` have at most so many bytes of address space; beyond them its allocations fail.
pub fn bound_memory(command: &mut Command, bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: the closure runs between fork and exec; it makes one system call, which is async-signal-safe and reads a
    // structure that the closure owns.
    unsafe {
        command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_AS, &limit) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}

/// CPU time that all threads of a running process have used.
///
/// # Errors
/// Where there is no such process.
pub fn cpu_time(process: u32) -> io::Result<Duration> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: the call writes the number of a clock to a variable that lives here, and nothing else.
    match unsafe { libc::clock_getcpuclockid(process.cast_signed(), &mut clock) } {
        0 => {}
        error => return Err(io::Error::from_raw_os_error(error)),
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes a time to a variable that lives here, and nothing else.
    match unsafe { libc::clock_gettime(clock, &mut time) } {
        0 => Ok(Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec.cast_unsigned() as u32)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The signal of a terminal's interrupt key.
pub const INTERRUPT: i32 = libc::SIGINT;

/// Runs `cleanup` with the signal's number whenever the terminal or the user wants to end this process, which goes on where
/// `cleanup` returns.
///
/// Must be called before any other thread is started: the threads inherit that these signals wait for ours. A
/// child does not, since the standard library clears the set of blocked signals in it.
///
/// # Errors
/// Where the thread that waits cannot be started.
pub fn on_termination(cleanup: impl Fn(i32) + Send + 'static) -> io::Result<()> {
    // SAFETY: `signals` is a plain set of bits for which all zero is a value; the calls write it and read it while it
    // is alive, and `pthread_sigmask` accepts a null pointer for the old set.
    let signals = unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut signals);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(&mut signals, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &signals, std::ptr::null_mut());
        signals
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut signal = 0;
        // SAFETY: both pointers are to live variables of this thread.
        while unsafe { libc::sigwait(&signals, &mut signal) } == 0 {
            cleanup(signal);
        }
    })?;
    Ok(())
}

/// Bytes that this user may still write into the file system that holds `directory`.
///
/// # Errors
/// Where the file system cannot be asked.
pub fn free_bytes(directory: &Path) -> io::Result<u64> {
    let path = CString::new(directory.as_os_str().as_bytes())?;
    // SAFETY: `path` ends with a zero byte and `status` is a plain structure for which all zero is a value; both live
    // across the call.
    let (result, status) = unsafe {
        let mut status: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(path.as_ptr(), &mut status), status)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(status.f_bavail.saturating_mul(status.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_file_shows_what_is_written_and_nothing_beyond() {
        let directory = crate::run_dir::RunDir::create(0).unwrap();
        let path = directory.file("shared");
        let mut bytes = vec![0; 2 * PAGE_BYTES];
        bytes[PAGE_BYTES + 8] = 7;
        std::fs::write(&path, &bytes).unwrap();
        let shared = SharedFile::open(&path).unwrap();
        assert_eq!(shared.word(4096 + 8), Some(7));
        assert_eq!(shared.page(4096).unwrap()[8], 7);
        assert_eq!((shared.word(8192), shared.word(8188), shared.word(u64::MAX - 7)), (None, None, None));
        assert!(shared.page(8192).is_none() && shared.page(8).is_none() && shared.page(u64::MAX - 4095).is_none());

        use std::os::unix::fs::FileExt;
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[9], 4096 + 8).unwrap();
        assert_eq!(shared.word(4096 + 8), Some(9));
    }

    #[test]
    fn a_file_system_says_how_much_is_free() {
        assert!(free_bytes(Path::new("/proc/nothing-here")).is_err());
        assert!(free_bytes(&std::env::temp_dir()).unwrap() > 0);
    }
}
