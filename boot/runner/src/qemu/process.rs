//! A running machine: QEMU's process, its console, the link, and how it ends.
//!
//! Three threads read what QEMU says; their owner takes it as [`Event`]s, each wait bounded by a deadline.
//!
//! ```text
//!  COM1 ──▶ console thread ──▶ Line ───┐
//!  COM2 ──▶ link thread ─────▶ Record ─┴─▶ next() ──▶ owner ──▶ answer() ──▶ COM2
//!  stderr ─▶ thread ─▶ text, read when QEMU has ended
//! ```
//!
//! Invariants:
//! 1. QEMU ends no later than this value is dropped, and no later than the thread that started it.
//! 2. `next` reports the end only after every line and record has been taken.
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ferry_device_model::{Model, ModelError};
use ferry_protocol::exit::ExitCode;
use ferry_protocol::link::{self, FromHost, LinkError, MAX_FRAME_BYTES, ToShell};
use ferry_protocol::symbol::{CLOSE, OPEN};

use super::command::{self, Boot, Files};
use super::debugger::DebuggerError;
use super::discover::PROGRAM;
use crate::console;
use crate::guest::ram::{self, GuestRam};
use crate::guest::swap_image::SwapImage;
use crate::link::Frames;
use crate::run_dir::{RunDir, RunDirError};
use crate::size::Size;
use crate::symbols::Symbols;
use crate::sys;

/// Console lines that are kept for a report.
const KEPT_LINES: usize = 24;

/// How long QEMU may take to end after it has closed its outputs.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// How often its end is looked for meanwhile.
const END_POLL: Duration = Duration::from_millis(2);

/// Something that the machine said.
#[derive(Debug)]
pub enum Event {
    /// A line on the console, with code addresses replaced by symbols.
    Line(String),
    /// A frame on the link, to be decoded with [`link::decode`].
    Record(Vec<u8>),
    /// The machine has ended; nothing follows.
    Ended(End),
    /// The deadline has passed; the machine still runs.
    TimedOut,
}

/// How a machine ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// The guest said so.
    Code(ExitCode),
    /// The guest reset the machine, which the kernel never does on purpose: a triple fault.
    Reset,
    /// QEMU gave up, with this status and these words.
    Qemu {
        /// Its exit status, or `None` where a signal ended it.
        status: Option<i32>,
        /// What it wrote to its standard error.
        message: String,
    },
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "{} ({code:?}, exit code {:#x})", code.sentence(), *code as u32),
            Self::Reset => {
                write!(f, "the machine reset itself: a triple fault, an exception that could not be delivered")
            }
            Self::Qemu { status: Some(status), message } => {
                write!(f, "QEMU ended with status {status}: {}", message.trim())
            }
            Self::Qemu { status: None, message } => write!(f, "QEMU was killed by a signal: {}", message.trim()),
        }
    }
}

