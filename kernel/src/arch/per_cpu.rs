//! What each CPU has for itself: its stacks for exceptions, its task state, its segment table, its counters.
//!
//! The GS base of a CPU points to its [`PerCpu`], so that exception entries find it with one
//! instruction and without a free register. There is no ring 3, so GS is never swapped.
//!
//! Invariants:
//! 1. A [`PerCpu`] never moves and is never freed once its CPU has loaded it.
//! 2. Every exception stack is used by one kind of exception only, so that one kind never
//!    overwrites the frame of another.
//! 3. `stack_floor` and `stack_span` describe the same stack as `stack_bottom` and `stack_top`.
//! 4. The state of a CPU is prepared by the CPU that boots, before its own CPU runs, and loaded by its own CPU.
use super::frame::ExceptionFrame;
use super::gdt::Segments;
use super::stack::{GuardedStack, StackBounds};
use crate::memory::AddressSpace;
use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use ferry_mm::machine::{Code, CpuId};
use x86_64::VirtAddr;
use x86_64::registers::model_specific::GsBase;
use x86_64::structures::tss::TaskStateSegment;

/// Most CPUs that the kernel starts.
pub const MOST_CPUS: usize = 8;

/// Bytes of each exception stack: a report, which formats text, fits several times.
pub const EXCEPTION_STACK_BYTES: usize = 16 * 1024;

/// Bytes that must be left on the interrupted stack for the page-fault handler to move there:
/// the red zone, the frame, the handler's own calls, and one fault inside the handler.
pub const FAULT_ROOM_BYTES: u64 = 16 * 1024;

/// The exception stacks, one per kind, in the order of their IST slots (Intel SDM 3A, 6.14.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum ExceptionStack {
    /// Page faults, until they move to the interrupted stack.
    PageFault,
    /// Non-maskable interrupts.
    NonMaskable,
    /// Machine checks.
    MachineCheck,
    /// Double faults.
    DoubleFault,
    /// Debug exceptions.
    Debug,
    /// All other exceptions, and interrupts that nobody expects.
    Other,
    /// Interrupts from other CPUs.
    Interrupt,
}

impl ExceptionStack {
    /// All of them, at the index of their slot.
    pub const ALL: [Self; 7] = [
        Self::PageFault,
        Self::NonMaskable,
        Self::MachineCheck,
        Self::DoubleFault,
        Self::Debug,
        Self::Other,
        Self::Interrupt,
    ];

    /// What a report calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PageFault => "page-fault stack",
            Self::NonMaskable => "NMI stack",
            Self::MachineCheck => "machine-check stack",
            Self::DoubleFault => "double-fault stack",
            Self::Debug => "debug-exception stack",
            Self::Other => "exception stack",
            Self::Interrupt => "interrupt stack",
        }
    }
}

/// Where the exception stacks of a CPU are, by kind.
pub type ExceptionStacks = [StackBounds; ExceptionStack::ALL.len()];

/// What a CPU has counted since it was started.
#[derive(Debug)]
pub struct Counters {
    /// Page faults of this CPU that brought a page home from a device.
    pub faults: AtomicU64,
    /// Interrupts that other CPUs have sent to this one for a flush.
    pub interrupts: AtomicU64,
    /// Times at which this CPU has forgotten translations, for itself or for others.
    pub flushes: AtomicU64,
    /// Pages that it has forgotten one by one (INVLPG).
    pub pages_flushed: AtomicU64,
    /// Writes to CR3: spaces entered and left, and flushes of the lower half.
    pub roots_loaded: AtomicU64,
}

/// The state of one CPU, apart from that of others also in the caches.
#[repr(C, align(64))]
pub struct PerCpu {
    /// Its own address, so that `gs:[0]` yields a pointer.
    this: AtomicU64,
    /// Lowest stack pointer from which the page-fault handler may move to the interrupted stack.
    pub(super) stack_floor: AtomicU64,
    /// From the floor to the top of the stack.
    pub(super) stack_span: AtomicU64,
    /// Page-fault handlers that have begun and not ended.
    pub(super) fault_depth: AtomicU32,
    /// Whether the handler of an interrupt is at work.
    in_interrupt: AtomicBool,
    id: AtomicU32,
    stack_bottom: AtomicU64,
    stack_top: AtomicU64,
    loaded: AtomicBool,
    pub(super) segments: UnsafeCell<Segments>,
    pub(super) task_state: UnsafeCell<TaskStateSegment>,
    exception_stacks: UnsafeCell<ExceptionStacks>,
    /// The address space that it is in.
    space: UnsafeCell<Option<AddressSpace>>,
    /// What it has counted.
    pub counters: Counters,
}

