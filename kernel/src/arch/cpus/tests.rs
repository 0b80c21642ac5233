//! Tests of what is between CPUs, without the memory manager.
use super::shootdown::flush;
use super::start::{StartError, wake};
use super::{APIC_IDS, count, online, run_on};
use crate::arch::apic;
use crate::arch::cpu;
use crate::arch::exceptions::hook;
use crate::arch::frame::ExceptionFrame;
use crate::arch::machine::Hardware;
use crate::arch::misuse;
use crate::arch::per_cpu::{MOST_CPUS, PerCpu};
use crate::arch::probe;
use crate::harness::{TestFailure, TestResult, check, check_eq, kernel_test, need_cpus};
use alloc::vec::Vec;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use core::time::Duration;
use ferry_acpi::ApicId;
use ferry_mm::lock::level::Waits;
use ferry_mm::lock::{Broken, Level, Levels, Rules, Taken};
use ferry_mm::machine::{Code, Context, CpuId, CpuSet, Machine};
use ferry_mm::page_table::flush::{FlushRequest, FlushScope};
use x86_64::VirtAddr;
use x86_64::instructions::interrupts;
use x86_64::registers::control::{Cr0, Cr3, Cr4, Efer};
use x86_64::registers::model_specific::Msr;

/// How often CPUs flush each other.
const FLUSHES: u32 = 500;

/// Waits until `condition` holds, serving what others ask.
fn wait_until(condition: impl Fn() -> bool) {
    while !condition() {
        super::relax();
    }
}

/// Lets all of `cpus` begin at the same time: returns on each when the last has called it.
fn meet(cpus: CpuSet, arrived: &AtomicU64) {
    arrived.fetch_add(1, SeqCst);
    wait_until(|| arrived.load(SeqCst) >= u64::from(cpus.bits().count_ones()));
}

fn whole(cpus: CpuSet) -> FlushRequest {
    FlushRequest { cpus, scope: FlushScope::LowerHalf }
}

/// The rules of a lock that interrupt handlers take.
const TAKEN_BY_HANDLERS: Rules = Rules {
    protects: "nothing",
    taken: &[Taken::Exclusive],
    inside: Levels::NONE,
    frames: false,
    waits: Waits::Never,
    innermost: Code::Interrupt,
};