/// Why a machine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No directory for its files.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// A file or thread of the run cannot be made.
    #[error("cannot set up the machine's {what}: {source}; check the free space and the limits of this user")]
    SetUp {
        /// Which one.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// QEMU cannot be executed.
    #[error("cannot run {PROGRAM}: {0}; `./run.sh doctor` says what is missing")]
    Spawn(io::Error),
    /// The device model cannot be started.
    #[error("{0}; check the free space and --vram")]
    Device(#[from] ModelError),
    /// The debugger cannot be started.
    #[error(transparent)]
    Debugger(#[from] DebuggerError),
}

/// A machine that was started.
pub struct Machine {
    child: Child,
    link: UnixStream,
    events: Receiver<Event>,
    messages: Option<JoinHandle<String>>,
    symbols: Symbols,
    /// Symbols that were looked up already: a look takes milliseconds.
    known: HashMap<u64, String>,
    lines: VecDeque<String>,
    started: Instant,
    ram: GuestRam,
    devices: Vec<Model>,
    swap: Option<SwapImage>,
    trace: Option<File>,
    debugger: Option<Child>,
    run_dir: RunDir,
}

impl Machine {
    /// Makes the machine's files, starts the device models and then QEMU.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left behind then.
    pub fn start(boot: &Boot) -> Result<Self, StartError> {
        let set_up = |what| move |source| StartError::SetUp { what, source };
        let run_dir = RunDir::create(boot.machine.backing_bytes())?;
        let (memory, options) = (run_dir.file("ram"), run_dir.file("options"));
        let (image, socket) = (run_dir.file("swap"), run_dir.file("gdb"));
        std::fs::write(&options, boot.options).map_err(set_up("options"))?;
        make_sparse(&memory, boot.machine.memory.bytes()).map_err(set_up("memory"))?;
        let ram = GuestRam::open(&memory).map_err(set_up("memory"))?;
        let (mut devices, mut vram) = (Vec::new(), Vec::new());
        for (number, device) in (0..).zip(&boot.machine.devices) {
            let path = run_dir.file(&format!("vram{number}"));
            let options =
                ferry_device_model::Options { number, device_type: device.device_type, misbehaviour: device.fault };
            let regions = ram::regions(boot.machine.memory.bytes());
            let reached = ferry_device_model::GuestRam::open(&memory, regions).map_err(set_up("memory"))?;
            let model = Model::start(&path, boot.machine.vram.bytes(), options, Some(reached))?;
            vram.push((path, model.bar_bytes()));
            devices.push(model);
        }
        let swap = match boot.machine.swap.size() {
            Size(0) => None,
            Size(bytes) => Some(make_swap(&image, bytes).map_err(set_up("swap disk"))?),
        };
        let stream = run_dir.file("trace");
        // Opened now, because the file loses its name as soon as the machine runs.
        let trace = match boot.machine.trace {
            true => Some(File::create_new(&stream).and_then(|_| File::open(&stream)).map_err(set_up("trace"))?),
            false => None,
        };
        let files = Files {
            loader: boot.loader,
            kernel: boot.kernel,
            memory: &memory,
            vram: &vram,
            swap: swap.as_ref().map(|_| image.as_path()),
            trace: trace.as_ref().map(|_| stream.as_path()),
            options: &options,
            input: boot.input,
            gdb: boot.debugger.map(|_| socket.as_path()),
        };
        let arguments = command::arguments(boot.machine, &files, boot.clock);
        if boot.verbose {
            eprintln!("ferry: {}", command::shown(PROGRAM, &arguments));
        }
        let (ours, theirs) = UnixStream::pair().map_err(set_up("link"))?;
        let mut qemu = Command::new(PROGRAM);
        qemu.args(arguments).stdin(OwnedFd::from(theirs)).stdout(Stdio::piped()).stderr(Stdio::piped());
        sys::end_with_parent(&mut qemu);
        if boot.debugger.is_some() {
            // An interrupt from the terminal is for gdb, which then halts the machine.
            qemu.process_group(0);
        }
        let mut child = qemu.spawn().map_err(StartError::Spawn)?;
        // The parent's copy of QEMU's end must close, or the link would never end.
        drop(qemu);
        let started = Instant::now();
        let (sender, events) = channel();
        let reader = ours.try_clone().map_err(set_up("link"))?;
        if let Some(stdout) = child.stdout.take() {
            let sender = sender.clone();
            spawn("console", move || read_console(stdout, &sender)).map_err(set_up("console"))?;
        }
        spawn("link", move || read_link(reader, &sender)).map_err(set_up("link"))?;
        let messages = match child.stderr.take() {
            Some(stderr) => Some(spawn("messages", move || read_all(stderr)).map_err(set_up("messages"))?),
            None => None,
        };
        let debugger = boot.debugger.map(|debugger| debugger.attach(boot.kernel, &socket, &run_dir)).transpose()?;
        let symbols = Symbols::of(boot.kernel);
        Ok(Self {
            child,
            link: ours,
            events,
            messages,
            symbols,
            known: HashMap::new(),
            lines: VecDeque::new(),
            started,
            ram,
            devices,
            swap,
            trace,
            debugger,
            run_dir,
        })
    }

    /// The next thing the machine says, or [`Event::TimedOut`] where that is not before `deadline`.
    pub fn next(&mut self, deadline: Instant) -> Event {
        let patience = deadline.saturating_duration_since(Instant::now());
        match self.events.recv_timeout(patience) {
            Ok(Event::Line(line)) => Event::Line(self.keep(&line)),
            Ok(Event::Record(frame)) => {
                // QEMU has opened everything long before the kernel's first record.
                self.run_dir.unlink();
                Event::Record(frame)
            }
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => Event::TimedOut,
            Err(RecvTimeoutError::Disconnected) => Event::Ended(self.wait()),
        }
    }

    /// Ends QEMU and returns the last console lines, an unfinished one included.
    pub fn stop(&mut self) -> Vec<String> {
        self.end_qemu();
        while let Ok(event) = self.events.recv() {
            if let Event::Line(line) = event {
                self.keep(&line);
            }
        }
        self.last_lines()
    }

    /// Answers a checkpoint.
    ///
    /// # Errors
    /// Where the link is closed: the machine has ended, which [`Machine::next`] will report.
    pub fn answer(&mut self, answer: FromHost) -> io::Result<()> {
        let mut buffer = [0; MAX_FRAME_BYTES];
        self.send(link::encode(&answer, &mut buffer))
    }

    /// Answers the shell's prompt.
    ///
    /// # Errors
    /// As above.
    pub fn tell(&mut self, next: &ToShell<'_>) -> io::Result<()> {
        let mut buffer = [0; MAX_FRAME_BYTES];
        self.send(link::encode(next, &mut buffer))
    }

    fn send(&mut self, frame: Result<&[u8], LinkError>) -> io::Result<()> {
        let frame = frame.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("{error:?}")))?;
        self.link.write_all(frame)
    }

    /// The last console lines, oldest first.
    pub fn last_lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }

    /// When QEMU was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The guest's RAM, from outside.
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// The devices, by number.
    pub fn devices(&self) -> &[Model] {
        &self.devices
    }

    /// The swap disk's image, if the machine has one; also after the machine's end.
    pub fn swap(&self) -> Option<&SwapImage> {
        self.swap.as_ref()
    }

    /// The event stream so far, from its beginning; nothing where the machine has none.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn trace(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if let Some(file) = &self.trace {
            let mut reader = file;
            reader.rewind()?;
            reader.read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    }

    /// The code at this address of the kernel, as function, file and line where that is known.
    pub fn symbol(&mut self, address: u64) -> String {
        let symbols = &self.symbols;
        let text = self.known.entry(address).or_insert_with(|| symbols.replace(&format!("{OPEN}{address:x}{CLOSE}")));
        text.clone()
    }

    /// Waits for the debugger to end, where there is one, and says whether its commands all worked.
    pub fn debugger_was_content(&mut self) -> bool {
        self.debugger.as_mut().is_none_or(|debugger| debugger.wait().is_ok_and(|status| status.success()))
    }

    fn keep(&mut self, line: &str) -> String {
        let line = self.symbols.replace(line);
        if self.lines.len() == KEPT_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line.clone());
        line
    }

    fn wait(&mut self) -> End {
        let deadline = Instant::now() + END_PATIENCE;
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(END_POLL),
                Ok(None) | Err(_) => break None,
            }
        };
        self.end_qemu();
        let message = self.messages.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        end_of(status, message)
    }

    fn end_qemu(&mut self) {
        // An error here means that the process has already ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.link.shutdown(Shutdown::Both);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end_qemu();
        if let Some(debugger) = &mut self.debugger {
            // It stays as long as its user wants to look at what is left.
            let _ = debugger.wait();
        }
    }
}

