//! The meter: instructions counted by the CPU's clock, and marks that an observer of the machine sees.
//!
//! Under `-icount shift=0` the time-stamp counter advances by one with each instruction of any CPU, so the difference of two
//! readings is a number of instructions. Bulk copies are timed apart, only while that is switched on: otherwise a copy costs a load and
//! a branch more.
//!
//! ```text
//!   window   clock, Begin ── what is measured ── End, clock
//!   copy                       └─ clock, CopyBegin ── copy ── CopyEnd, clock
//! ```
//!
//! Invariants:
//! 1. Between the marks of a window, or of a copy, stand the instructions of what is measured and nothing of the meter.
//! 2. What the clock counts beyond those is the same number each time; whoever reads it measures that number first.
//! 3. One CPU measures at a time. No locks.
use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use ferry_protocol::mark::Mark;
use x86_64::instructions::interrupts;

/// Whether copies are timed.
static METERED: AtomicBool = AtomicBool::new(false);

/// Time in windows, in copies, and since the kernel began.
static WINDOW_TIME: AtomicU64 = AtomicU64::new(0);
static COPY_TIME: AtomicU64 = AtomicU64::new(0);
static BOOT_TIME: AtomicU64 = AtomicU64::new(0);

static COPIES: AtomicU64 = AtomicU64::new(0);
static BAR_BYTES_WRITTEN: AtomicU64 = AtomicU64::new(0);
static BAR_BYTES_READ: AtomicU64 = AtomicU64::new(0);

/// Pieces of the kernel's start: one more than there were waits for devices.
static BOOT_PIECES: AtomicU64 = AtomicU64::new(1);

/// Begins to count into a static: takes the time away from it, then makes the mark.
macro_rules! begin {
    ($time:ident, $mark:ident) => {
        // SAFETY: reads a counter, changes a static that is changed by one CPU at a time, and does nothing. It says nothing about
        // memory, so that no access moves across it.
        unsafe {
            asm!(
                "rdtsc",
                "shl rdx, 32",
                "or rax, rdx",
                "sub qword ptr [rip + {time}], rax",
                "nop dword ptr [rax + {displacement}]",
                time = sym $time,
                displacement = const Mark::$mark.displacement(),
                out("rax") _,
                out("rdx") _,
                options(nostack)
            );
        }
    };
}

/// Ends what [`begin`] began: makes the mark, then adds the time.
macro_rules! end {
    ($time:ident, $mark:ident) => {
        // SAFETY: as for `begin`.
        unsafe {
            asm!(
                "nop dword ptr [rax + {displacement}]",
                "rdtsc",
                "shl rdx, 32",
                "or rax, rdx",
                "add qword ptr [rip + {time}], rax",
                time = sym $time,
                displacement = const Mark::$mark.displacement(),
                out("rax") _,
                out("rdx") _,
                options(nostack)
            );
        }
    };
}

/// What copies have cost since [`reset`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Copied {
    /// Instructions, and for each copy as many as the meter adds.
    pub time: u64,
    /// Copies and clears.
    pub copies: u64,
    /// Bytes written to device frames.
    pub bar_bytes_written: u64,
    /// Bytes read from device frames.
    pub bar_bytes_read: u64,
}

/// Bytes of device frames that a copy moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BarBytes {
    /// Written.
    pub written: u64,
    /// Read.
    pub read: u64,
}

/// Does a bulk copy or clear, timed where that is wanted.
#[inline(always)]
pub fn copying(bar_bytes: BarBytes, copy: impl FnOnce()) {
    if METERED.load(Relaxed) {
        metered(bar_bytes, copy);
    } else {
        copy();
    }
}

#[cold]
#[inline(never)]
fn metered(bar_bytes: BarBytes, copy: impl FnOnce()) {
    COPIES.fetch_add(1, Relaxed);
    BAR_BYTES_WRITTEN.fetch_add(bar_bytes.written, Relaxed);
    BAR_BYTES_READ.fetch_add(bar_bytes.read, Relaxed);
    begin!(COPY_TIME, CopyBegin);
    copy();
    end!(COPY_TIME, CopyEnd);
}

/// Switches the timing of copies on or off, from nothing.
pub fn reset(metered: bool) {
    METERED.store(metered, Relaxed);
    for counter in [&COPY_TIME, &COPIES, &BAR_BYTES_WRITTEN, &BAR_BYTES_READ] {
        counter.store(0, Relaxed);
    }
}

/// What copies have cost.
pub fn copied() -> Copied {
    Copied {
        time: COPY_TIME.load(Relaxed),
        copies: COPIES.load(Relaxed),
        bar_bytes_written: BAR_BYTES_WRITTEN.load(Relaxed),
        bar_bytes_read: BAR_BYTES_READ.load(Relaxed),
    }
}

/// The time that `work` takes, with interrupts off, and as much as the meter adds.
#[inline(never)]
pub fn window(work: &mut dyn FnMut()) -> u64 {
    interrupts::without_interrupts(|| {
        WINDOW_TIME.store(0, Relaxed);
        begin!(WINDOW_TIME, Begin);
        work();
        end!(WINDOW_TIME, End);
        WINDOW_TIME.load(Relaxed)
    })
}

/// A loop of `2 * turns + 1` instructions.
#[inline(always)]
pub fn known_loop(turns: u64) {
    // SAFETY: counts a register down.
    unsafe {
        asm!("mov {0}, {1}", "2:", "dec {0}", "jnz 2b", out(reg) _, in(reg) turns, options(nomem, nostack));
    }
}

/// Notes that the kernel begins.
#[inline(always)]
pub fn begin_boot() {
    begin!(BOOT_TIME, Begin);
}

/// What it took the kernel to come up, waits for devices left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Boot {
    /// The time, and for each piece of it as much as the meter adds to a copy.
    pub time: u64,
    /// How many pieces: one more than there were waits.
    pub pieces: u64,
}

/// Notes that the kernel has come up.
pub fn end_boot() -> Boot {
    end!(BOOT_TIME, End);
    Boot { time: BOOT_TIME.load(Relaxed), pieces: BOOT_PIECES.load(Relaxed) }
}

/// Waits for a device: how long that takes is the host's doing and no part of what the kernel costs.
pub fn waiting<R>(wait: impl FnOnce() -> R) -> R {
    end!(BOOT_TIME, Pause);
    let result = wait();
    BOOT_PIECES.fetch_add(1, Relaxed);
    begin!(BOOT_TIME, Resume);
    result
}

/// Reads the first and the last word of a BAR, marked, so that an observer learns where it lies.
pub fn show_bar(first: *const u64, last: *const u64) {
    // SAFETY: the callers name words of a mapped BAR that reading does not change.
    unsafe {
        asm!(
            "nop dword ptr [rax + {first_word}]",
            "mov {value}, [{first}]",
            "nop dword ptr [rax + {last_word}]",
            "mov {value}, [{last}]",
            first_word = const Mark::FirstWord.displacement(),
            last_word = const Mark::LastWord.displacement(),
            first = in(reg) first,
            last = in(reg) last,
            value = out(reg) _,
            options(readonly, nostack, preserves_flags)
        );
    }
}