kernel_test! {
    fn the_machine_says_which_code_runs_and_whether_interrupts_are_on() -> TestResult {
        static IN_FAULT: AtomicU32 = AtomicU32::new(0);
        let context = |code, interrupts_on| Context { code, interrupts_on };
        let may_take = || {
            Hardware.held_locks().may_take(Level::Timer, &TAKEN_BY_HANDLERS, Taken::Exclusive, Hardware.context())
        };
        check_eq!(Hardware.context(), context(Code::Ordinary, true));
        check_eq!(may_take(), Err(Broken::Interrupts(Level::Timer)));
        check_eq!(interrupts::without_interrupts(|| (Hardware.context(), may_take())), (context(Code::Ordinary, false), Ok(())));
        let mut inside = (context(Code::Ordinary, true), Ok(()));
        misuse::as_interrupt_handler(|| inside = (Hardware.context(), may_take()));
        check_eq!(inside, (context(Code::Interrupt, false), Ok(())));
        let see = |_: &mut ExceptionFrame, _| {
            IN_FAULT.store(u32::from(Hardware.context() == Context { code: Code::Fault, interrupts_on: false }), SeqCst);
            false
        };
        check!(hook::with(see, || probe::load(VirtAddr::zero())).is_err(), "the null page is mapped")?;
        check_eq!(IN_FAULT.load(SeqCst), 1);
        check_eq!(Hardware.context(), context(Code::Ordinary, true));
        Ok(())
    }

    fn every_cpu_runs_what_it_is_given() -> TestResult {
        let cpus = online();
        let arrived = AtomicU64::new(0);
        // All at the same time: none returns before the last has begun.
        let results = run_on(cpus, |cpu| {
            meet(cpus, &arrived);
            (cpu, PerCpu::current().number(), apic::id())
        });
        let ran: Vec<_> = results.into_iter().flatten().collect();
        check_eq!(ran.len(), count());
        for (number, (given, found, id)) in ran.iter().enumerate() {
            check_eq!((given.number(), found.number()), (number, number));
            check_eq!(id.0, APIC_IDS[number].load(Relaxed));
        }
        let mut ids: Vec<_> = ran.iter().map(|(_, _, id)| *id).collect();
        ids.sort_unstable();
        ids.dedup();
        check_eq!(ids.len(), count());
        Ok(())
    }

    fn only_the_cpus_that_are_asked_run() -> TestResult {
        need_cpus(3)?;
        let results = run_on(CpuSet::from_bits(0b101), CpuId::number);
        check_eq!(results.map(|number| number.unwrap_or(9)), [0, 9, 2, 9, 9, 9, 9, 9]);
        let results = run_on(CpuSet::from_bits(0b010), CpuId::number);
        check_eq!(results.into_iter().flatten().collect::<Vec<_>>(), [1]);
        check!(run_on(CpuSet::EMPTY, |_| ()).into_iter().flatten().next().is_none(), "nobody was asked")
    }

    fn all_cpus_have_the_same_protections_and_memory_types() -> TestResult {
        const PAGE_ATTRIBUTES: u32 = 0x277;
        // SAFETY: every CPU with long mode has the register; reading has no effect.
        let attributes = || unsafe { Msr::new(PAGE_ATTRIBUTES).read() };
        let state = |_| (Cr0::read_raw(), Cr4::read_raw(), Efer::read_raw(), Cr3::read_raw(), attributes(), cpu::enable());
        let mut states = run_on(online(), state).into_iter().flatten();
        let first = states.next();
        for other in states {
            check_eq!(Some(other), first);
        }
        Ok(())
    }

    fn interrupts_are_on_where_work_runs() -> TestResult {
        for on in run_on(online(), |_| interrupts::are_enabled()).into_iter().flatten() {
            check!(on, "a CPU would not answer at once")?;
        }
        Ok(())
    }

    fn no_two_stacks_overlap_and_all_are_guarded() -> TestResult {
        let mut bounds: Vec<_> = (0..count()).flat_map(|cpu| PerCpu::of(cpu).stacks().map(|(_, stack)| stack)).collect();
        check_eq!(bounds.len(), 8 * count());
        for stack in &bounds {
            check!(probe::load(stack.guard_page()).is_err(), "the guard page below v{:#x} is mapped", stack.bottom)?;
            check!(probe::load(stack.bottom).is_ok() && probe::load(stack.top - 8u64).is_ok(), "v{:#x}", stack.bottom)?;
        }
        bounds.sort_by_key(|stack| stack.bottom);
        for pair in bounds.windows(2) {
            check!(pair[0].top <= pair[1].guard_page(), "v{:#x} and v{:#x}", pair[0].top, pair[1].bottom)?;
        }
        // Each CPU runs on its own.
        let on_own = |cpu: CpuId| {
            let local = 0u8;
            PerCpu::of(cpu.number()).stack().contains(core::ptr::from_ref(&local).addr() as u64, 1)
        };
        check!(run_on(online(), on_own).into_iter().flatten().all(|own| own), "a CPU runs on another's stack")
    }

    fn each_cpu_has_faults_of_its_own() -> TestResult {
        static RESOLVED: AtomicU32 = AtomicU32::new(0);
        const ROUNDS: u32 = 500;
        let (cpus, arrived) = (online(), AtomicU64::new(0));
        RESOLVED.store(0, Relaxed);
        // The null page is never mapped; the hook lets the probe's load be done again with another address in its register.
        let resolve = |frame: &mut crate::arch::frame::ExceptionFrame, address: VirtAddr| {
            let own = PerCpu::current().id();
            let expected = u64::from(own) * 8 + 8;
            if address.as_u64() == expected && PerCpu::current().fault_depth() == 1 {
                frame.rdi = PerCpu::current().stack().bottom.as_u64();
                RESOLVED.fetch_add(1, Relaxed);
                return true;
            }
            false
        };
        let failures = hook::with(resolve, || {
            run_on(cpus, |cpu| {
                meet(cpus, &arrived);
                let address = VirtAddr::new(cpu.number() as u64 * 8 + 8);
                (0..ROUNDS).filter(|_| probe::load(address).is_err()).count()
            })
        });
        check_eq!(failures.into_iter().flatten().sum::<usize>(), 0);
        check_eq!(RESOLVED.load(Relaxed), ROUNDS * count() as u32);
        Ok(())
    }

    fn a_flush_costs_one_interrupt_per_other_cpu_and_none_for_those_not_in_it() -> TestResult {
        need_cpus(3)?;
        let read = || core::array::from_fn::<_, MOST_CPUS, _>(|cpu| {
            let counters = &PerCpu::of(cpu).counters;
            (counters.interrupts.load(Relaxed), counters.flushes.load(Relaxed))
        });
        let before = read();
        flush(whole(CpuSet::from_bits(0b101)));
        flush(whole(CpuSet::from_bits(0b001)));
        let after = read();
        let moved = core::array::from_fn::<_, 3, _>(|cpu| (after[cpu].0 - before[cpu].0, after[cpu].1 - before[cpu].1));
        check_eq!(moved, [(0, 2), (0, 0), (1, 1)]);
        Ok(())
    }

    fn a_flush_lasts_as_long_as_a_cpu_cannot_answer() -> TestResult {
        const CANNOT: u64 = 1;
        const CAN: u64 = 2;
        need_cpus(2)?;
        let state = AtomicU64::new(0);
        let found = run_on(CpuSet::from_bits(0b11), |cpu| {
            if cpu == CpuId::BOOT {
                while state.load(SeqCst) == 0 {
                    spin_loop();
                }
                flush(whole(CpuSet::from_bits(0b10)));
                return state.load(SeqCst);
            }
            interrupts::without_interrupts(|| {
                state.store(CANNOT, SeqCst);
                // Many times longer than a flush takes that waits for nobody. Not by the clock: who waits for its lock answers.
                (0..1_000_000).for_each(|_| spin_loop());
                state.store(CAN, SeqCst);
            });
            CAN
        });
        check_eq!(found.into_iter().flatten().next(), Some(CAN));
        Ok(())
    }

    fn a_cpu_answers_when_it_has_forgotten() -> TestResult {
        const ROUNDS: u64 = 2_000;
        need_cpus(2)?;
        // Counted by the other CPU between forgetting and answering.
        let flushes = || PerCpu::of(1).counters.flushes.load(Relaxed);
        let (before, over) = (flushes(), AtomicU64::new(0));
        let early = run_on(CpuSet::from_bits(0b11), |cpu| {
            if cpu != CpuId::BOOT {
                while over.load(SeqCst) == 0 {
                    spin_loop();
                }
                return 0;
            }
            let early = (1..=ROUNDS).filter(|round| {
                flush(whole(CpuSet::from_bits(0b10)));
                flushes() - before != *round
            });
            let early = early.count();
            over.store(1, SeqCst);
            early
        });
        check_eq!(early.into_iter().flatten().sum::<usize>(), 0);
        Ok(())
    }

    fn cpus_that_flush_each_other_do_not_wait_for_ever() -> TestResult {
        need_cpus(2)?;
        let (cpus, arrived) = (online(), AtomicU64::new(0));
        let interrupts = || (0..count()).map(|cpu| PerCpu::of(cpu).counters.interrupts.load(Relaxed)).sum::<u64>();
        let before = interrupts();
        // With interrupts off, as in a fault handler: only the wait itself can answer.
        run_on(cpus, |_| {
            meet(cpus, &arrived);
            interrupts::without_interrupts(|| {
                for _ in 0..FLUSHES {
                    flush(whole(cpus));
                }
                // Whoever is done first still has to answer the others.
                meet(CpuSet::from_bits(u64::MAX >> (64 - 2 * count())), &arrived);
            });
        });
        let (sent, most) = (interrupts() - before, u64::from(FLUSHES) * (count() * (count() - 1)) as u64);
        check!(sent <= most, "{sent} interrupts for at most {most} requests to other CPUs")
    }

    fn a_cpu_that_does_not_exist_is_an_error_that_names_it() -> TestResult {
        const NOBODY: ApicId = ApicId(0xfe);
        let cpu = CpuId::new(MOST_CPUS - 1).ok_or_else(|| TestFailure::new("no such number".into()))?;
        if online().contains(cpu) {
            return Ok(());
        }
        check_eq!(wake(cpu, NOBODY, Duration::from_millis(50)), Err(StartError::NotStarted(cpu, NOBODY)));
        Ok(())
    }
}
