//! The demo: the bytes of a file go to the device, are changed there by the device, and come home by page faults.
//!
//! ```text
//!   fw_cfg ──first touch──▶ anonymous memory ──migrate──▶ device frames ──invert (the device)──┐
//!              ▲                    ▲                                                          │
//!              │                    └───────────── a fault brings each page home ◀─────────────┘
//!              └ checkpoints: the host looks at RAM, at the tables and behind the BAR, and says whether to go on
//! ```
//!
//! Where the device is smaller than the input, what does not fit stays and goes in a later round.
//!
//! The kernel checks nothing of the contents itself: the host does, from outside.
#![forbid(unsafe_code)]
use crate::arch::{areas, cpus};
use crate::fw_cfg::{FwCfg, FwCfgError};
use crate::link::{self, NoAnswer};
use crate::memory::device::{self, DeviceProblem};
use crate::memory::{self, AddressSpace};
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;
use ferry_device::driver::DeviceError;
use ferry_mm::address::{PAGE_BYTES, PageRange, RangeError};
use ferry_mm::frame::{DeviceFrame, DeviceId};
use ferry_mm::inject::Step;
use ferry_mm::manager::Census;
use ferry_mm::migrate::MigrateError;
use ferry_mm::page_table::entry::Entry;
use ferry_mm::space::{CreateError, MapError, Protection, StillEntered};
use ferry_mm::stats::{Reason, Stayed};
use ferry_protocol::exit::ExitCode;
use ferry_protocol::link::{Checkpoint, FromHost, FromKernel, Outcome, Stage};
use ferry_protocol::options::{Inject, InjectStep};
use x86_64::VirtAddr;

/// Where the input is mapped: an address whose four indices are all different, which makes a walk easy to follow.
const INPUT_START: VirtAddr = VirtAddr::new_truncate(0x0000_1234_5678_9000);

/// Pages per migration call. A call keeps its pages from everybody else for as long as it runs.
const PAGES_PER_CALL: u64 = 4096;

/// Pages between two progress records.
const PROGRESS_STEP: u64 = 1024;

/// The host hashes and compares the whole input at a checkpoint.
const HOST_PATIENCE: Duration = Duration::from_secs(120);

/// RAM frames that must be left beside the input: page tables, and what the demo itself uses.
const SPARE_FRAMES: u64 = 64;

/// Why the demo ended without its result.
#[derive(Debug)]
pub enum DemoError {
    /// The input cannot be read.
    Input(FwCfgError),
    /// The input has more pages than RAM has free frames.
    InputTooLarge(u64, u64),
    /// There is no device to use.
    Device(DeviceProblem),
    /// The device did not do its work.
    Work(DeviceError),
    /// There is no address space.
    Space(CreateError),
    /// The input has no place in the address space.
    Range(RangeError),
    /// The input's area cannot be mapped.
    Map(MapError),
    /// A migration did nothing.
    Migrate(MigrateError),
    /// No room in the heap for the list of pages.
    HeapFull(u64),
    /// A round moved no page, though some are left.
    NoProgress(u64),
    /// The address space cannot be torn down.
    TearDown(StillEntered),
    /// The host did not answer.
    NoAnswer(NoAnswer),
    /// The host says that the checkpoint does not hold.
    Stopped(Stage),
}

impl fmt::Display for DemoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(error) => error.fmt(f),
            Self::InputTooLarge(pages, free) => write!(
                f,
                "the input has {pages} pages and RAM has {free} free frames, of which {SPARE_FRAMES} must be spared; \
                 give the machine more with --memory"
            ),
            Self::Device(error) => error.fmt(f),
            Self::Work(error) => error.fmt(f),
            Self::Space(error) => error.fmt(f),
            Self::Range(error) => error.fmt(f),
            Self::Map(error) => error.fmt(f),
            Self::Migrate(error) => error.fmt(f),
            Self::HeapFull(bytes) => write!(f, "the heap has no room for {bytes} bytes; use a smaller input"),
            Self::NoProgress(left) => write!(f, "a round moved no page while {left} are left; see the reasons above"),
            Self::TearDown(error) => error.fmt(f),
            Self::NoAnswer(error) => error.fmt(f),
            Self::Stopped(stage) => write!(f, "the host stopped the demo at the checkpoint {stage:?}; see its message"),
        }
    }
}

impl core::error::Error for DemoError {}

impl DemoError {
    /// The exit code that tells the host which of them it was.
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::InputTooLarge(..) => ExitCode::InputTooLarge,
            Self::Device(problem) => problem.exit_code(),
            Self::Work(error) => device::code_of(error),
            Self::Space(_) | Self::HeapFull(_) => ExitCode::OutOfMemory,
            Self::Migrate(MigrateError::NoMemory) => ExitCode::OutOfMemory,
            Self::NoAnswer(_) => ExitCode::HostTimeout,
            Self::Input(_)
            | Self::Range(_)
            | Self::Map(_)
            | Self::Migrate(_)
            | Self::NoProgress(_)
            | Self::TearDown(_)
            | Self::Stopped(_) => ExitCode::Failed,
        }
    }
}

