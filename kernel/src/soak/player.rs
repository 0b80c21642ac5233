//! One CPU's part in a round: random actions, and what it knows of the pages.
//!
//! Invariants:
//! 1. A CPU stores only to its own words and pages, so it knows what must stand there whatever the others do.
//! 2. What changes contents (unmap, discard, lazy free, relocation) a CPU does to its own pages only; what must not
//!    change them, to everybody's.
use super::SoakError;
use super::action::{Action, End, Tally};
use super::error::Expected;
use super::ground::{self, check, ends, word};
use super::random::Random;
use super::stage::Stage;
use crate::arch::cpus;
use crate::arch::per_cpu::MOST_CPUS;
use crate::arch::probe::{self, ProbeError};
use crate::memory::fault::Failure;
use crate::memory::{self, manager};
use alloc::vec;
use alloc::vec::Vec;
use ferry_mm::address::PageRange;
use ferry_mm::frame::DeviceId;
use ferry_mm::machine::CpuId;
use ferry_mm::migrate::{Busy, Foreign, Invalid, MigrateError, MigrateOptions, Mode, Report};
use ferry_mm::space::{Access, FaultError, ForkError, Leave, Protection, RelocateError, Term};

/// Pages of the longest range that one call gets.
const LONGEST_RANGE: u64 = 64;

/// What a child's word is ahead of its parent's, when the child has stored.
const CHILDS_OWN: u64 = 1 << 40;

/// A CPU's part.
pub(super) struct Player<'a> {
    cpu: CpuId,
    random: Random,
    stage: &'a Stage,
    own: PageRange,
    /// What stands in this CPU's word of each common page.
    words: Vec<u64>,
    /// The last seen of everybody's word of each common page.
    seen: Vec<[u64; MOST_CPUS]>,
    /// What may stand in each own page.
    values: Vec<Expected>,
    pub(super) tally: Tally,
}

impl<'a> Player<'a> {
    /// The part of `cpu`, whose own pages are fresh.
    pub(super) fn new(stage: &'a Stage, cpu: CpuId, seed: u64) -> Result<Self, SoakError> {
        Ok(Self {
            cpu,
            random: Random::new(seed),
            stage,
            own: ground::own(cpu)?,
            words: vec![0; ground::COMMON_PAGES as usize],
            seen: vec![[0; MOST_CPUS]; ground::COMMON_PAGES as usize],
            values: vec![Expected::Exactly(0); ground::OWN_PAGES as usize],
            tally: Tally::default(),
        })
    }

    /// Does one action, whichever comes.
    pub(super) fn act(&mut self) -> Result<(), SoakError> {
        let action = match Action::picked(self.random.next()) {
            // The device adds to the first word of a page, which is that of CPU 0.
            Action::DeviceAdd if self.cpu != CpuId::BOOT => Action::Store,
            action => action,
        };
        let end = match action {
            Action::Store => self.store(),
            Action::Look => self.look(),
            Action::StoreOwn => self.store_own(),
            Action::LookOwn => self.look_own(),
            Action::Migrate => self.migrate(),
            Action::BringHome => self.bring_home(),
            Action::Evict => self.evict(),
            Action::SwapOut => self.swap_out(),
            Action::Fork => self.fork(),
            Action::Pin => self.pin(),
            Action::Protect => self.protect(),
            Action::Remap => self.remap(),
            Action::Discard => self.discard(),
            Action::FreeLazily => self.free_lazily(),
            Action::Relocate => self.relocate(),
            Action::DeviceAdd => self.device_add(),
        }?;
        self.tally.note(action, end);
        Ok(())
    }

    /// Holds everything that this CPU knows against the pages, when all have stopped.
    pub(super) fn check_all(&self) -> Result<(), SoakError> {
        for (index, value) in self.words.iter().enumerate() {
            let _ = check(word(self.stage.common, index as u64, self.cpu), Expected::Exactly(*value))?;
        }
        for (index, expected) in self.values.iter().enumerate() {
            for address in ends(self.own, index as u64) {
                let _ = check(address, *expected)?;
            }
        }
        Ok(())
    }

