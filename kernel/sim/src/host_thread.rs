//! All that knows of host threads: which CPU a thread acts as, and how it waits for another.
//!
//! An explorer of schedules runs its CPUs as tasks of one thread. No lock of the machine is held where a [`crate::Moment`] is
//! announced, so tasks may be switched at any of them; whoever comes back acts as its CPU again ([`become_cpu`]).
use std::cell::Cell;
use std::time::Duration;

use ferry_mm::machine::CpuId;

/// Turns after which a waiting thread sleeps for [`NAP`] in each.
const PATIENCE: u32 = 1 << 10;

/// Lets the threads of the other CPUs run, however loaded the host is.
const NAP: Duration = Duration::from_micros(100);

thread_local! {
    static CURRENT: Cell<CpuId> = const { Cell::new(CpuId::BOOT) };
}

/// The CPU that this thread acts as.
pub(crate) fn cpu() -> CpuId {
    CURRENT.get()
}

/// This thread acts as `cpu` from now on: a task of this CPU goes on after others had their turn.
pub(crate) fn become_cpu(cpu: CpuId) {
    CURRENT.set(cpu);
}

/// Runs `work` with this thread acting as `cpu`.
pub(crate) fn as_cpu<R>(cpu: CpuId, work: impl FnOnce() -> R) -> R {
    struct Back(CpuId);
    impl Drop for Back {
        fn drop(&mut self) {
            CURRENT.set(self.0);
        }
    }
    let _back = Back(CURRENT.replace(cpu));
    work()
}

/// One turn of a wait that has taken `turns` turns so far.
pub(crate) fn relax(turns: u32) {
    if turns < PATIENCE { std::thread::yield_now() } else { std::thread::sleep(NAP) }
}