/// Runs the demo, with `inject` as the one step that fails.
pub fn run(inject: Option<Inject>) -> ExitCode {
    match try_run(inject) {
        Ok(()) => ExitCode::Success,
        Err(error) => {
            log::error!("{error}");
            error.exit_code()
        }
    }
}

fn try_run(inject: Option<Inject>) -> Result<(), DemoError> {
    let manager = memory::manager();
    let device = device::all().map_err(DemoError::Device)?[0].id;
    let mut fw_cfg = FwCfg::new().map_err(DemoError::Input)?;
    let input = fw_cfg.file(ferry_protocol::fw_cfg::INPUT).map_err(DemoError::Input)?;
    let pages = input.len().div_ceil(PAGE_BYTES);
    let before = manager.census();
    if pages + SPARE_FRAMES > before.free_frames {
        return Err(DemoError::InputTooLarge(pages, before.free_frames));
    }
    if let Some(Inject { step, count }) = inject {
        manager.injector().arm(step_of(step), count);
    }
    let mut outcome = Outcome { cpus: cpus::count() as u32, pages, ..Outcome::default() };
    if pages > 0 {
        let space = manager.create_space().map_err(DemoError::Space)?;
        let range = PageRange::covering(INPUT_START, input.len()).map_err(DemoError::Range)?;
        space.map_anonymous(range, Protection::READ_WRITE).map_err(DemoError::Map)?;
        memory::enter(space);
        log::info!("reading {} bytes into {pages} fresh pages from v{INPUT_START:#x} on", input.len());
        let mut offset = 0;
        loop {
            let chunk = fw_cfg.chunk(&input, offset).map_err(DemoError::Input)?;
            if chunk.is_empty() {
                break;
            }
            areas::store_bytes(INPUT_START + offset, chunk);
            offset += chunk.len() as u64;
            progress(Stage::Populated, offset / PAGE_BYTES, pages);
        }
        let journey = Journey { space, range, device };
        journey.checkpoint(Stage::Populated, 0)?;
        journey.run(&mut outcome)?;
        memory::leave();
        space.destroy().map_err(DemoError::TearDown)?;
    }
    check_in(Checkpoint { stage: Stage::TornDown, round: 0, root: 0, start: INPUT_START.as_u64(), pages })?;
    let counts = manager.statistics().read();
    outcome.faults = counts.special_faults;
    outcome.returned = counts.returned_by_fault;
    outcome.inject_pending = inject.is_some_and(|inject| manager.injector().is_armed(step_of(inject.step)));
    count_leaks(&mut outcome, before, manager.census());
    link::send(&FromKernel::Outcome(outcome));
    log::info!(
        "{} pages went, {} came home by {} faults, {} flushes; missing: {} frames, {} device frames, {} tables",
        outcome.migrated,
        outcome.returned,
        outcome.faults,
        counts.flushes,
        outcome.leaked_frames,
        outcome.leaked_device_frames,
        outcome.leaked_table_frames
    );
    Ok(())
}

/// The input's way to the device and home.
struct Journey {
    space: AddressSpace,
    range: PageRange,
    device: DeviceId,
}

impl Journey {
    fn run(&self, outcome: &mut Outcome) -> Result<(), DemoError> {
        let mut travelled = PageSet::new(self.range.pages())?;
        let mut on_device = PageSet::new(self.range.pages())?;
        while travelled.len() < self.range.pages() {
            outcome.rounds += 1;
            let round = outcome.rounds;
            let stayed = self.migrate(&travelled, outcome)?;
            for (reason, pages) in stayed.iter() {
                link::send(&FromKernel::Stayed { round, reason: reason.name(), pages });
                if reason != Reason::DeviceFull {
                    log::warn!("round {round}: {pages} pages stayed ({})", reason.name());
                }
            }
            on_device.clear();
            self.frames().for_each(|(index, _)| on_device.insert(index));
            log::info!("round {round}: {} pages on the device, {} stayed", on_device.len(), stayed.total());
            if on_device.len() == 0 {
                return Err(DemoError::NoProgress(self.range.pages() - travelled.len()));
            }
            self.checkpoint(Stage::Migrated, round)?;
            let frames = self.frames().map(|(_, frame)| frame);
            let inverted = device::invert(self.device, frames).map_err(DemoError::Work)?;
            log::info!("round {round}: the device inverted {inverted} pages in its memory");
            self.checkpoint(Stage::Transformed, round)?;
            let mut home = 0;
            for index in on_device.iter() {
                // The first access to each page faults; when it has been made, the page is home.
                areas::load_byte(self.range.page(index).start_address());
                travelled.insert(index);
                home += 1;
                progress(Stage::Returned, home, on_device.len());
            }
            self.checkpoint(Stage::Returned, round)?;
        }
        Ok(())
    }

