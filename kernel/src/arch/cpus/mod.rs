//! Many CPUs: started, put to work, made to forget translations, and stopped.
//!
//! ```text
//!   start ── INIT, startup ──▶ trampoline (real mode ─▶ long mode) ──▶ idle
//!   run_on ── job, interrupt ──▶ idle CPU runs the closure ──▶ join
//!   flush ── request, interrupt ──▶ forget, answer           (also from every wait: `relax`)
//!   report ── NMI ──▶ halt
//! ```
//!
//! In reading order: [`start`], `trampoline`, [`work`], [`shootdown`], [`stop`].
//!
//! Invariants:
//! 1. CPUs are numbered from 0 in the order in which they are started; the one that boots is 0. A CPU that is online stays so.
//! 2. Interrupts are on wherever ordinary code runs, and off in every handler. One vector, [`SERVICE_VECTOR`], serves all that a
//!    CPU may want of another; its handler takes no lock, waits for nobody and touches kernel memory only.
//! 3. Whoever waits for another CPU calls [`relax`], which does what the handler does. So a CPU that waits with interrupts off
//!    still answers.
pub mod shootdown;
pub mod start;
pub mod stop;
mod trampoline;
pub mod work;

#[cfg(feature = "tests")]
mod tests;

use super::apic::{self, Message};
use super::per_cpu::{MOST_CPUS, PerCpu};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use ferry_acpi::ApicId;
use ferry_mm::machine::{CpuId, CpuSet};

pub use work::run_on;

/// Vector of the interrupt by which a CPU asks another to look at what it is asked.
pub const SERVICE_VECTOR: u8 = 0xf0;

/// The CPUs that run.
static ONLINE: AtomicU64 = AtomicU64::new(CpuSet::of(CpuId::BOOT).bits());

/// The APIC ids of the CPUs that run, by number.
static APIC_IDS: [AtomicU32; MOST_CPUS] = [const { AtomicU32::new(0) }; MOST_CPUS];

/// The CPUs that run.
pub fn online() -> CpuSet {
    CpuSet::from_bits(ONLINE.load(Ordering::Acquire))
}

/// How many CPUs run.
pub fn count() -> usize {
    ONLINE.load(Ordering::Acquire).count_ones() as usize
}

fn is_online(cpu: CpuId) -> bool {
    online().contains(cpu)
}

/// Sends `message` to a CPU that runs.
fn send(cpu: CpuId, message: Message) {
    apic::send(ApicId(APIC_IDS[cpu.number()].load(Ordering::Relaxed)), message);
}

/// Handles [`SERVICE_VECTOR`]. Work needs no handling: the interrupt has ended the wait for it.
pub(super) fn interrupt() {
    PerCpu::current().handle_interrupt(shootdown::serve);
    apic::end_of_interrupt();
}

/// One turn of a wait for another CPU: a pause, and what other CPUs ask of this one.
#[inline]
pub fn relax() {
    core::hint::spin_loop();
    shootdown::serve();
}
