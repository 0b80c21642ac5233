//! Fault injection: makes one step fail, so that the paths nobody takes are taken in a test.
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A kind of step that can be made to fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Allocation of a RAM frame.
    Alloc,
    /// Allocation of a device frame.
    DeviceAlloc,
    /// Copy of one page between RAM and a device.
    Copy,
    /// Read of one page from the swap disk.
    DiskRead,
    /// Write of one page to the swap disk.
    DiskWrite,
}

impl Step {
    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// Counts steps down to the one that fails.
///
/// A counter of 0 never fails; N fails the N-th step from now, once.
#[derive(Debug, Default)]
pub struct Injector {
    remaining: [AtomicU64; 5],
    /// The bits of the steps whose failure is to come: one look tells whether there is any.
    armed: AtomicU32,
}

impl Injector {
    /// Nothing fails.
    pub const fn new() -> Self {
        Self { remaining: [const { AtomicU64::new(0) }; 5], armed: AtomicU32::new(0) }
    }

    /// Makes the `count`-th `step` from now fail; 0 makes none fail.
    pub fn arm(&self, step: Step, count: u64) {
        self.remaining[step as usize].store(count, Ordering::Relaxed);
        if count == 0 {
            self.armed.fetch_and(!step.bit(), Ordering::Relaxed);
        } else {
            self.armed.fetch_or(step.bit(), Ordering::Relaxed);
        }
    }

    /// Whether the armed failure of `step` is still to come.
    pub fn is_armed(&self, step: Step) -> bool {
        self.remaining[step as usize].load(Ordering::Relaxed) != 0
    }

    /// Whether any failure is to come.
    #[inline(always)]
    pub(crate) fn is_in_use(&self) -> bool {
        self.armed.load(Ordering::Relaxed) != 0
    }

    /// Counts one `step` and says whether it shall fail.
    #[inline]
    pub(crate) fn fails(&self, step: Step) -> bool {
        let remaining = &self.remaining[step as usize];
        // The common case is one load: nothing is armed.
        if remaining.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let fails = remaining.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)) == Ok(1);
        if fails {
            self.armed.fetch_and(!step.bit(), Ordering::Relaxed);
        }
        fails
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_armed_step_fails_once() {
        let injector = Injector::new();
        injector.arm(Step::Copy, 3);
        let fails: [bool; 5] = core::array::from_fn(|_| injector.fails(Step::Copy));
        assert_eq!(fails, [false, false, true, false, false]);
        assert!(!injector.fails(Step::Alloc));
    }
}
