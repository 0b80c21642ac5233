//! What the device does that a CPU drives: it stores to pages by their physical addresses, while it may.
use ferry_mm::frame::AnyFrame;
use ferry_mm::notify::{Invalidation, Listener};
use ferry_mm::space::{Access, ExclusiveError, FaultError, Term};
use ferry_sim::Moment;

use super::ledger::Writer;
use super::program::Program;
use super::stage::{data, switch};

/// Stores of a device to a page, at most.
const DEVICE_STORES: usize = 3;

/// A device that keeps no translation: it looks at its sequence before each store, in the same step.
pub(super) struct LooksEachTime;

impl Listener for LooksEachTime {
    fn invalidate(&self, _: &Invalidation) {}
}

impl Program<'_> {
    /// Pins a page and lets a device store to its frame, as by DMA.
    pub(super) fn drive_device(&mut self, page: usize) {
        let (space, writer) = (self.space, Writer::device_of(self.number));
        let term = if self.random.chance(128) { Term::Short } else { Term::Long };
        let pin = match self.cpu.run(|| space.pin(data(page, 0), Access::Write, term)) {
            Ok(pin) => pin,
            Err(FaultError::OutOfMemory(_) | FaultError::PinnedOnDevice(_)) => return,
            Err(error) => panic!("CPU {}: page {page} cannot be pinned: {error}", self.number),
        };
        for _ in 0..DEVICE_STORES {
            switch(Moment::Copy);
            let word = self.stage.ledger().next(writer, page);
            self.stage.world.sim().poke(pin.frame(), writer.cell(), word);
            self.stage.ledger().stored(writer, page);
        }
        switch(Moment::Copy);
        self.cpu.run(|| drop(pin));
    }

    /// Gives a page to the device alone, which stores to it until somebody else wants the page.
    pub(super) fn let_device_have(&mut self, page: usize) {
        let (space, stage, writer) = (self.space, self.stage, Writer::device_of(self.number));
        let Some(owner) = stage.listener(self.number) else { return };
        let exclusive = match self.cpu.run(|| space.make_exclusive(data(page, 0), owner)) {
            Ok(exclusive) => exclusive,
            Err(ExclusiveError::Pinned(_) | ExclusiveError::Fault(FaultError::OutOfMemory(_))) => return,
            Err(error) => panic!("CPU {}: a device cannot have page {page} alone: {error}", self.number),
        };
        for _ in 0..DEVICE_STORES {
            switch(Moment::Copy);
            if stage.world.manager().has_moved(owner, exclusive.since) {
                return;
            }
            let word = stage.ledger().next(writer, page);
            stage.world.sim().poke(AnyFrame::System(exclusive.frame), writer.cell(), word);
            stage.ledger().stored(writer, page);
        }
    }
}