    fn store(&mut self) -> Result<End, SoakError> {
        let index = self.common_page();
        let (address, value) = (word(self.stage.common, index, self.cpu), self.words[index as usize]);
        if let End::Refused = tried(check(address, Expected::Exactly(value)))? {
            return Ok(End::Refused);
        }
        let end = tried(probe::store(address, value + 1).map_err(SoakError::from))?;
        if end == End::Done {
            self.words[index as usize] += 1;
        }
        Ok(end)
    }

    fn look(&mut self) -> Result<End, SoakError> {
        let index = self.common_page();
        let number = self.random.next();
        ground::check_pattern(self.stage.common, index, number)?;
        for cpu in (0..cpus::count()).filter_map(CpuId::new) {
            let _ = self.see(index, cpu)?;
        }
        Ok(End::Done)
    }

    /// Loads another CPU's word, which only grows.
    fn see(&mut self, index: u64, cpu: CpuId) -> Result<u64, SoakError> {
        let address = word(self.stage.common, index, cpu);
        let (found, seen) = (probe::load(address)?, &mut self.seen[index as usize][cpu.number()]);
        if found < *seen {
            return Err(SoakError::WentBack { address, found, seen: *seen });
        }
        *seen = found;
        Ok(found)
    }

    fn store_own(&mut self) -> Result<End, SoakError> {
        let (index, value) = (self.random.below(ground::OWN_PAGES), self.random.next());
        for address in ends(self.own, index) {
            probe::store(address, value)?;
        }
        self.values[index as usize] = Expected::Exactly(value);
        Ok(End::Done)
    }

    fn look_own(&mut self) -> Result<End, SoakError> {
        let index = self.random.below(ground::OWN_PAGES);
        for address in ends(self.own, index) {
            let _ = check(address, self.values[index as usize])?;
        }
        Ok(End::Done)
    }

    fn migrate(&mut self) -> Result<End, SoakError> {
        let (range, options) = (self.anybodys_pages()?, self.options());
        let device = self.device();
        moved(self.stage.space.migrate_to_device_with(range, device, options))
    }

    fn bring_home(&mut self) -> Result<End, SoakError> {
        let range = self.anybodys_pages()?;
        moved(self.stage.space.migrate_to_system(range))
    }

    fn evict(&mut self) -> Result<End, SoakError> {
        let id = self.device();
        let evicted = manager().evict_device(id);
        if let Some(device) = manager().device(id) {
            device.reopen();
        }
        match evicted {
            Some(evicted) if evicted.lost > 0 => Err(SoakError::Lost(evicted.lost)),
            _ => Ok(End::Done),
        }
    }

    fn swap_out(&mut self) -> Result<End, SoakError> {
        let range = self.anybodys_pages()?;
        if manager().swap().is_none() {
            return Ok(End::Refused);
        }
        let _ = self.stage.space.swap_out(range)?;
        Ok(End::Done)
    }

    fn fork(&mut self) -> Result<End, SoakError> {
        let pages: [u64; 4] = core::array::from_fn(|_| self.common_page());
        let child = match self.stage.space.fork() {
            Ok(child) => child,
            Err(ForkError::OutOfFrames | ForkError::HeapFull | ForkError::Create(_)) => return Ok(End::Refused),
            Err(error) => return Err(error.into()),
        };
        memory::enter(child);
        let looked = self.look_at_child(&pages);
        memory::enter(self.stage.space);
        child.destroy()?;
        let found = looked?;
        // The child was made before now, and the words only grow.
        for (index, words) in pages.into_iter().zip(found) {
            for (cpu, childs) in (0..cpus::count()).filter_map(CpuId::new).zip(words) {
                let now = self.see(index, cpu)?;
                if now < childs {
                    let address = word(self.stage.common, index, cpu);
                    return Err(SoakError::WentBack { address, found: now, seen: childs });
                }
            }
            let address = word(self.stage.common, index, self.cpu);
            let _ = check(address, Expected::Exactly(self.words[index as usize]))?;
        }
        Ok(End::Done)
    }

