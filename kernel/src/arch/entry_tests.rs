//! Tests of the exception entries: what they must leave as it was.
use super::cpus::{run_on, shootdown};
use super::exceptions::hook;
use super::frame::{ExceptionFrame, RED_ZONE_BYTES};
use super::per_cpu::PerCpu;
use super::probe;
use crate::harness::{TestResult, check, check_eq, kernel_test, need_cpus};
use core::arch::{asm, naked_asm};
use core::hint::black_box;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use ferry_mm::machine::{CpuId, CpuSet};
use ferry_mm::page_table::flush::{FlushRequest, FlushScope};
use x86_64::VirtAddr;

/// An address in the null page: nobody maps it, so the hook is what resolves the fault.
const TARGET: u64 = 0x208;
/// Another one, for faults inside the handler.
const INNER: u64 = 0x408;

const VECTORS: usize = 16;
const RED_ZONE_WORDS: usize = RED_ZONE_BYTES / size_of::<u64>();

/// What [`fault_with_state`] holds before a fault and finds after it.
#[repr(C)]
struct State {
    vectors: [u128; VECTORS],
    red_zone: [u64; RED_ZONE_WORDS],
    direction: u64,
}

/// Defines a function that fills the vector registers, the red zone and the direction flag from the second argument, does what
/// is given, and stores what it finds then in the third.
macro_rules! with_state {
    ($(#[$attribute:meta])* $name:ident, $($middle:literal),+) => {
        $(#[$attribute])*
        #[unsafe(naked)]
        unsafe extern "C" fn $name(argument: u64, before: *const State, after: *mut State) {
            naked_asm!(
                ".set ferry_i, 0",
                ".rept 16",
                "mov rax, [rsi + {red_zone} + 8 * ferry_i]",
                "mov [rsp - 128 + 8 * ferry_i], rax",
                ".set ferry_i, ferry_i + 1",
                ".endr",
                "movups xmm0, [rsi]",
                "movups xmm1, [rsi + 16]",
                "movups xmm2, [rsi + 32]",
                "movups xmm3, [rsi + 48]",
                "movups xmm4, [rsi + 64]",
                "movups xmm5, [rsi + 80]",
                "movups xmm6, [rsi + 96]",
                "movups xmm7, [rsi + 112]",
                "movups xmm8, [rsi + 128]",
                "movups xmm9, [rsi + 144]",
                "movups xmm10, [rsi + 160]",
                "movups xmm11, [rsi + 176]",
                "movups xmm12, [rsi + 192]",
                "movups xmm13, [rsi + 208]",
                "movups xmm14, [rsi + 224]",
                "movups xmm15, [rsi + 240]",
                "std",
                $($middle,)+
                "movups [rdx], xmm0",
                "movups [rdx + 16], xmm1",
                "movups [rdx + 32], xmm2",
                "movups [rdx + 48], xmm3",
                "movups [rdx + 64], xmm4",
                "movups [rdx + 80], xmm5",
                "movups [rdx + 96], xmm6",
                "movups [rdx + 112], xmm7",
                "movups [rdx + 128], xmm8",
                "movups [rdx + 144], xmm9",
                "movups [rdx + 160], xmm10",
                "movups [rdx + 176], xmm11",
                "movups [rdx + 192], xmm12",
                "movups [rdx + 208], xmm13",
                "movups [rdx + 224], xmm14",
                "movups [rdx + 240], xmm15",
                ".set ferry_i, 0",
                ".rept 16",
                "mov rax, [rsp - 128 + 8 * ferry_i]",
                "mov [rdx + {red_zone} + 8 * ferry_i], rax",
                ".set ferry_i, ferry_i + 1",
                ".endr",
                // The flags last: reading them uses the stack, and with it the red zone.
                "pushfq",
                "pop rax",
                "cld",
                "shr eax, 10",
                "and eax, 1",
                "mov [rdx + {direction}], rax",
                "ret",
                red_zone = const core::mem::offset_of!(State, red_zone),
                direction = const core::mem::offset_of!(State, direction),
            )
        }
    };
}

with_state!(
    /// Reads the address that is the argument. Where that faults, the handler shall continue at the address in `r11`.
    fault_with_state,
    "lea r11, [rip + 2f]",
    "mov al, [rdi]",
    "2:"
);

with_state!(
    /// Waits until the byte at the argument is not zero.
    wait_with_state,
    "2:",
    "pause",
    "cmp byte ptr [rdi], 0",
    "je 2b"
);

/// Lets the interrupted code go on, after using much of the stack and all vector registers.
fn scribble(frame: &mut ExceptionFrame, address: VirtAddr) -> bool {
    if address.as_u64() != TARGET {
        return false;
    }
    black_box([0xa5u8; 4096]);
    // SAFETY: changes registers that a function may change, and says so.
    unsafe {
        asm!(
            "pcmpeqd xmm0, xmm0",
            "pcmpeqd xmm1, xmm1",
            "pcmpeqd xmm2, xmm2",
            "pcmpeqd xmm3, xmm3",
            "pcmpeqd xmm4, xmm4",
            "pcmpeqd xmm5, xmm5",
            "pcmpeqd xmm6, xmm6",
            "pcmpeqd xmm7, xmm7",
            "pcmpeqd xmm8, xmm8",
            "pcmpeqd xmm9, xmm9",
            "pcmpeqd xmm10, xmm10",
            "pcmpeqd xmm11, xmm11",
            "pcmpeqd xmm12, xmm12",
            "pcmpeqd xmm13, xmm13",
            "pcmpeqd xmm14, xmm14",
            "pcmpeqd xmm15, xmm15",
            clobber_abi("C"),
            options(nostack)
        );
    }
    frame.rip = frame.r11;
    true
}

/// Faults inside the handler, once, and then goes on as [`scribble`].
fn fault_again(frame: &mut ExceptionFrame, address: VirtAddr) -> bool {
    DEEPEST.fetch_max(PerCpu::current().fault_depth(), Relaxed);
    if address.as_u64() != TARGET {
        return false;
    }
    let inner = probe::load(VirtAddr::new(INNER));
    let found = inner.is_err_and(|error| error.address.as_u64() == INNER);
    found && scribble(frame, address)
}

static DEEPEST: AtomicU32 = AtomicU32::new(0);

/// Runs `body` with a full state; the same must be there afterwards.
fn compare_states(body: impl FnOnce(*const State, *mut State)) -> TestResult {
    let before = State {
        vectors: core::array::from_fn(|i| 0x0123_4567_89ab_cdef_u128.rotate_left(5 * i as u32)),
        red_zone: core::array::from_fn(|i| 0x0101_0101_0101_0101 * (i as u64 + 1)),
        direction: 1,
    };
    let mut after = State { vectors: [0; VECTORS], red_zone: [0; RED_ZONE_WORDS], direction: 0 };
    body(&before, &mut after);
    check_eq!(after.vectors, before.vectors);
    check_eq!(after.red_zone, before.red_zone);
    check_eq!(after.direction, before.direction);
    check_eq!(PerCpu::current().fault_depth(), 0);
    Ok(())
}

fn compare_over_a_fault(hook: hook::Hook) -> TestResult {
    // SAFETY: both pointers are to live states, and the hook resolves the fault.
    compare_states(|before, after| hook::with(hook, || unsafe { fault_with_state(TARGET, before, after) }))
}

kernel_test! {
    fn a_fault_keeps_red_zone_vectors_and_flags() -> TestResult {
        compare_over_a_fault(scribble)
    }

    fn a_fault_inside_the_fault_handler_returns_to_it() -> TestResult {
        DEEPEST.store(0, Relaxed);
        compare_over_a_fault(fault_again)?;
        check_eq!(DEEPEST.load(Relaxed), 2);
        Ok(())
    }

    fn interrupts_of_other_cpus_keep_red_zone_vectors_and_flags() -> TestResult {
        need_cpus(2)?;
        const INTERRUPTS: u64 = 2_000;
        let (done, both) = (AtomicBool::new(false), CpuSet::from_bits(0b11));
        let interrupts = || PerCpu::of(1).counters.interrupts.load(Relaxed);
        let before = interrupts();
        let results = run_on(both, |cpu| {
            if cpu == CpuId::BOOT {
                let others = CpuSet::from_bits(0b10);
                (0..INTERRUPTS).for_each(|_| shootdown::flush(FlushRequest { cpus: others, scope: FlushScope::LowerHalf }));
                done.store(true, Relaxed);
                return Ok(());
            }
            let flag = core::ptr::from_ref(&done).addr() as u64;
            // SAFETY: both pointers are to live states, and the flag is a byte.
            compare_states(|before, after| unsafe { wait_with_state(flag, before, after) })
        });
        for result in results.into_iter().flatten() {
            result?;
        }
        // Each came as an interrupt: the other CPU waits without serving requests.
        check_eq!(interrupts() - before, INTERRUPTS);
        Ok(())
    }

    fn guard_pages_are_not_mapped() -> TestResult {
        let (mut count, cpu) = (0, PerCpu::current());
        for (name, stack) in cpu.stacks() {
            let guard = stack.guard_page();
            for address in [guard, stack.bottom - 8u64] {
                check!(probe::load(address).is_err(), "the guard page of the {name} at v{address:#x}")?;
            }
            check!(probe::load(stack.bottom).is_ok(), "the lowest word of the {name}")?;
            count += 1;
        }
        check_eq!(count, 8);
        Ok(())
    }
}
