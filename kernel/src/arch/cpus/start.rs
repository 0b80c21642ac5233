//! Starting the other CPUs (Intel SDM 3A, 8.4.4.1: INIT, then two startup interrupts).
//!
//! ```text
//!   CPU that boots                                   CPU n
//!   ──────────────                                   ─────
//!   stacks, per-CPU state, HANDOFF
//!   INIT, 10 ms, startup, 200 us, startup ─────────▶ trampoline ─▶ `go_on`: tables, control registers, stack
//!   wait until it is online ◀─────────────────────── per-CPU state, interrupt table, features, APIC ─▶ idle
//! ```
//!
//! Invariants:
//! 1. CPUs are started one after the other, so there is one `HANDOFF`.
//! 2. A CPU has the control registers of the CPU that boots before it runs Rust, and switches the same features on; where it
//!    has others, it panics. Until its per-CPU state is loaded, its first act, an exception resets the machine.
//! 3. Every wait is bounded. A CPU that does not come up is an error that ends the run: it might come up later, when the
//!    trampoline is gone.
use super::super::apic::{self, ApicError, Message};
use super::super::layout::{BOOT_STACK_BYTES, PAGE_SIZE, STACKS};
use super::super::machine::Hardware;
use super::super::per_cpu::{EXCEPTION_STACK_BYTES, ExceptionStacks, MOST_CPUS, PerCpu};
use super::super::stack::StackBounds;
use super::super::{cpu, idt};
use super::trampoline::{STARTUP_PAGE, Trampoline};
use super::work::idle;
use super::{APIC_IDS, ONLINE, is_online};
use crate::clock::Deadline;
use crate::memory::{self, MemoryManager};
use core::arch::naked_asm;
use core::fmt;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use ferry_acpi::ApicId;
use ferry_mm::frame::OutOfFrames;
use ferry_mm::lock::{Level, Once};
use ferry_mm::machine::{CpuId, CpuSet};
use ferry_mm::page_table::entry::LeafFlags;
use ferry_mm::page_table::install::{self, InstallError};
use x86_64::VirtAddr;
use x86_64::instructions::interrupts;
use x86_64::registers::control::{Cr0, Cr4};
use x86_64::structures::paging::page_table::PageTableLevel;

/// Waits of the startup sequence.
const AFTER_INIT: Duration = Duration::from_millis(10);
const AFTER_STARTUP: Duration = Duration::from_micros(200);

/// How long a CPU may take from its last startup interrupt until it is online.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of the stack window for each CPU: its stack and its exception stacks, with their guard pages.
const STACKS_PER_CPU: u64 = 1024 * 1024;

const _: () = assert!(
    BOOT_STACK_BYTES + (EXCEPTION_STACK_BYTES as u64 + PAGE_SIZE) * 8 + PAGE_SIZE <= STACKS_PER_CPU,
    "the stacks of a CPU fit its part of the window"
);

/// What the CPU that is being started needs before it runs Rust.
#[repr(C)]
struct Handoff {
    root: AtomicU64,
    cr0: AtomicU64,
    cr4: AtomicU64,
    stack: AtomicU64,
    number: AtomicU64,
}

static HANDOFF: Handoff = Handoff {
    root: AtomicU64::new(0),
    cr0: AtomicU64::new(0),
    cr4: AtomicU64::new(0),
    stack: AtomicU64::new(0),
    number: AtomicU64::new(0),
};

/// The features of the CPU that boots.
static FEATURES: Once<cpu::Features> = Once::new(Level::Stored);

/// Why not all CPUs run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartError {
    /// This CPU cannot talk to others.
    Apic(ApicError),
    /// The trampoline's place in low memory is not RAM.
    NoLowMemory,
    /// The stacks of this CPU cannot be mapped.
    Stacks(CpuId, InstallError),
    /// The CPU with this number and APIC id has not come up.
    NotStarted(CpuId, ApicId),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apic(error) => error.fmt(f),
            Self::NoLowMemory => f.write_str("the start of other CPUs needs RAM below 1 MiB, and there is none"),
            Self::Stacks(cpu, error) => write!(f, "no stacks for CPU {}: {error}", cpu.number()),
            Self::NotStarted(cpu, id) => write!(
                f,
                "CPU {} (APIC id {}) did not start within {PATIENCE:?}; give the machine fewer with --cpus",
                cpu.number(),
                id.0
            ),
        }
    }
}

impl core::error::Error for StartError {}

/// Starts the CPUs with these APIC ids, up to [`MOST_CPUS`] in all, and switches interrupts on. The id of this CPU is left out.
///
/// Once, by the CPU that boots, whose features are `features`, before the first address space is made.
///
/// # Errors
/// See [`StartError`]; the run cannot go on.
pub fn start(features: cpu::Features, ids: impl Iterator<Item = ApicId>) -> Result<(), StartError> {
    FEATURES.get_or_init(&Hardware, || features);
    apic::enable().map_err(StartError::Apic)?;
    let own = apic::id();
    APIC_IDS[0].store(own.0, Ordering::Relaxed);
    let manager = memory::manager();
    let mut others = ids.filter(|id| *id != own).zip(1..MOST_CPUS).peekable();
    if others.peek().is_some() {
        let go_on = VirtAddr::from_ptr(go_on as *const ());
        let _trampoline = Trampoline::new(manager.kernel_root(), go_on).ok_or(StartError::NoLowMemory)?;
        for (id, number) in others {
            let cpu = CpuId::new(number).expect("fewer than MAX_CPUS");
            let (stack, exception_stacks) = map_stacks(manager, cpu).map_err(|error| StartError::Stacks(cpu, error))?;
            PerCpu::prepare(number, stack, exception_stacks);
            APIC_IDS[number].store(id.0, Ordering::Relaxed);
            hand_off(manager, cpu, stack);
            wake(cpu, id, PATIENCE)?;
        }
    }
    interrupts::enable();
    Ok(())
}