    /// Everybody's words in a child of this CPU; its own it then overwrites.
    fn look_at_child(&mut self, pages: &[u64; 4]) -> Result<[[u64; MOST_CPUS]; 4], SoakError> {
        let mut found = [[0; MOST_CPUS]; 4];
        let common = self.stage.common;
        for (index, found) in pages.iter().zip(&mut found) {
            for cpu in (0..cpus::count()).filter_map(CpuId::new).filter(|cpu| *cpu != self.cpu) {
                found[cpu.number()] = self.see_in_child(*index, cpu)?;
            }
        }
        for index in pages {
            let (address, value) = (word(common, *index, self.cpu), self.words[*index as usize]);
            // A page that came twice has been stored to.
            if probe::load(address)? != value + CHILDS_OWN {
                let _ = check(address, Expected::Exactly(value))?;
                probe::store(address, value + CHILDS_OWN)?;
            }
            let _ = check(address, Expected::Exactly(value + CHILDS_OWN))?;
        }
        Ok(found)
    }

    /// As [`Self::see`]; what is seen in a child says nothing of the parent's future.
    fn see_in_child(&self, index: u64, cpu: CpuId) -> Result<u64, SoakError> {
        let address = word(self.stage.common, index, cpu);
        let (found, seen) = (probe::load(address)?, self.seen[index as usize][cpu.number()]);
        if found < seen { Err(SoakError::WentBack { address, found, seen }) } else { Ok(found) }
    }

    fn pin(&mut self) -> Result<End, SoakError> {
        let index = self.random.below(ground::OWN_PAGES);
        let term = if self.random.one_in(2) { Term::Short } else { Term::Long };
        let address = self.own.page(index).start_address();
        let pin = match self.stage.space.pin(address, Access::Write, term) {
            Ok(pin) => pin,
            Err(FaultError::OutOfMemory(_) | FaultError::PinnedOnDevice(_)) => return Ok(End::Refused),
            Err(error) => return Err(error.into()),
        };
        let device = self.device();
        let end = moved(self.stage.space.migrate_to_device_with(self.own.part(index, 1), device, self.options()))?;
        let _ = self.evict()?;
        let frame = manager().mapped_frame(self.stage.space.entry(address));
        // While somebody else's call looks at the page its entry is that of a page under way, which names the frame, too.
        if frame.is_some_and(|frame| frame != pin.frame()) { Err(SoakError::PinnedMoved(address)) } else { Ok(end) }
    }

    fn protect(&mut self) -> Result<End, SoakError> {
        let (first, range) = self.own_pages();
        self.stage.space.protect(range, Protection::READ)?;
        let address = range.start_address();
        let allowed = probe::store(address, u64::MAX).err();
        let refused = allowed
            .is_some_and(|error: ProbeError| matches!(error.failure, Some(Failure::Access(FaultError::Forbidden(..)))));
        let contents = check(address, self.values[first as usize]);
        self.stage.space.protect(range, Protection::READ_WRITE)?;
        if !refused {
            return Err(SoakError::ReadOnly { address, found: allowed });
        }
        contents.map(|_| End::Done)
    }

    fn remap(&mut self) -> Result<End, SoakError> {
        let (first, range) = self.own_pages();
        self.stage.space.unmap(range)?;
        self.stage.space.map_anonymous(range, Protection::READ_WRITE)?;
        self.expect(first, range, |_| Expected::Exactly(0));
        Ok(End::Done)
    }

    fn discard(&mut self) -> Result<End, SoakError> {
        let (first, range) = self.own_pages();
        self.stage.space.discard(range)?;
        self.expect(first, range, |_| Expected::Exactly(0));
        Ok(End::Done)
    }

    fn free_lazily(&mut self) -> Result<End, SoakError> {
        let (first, range) = self.own_pages();
        self.stage.space.free_lazily(range)?;
        self.expect(first, range, |before| match before {
            Expected::Exactly(value) | Expected::OrZero(value) => Expected::OrZero(value),
        });
        Ok(End::Done)
    }

