//! The demo: the bytes of a file go to the devices, are changed there by the devices, and come home.
//!
//! ```text
//!   fw_cfg ──first touch──▶ anonymous memory ──migrate──▶ device frames ──invert (a device)───┐
//!              ▲                    ▲                                                         │
//!              │                    └── home: by page faults, from coherent devices by calls ◀┘
//!              └ checkpoints: the host looks at RAM, at the tables and behind the BARs, and says whether to go on
//! ```
//!
//! Where the devices are smaller than the input, what does not fit stays and goes in a later round (`journey`).
//!
//! The kernel checks nothing of the contents itself: the host does, from outside.
#![forbid(unsafe_code)]
mod error;
mod journey;
mod page_set;

pub use error::DemoError;

use crate::arch::per_cpu::{Counters, PerCpu};
use crate::arch::{areas, cpus};
use crate::disk;
use crate::fw_cfg::{self, File, FwCfg};
use crate::link;
use crate::memory::{self, AddressSpace, device, strict};
use crate::trace::{self, Told};
use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;
use ferry_mm::address::{PAGE_BYTES, PageRange};
use ferry_mm::manager::Census;
use ferry_mm::space::Protection;
use ferry_protocol::exit::ExitCode;
use ferry_protocol::link::{Checkpoint, FromHost, FromKernel, Outcome, Stage};
use ferry_protocol::options::Inject;
use journey::{Journey, Share};
use x86_64::VirtAddr;

/// Where the input is mapped: an address whose four indices are all different, which makes a walk easy to follow.
const INPUT_START: VirtAddr = VirtAddr::new_truncate(0x0000_1234_5678_9000);

/// Pages between two progress records.
const PROGRESS_STEP: u64 = 1024;

/// The host hashes and compares the whole input at a checkpoint.
const HOST_PATIENCE: Duration = Duration::from_secs(120);

/// RAM frames that must be left beside the input: page tables, and what the demo itself uses.
const SPARE_FRAMES: u64 = 64;

/// Runs the demo, with `inject` as the one step that fails; `strict` tells the host of each access that brings a page home.
pub fn run(inject: Option<Inject>, strict: bool) -> ExitCode {
    strict::enable(strict);
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
    // Both before there is an address space.
    let disk = disk::attach().map_err(DemoError::Disk)?;
    let devices = device::all().map_err(DemoError::Device)?;
    for device in devices {
        link::send(&FromKernel::Device { number: device.id.number(), bar: device.range.start.as_u64() });
    }
    trace::tell(|| Told::Step { number: 0 });
    let mut fw_cfg = fw_cfg::open().map_err(DemoError::Input)?;
    let input = fw_cfg.file(ferry_protocol::fw_cfg::INPUT).map_err(DemoError::Input)?;
    let pages = input.len().div_ceil(PAGE_BYTES);
    let before = manager.census();
    let (frames, slots) = (before.free_frames, disk.map_or(0, |disk| disk.pages()));
    if pages + SPARE_FRAMES > frames + slots {
        return Err(DemoError::InputTooLarge { pages, frames, slots });
    }
    if let Some(Inject { step, count }) = inject {
        manager.injector().arm(memory::step_of(step), count);
    }
    let mut outcome = Outcome { cpus: cpus::count() as u32, pages, ..Outcome::default() };
    let mut shares = Share::of_each(devices, pages);
    if pages > 0 {
        let space = manager.create_space().map_err(DemoError::Space)?;
        let range = PageRange::covering(INPUT_START, input.len()).map_err(DemoError::Range)?;
        populate(space, range, &mut fw_cfg, &input)?;
        let mut journey = Journey { space, range, shares: &mut shares };
        journey.checkpoint(Stage::Populated, 0)?;
        journey.run(&mut outcome)?;
        memory::leave();
        space.destroy().map_err(DemoError::TearDown)?;
    }
    check_in(Checkpoint { stage: Stage::TornDown, round: 0, root: 0, start: INPUT_START.as_u64(), pages })?;
    for share in &shares {
        link::send(&share.outcome());
    }
    for cpu in 0..cpus::count() {
        let Counters { faults, interrupts, flushes, .. } = &PerCpu::of(cpu).counters;
        let [faults, ipis, flushes] = [faults, interrupts, flushes].map(|counter| counter.load(Relaxed));
        link::send(&FromKernel::CpuOutcome { cpu: cpu as u32, faults, ipis, flushes });
    }
    let counts = manager.statistics().read();
    outcome.migrated = shares.iter().map(|share| share.migrated).sum();
    outcome.faults = shares.iter().map(|share| share.faults).sum();
    outcome.returned = counts.returned_by_fault + counts.returned_by_call;
    outcome.swapped_out = counts.swapped_out;
    outcome.swapped_in = counts.swapped_in;
    strict::drain();
    outcome.lost_homecomings = strict::lost();
    outcome.inject_pending = inject.is_some_and(|inject| manager.injector().is_armed(memory::step_of(inject.step)));
    count_leaks(&mut outcome, before, manager.census());
    link::send(&FromKernel::Outcome(outcome));
    log::info!(
        "{} pages went, {} came home, {} faults, {} flushes; missing: {} frames, {} device frames, {} tables",
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

/// Enters the space and reads the input into it.
fn populate(space: AddressSpace, range: PageRange, fw_cfg: &mut FwCfg, input: &File) -> Result<(), DemoError> {
    space.map_anonymous(range, Protection::READ_WRITE).map_err(DemoError::Map)?;
    memory::enter(space);
    let pages = range.pages();
    log::info!("reading {} bytes into {pages} fresh pages from v{INPUT_START:#x} on", input.len());
    let mut offset = 0;
    loop {
        let chunk = fw_cfg.chunk(input, offset).map_err(DemoError::Input)?;
        if chunk.is_empty() {
            return Ok(());
        }
        areas::store_bytes(INPUT_START + offset, chunk);
        offset += chunk.len() as u64;
        progress(Stage::Populated, offset / PAGE_BYTES, pages);
    }
}

/// Lets the host look, and waits for its word.
fn check_in(checkpoint: Checkpoint) -> Result<(), DemoError> {
    link::send(&FromKernel::Checkpoint(checkpoint));
    match link::wait(HOST_PATIENCE).map_err(DemoError::NoAnswer)? {
        FromHost::Continue => {
            // The step of the report's story that follows each checkpoint.
            let number = match checkpoint.stage {
                Stage::Populated => 1,
                Stage::Migrated => 2,
                Stage::Transformed => 3,
                Stage::Returned | Stage::TornDown => 4,
            };
            trace::tell(|| Told::Step { number });
            Ok(())
        }
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
    outcome.leaked_swap_slots = missing(before.free_slots, after.free_slots);
    outcome.leaked_table_frames = -missing(before.table_frames, after.table_frames);
}
