//! The bench: what operations of the memory manager cost, in instructions.
//!
//! Each operation is prepared, done once unmeasured, then measured four times from the same state: twice as it is, twice with bulk
//! copies timed apart, which takes instructions of its own. Every measurement goes to the host as a record; the host demands that
//! two of a kind are equal, takes the cost in all from the first kind and that of copying from the second.
//!
//! ```text
//!   mod          what is measured, in which order
//!   measure      one operation: its runs, its counts
//!   operations   how each is prepared and done
//!   shared       those where several CPUs are in the space
//!   disk         a swap disk that answers at once
//! ```
//!
//! Nothing measured waits for the device model, and interrupts are off, so that nothing but the operation counts. It is the
//! kernel that the demo boots, with all its checks, with the event stream compiled in and off.
#![forbid(unsafe_code)]
mod disk;
mod error;
mod measure;
mod operations;
mod shared;

use crate::arch::{bar_window, cpus, meter};
use crate::memory::device;
use error::BenchError;
use ferry_protocol::exit::ExitCode;
use measure::Bench;

/// Sizes of one migration to the device.
const BATCHES: [u64; 5] = [1, 16, 64, 512, 4096];

/// Pages of the other operations.
const PAGES: u64 = 512;

/// Pages of a call that brings pages home.
const LARGE_BATCH: u64 = 4096;

/// Measures everything that this machine can show: what several CPUs cost where it has them, all else where it has one.
pub fn run() -> ExitCode {
    match try_run() {
        Ok(()) => ExitCode::Success,
        Err(error) => {
            log::error!("{error}");
            ExitCode::Failed
        }
    }
}

fn try_run() -> Result<(), BenchError> {
    // What the demo does before its first step.
    let no_disk = crate::disk::attach().map_err(BenchError::Disk)?.is_none();
    let attached = device::all().map_err(BenchError::Device)?[0];
    let boot = meter::end_boot();
    bar_window::show_first(attached.range.bytes);
    let bench = Bench::calibrate(boot)?;
    if cpus::count() > 1 {
        return shared::measure(&bench, attached.id);
    }
    let operations = operations::Operations { bench: &bench, device: attached.id };
    for pages in BATCHES {
        operations.migrate_to_device(pages)?;
    }
    operations.fault_back_read(PAGES)?;
    operations.fault_back_write(PAGES)?;
    operations.migrate_to_system(LARGE_BATCH)?;
    operations.touch_write(PAGES)?;
    operations.touch_read(PAGES)?;
    operations.cow_fault(PAGES)?;
    operations.fork(PAGES)?;
    operations.unmap(PAGES)?;
    operations.protect(PAGES)?;
    if no_disk {
        disk::attach(PAGES)?;
        operations.swap_out(PAGES)?;
        operations.swap_in(PAGES)?;
    }
    operations.copy_page(PAGES)?;
    operations.clear_page(PAGES)
}
