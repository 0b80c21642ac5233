//! Work for other CPUs: a closure that chosen CPUs run at the same time, and the join.
//!
//! ```text
//!   caller                                   idle CPU, interrupts off
//!   ──────                                   ────────────────────────
//!   put the job into JOBS[cpu]               look into JOBS[cpu]: nothing? sti; hlt ◀┐
//!   interrupt ─────────────────────────────▶ (ends the halt) ───────────────────────┘
//!   run its own part                         sti, run the closure
//!   wait until nobody is unfinished ◀─────── clear JOBS[cpu], take its bit away
//! ```
//!
//! Invariants:
//! 1. A job lives on the stack of [`run_on`], which returns only when every CPU has taken its bit out of `unfinished`; a CPU
//!    does not touch the job after that.
//! 2. A CPU looks for work with interrupts off and halts with the instruction after `sti`, so an interrupt that comes in between
//!    ends the halt (Intel SDM 2B, STI).
//! 3. A closure leaves its CPU as it found it: in no address space, holding no lock.
use super::super::apic::Message;
use super::super::machine::Hardware;
use super::super::per_cpu::{MOST_CPUS, PerCpu};
use super::{SERVICE_VECTOR, is_online, relax, send};
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use ferry_mm::lock::{Level, Lock};
use ferry_mm::machine::{CpuId, CpuSet};
use x86_64::instructions::interrupts;

/// What is asked of one or more CPUs.
struct Job<'a> {
    work: &'a (dyn Fn(CpuId) + Sync),
    unfinished: AtomicU64,
}

/// The job of each CPU; null while it is idle.
static JOBS: [AtomicPtr<Job<'static>>; MOST_CPUS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; MOST_CPUS];

/// What each CPU returned, by its number; `None` for CPUs that were not asked.
pub type Results<R> = [Option<R>; MOST_CPUS];

/// Runs `work` on every CPU of `cpus` at the same time, on this one, too, where it is in the set, and waits until all are done.
///
/// The wait is as long as the work, and serves what other CPUs ask. Nothing is allocated.
///
/// # Panics
/// Where a CPU does not run, or has work already: work does not give work to busy CPUs.
pub fn run_on<R: Send>(cpus: CpuSet, work: impl Fn(CpuId) -> R + Sync) -> Results<R> {
    let results: [Lock<Option<R>>; MOST_CPUS] = [const { Lock::new(Level::Results, None) }; MOST_CPUS];
    let keep = |cpu: CpuId| {
        let result = work(cpu);
        *results[cpu.number()].lock(&Hardware) = Some(result);
    };
    let own = PerCpu::current().number();
    let others = cpus.bits() & !CpuSet::of(own).bits();
    let job = Job { work: &keep, unfinished: AtomicU64::new(others) };
    for cpu in CpuSet::from_bits(others).iter() {
        give(cpu, &job);
    }
    if cpus.contains(own) {
        keep(own);
    }
    while job.unfinished.load(Ordering::Acquire) != 0 {
        relax();
    }
    results.map(Lock::into_inner)
}

fn give(cpu: CpuId, job: &Job) {
    assert!(is_online(cpu), "CPU {} does not run", cpu.number());
    let job = core::ptr::from_ref(job).cast_mut().cast::<Job<'static>>();
    let before = JOBS[cpu.number()].compare_exchange(core::ptr::null_mut(), job, Ordering::SeqCst, Ordering::SeqCst);
    assert!(before.is_ok(), "CPU {} has work already", cpu.number());
    send(cpu, Message::Interrupt(SERVICE_VECTOR));
}

/// Halts this CPU, which answers what others ask of it, until `is_over`; whoever makes it so calls [`wake`].
pub fn halt_until(is_over: impl Fn() -> bool) {
    interrupts::disable();
    while !is_over() {
        // An interrupt that comes before the halt ends it (invariant 2).
        interrupts::enable_and_hlt();
        interrupts::disable();
    }
    interrupts::enable();
}

/// Ends the halts of `cpus`, which run.
pub fn wake(cpus: CpuSet) {
    for cpu in cpus.iter() {
        send(cpu, Message::Interrupt(SERVICE_VECTOR));
    }
}

/// What a CPU does that was started: waits for work, halted, and does it.
pub(super) fn idle() -> ! {
    let cpu = PerCpu::current().number();
    let place = &JOBS[cpu.number()];
    loop {
        interrupts::disable();
        let job = place.load(Ordering::Acquire);
        if job.is_null() {
            interrupts::enable_and_hlt();
            continue;
        }
        interrupts::enable();
        // SAFETY: invariant 1: this CPU's bit is still set, so `run_on` has not returned and the job lives.
        let job = unsafe { &*job };
        (job.work)(cpu);
        // Free for the next job before the caller can know that this one is done.
        place.store(core::ptr::null_mut(), Ordering::Release);
        job.unfinished.fetch_and(!CpuSet::of(cpu).bits(), Ordering::Release);
    }
}
