//! Experiments: kernels of your own, one file each in `kernel/examples`, that use Ferry as a library.
//!
//! ```ignore
//! #![no_std]
//! #![no_main]
//! use ferry_kernel::prelude::*;
//!
//! experiment!(main);
//!
//! fn main(lab: &Lab) -> Outcome {
//!     let (memory, device) = (lab.memory(1)?, lab.device()?);
//!     memory.store(0, 5);
//!     assert_eq!(memory.migrate_to(device)?.moved, 1);
//!     assert_eq!(memory.load(0), 5);
//!     Ok(())
//! }
//! ```
//!
//! In reading order: [`lab`] (what an experiment is handed), [`memory`] (some pages), [`place`] (where one is), [`failure`].
//!
//! Invariants:
//! 1. Devices and disk are taken into use before the experiment begins, as they must be before the first address space.
//! 2. When it has returned, every space is removed; then whatever can leak is as it was before, or the run has failed.
//! 3. The run succeeds only where the experiment returned `Ok` and invariant 2 holds. A panic ends it as failed with a report.
#![forbid(unsafe_code)]
pub mod failure;
pub mod lab;
pub mod memory;
pub mod place;

use crate::census::Census;
use crate::{commands, link};
use alloc::string::ToString;
use bootloader_api::BootInfo;
use failure::Outcome;
use ferry_protocol::exit::ExitCode;
use ferry_protocol::link::{FromKernel, TestEnd, cut};
use lab::Lab;
use log::LevelFilter;

/// Makes a binary a kernel that does one experiment: `experiment!(main)`, where `main` is a `fn(&Lab) -> Outcome`.
#[macro_export]
macro_rules! experiment {
    ($main:path) => {
        fn boot_experiment(boot_info: &'static mut $crate::bootloader_api::BootInfo) -> ! {
            $crate::experiment::start(boot_info, env!("CARGO_CRATE_NAME"), $main)
        }
        $crate::bootloader_api::entry_point!(boot_experiment, config = &$crate::BOOTLOADER_CONFIG);
    };
}

/// Runs a kernel that does the experiment `main`; for [`experiment!`].
pub fn start(boot_info: &'static mut BootInfo, name: &str, main: fn(&Lab) -> Outcome) -> ! {
    crate::boot(boot_info, || commands::follow(|_| conduct(name, main)))
}

fn conduct(name: &str, main: fn(&Lab) -> Outcome) -> ExitCode {
    // What is said about devices is for those who look into them.
    log::set_max_level(LevelFilter::Warn);
    let lab = Lab::open();
    link::send(&FromKernel::TestStarted { name });
    let before = Census::take();
    let result = main(&lab).and_then(|()| Ok(lab.close()?));
    let (text, leaked) = match result {
        Ok(()) => (before.difference(&Census::take()), true),
        Err(failure) => (failure.to_string(), false),
    };
    let end = match cut(&text) {
        "" => TestEnd::Passed,
        text if leaked => TestEnd::Leaked(text),
        text => TestEnd::Failed(text),
    };
    link::send(&FromKernel::TestEnded(end));
    if end == TestEnd::Passed { ExitCode::Success } else { ExitCode::Failed }
}
