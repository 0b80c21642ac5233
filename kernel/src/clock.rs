//! Bounds for waits.
//!
//! A [`Deadline`] adds up what the timer's counter moved between two polls. It needs neither
//! interrupts nor calibration. Polls further apart than one turn of the counter (55 ms) lose
//! whole turns, so a wait can last longer than asked for, never shorter.
#![deny(unsafe_code)]
use crate::arch::timer;
use core::time::Duration;

/// A moment in the future, for a loop that polls.
#[derive(Debug)]
pub struct Deadline {
    ticks_left: u64,
    last_count: u16,
}

impl Deadline {
    /// The moment `limit` from now.
    pub fn after(limit: Duration) -> Self {
        let ticks = limit.as_nanos() * u128::from(timer::TICKS_PER_SECOND) / NANOSECONDS_PER_SECOND + 1;
        Self { ticks_left: ticks.try_into().unwrap_or(u64::MAX), last_count: timer::count() }
    }

    /// Whether it has passed.
    pub fn expired(&mut self) -> bool {
        let count = timer::count();
        // The counter falls, and a turn is exactly the range of its type.
        let passed = self.last_count.wrapping_sub(count);
        self.last_count = count;
        self.ticks_left = self.ticks_left.saturating_sub(u64::from(passed));
        self.ticks_left == 0
    }
}

const NANOSECONDS_PER_SECOND: u128 = 1_000_000_000;

const _: () = assert!(timer::PERIOD == 1 << u16::BITS, "`expired` takes differences in the counter's type");

#[cfg(feature = "tests")]
mod tests {
    use super::*;
    use crate::harness::{TestResult, check, kernel_test};

    kernel_test! {
        fn a_wait_ends_and_lasts_in_proportion() -> TestResult {
            let ticks_of = |milliseconds| {
                let mut deadline = Deadline::after(Duration::from_millis(milliseconds));
                let start = crate::arch::cpu::time_stamp();
                while !deadline.expired() {
                    core::hint::spin_loop();
                }
                crate::arch::cpu::time_stamp() - start
            };
            // A busy host stretches single waits, so the shortest of some stands for the short one. The long one is more than one
            // turn of the counter, so that turns are added up.
            let short = (0..8).map(|_| ticks_of(20)).min().unwrap_or(u64::MAX);
            let long = ticks_of(200);
            check!(long > 5 * short, "20 ms took {short} time stamps, 200 ms took {long}")
        }
    }
}