// SAFETY: the cells are written by `prepare`, before the CPU runs, and by `load` on the CPU itself, before anything can reach
// them through GS; `loaded` keeps second calls out; only the CPU itself is at `space`; everything else is atomic.
unsafe impl Sync for PerCpu {}

/// Every CPU, by its number; the one that boots is the first.
static CPUS: [PerCpu; MOST_CPUS] = [const { PerCpu::new() }; MOST_CPUS];

/// The boot CPU's exception stacks, apart from its state so that they take no room in the kernel's file.
static BOOT_CPU_STACKS: BootCpuStacks = BootCpuStacks([const { GuardedStack::zeroed() }; ExceptionStack::ALL.len()]);

struct BootCpuStacks([GuardedStack<EXCEPTION_STACK_BYTES>; ExceptionStack::ALL.len()]);

// SAFETY: only the CPU that boots uses them, and never through this type.
unsafe impl Sync for BootCpuStacks {}

impl PerCpu {
    const fn new() -> Self {
        Self {
            this: AtomicU64::new(0),
            stack_floor: AtomicU64::new(0),
            stack_span: AtomicU64::new(0),
            fault_depth: AtomicU32::new(0),
            in_interrupt: AtomicBool::new(false),
            id: AtomicU32::new(0),
            stack_bottom: AtomicU64::new(0),
            stack_top: AtomicU64::new(0),
            loaded: AtomicBool::new(false),
            segments: UnsafeCell::new(Segments::new()),
            task_state: UnsafeCell::new(TaskStateSegment::new()),
            exception_stacks: UnsafeCell::new([StackBounds::NONE; ExceptionStack::ALL.len()]),
            space: UnsafeCell::new(None),
            counters: Counters {
                faults: AtomicU64::new(0),
                interrupts: AtomicU64::new(0),
                flushes: AtomicU64::new(0),
                pages_flushed: AtomicU64::new(0),
                roots_loaded: AtomicU64::new(0),
            },
        }
    }