fn end_of(status: Option<ExitStatus>, message: String) -> End {
    match status.and_then(|status| status.code()) {
        // QEMU says why when it ends itself with 0, as after SIGTERM; a reset with -no-reboot is silent.
        Some(0) if message.is_empty() => End::Reset,
        Some(code) => match ExitCode::from_qemu_status(code) {
            Some(code) => End::Code(code),
            None => End::Qemu { status: Some(code), message },
        },
        None => {
            let signal = status.and_then(|status| status.signal()).map(|signal| format!(" (signal {signal})"));
            End::Qemu { status: None, message: message + &signal.unwrap_or_default() }
        }
    }
}

fn make_sparse(path: &std::path::Path, bytes: u64) -> io::Result<()> {
    std::fs::File::create_new(path)?.set_len(bytes)
}

fn make_swap(path: &std::path::Path, bytes: u64) -> io::Result<SwapImage> {
    make_sparse(path, bytes)?;
    SwapImage::open(path)
}

fn spawn<T: Send + 'static>(name: &str, body: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body)
}

fn read_console(stream: impl Read, sender: &Sender<Event>) {
    // The owner may be gone already; then nobody wants the rest.
    console::lines(stream, |line| sender.send(Event::Line(line)).is_ok());
}

fn read_link(stream: impl Read, sender: &Sender<Event>) {
    for frame in Frames::new(stream) {
        if sender.send(Event::Record(frame)).is_err() {
            return;
        }
    }
}

fn read_all(mut stream: impl Read) -> String {
    let mut bytes = Vec::new();
    // What could be read until the error is what there is to show.
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}