    /// Migrates every page that has not travelled yet, call by call.
    fn migrate(&self, travelled: &PageSet, outcome: &mut Outcome) -> Result<Stayed, DemoError> {
        let mut stayed = Stayed::default();
        for (first, pages) in travelled.missing_runs(PAGES_PER_CALL) {
            let start = self.range.page(first).start_address();
            let part = PageRange::covering(start, pages * PAGE_BYTES).map_err(DemoError::Range)?;
            let report = self.space.migrate_to_device(part, self.device).map_err(DemoError::Migrate)?;
            outcome.migrated += report.moved;
            stayed += report.stayed;
            progress(Stage::Migrated, first + pages, self.range.pages());
        }
        Ok(stayed)
    }

    /// The pages that are on the device, by index, with their device frames, as the page table says.
    fn frames(&self) -> impl Iterator<Item = (u64, DeviceFrame)> {
        (0..self.range.pages()).filter_map(|index| {
            match self.space.entry(self.range.page(index).start_address()).decode() {
                Entry::Device { frame, .. } => Some((index, frame)),
                _ => None,
            }
        })
    }

    fn checkpoint(&self, stage: Stage, round: u32) -> Result<(), DemoError> {
        let root = self.space.root().start_address().as_u64();
        let start = self.range.start_address().as_u64();
        check_in(Checkpoint { stage, round, root, start, pages: self.range.pages() })
    }
}

/// The memory manager's name for a step that the options name.
fn step_of(step: InjectStep) -> Step {
    match step {
        InjectStep::Alloc => Step::Alloc,
        InjectStep::DeviceAlloc => Step::DeviceAlloc,
        InjectStep::Copy => Step::Copy,
    }
}

/// Lets the host look, and waits for its word.
fn check_in(checkpoint: Checkpoint) -> Result<(), DemoError> {
    link::send(&FromKernel::Checkpoint(checkpoint));
    match link::wait(HOST_PATIENCE).map_err(DemoError::NoAnswer)? {
        FromHost::Continue => Ok(()),
        FromHost::Stop => Err(DemoError::Stopped(checkpoint.stage)),
    }
}

fn progress(stage: Stage, done: u64, total: u64) {
    if done.is_multiple_of(PROGRESS_STEP) && done > 0 {
        link::send(&FromKernel::Progress { stage, done, total });
    }
}

fn count_leaks(outcome: &mut Outcome, before: Census, after: Census) {
    let missing = |before: u64, after: u64| before as i64 - after as i64;
    outcome.leaked_frames = missing(before.free_frames, after.free_frames);
    outcome.leaked_device_frames = missing(before.free_device_frames, after.free_device_frames);
    outcome.leaked_table_frames = -missing(before.table_frames, after.table_frames);
}

/// A set of pages of the input: one bit for each.
struct PageSet {
    words: Vec<u64>,
    pages: u64,
    len: u64,
}

impl PageSet {
    fn new(pages: u64) -> Result<Self, DemoError> {
        let count = pages.div_ceil(u64::from(u64::BITS)) as usize;
        let mut words = Vec::new();
        words.try_reserve_exact(count).map_err(|_| DemoError::HeapFull(count as u64 * size_of::<u64>() as u64))?;
        words.resize(count, 0);
        Ok(Self { words, pages, len: 0 })
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn clear(&mut self) {
        self.words.fill(0);
        self.len = 0;
    }

    fn contains(&self, page: u64) -> bool {
        self.words[(page / u64::from(u64::BITS)) as usize] & 1 << (page % u64::from(u64::BITS)) != 0
    }

    fn insert(&mut self, page: u64) {
        self.len += u64::from(!self.contains(page));
        self.words[(page / u64::from(u64::BITS)) as usize] |= 1 << (page % u64::from(u64::BITS));
    }

    fn iter(&self) -> impl Iterator<Item = u64> {
        (0..self.pages).filter(|page| self.contains(*page))
    }

    /// The runs of pages that are not in the set, each at most `longest` long: first page and length.
    fn missing_runs(&self, longest: u64) -> impl Iterator<Item = (u64, u64)> {
        let mut next = 0;
        core::iter::from_fn(move || {
            let first = (next..self.pages).find(|page| !self.contains(*page))?;
            let limit = self.pages.min(first + longest);
            let end = (first..limit).find(|page| self.contains(*page)).unwrap_or(limit);
            next = end;
            Some((first, end - first))
        })
    }
}
