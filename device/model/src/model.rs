//! The model as a thread: started before QEMU, stopped after it.
//!
//! The thread looks at the ring all the time while there is work and for a moment after; then it
//! sleeps, first briefly, at last a millisecond at a time, so that an idle device costs next to
//! nothing on a machine with two cores.
//!
//! ```text
//!   work ──▶ spin SPIN_TURNS turns ──▶ sleep 20 µs, 40 µs, ... 1 ms, 1 ms, ...
//!    ▲                                          │
//!    └──────────────── new commands ◀───────────┘
//! ```
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ferry_device::command::DeviceState;
use ferry_device::layout::{IDENTIFICATION, Identification, LAYOUT_VERSION, STATE};
use ferry_device::{Geometry, Identity, SizeError};
use zerocopy::IntoBytes;

use crate::engine::{Engine, GuestError};
use crate::mapping::Mapping;
use crate::memory::DeviceMemory;
use crate::options::{Misbehaviour, Options};
use crate::ram::GuestRam;

/// Turns without work before the thread sleeps: some tens of microseconds.
const SPIN_TURNS: u32 = 2000;
const FIRST_SLEEP: Duration = Duration::from_micros(20);
const LONGEST_SLEEP: Duration = Duration::from_millis(1);

/// Size of the file for [`Misbehaviour::TooSmall`]: a power of two, so that QEMU takes it.
const TOO_SMALL_BYTES: u64 = 64 << 10;

/// A running model of the device. Dropping it stops it.
#[derive(Debug)]
pub struct Model {
    bar_bytes: u64,
    memory: DeviceMemory,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread and its owner share.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    transformed: AtomicU64,
    failure: OnceLock<GuestError>,
}

impl Model {
    /// Creates the file at `path` for a BAR of `bytes` bytes, sparse and all zero but for the
    /// identification, and starts the device on it. A file that is there already is emptied. Without `ram`, every
    /// transfer between RAM and the device fails.
    ///
    /// # Errors
    /// [`ModelError`] for a size that no BAR of this device has, before the file is touched, and for
    /// a file that cannot be made or mapped.
    pub fn start(path: &Path, bytes: u64, options: Options, ram: Option<GuestRam>) -> Result<Self, ModelError> {
        let geometry = Geometry::of_bar(bytes)?;
        let at = |action| move |source| ModelError::File { action, path: path.to_owned(), source };
        let file = create(path).map_err(at("create"))?;
        let bar_bytes = match options.misbehaviour {
            Some(Misbehaviour::TooSmall) => TOO_SMALL_BYTES,
            _ => bytes,
        };
        file.set_len(bar_bytes).map_err(at("size"))?;
        identify(&file, geometry, options).map_err(at("write"))?;
        let shared = Arc::new(Shared::default());
        let thread = match options.misbehaviour {
            Some(Misbehaviour::TooSmall | Misbehaviour::NeverAnswers) => None,
            misbehaviour => {
                let mapping = Mapping::new(&file, geometry, ram).map_err(at("map"))?;
                let engine = Engine::new(mapping, 0, misbehaviour);
                let shared = Arc::clone(&shared);
                let run = move || work(engine, &shared);
                Some(thread::Builder::new().name("device".into()).spawn(run).map_err(ModelError::Thread)?)
            }
        };
        Ok(Self { bar_bytes, memory: DeviceMemory::new(file, geometry), shared, thread })
    }

    /// Bytes of the file, which QEMU's memory backend must have too.
    pub const fn bar_bytes(&self) -> u64 {
        self.bar_bytes
    }

    /// Device frames that commands have changed since the start; a frame changed twice counts twice.
    pub fn frames_transformed(&self) -> u64 {
        self.shared.transformed.load(Ordering::Relaxed)
    }

    /// How the guest broke the ring protocol, if it did; the device does nothing any more then.
    pub fn failure(&self) -> Option<GuestError> {
        self.shared.failure.get().copied()
    }

    /// The device's memory, to look at.
    pub const fn memory(&self) -> &DeviceMemory {
        &self.memory
    }

    /// Stops the device: commands under way are finished, the state in the control area becomes
    /// "stopped", the thread ends. Does nothing the second time.
    pub fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic of the thread has been printed by the panic hook; the guest saw it as silence.
            drop(thread.join());
        }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.stop();
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)
}

/// Writes the identification and the state, with ordinary writes: nobody else has the file yet.
fn identify(file: &File, geometry: Geometry, options: Options) -> io::Result<()> {
    let identity = Identity { number: options.number, device_type: options.device_type };
    let mut identification: Identification = identity.encode(geometry);
    if options.misbehaviour == Some(Misbehaviour::WrongVersion) {
        identification.version.set(LAYOUT_VERSION + 1);
    }
    file.write_all_at(identification.as_bytes(), IDENTIFICATION.offset() as u64)?;
    file.write_all_at(&DeviceState::Ready.to_wire().to_le_bytes(), STATE.offset() as u64)
}

/// The thread: turns until it is stopped or the guest breaks the protocol.
fn work(mut engine: Engine, shared: &Shared) {
    let mut idle_turns = 0;
    let mut sleep = FIRST_SLEEP;
    loop {
        // Asked before the turn, so that what was submitted before the stop is still done.
        let stop = shared.stop.load(Ordering::Acquire);
        match engine.turn(&shared.transformed) {
            Err(error) => {
                // Set at most once: the loop ends here.
                shared.failure.get_or_init(|| error);
                return;
            }
            Ok(_) if stop => return engine.set_state(DeviceState::Stopped),
            Ok(0) if idle_turns < SPIN_TURNS => {
                idle_turns += 1;
                std::hint::spin_loop();
            }
            Ok(0) => {
                thread::park_timeout(sleep);
                sleep = (sleep * 2).min(LONGEST_SLEEP);
            }
            Ok(_) => {
                idle_turns = 0;
                sleep = FIRST_SLEEP;
            }
        }
    }
}

/// Why a model could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// No BAR of this device has that size.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// Something about the file failed.
    #[error("cannot {action} the file for the device memory, {}: {source}; is there room and permission for it?", path.display())]
    File {
        /// What was being done, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The operating system gave no thread.
    #[error("cannot start a thread for the device model: {0}")]
    Thread(io::Error),
}
