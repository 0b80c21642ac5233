//! Stopping all other CPUs, for a report that ends the run.
//!
//! By an interrupt that cannot be masked, so a CPU stops wherever it is, also in a handler. It enters on a stack of its own kind,
//! marks itself and halts for ever. No locks.
use super::super::apic::Message;
use super::super::exit::halt;
use super::super::per_cpu::PerCpu;
use super::{count, online, send};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use ferry_mm::machine::CpuSet;

/// Turns of the wait for others to stop. One that does not is left alone: the report is more important.
const MOST_TURNS: u32 = 1 << 20;

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// The CPUs that have stopped.
static STOPPED: AtomicU64 = AtomicU64::new(0);

/// Stops every other CPU, and waits, bounded, until they stand still.
pub fn all_others() {
    if count() == 1 {
        return;
    }
    let others = online().bits() & !CpuSet::of(PerCpu::current().number()).bits();
    REQUESTED.store(true, Ordering::SeqCst);
    for cpu in CpuSet::from_bits(others).iter() {
        send(cpu, Message::NonMaskable);
    }
    for _ in 0..MOST_TURNS {
        if STOPPED.load(Ordering::Acquire) & others == others {
            return;
        }
        core::hint::spin_loop();
    }
}

/// Halts this CPU if a report has asked for it; what the handler of non-maskable interrupts does first.
pub(in super::super) fn if_requested() {
    if REQUESTED.load(Ordering::SeqCst) {
        STOPPED.fetch_or(CpuSet::of(PerCpu::current().number()).bits(), Ordering::Release);
        halt();
    }
}