fn hand_off(manager: &MemoryManager, cpu: CpuId, stack: StackBounds) {
    HANDOFF.root.store(manager.kernel_root().start_address().as_u64(), Ordering::Relaxed);
    HANDOFF.cr0.store(Cr0::read_raw(), Ordering::Relaxed);
    HANDOFF.cr4.store(Cr4::read_raw(), Ordering::Relaxed);
    HANDOFF.stack.store(stack.top.as_u64(), Ordering::Relaxed);
    HANDOFF.number.store(cpu.number() as u64, Ordering::SeqCst);
}

/// Wakes the CPU with this id, which finds its way through the trampoline, and waits until it is online, at most for `patience`.
pub(super) fn wake(cpu: CpuId, id: ApicId, patience: Duration) -> Result<(), StartError> {
    let online = |limit| {
        let mut deadline = Deadline::after(limit);
        while !is_online(cpu) && !deadline.expired() {
            core::hint::spin_loop();
        }
        is_online(cpu)
    };
    apic::send(id, Message::Init);
    online(AFTER_INIT);
    apic::send(id, Message::Startup(STARTUP_PAGE));
    if !online(AFTER_STARTUP) {
        // One that has started ignores the second.
        apic::send(id, Message::Startup(STARTUP_PAGE));
    }
    if online(patience) { Ok(()) } else { Err(StartError::NotStarted(cpu, id)) }
}

/// Maps the stacks of `cpu`: one for its code, one for each kind of exception, each above a page without an entry.
fn map_stacks(manager: &MemoryManager, cpu: CpuId) -> Result<(StackBounds, ExceptionStacks), InstallError> {
    let mut next = STACKS.start() + cpu.number() as u64 * STACKS_PER_CPU;
    let mut map = |bytes: u64| -> Result<StackBounds, InstallError> {
        let bottom = next + PAGE_SIZE;
        for offset in (0..bytes).step_by(PAGE_SIZE as usize) {
            let (memory, root) = (manager.memory(), manager.kernel_root());
            let frame = memory.allocate_block(&Hardware, 0).map_err(|OutOfFrames| InstallError::OutOfFrames)?;
            let flags = LeafFlags::WRITABLE | LeafFlags::NO_EXECUTE | LeafFlags::GLOBAL;
            install::install(&Hardware, memory, root, bottom + offset, frame, PageTableLevel::One, flags)?;
        }
        next = bottom + bytes;
        Ok(StackBounds { bottom, top: next })
    };
    let stack = map(BOOT_STACK_BYTES)?;
    let mut exception_stacks = [StackBounds::NONE; _];
    for bounds in &mut exception_stacks {
        *bounds = map(EXCEPTION_STACK_BYTES as u64)?;
    }
    Ok((stack, exception_stacks))
}

/// Where the trampoline ends: in the kernel, on its tables, with the control registers of the CPU that boots.
#[unsafe(naked)]
unsafe extern "C" fn go_on() -> ! {
    naked_asm!(
        "lea rdi, [rip + {handoff}]",
        "mov rax, [rdi + {root}]",
        "mov cr3, rax",
        "mov rax, [rdi + {cr0}]",
        "mov cr0, rax",
        "mov rax, [rdi + {cr4}]",
        "mov cr4, rax",
        "mov rsp, [rdi + {stack}]",
        "fninit",
        // A return address of zero ends a backtrace, and aligns the stack as after a call.
        "push 0",
        "xor ebp, ebp",
        "jmp {started}",
        handoff = sym HANDOFF,
        root = const offset_of!(Handoff, root),
        cr0 = const offset_of!(Handoff, cr0),
        cr4 = const offset_of!(Handoff, cr4),
        stack = const offset_of!(Handoff, stack),
        started = sym started,
    )
}

/// The first Rust of a CPU that was started.
extern "C" fn started() -> ! {
    let number = HANDOFF.number.load(Ordering::SeqCst) as usize;
    PerCpu::of(number).load();
    idt::load();
    let features = cpu::enable();
    assert!(FEATURES.get() == Some(&features), "CPU {number} has other features than the CPU that boots: {features}");
    apic::enable().expect("only the first call can fail");
    let id = ApicId(APIC_IDS[number].load(Ordering::Relaxed));
    assert!(apic::id() == id, "CPU {number} was started as {id:?} and is {:?}", apic::id());
    ONLINE.fetch_or(CpuSet::of(PerCpu::current().number()).bits(), Ordering::SeqCst);
    idle()
}
