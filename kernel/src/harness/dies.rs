//! Tests made to fail, one for each way in which a test or the kernel can be lost.
//!
//! They prove the harness and the reports: the host runs each by name and looks for the end and the
//! report that belong to it.
use super::{TestResult, check_eq, kernel_test, need_cpus};
use crate::arch::cpus::{run_on, shootdown};
use crate::arch::exceptions::hook;
use crate::arch::layout::STACKS;
use crate::arch::machine::Hardware;
use crate::arch::misuse;
use crate::arch::per_cpu::PerCpu;
use crate::arch::stack::StackBounds;
use alloc::boxed::Box;
use core::fmt;
use core::hint::{black_box, spin_loop};
use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
use ferry_mm::lock::{Level, Lock, SharedLock, assert_may_take_frames, assert_may_wait};
use ferry_mm::machine::CpuSet;
use ferry_mm::page_table::flush::{FlushRequest, FlushScope};
use x86_64::VirtAddr;

/// In the window of stacks, far above everything that is mapped.
fn unmapped_stack() -> StackBounds {
    const DISTANCE: u64 = 1 << 30;
    const BYTES: u64 = 64 * 1024;
    let bottom = STACKS.start() + DISTANCE;
    StackBounds { bottom, top: bottom + BYTES }
}

/// Calls itself until the stack is used up.
#[expect(unconditional_recursion, reason = "it shall overflow the stack")]
fn recurse(depth: u64) -> u64 {
    let room = black_box([depth; 64]);
    recurse(depth + 1) + room[0]
}

/// Does nothing, for ever.
fn busy() -> ! {
    loop {
        spin_loop();
    }
}

struct PanicsWhenShown;

impl fmt::Display for PanicsWhenShown {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("the second panic")
    }
}

/// Not canonical: bit 47 is not repeated above it.
const NOT_CANONICAL: u64 = 0x0000_8000_dead_beef;

kernel_test! {
    fn fails() -> TestResult {
        check_eq!(2 + 2, 5);
        Ok(())
    }

    fn leaks() -> TestResult {
        core::mem::forget(black_box(Box::new([0u8; 100])));
        Ok(())
    }

    fn hangs() -> TestResult {
        busy()
    }

    fn panics() -> TestResult {
        panic!("a panic on purpose")
    }

    fn panics_on_another_cpu() -> TestResult {
        // The others are busy for ever, the CPU of the test waiting for them among them; one stops them all.
        run_on(need_cpus(3)?, |cpu| {
            if cpu.number() == 2 {
                panic!("a panic on purpose, not where the test began");
            }
            busy()
        });
        Ok(())
    }

    fn meets_an_invalid_instruction_on_another_cpu() -> TestResult {
        run_on(need_cpus(2)?, |cpu| if cpu.number() == 1 { misuse::invalid_instruction() } else { busy() });
        Ok(())
    }

    fn overflows_the_stack_of_another_cpu() -> TestResult {
        run_on(need_cpus(2)?, |cpu| if cpu.number() == 1 { recurse(0) } else { busy() });
        Ok(())
    }

    fn flushes_a_cpu_that_does_not_answer() -> TestResult {
        need_cpus(2)?;
        let begun = AtomicBool::new(false);
        run_on(CpuSet::from_bits(0b11), |cpu| {
            if cpu.number() == 1 {
                misuse::switch_interrupts_off();
                begun.store(true, SeqCst);
                busy();
            }
            while !begun.load(SeqCst) {
                spin_loop();
            }
            shootdown::flush(FlushRequest { cpus: CpuSet::from_bits(0b11), scope: FlushScope::LowerHalf });
        });
        Ok(())
    }

    fn panics_twice() -> TestResult {
        panic!("{PanicsWhenShown}")
    }

    fn reads_a_null_pointer() -> TestResult {
        misuse::read(0x18);
        Ok(())
    }

    fn writes_to_code() -> TestResult {
        misuse::write(VirtAddr::from_ptr(recurse as *const ()).as_u64());
        Ok(())
    }

    fn executes_data() -> TestResult {
        static DATA: u64 = 0xc3;
        misuse::call(VirtAddr::from_ptr(&DATA).as_u64());
        Ok(())
    }

    fn reads_beyond_ram_in_the_direct_map() -> TestResult {
        /// Physical: 32 TiB, more than QEMU's default machines have.
        const BEYOND: u64 = 1 << 45;
        misuse::read(crate::arch::layout::DIRECT_MAP.start().as_u64() + BEYOND);
        Ok(())
    }

    fn reads_a_pointer_that_is_not_canonical() -> TestResult {
        misuse::read(NOT_CANONICAL);
        Ok(())
    }

    fn meets_an_invalid_instruction() -> TestResult {
        misuse::invalid_instruction()
    }

    fn gets_an_unexpected_interrupt() -> TestResult {
        misuse::interrupt();
        Ok(())
    }

    fn overflows_its_stack() -> TestResult {
        black_box(recurse(0));
        Ok(())
    }

    fn takes_locks_in_a_forbidden_order() -> TestResult {
        let (events, frames) = (Lock::new(Level::Trace, ()), Lock::new(Level::Frames, ()));
        let _events = events.lock(&Hardware);
        drop(frames.lock(&Hardware));
        Ok(())
    }

    fn allocates_inside_the_fault_handler() -> TestResult {
        hook::with(|_, _| black_box(Box::new(true)).as_ref() == &false, || misuse::read(0x18));
        Ok(())
    }

    fn prints_in_an_interrupt_handler() -> TestResult {
        misuse::as_interrupt_handler(|| crate::println!("the interrupted code may be printing"));
        Ok(())
    }

    fn allocates_frames_while_a_lock_forbids_it() -> TestResult {
        let lock = Lock::new(Level::Driver, ());
        let _lock = lock.lock(&Hardware);
        assert_may_take_frames(&Hardware);
        Ok(())
    }

    fn waits_for_the_disk_while_a_lock_forbids_it() -> TestResult {
        let areas = SharedLock::new(Level::Areas, ());
        let _areas = areas.write(&Hardware);
        assert_may_wait(&Hardware);
        Ok(())
    }

    fn faults_inside_the_fault_handler() -> TestResult {
        hook::with(
            |_, _| {
                if PerCpu::current().fault_depth() == 1 {
                    misuse::read(0x28);
                }
                false
            },
            || misuse::read(0x18),
        );
        Ok(())
    }

    fn faults_without_end_inside_the_fault_handler() -> TestResult {
        hook::with(
            |_, _| {
                misuse::read(0x28);
                false
            },
            || misuse::read(0x18),
        );
        Ok(())
    }

    fn faults_during_the_move_off_the_exception_stack() -> TestResult {
        PerCpu::current().set_stack(unmapped_stack());
        misuse::read_with_stack_pointer(unmapped_stack().top.as_u64())
    }

    fn faults_with_a_bad_stack_pointer() -> TestResult {
        misuse::read_with_stack_pointer(unmapped_stack().top.as_u64())
    }

    fn faults_while_a_fault_is_delivered() -> TestResult {
        misuse::lose_page_fault_stack(unmapped_stack().top);
        misuse::read(0x18);
        Ok(())
    }
}
