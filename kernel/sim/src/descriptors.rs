//! The descriptors of frames, as the memory manager holds them: whenever it looks one up, other CPUs may get their turn.
//!
//! Counts and the locks of frames are atomics of the memory manager's own, of which the machine does not hear. But it looks a
//! descriptor up each time before it uses it, and that goes through here.
use std::ops::Deref;
use std::sync::Arc;

use ferry_mm::frame::Descriptor;

use crate::machine::{Concurrency, Moment};

/// The descriptors of RAM, or of one device.
#[derive(Clone)]
pub struct Descriptors {
    all: Arc<[Descriptor]>,
    concurrency: Concurrency,
}

impl Descriptors {
    /// Descriptors of this many reserved frames.
    pub(crate) fn new(count: usize, concurrency: Concurrency) -> Self {
        Self { all: (0..count).map(|_| Descriptor::new()).collect(), concurrency }
    }

    /// The same descriptors, for the machine itself, whose looks are no steps of a CPU.
    pub(crate) fn for_the_machine(&self) -> Arc<[Descriptor]> {
        self.all.clone()
    }
}

impl Deref for Descriptors {
    type Target = [Descriptor];

    fn deref(&self) -> &[Descriptor] {
        self.concurrency.switch(Moment::Descriptor);
        &self.all
    }
}
