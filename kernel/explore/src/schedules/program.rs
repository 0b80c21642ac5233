//! What a CPU does: a short random program of accesses and of calls to the memory manager, each checked as it goes.
use ferry_mm::address::PageRange;
use ferry_mm::frame::DeviceId;
use ferry_mm::migrate::{Collected, MigrateOptions, Mode, Protected};
use ferry_mm::space::{FaultError, Leave, Protection, Space};
use ferry_sim::{AccessError, Cpu, Moment, Random, Sim};

use super::ledger::{self, Last, SCRATCH_PAGES, WRITERS, Writer};
use super::stage::{COHERENT, DATA_PAGES, PRIVATE, Stage, data, data_pages, elsewhere, scratch, scratch_pages, switch};

/// The CPU that maps, unmaps, discards and protects the scratch pages.
const MAPPER: usize = 1;

/// Operations of one CPU: from this many to this many.
const OPERATIONS: std::ops::RangeInclusive<usize> = 1..=4;

/// Accesses between two operations, at most.
const MOST_ACCESSES: usize = 4;

/// One CPU at work on the stage.
pub(super) struct Program<'s> {
    pub(super) stage: &'s Stage,
    pub(super) number: usize,
    pub(super) cpu: Cpu<'s>,
    pub(super) space: Space<'s, Sim>,
    pub(super) random: Random,
}

impl<'s> Program<'s> {
    /// The program of a CPU, which the seed determines.
    pub(super) fn new(stage: &'s Stage, number: usize, seed: u64) -> Self {
        let (cpu, space) = (stage.world.cpu(number), stage.space());
        Self { stage, number, cpu, space, random: Random::new(seed, number as u64) }
    }

    /// Does everything.
    ///
    /// # Panics
    /// Where a check finds what must not be.
    pub(super) fn run(mut self) {
        let count = OPERATIONS.start() + self.random.below(OPERATIONS.end() - OPERATIONS.start() + 1);
        for _ in 0..count {
            self.use_pages();
            self.operate();
        }
        self.use_pages();
    }

    fn use_pages(&mut self) {
        for _ in 0..self.random.below(MOST_ACCESSES + 1) {
            let page = self.random.below(DATA_PAGES);
            match self.random.below(8) {
                0..3 => self.store(page),
                3..6 => self.load(page),
                6 => self.store_scratch(),
                _ => self.load_scratch(),
            }
        }
    }

    fn operate(&mut self) {
        let (space, manager) = (self.space, self.stage.world.manager());
        let first = self.random.below(DATA_PAGES);
        let range = data_pages(first, 1 + self.random.below(DATA_PAGES - first));
        let device = if self.random.chance(128) { PRIVATE } else { COHERENT };
        let mode = if self.random.chance(128) { Mode::Stop } else { Mode::Transactional };
        let options = MigrateOptions { mode, ..MigrateOptions::default() };
        match self.random.below(18) {
            0..4 => drop(self.cpu.run(|| space.migrate_to_device_with(range, device, options))),
            4..6 => drop(self.cpu.run(|| space.migrate_to_system(range))),
            6 => self.give_up_halfway(range, device),
            7 => drop(self.cpu.run(|| manager.evict_device(device))),
            8 => drop(self.cpu.run(|| space.swap_out(range))),
            9 | 10 => self.fork(),
            11 | 12 => {
                self.cpu.leave();
                switch(Moment::LoadRoot);
                self.cpu.enter(space);
            }
            13 => self.drive_device(first),
            14 | 15 => self.let_device_have(first),
            _ if self.number == MAPPER => self.change_scratch(),
            16 => drop(self.cpu.run(|| space.migrate_to_device(scratch_pages(), device))),
            _ => drop(self.cpu.run(|| space.swap_out(scratch_pages()))),
        }
    }

    /// Begins a migration and drops it after one of its phases.
    fn give_up_halfway(&mut self, range: PageRange, device: DeviceId) {
        let (space, phase, options) = (self.space, self.random.below(5), MigrateOptions::default());
        self.cpu.run(|| match phase {
            0 => drop(space.collect(range, device)),
            1 => drop(space.collect(range, device).map(Collected::unmap)),
            2 => drop(space.collect(range, device).and_then(|batch| Ok(batch.unmap()?.copy()))),
            3 => drop(space.protect_for_copy(range, device, options)),
            _ => drop(space.protect_for_copy(range, device, options).map(Protected::copy)),
        });
    }

    fn load_word(&self, address: x86_64::VirtAddr) -> Result<u64, FaultError> {
        switch(Moment::LoadEntry);
        match self.cpu.read(address) {
            Ok(bytes) => Ok(u64::from_le_bytes(bytes)),
            Err(AccessError::Refused(error)) => Err(error),
            Err(error) => panic!("CPU {}: {error}", self.number),
        }
    }

    fn store_word(&self, address: x86_64::VirtAddr, word: u64) -> Result<(), FaultError> {
        switch(Moment::LoadEntry);
        match self.cpu.store(address, &word.to_le_bytes()) {
            Ok(()) => Ok(()),
            Err(AccessError::Refused(error)) => Err(error),
            Err(error) => panic!("CPU {}: {error}", self.number),
        }
    }

    fn store(&mut self, page: usize) {
        let writer = Writer::cpu(self.number);
        let word = self.stage.ledger().next(writer, page);
        if check_data_access(self.store_word(data(page, writer.cell()), word)).is_some() {
            self.stage.ledger().stored(writer, page);
        }
    }

    fn load(&mut self, page: usize) {
        let writer = self.some_writer();
        if let Some(found) = check_data_access(self.load_word(data(page, writer.cell()))) {
            self.stage.ledger().loaded(self.number, writer, page, found);
        }
        let word = writer.cell() + 1;
        if let Some(found) = check_data_access(self.load_word(data(page, word))) {
            self.stage.check_pattern(page, word, found);
        }
    }

