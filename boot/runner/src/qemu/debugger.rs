//! gdb, attached to a machine that waits for it.
//!
//! ```text
//!   QEMU -S ◀── gdb's remote protocol, a socket in the run's directory ──▶ gdb ◀──▶ terminal, or a file of commands
//! ```
//!
//! gdb begins at the kernel's first instruction of Rust, with the symbols where the loader puts them and the commands of
//! `boot/runner/gdb/ferry.py`.
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::artifacts::workspace;
use crate::run_dir::RunDir;

/// The program's name; it is looked for in `PATH`.
pub const PROGRAM: &str = "gdb";

/// How to get it.
pub const INSTALL: &str = "apt-get install --no-install-recommends gdb";

/// Where the loader puts the kernel: `KERNEL` in kernel/src/arch/layout.rs.
const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;

/// How long QEMU may take to open its socket, and how often it is looked for.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);

/// How gdb is used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Debugger {
    /// By a person.
    Interactive,
    /// By the commands of this file; it ends after the last.
    Batch(PathBuf),
}

/// Why there is no debugger.
#[derive(Debug, thiserror::Error)]
pub enum DebuggerError {
    /// It is not installed or cannot be executed.
    #[error("cannot run {PROGRAM}: {0}; on Debian and Ubuntu: {INSTALL}")]
    Spawn(io::Error),
    /// Its first commands cannot be written.
    #[error("cannot write the commands for {PROGRAM}: {0}; check the free space")]
    Commands(io::Error),
    /// QEMU does not wait for it.
    #[error("QEMU opened no socket for {PROGRAM} within {PATIENCE:?}; --verbose shows its command line")]
    NoSocket,
}

impl Debugger {
    /// Whether gdb is installed.
    ///
    /// # Errors
    /// [`DebuggerError::Spawn`].
    pub fn check() -> Result<(), DebuggerError> {
        let version = Command::new(PROGRAM).arg("--version").stdin(Stdio::null()).output();
        version.map(drop).map_err(DebuggerError::Spawn)
    }

    /// Starts gdb on the machine that waits at `socket`, with the symbols of `kernel`.
    ///
    /// # Errors
    /// [`DebuggerError`].
    pub(super) fn attach(&self, kernel: &Path, socket: &Path, run_dir: &RunDir) -> Result<Child, DebuggerError> {
        let deadline = Instant::now() + PATIENCE;
        while !socket.exists() {
            if Instant::now() > deadline {
                return Err(DebuggerError::NoSocket);
            }
            std::thread::sleep(POLL);
        }
        let commands = run_dir.file("gdb-commands");
        std::fs::write(&commands, first_commands(kernel, socket)).map_err(DebuggerError::Commands)?;
        let mut gdb = Command::new(PROGRAM);
        // Neither the user's files nor a server for debug information: what happens here depends on this tree alone.
        gdb.args(["-q", "-nx", "-iex", "set debuginfod enabled off"]);
        match self {
            Self::Interactive => gdb.arg("-x").arg(&commands),
            Self::Batch(file) => gdb.arg("-batch").arg("-x").arg(&commands).arg("-x").arg(file).stdin(Stdio::null()),
        };
        gdb.spawn().map_err(DebuggerError::Spawn)
    }
}

fn first_commands(kernel: &Path, socket: &Path) -> String {
    let python = workspace().join("boot/runner/gdb/ferry.py");
    let (kernel, socket, python) = (kernel.display(), socket.display(), python.display());
    format!(
        "set pagination off\nset confirm off\nset language rust\n\
         add-symbol-file {kernel} -o {KERNEL_BASE:#x}\n\
         target remote {socket}\n\
         tbreak ferry_kernel::start\ncontinue\n\
         source {python}\n"
    )
}