    fn relocate(&mut self) -> Result<End, SoakError> {
        let (first, range) = self.own_pages();
        let moved = match self.stage.space.relocate(range, ground::elsewhere(range), Leave::Nothing) {
            Ok(moved) => moved,
            Err(RelocateError::OutOfFrames | RelocateError::SeveralAreas(_)) => return Ok(End::Refused),
            Err(error) => return Err(error.into()),
        };
        let contents = check(moved.start_address(), self.values[first as usize]);
        let _ = self.stage.space.relocate(moved, range.start_address(), Leave::Nothing)?;
        contents.map(|_| End::Done)
    }

    fn device_add(&mut self) -> Result<End, SoakError> {
        let Some(mirror) = &self.stage.mirror else { return Ok(End::Refused) };
        let (index, operand) = (self.common_page(), 1 + self.random.below(9));
        match mirror.add(self.stage.common.part(index, 1), operand)? {
            Ok(done) => {
                let (address, expected) = (word(self.stage.common, index, self.cpu), self.words[index as usize]);
                if done.value != expected {
                    return Err(SoakError::Word { address, found: done.value, expected: Expected::Exactly(expected) });
                }
                self.words[index as usize] += operand;
                Ok(End::Done)
            }
            Err(status) => Err(SoakError::Operation(status)),
        }
    }

    fn expect(&mut self, first: u64, range: PageRange, value: impl Fn(Expected) -> Expected) {
        let values = &mut self.values[first as usize..(first + range.pages()) as usize];
        values.iter_mut().for_each(|expected| *expected = value(*expected));
    }

    fn common_page(&mut self) -> u64 {
        // One time in two one of a few pages, so that CPUs meet.
        let few = self.random.one_in(2);
        self.random.below(if few { 4 } else { ground::COMMON_PAGES })
    }

    /// Some of this CPU's pages, and the index of the first.
    fn own_pages(&mut self) -> (u64, PageRange) {
        let first = self.random.below(ground::OWN_PAGES);
        let pages = 1 + self.random.below(ground::OWN_PAGES - first);
        (first, self.own.part(first, pages))
    }

    /// Some of the common pages, or of any CPU's own.
    fn anybodys_pages(&mut self) -> Result<PageRange, SoakError> {
        let range = match self.random.below(4) {
            0 => ground::own(CpuId::new(self.random.below(cpus::count() as u64) as usize).unwrap_or(CpuId::BOOT))?,
            _ => self.stage.common,
        };
        let first = self.random.below(range.pages());
        let pages = 1 + self.random.below(LONGEST_RANGE.min(range.pages() - first));
        Ok(range.part(first, pages))
    }

    fn device(&mut self) -> DeviceId {
        self.stage.devices[self.random.below(self.stage.devices.len() as u64) as usize]
    }

    fn options(&mut self) -> MigrateOptions {
        let busy = if self.random.one_in(2) { Busy::Skip } else { Busy::Wait };
        let foreign = if self.random.one_in(2) { Foreign::Stay } else { Foreign::ViaRam };
        let mode = if self.random.one_in(2) { Mode::Stop } else { Mode::Transactional };
        MigrateOptions { busy, foreign, mode, ..MigrateOptions::default() }
    }
}

/// A migration call may be refused where somebody else wants the pages, has just unmapped some, or RAM is short.
fn moved(result: Result<Report, MigrateError>) -> Result<End, SoakError> {
    match result {
        Ok(_) => Ok(End::Done),
        Err(MigrateError::Again(_) | MigrateError::NoMemory | MigrateError::Invalid(Invalid::OutsideArea(_))) => {
            Ok(End::Refused)
        }
        Err(error) => Err(error.into()),
    }
}

/// An access that found no memory may be tried again; nothing is lost.
fn tried<T>(result: Result<T, SoakError>) -> Result<End, SoakError> {
    match result {
        Ok(_) => Ok(End::Done),
        Err(SoakError::Access(error)) if matches!(error.failure, Some(Failure::Access(FaultError::OutOfMemory(_)))) => {
            Ok(End::Refused)
        }
        Err(error) => Err(error),
    }
}