    fn some_writer(&mut self) -> Writer {
        let writer = self.random.below(WRITERS);
        Writer::all().nth(writer).expect("below the number of writers")
    }

    fn store_scratch(&mut self) {
        let page = self.random.below(SCRATCH_PAGES);
        let word = self.stage.scratch().next(self.number, page);
        if check_scratch_access(self.store_word(scratch(page, Writer::cpu(self.number).cell()), word)).is_some() {
            self.stage.scratch().stored(self.number, page);
        }
    }

    fn load_scratch(&mut self) {
        let (page, of) = (self.random.below(SCRATCH_PAGES), self.random.below(self.stage.cpus()));
        if let Some(found) = check_scratch_access(self.load_word(scratch(page, Writer::cpu(of).cell()))) {
            self.stage.scratch().loaded(self.number, of, page, found);
        }
    }

    /// Takes the scratch pages from everybody, or their contents, or the right to store.
    fn change_scratch(&mut self) {
        let (space, stage, range) = (self.space, self.stage, scratch_pages());
        let no_memory = "areas are on the heap";
        match self.random.below(6) {
            0 => {
                let zap = stage.scratch().begin_zap();
                self.cpu.run(|| space.unmap(range)).expect(no_memory);
                stage.scratch().end_zap(&zap);
                stage.scratch().is_unmapped = true;
                self.use_pages();
                stage.scratch().is_unmapped = false;
                self.cpu.run(|| space.map_anonymous(range, Protection::READ_WRITE)).expect(no_memory);
            }
            1 => {
                let zap = stage.scratch().begin_zap();
                self.cpu.run(|| space.discard(range)).expect(no_memory);
                stage.scratch().end_zap(&zap);
            }
            2 | 3 => {
                stage.scratch().begin_zap();
                self.cpu.run(|| space.free_lazily(range)).expect(no_memory);
                stage.scratch().end_offer();
                self.use_pages();
                let _ = self.cpu.run(|| space.swap_out(range));
            }
            4 => {
                let Ok(moved) = self.cpu.run(|| space.relocate(range, elsewhere(), Leave::Nothing)) else { return };
                stage.scratch().is_unmapped = true;
                self.use_pages();
                stage.scratch().is_unmapped = false;
                let back = self.cpu.run(|| space.relocate(moved, range.start_address(), Leave::Nothing));
                assert_eq!(back, Ok(range), "the page tables on the way back are still there");
            }
            _ => {
                self.cpu.run(|| space.protect(range, Protection::READ)).expect(no_memory);
                stage.scratch().is_read_only = true;
                self.use_pages();
                stage.scratch().is_read_only = false;
                self.cpu.run(|| space.protect(range, Protection::READ_WRITE)).expect(no_memory);
            }
        }
    }

    /// Makes a child, uses it, and destroys it.
    fn fork(&mut self) {
        let (parent, cpu) = (self.space, self.cpu);
        let oldest = self.stage.ledger().last();
        let Ok(child) = cpu.run(|| parent.fork()) else { return };
        let newest = self.stage.ledger().last();
        cpu.enter(child);
        let mut child_sees = Child { oldest, newest, number: self.number };
        for _ in 0..self.random.below(2 * MOST_ACCESSES) {
            let page = self.random.below(DATA_PAGES);
            match self.random.below(8) {
                0 => drop(cpu.run(|| child.migrate_to_device(data_pages(page, 1), PRIVATE))),
                1 => drop(cpu.run(|| child.swap_out(data_pages(page, 1)))),
                2 => {
                    let writer = Writer::cpu(self.number);
                    let number = child_sees.newest[writer.index()][page] + 1;
                    let word = ledger::word(writer, page, number);
                    if check_data_access(self.store_word(data(page, writer.cell()), word)).is_some() {
                        child_sees.learn(writer, page, number);
                    }
                }
                _ => {
                    let writer = self.some_writer();
                    if let Some(found) = check_data_access(self.load_word(data(page, writer.cell()))) {
                        child_sees.check(writer, page, ledger::number(writer, page, found));
                    }
                }
            }
        }
        cpu.leave();
        cpu.run(|| child.destroy()).expect("nobody else enters a child");
        cpu.enter(parent);
    }
}

/// What the only CPU of a child may see there: nobody else stores to it.
struct Child {
    oldest: Last,
    newest: Last,
    number: usize,
}

impl Child {
    /// Checks the number of the store that a load saw.
    fn check(&mut self, writer: Writer, page: usize, number: u64) {
        let (oldest, newest) = (self.oldest[writer.index()][page], self.newest[writer.index()][page]);
        assert!(
            (oldest..=newest).contains(&number),
            "CPU {} in a child, page {page}: the cell of {writer:?} holds store {number}, expected {oldest} to {newest}",
            self.number
        );
        self.learn(writer, page, number);
    }

    /// From now on the cell holds this store.
    fn learn(&mut self, writer: Writer, page: usize, number: u64) {
        (self.oldest[writer.index()][page], self.newest[writer.index()][page]) = (number, number);
    }
}

/// What an access to a page that stays mapped gave; `None` where there was no memory for it.
fn check_data_access<T>(result: Result<T, FaultError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(FaultError::OutOfMemory(_)) => None,
        Err(error) => panic!("an access to a page that is mapped and whole was refused: {error}"),
    }
}

/// What an access to a scratch page gave; `None` where it was refused for a reason that there may be.
fn check_scratch_access<T>(result: Result<T, FaultError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(FaultError::OutOfMemory(_) | FaultError::NoArea(_) | FaultError::Forbidden(..)) => None,
        Err(error) => panic!("an access to a scratch page was refused: {error}"),
    }
}
