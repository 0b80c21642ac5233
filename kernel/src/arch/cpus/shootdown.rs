//! Shootdowns: making other CPUs forget translations (Intel SDM 3A, 4.10.5).
//!
//! ```text
//!   initiator                                         target
//!   ─────────                                         ──────
//!   1 write the request, name who must answer
//!   2 mark itself in the target's INCOMING
//!     no mark was there? interrupt ─────────────────▶ a take all marks at once
//!   3 forget translations itself                      b forget what the marked ask for
//!   4 wait until all have answered ◀───────────────── c answer each
//! ```
//!
//! Invariants:
//! 1. A request costs a target at most one interrupt, and none where an earlier one is still under way: whoever adds the first
//!    mark sends it, and what marks there are when it is served are served together.
//! 2. A CPU has one request of its own at a time: it waits for the answers before it returns.
//! 3. A target answers after it has forgotten, so after step 4 no target uses what it read from the tables before step 2.
//! 4. Whoever waits serves ([`serve`]), so two CPUs that flush each other both go on, with interrupts off, too.
//!
//! The pair of orders that makes it work: "write the request, then mark" against "take the marks, then read the request"; both
//! marks are atomic read-modify-writes. No locks. Bound of the wait: `PATIENCE`, then the run ends with the CPU's name.
use super::super::apic::Message;
use super::super::per_cpu::{MOST_CPUS, PerCpu};
use super::{SERVICE_VECTOR, send};
use crate::clock::Deadline;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use ferry_mm::address::PAGE_BYTES;
use ferry_mm::machine::{CpuId, CpuSet};
use ferry_mm::page_table::flush::{FlushRequest, FlushScope, PAGE_BY_PAGE_LIMIT};
use x86_64::VirtAddr;
use x86_64::instructions::tlb;

/// How long a CPU may take to answer. Handlers are short; only a host that does not run the CPU makes it this long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Turns of a wait between two looks at the clock, which is slow to read.
const TURNS_PER_LOOK: u32 = 1 << 12;

/// What a CPU asks of others.
#[repr(align(64))]
struct Request {
    /// First address of the pages to forget.
    start: AtomicU64,
    /// How many; [`WHOLE_LOWER_HALF`] for everything.
    pages: AtomicU64,
    /// The CPUs that have not answered.
    unanswered: AtomicU64,
}

/// Instead of a number of pages: every translation of the lower half.
const WHOLE_LOWER_HALF: u64 = u64::MAX;

/// The CPUs with a request to this one.
#[repr(align(64))]
struct Incoming(AtomicU64);

/// By the number of the CPU that asks.
static REQUESTS: [Request; MOST_CPUS] =
    [const { Request { start: AtomicU64::new(0), pages: AtomicU64::new(0), unanswered: AtomicU64::new(0) } };
        MOST_CPUS];

/// By the number of the CPU that is asked.
static INCOMING: [Incoming; MOST_CPUS] = [const { Incoming(AtomicU64::new(0)) }; MOST_CPUS];

/// Makes the CPUs of `request` forget, and waits until all have.
///
/// # Panics
/// Where a CPU does not answer within `PATIENCE`.
#[inline]
pub fn flush(request: FlushRequest) {
    let cpu = PerCpu::current();
    let own = CpuSet::of(cpu.number());
    let others = request.cpus.bits() & !own.bits();
    if others != 0 {
        post(cpu.number(), others, request.scope);
    }
    if request.cpus.contains(cpu.number()) {
        forget(cpu, request.scope);
        cpu.counters.flushes.fetch_add(1, Ordering::Relaxed);
    }
    if others != 0 {
        wait(&REQUESTS[cpu.number().number()]);
    }
}

fn post(initiator: CpuId, targets: u64, scope: FlushScope) {
    let request = &REQUESTS[initiator.number()];
    debug_assert!(request.unanswered.load(Ordering::Relaxed) == 0, "a CPU has one request at a time");
    let (start, pages) = match scope {
        FlushScope::Pages(range) => (range.start_address().as_u64(), range.pages()),
        FlushScope::LowerHalf => (0, WHOLE_LOWER_HALF),
    };
    request.start.store(start, Ordering::Relaxed);
    request.pages.store(pages, Ordering::Relaxed);
    request.unanswered.store(targets, Ordering::Relaxed);
    for target in CpuSet::from_bits(targets).iter() {
        let before = INCOMING[target.number()].0.fetch_or(CpuSet::of(initiator).bits(), Ordering::SeqCst);
        if before == 0 {
            PerCpu::of(target.number()).counters.interrupts.fetch_add(1, Ordering::Relaxed);
            send(target, Message::Interrupt(SERVICE_VECTOR));
        }
    }
}

fn wait(request: &Request) {
    let mut turns = 0;
    let mut deadline: Option<Deadline> = None;
    while request.unanswered.load(Ordering::Acquire) != 0 {
        super::relax();
        turns += 1;
        if turns % TURNS_PER_LOOK == 0 && deadline.get_or_insert_with(|| Deadline::after(PATIENCE)).expired() {
            let silent = CpuSet::from_bits(request.unanswered.load(Ordering::Acquire));
            if let Some(cpu) = silent.iter().next() {
                panic!("CPU {} has not answered a flush for {PATIENCE:?}", cpu.number());
            }
        }
    }
}

/// Does what other CPUs ask of this one: forgets, and answers.
#[inline]
pub fn serve() {
    let cpu = PerCpu::current();
    let incoming = &INCOMING[cpu.number().number()].0;
    // A plain load first: waits call this in each turn, and mostly there is nothing.
    if incoming.load(Ordering::Relaxed) != 0 {
        answer(cpu, CpuSet::from_bits(incoming.swap(0, Ordering::SeqCst)));
    }
}

#[cold]
fn answer(cpu: &PerCpu, initiators: CpuSet) {
    let requests = || initiators.iter().map(|initiator| &REQUESTS[initiator.number()]);
    let pages = requests().fold(0u64, |sum, request| sum.saturating_add(request.pages.load(Ordering::Relaxed)));
    if pages > PAGE_BY_PAGE_LIMIT {
        forget(cpu, FlushScope::LowerHalf);
    } else {
        for request in requests() {
            let start = VirtAddr::new_truncate(request.start.load(Ordering::Relaxed));
            forget_pages(cpu, start, request.pages.load(Ordering::Relaxed));
        }
    }
    cpu.counters.flushes.fetch_add(u64::from(!initiators.is_empty()), Ordering::Relaxed);
    for request in requests() {
        request.unanswered.fetch_and(!CpuSet::of(cpu.number()).bits(), Ordering::Release);
    }
}

#[inline]
fn forget(cpu: &PerCpu, scope: FlushScope) {
    match scope {
        FlushScope::Pages(range) => forget_pages(cpu, range.start_address(), range.pages()),
        // Translations of the kernel are global and stay.
        FlushScope::LowerHalf => {
            tlb::flush_all();
            cpu.counters.roots_loaded.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[inline]
fn forget_pages(cpu: &PerCpu, start: VirtAddr, pages: u64) {
    for index in 0..pages {
        tlb::flush(VirtAddr::new_truncate(start.as_u64() + index * PAGE_BYTES));
    }
    cpu.counters.pages_flushed.fetch_add(pages, Ordering::Relaxed);
}