    /// The state of the CPU that executes this.
    ///
    /// Valid from `load` on; before it the GS base is the loader's.
    #[inline]
    pub fn current() -> &'static PerCpu {
        let this: *const PerCpu;
        // SAFETY: `load` has set the GS base to a `PerCpu` whose first word is its own address, and
        // by invariant 1 it lives for ever.
        unsafe {
            asm!("mov {}, gs:[0]", out(reg) this, options(nostack, preserves_flags, readonly));
            &*this
        }
    }

    /// The address space that the CPU which executes this is in.
    #[inline(always)]
    pub fn space() -> Option<AddressSpace> {
        // SAFETY: only this CPU is at its cell, and nothing that interrupts `set_space` asks for the space.
        unsafe { *Self::current().space.get() }
    }

    /// Notes the address space that the CPU which executes this is in.
    pub fn set_space(space: Option<AddressSpace>) {
        // SAFETY: as for `space`.
        unsafe { *Self::current().space.get() = space };
    }

    /// The state of the CPU of this number.
    ///
    /// # Panics
    /// Where the number is [`MOST_CPUS`] or more.
    pub fn of(number: usize) -> &'static PerCpu {
        &CPUS[number]
    }

    /// Number of this CPU, from 0.
    #[inline]
    pub fn id(&self) -> u32 {
        self.id.load(Relaxed)
    }

    /// Number of this CPU, as the memory manager knows it.
    #[inline]
    pub fn number(&self) -> CpuId {
        CpuId::new(self.id() as usize).expect("MOST_CPUS is no more than the memory manager takes")
    }

    /// How many page-fault handlers are at work here; more than one means a fault inside the handler.
    pub fn fault_depth(&self) -> u32 {
        self.fault_depth.load(Relaxed)
    }

    /// Runs the handler of an interrupt.
    #[inline]
    pub(super) fn handle_interrupt(&self, handler: impl FnOnce()) {
        self.in_interrupt.store(true, Relaxed);
        handler();
        self.in_interrupt.store(false, Relaxed);
    }

    /// What kind of code this CPU runs. Handlers of interrupts run with interrupts off and touch kernel memory only, so no fault
    /// is inside one.
    pub fn code(&self) -> Code {
        if self.in_interrupt.load(Relaxed) {
            Code::Interrupt
        } else if self.fault_depth() > 0 {
            Code::Fault
        } else {
            Code::Ordinary
        }
    }

    /// The stack that this CPU's ordinary code runs on.
    pub fn stack(&self) -> StackBounds {
        let (bottom, top) = (self.stack_bottom.load(Relaxed), self.stack_top.load(Relaxed));
        StackBounds { bottom: VirtAddr::new_truncate(bottom), top: VirtAddr::new_truncate(top) }
    }

    /// Tells the exception entries which stack this CPU's code runs on from now on.
    pub fn set_stack(&self, stack: StackBounds) {
        let floor = stack.bottom.as_u64() + FAULT_ROOM_BYTES;
        self.stack_bottom.store(stack.bottom.as_u64(), Relaxed);
        self.stack_top.store(stack.top.as_u64(), Relaxed);
        self.stack_floor.store(floor, Relaxed);
        self.stack_span.store(stack.top.as_u64().saturating_sub(floor), Relaxed);
    }

    /// The bounds of one of this CPU's exception stacks.
    pub fn exception_stack(&self, kind: ExceptionStack) -> StackBounds {
        // SAFETY: written by `prepare` only, before anything can ask.
        unsafe { (*self.exception_stacks.get())[kind as usize] }
    }

    /// Every stack of this CPU with its name.
    pub fn stacks(&self) -> impl Iterator<Item = (&'static str, StackBounds)> + '_ {
        let exception = ExceptionStack::ALL.into_iter().map(|kind| (kind.name(), self.exception_stack(kind)));
        core::iter::once(("kernel stack", self.stack())).chain(exception)
    }

    /// Fills in the state of CPU `number`, which does not run yet.
    ///
    /// # Panics
    /// Where the CPU has loaded its state already.
    pub(super) fn prepare(number: usize, stack: StackBounds, exception_stacks: ExceptionStacks) -> &'static Self {
        let cpu = &CPUS[number];
        assert!(!cpu.loaded.load(Relaxed), "the state of CPU {number} is prepared before it is loaded");
        cpu.this.store(core::ptr::from_ref(cpu).addr() as u64, Relaxed);
        cpu.id.store(number as u32, Relaxed);
        cpu.set_stack(stack);
        // SAFETY: `loaded` is clear, so only the CPU that boots, which is this one, reaches the cells.
        let (task_state, stacks) = unsafe { (&mut *cpu.task_state.get(), &mut *cpu.exception_stacks.get()) };
        *stacks = exception_stacks;
        for kind in ExceptionStack::ALL {
            // By value: the table is packed, so a reference into it would not be aligned.
            task_state.interrupt_stack_table[kind as usize] = stacks[kind as usize].top;
        }
        cpu
    }

    /// Prepares the state of the CPU that boots, and loads it.
    ///
    /// # Panics
    /// When it is called twice.
    pub(super) fn load_boot_cpu(stack: StackBounds) {
        Self::prepare(0, stack, BOOT_CPU_STACKS.0.each_ref().map(GuardedStack::bounds)).load();
    }

    /// Makes this the state of the CPU that executes it: segments, task state, GS.
    ///
    /// # Panics
    /// Where it is loaded already.
    pub(super) fn load(&'static self) {
        assert!(!self.loaded.load(Relaxed), "a CPU's state is loaded once");
        // SAFETY: `loaded` is clear and the state is this CPU's own, so nobody else is at the cells; they lie in a static, and
        // are not written again.
        unsafe { (*self.segments.get()).load(self.task_state.get()) };
        GsBase::write(VirtAddr::from_ptr(self));
        self.loaded.store(true, Relaxed);
    }
}

/// Whether the boot CPU's state is loaded, so that [`PerCpu::current`] may be called. Other CPUs load theirs before they do
/// anything else.
pub fn is_loaded() -> bool {
    CPUS[0].loaded.load(Relaxed)
}

/// The guard pages inside the kernel's image, which whoever owns the page tables shall unmap.
pub fn guard_pages() -> impl Iterator<Item = VirtAddr> {
    BOOT_CPU_STACKS.0.iter().map(|stack| stack.bounds().guard_page())
}

const _: () = {
    assert!(core::mem::offset_of!(PerCpu, this) == 0, "`current` reads the first word");
    assert!(size_of::<ExceptionFrame>() * 4 < FAULT_ROOM_BYTES as usize);
};
