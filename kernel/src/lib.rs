//! The Ferry unikernel: everything around the memory manager `ferry-mm`.
//!
//! What happens from the loader's jump on, in this order, each step needing those before it:
//!
//! 1. [`console`]: the first line appears, so a kernel that hangs later is seen to have started.
//! 2. [`arch::init`]: the CPU's protections, its tables and exception stacks, the timer. From here
//!    on every exception ends in a [`report`].
//! 3. [`ram`]: what is RAM, so that reports can read page tables.
//! 4. [`link`]: the host is told which records we speak.
//! 5. [`memory`]: the memory manager takes over page tables and frames; guard pages go, the heap comes.
//! 6. [`firmware`]: the other CPUs are started, and interrupts, which only CPUs send each other, are switched on.
//! 7. [`commands`]: the options are read, and what they say is done; or the [`mod@experiment`] that the kernel was built for.
//!
//! No device interrupts; whoever waits polls, bounded by a [`clock::Deadline`].
//! `unsafe` is allowed in [`arch`] and [`heap`] only.
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;

// `cargo test` compiles this crate to unwind, to see that the examples compile, and nothing runs what it makes. On stable only
// `std` completes such a program; it then brings the handler of panics, too.
#[cfg(panic = "unwind")]
extern crate std;

pub mod arch;
pub mod bench;
pub mod census;
pub mod clock;
pub mod commands;
pub mod console;
pub mod demo;
pub mod disk;
pub mod experiment;
pub mod firmware;
pub mod fw_cfg;
#[cfg(feature = "tests")]
pub mod harness;
pub mod heap;
pub mod link;
pub mod memory;
pub mod pci;
pub mod prelude;
pub mod ram;
pub mod report;
pub mod scenarios;
pub mod shell;
pub mod soak;
pub mod trace;

use arch::exit::exit;
use arch::layout;
use arch::stack::StackBounds;
use bootloader_api::config::Mapping;
use bootloader_api::{BootInfo, BootloaderConfig};
use ferry_protocol::exit::ExitCode;
use ferry_protocol::link::FromKernel;
use memory::InitError;
use x86_64::VirtAddr;

#[doc(hidden)]
pub use bootloader_api;

/// What the kernel asks of the loader: everything at the addresses of [`layout`].
pub static BOOTLOADER_CONFIG: BootloaderConfig = {
    let mut config = BootloaderConfig::new_default();
    config.kernel_stack_size = layout::BOOT_STACK_BYTES;
    config.mappings.kernel_stack = Mapping::FixedAddress(layout::BOOT_STACK.as_u64());
    config.mappings.kernel_base = Mapping::FixedAddress(layout::KERNEL.start().as_u64());
    config.mappings.physical_memory = Some(Mapping::FixedAddress(layout::DIRECT_MAP.start().as_u64()));
    config.mappings.boot_info = Mapping::FixedAddress(layout::BOOT_INFO.start().as_u64());
    config
};

/// Makes a binary the kernel that follows the host's [`commands`]: its entry point, and the request to the loader.
///
/// A kernel of your own is made by [`experiment!`].
#[macro_export]
macro_rules! entry {
    () => {
        $crate::bootloader_api::entry_point!($crate::start, config = &$crate::BOOTLOADER_CONFIG);
    };
}

/// Runs the kernel, from the loader's jump to the end.
pub fn start(boot_info: &'static mut BootInfo) -> ! {
    boot(boot_info, commands::run)
}

/// Brings the machine up, does `work` and ends the run as it says.
fn boot(boot_info: &'static mut BootInfo, work: impl FnOnce() -> ExitCode) -> ! {
    arch::meter::begin_boot();
    console::init();
    println!("Ferry {}", env!("CARGO_PKG_VERSION"));
    let bottom = VirtAddr::new(boot_info.kernel_stack_bottom);
    let features = arch::init(StackBounds { bottom, top: bottom + boot_info.kernel_stack_len });
    log::debug!("CPU protections: {features}");
    // The loader's information is out of reach once the memory manager has taken over.
    let rsdp = boot_info.rsdp_addr.into_option();
    ram::init(&boot_info.memory_regions);
    link::init();
    let code = match memory::init(&boot_info.memory_regions) {
        Ok(leaves) => {
            log::debug!("the kernel's tables have {leaves} leaves, none both writable and executable");
            match firmware::start_cpus(features, rsdp) {
                Ok(()) => work(),
                Err(error) => {
                    println!("error: {error}");
                    ExitCode::CpuNotStarted
                }
            }
        }
        Err(error) => {
            println!("error: {error}");
            match error {
                InitError::Protection(_) => ExitCode::Failed,
                InitError::Takeover(_) | InitError::OutOfFrames(_) => ExitCode::OutOfMemory,
            }
        }
    };
    link::send(&FromKernel::Done);
    exit(code)
}

#[cfg(panic = "abort")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    report::panic(info, arch::backtrace::frame_pointer())
}
