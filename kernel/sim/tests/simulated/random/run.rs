//! A run: each operation on the memory manager and on the model, and what they must agree on.
use std::sync::{Arc, Mutex, MutexGuard};

use ferry_mm::frame::{AnyFrame, DeviceId};
use ferry_mm::inject::Step;
use ferry_mm::machine::CpuId;
use ferry_mm::migrate::{Held, Invalid, MigrateError, MigrateOptions, Report};
use ferry_mm::page_table::entry::{Entry, LeafFlags, RawEntry};
use ferry_mm::space::{FaultError, MapError, Pin, Protection, Space};
use ferry_mm::swap::SwapOutError;
use ferry_sim::{AccessError, Expected, Sim, Transfer, World, audit_with};

use super::mirror::{Mirror, device_access};
use super::model::{Model, disturb, drain_all, is_one_area, own};
use super::operation::{How, Op, PROTECTIONS};
use super::{CPUS, PAGES, SPACES, WORDS};
use crate::support::{at, pages};

pub(super) struct PinModel<'w> {
    pub(super) pin: Pin<'w, Sim>,
    pub(super) space: usize,
    pub(super) page: usize,
    pub(super) birth: u64,
}

/// The world, its model, and what the operations hold.
pub struct Run<'w> {
    pub(super) world: &'w World,
    pub(super) model: Arc<Mutex<Model>>,
    pub(super) spaces: [Option<Space<'w, Sim>>; SPACES],
    pub(super) pins: Vec<PinModel<'w>>,
    pub(super) mirrors: [Option<Mirror>; SPACES],
}

fn without_used(raw: RawEntry) -> RawEntry {
    let used = LeafFlags::ACCESSED | LeafFlags::DIRTY;
    if raw.is_present() { RawEntry(raw.0 & !used.bits()) } else { raw }
}

impl<'w> Run<'w> {
    pub fn new(world: &'w World, seed: u64) -> Self {
        let model = Arc::new(Mutex::new(Model { choices: seed, ..Model::default() }));
        let watched = model.clone();
        world.sim().watch(move |sim, _| disturb(sim, &watched));
        let mut run = Self { world, model, spaces: [None; SPACES], pins: Vec::new(), mirrors: Default::default() };
        for space in 0..SPACES {
            run.recreate(space);
        }
        for cpu in 0..CPUS {
            run.enter(cpu, cpu % SPACES);
        }
        run
    }

    pub(super) fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }

    pub(super) fn sim(&self) -> &'w Sim {
        self.world.sim()
    }

    /// Runs as a CPU; returns also whether an injected failure struck meanwhile.
    pub(super) fn on<R>(&self, cpu: usize, work: impl FnOnce() -> R) -> (R, bool) {
        let armed = || {
            let steps =
                [Step::Alloc, Step::DeviceAlloc, Step::Copy].map(|step| self.world.manager().injector().is_armed(step));
            let transfers = [Transfer::Read, Transfer::Write]
                .map(|transfer| self.has_disk() && self.world.disk().will_fail(transfer));
            steps.into_iter().chain(transfers).collect::<Vec<bool>>()
        };
        let before = armed();
        let result = self.world.cpu(cpu).run(work);
        let struck = before.iter().zip(armed()).any(|(before, after)| *before && !after);
        (result, struck)
    }

    pub(super) fn has_disk(&self) -> bool {
        self.world.manager().swap().is_some()
    }

    pub(super) fn is_out_of_memory(&self) -> bool {
        self.world.manager().memory().free(self.sim()) == 0
    }

    fn protect(&self, cpu: usize, space: usize, first: usize, count: usize, protection: Protection) {
        let Some(handle) = self.spaces[space] else { return };
        let range = pages(first as u64, count as u64);
        {
            // Until the call is over, others may find the old or the new protection.
            let mut model = self.model();
            let part = &mut model.spaces[space][first..first + count];
            if part.iter().all(Option::is_some) {
                part.iter_mut().flatten().for_each(|page| page.protection |= protection);
            }
        }
        let (protected, _) = self.on(cpu, || handle.protect(range, protection));
        let mut model = self.model();
        let part = &mut model.spaces[space][first..first + count];
        if part.iter().any(Option::is_none) {
            assert_eq!(protected, Err(MapError::NotMapped(range)));
            return;
        }
        protected.unwrap();
        part.iter_mut().flatten().for_each(|page| page.protection = protection);
    }

    /// Checks an access that failed against the model.
    fn check_refused(&self, cpu: usize, page: usize, write: bool, error: AccessError, struck: bool) {
        let entered = self.model().entered[cpu];
        match (entered, error) {
            (None, AccessError::NoSpace(_)) => {}
            (Some(space), AccessError::Refused(error)) => self.check_fault(space, page, write, error, struck),
            (_, error) => panic!("{error}, where the CPU is in {entered:?}"),
        }
    }

    /// Checks a fault that was refused against the model.
    pub(super) fn check_fault(&self, space: usize, page: usize, write: bool, error: FaultError, struck: bool) {
        let out_of_memory = self.is_out_of_memory();
        let needed = if write { Protection::WRITE } else { Protection::READ };
        let mut model = self.model();
        match (error, model.spaces[space][page].as_mut()) {
            (FaultError::NoArea(_), None) => {}
            (FaultError::Forbidden(..), Some(there)) => assert!(!there.protection.contains(needed)),
            (FaultError::OutOfMemory(_), Some(there)) => {
                assert!(there.protection.contains(needed) && (struck || out_of_memory), "{error}, struck: {struck}");
            }
            (FaultError::OverLimit(_), Some(there)) => {
                assert!(there.protection.contains(needed) && self.is_at_limit(space), "{error}");
            }
            (FaultError::PinnedOnDevice(_), Some(there)) => {
                let on_device = |pinned: &PinModel<'_>| matches!(pinned.pin.frame(), AnyFrame::Device(_));
                assert!(self.pins.iter().any(|pinned| pinned.birth == there.birth && on_device(pinned)), "{error}");
            }
            (FaultError::Disk(_), Some(there)) => {
                assert!(there.protection.contains(needed) && !there.lost && struck, "{error}");
            }
            (FaultError::Poisoned(_), Some(there)) => {
                assert!(there.protection.contains(needed) && (there.lost || struck), "{error}");
                there.lost = true;
            }
            (error, there) => {
                panic!("{error:?} where the page is {}", if there.is_some() { "mapped" } else { "not mapped" })
            }
        }
    }

    fn store(&self, cpu: usize, page: usize, word: usize, value: u64, bytes: usize) {
        let word = own(cpu, word);
        let address = at(page as u64, word as u64 * 8);
        let value = value.to_le_bytes();
        // An access runs as no CPU: its faults run as the CPU that makes it.
        let (stored, struck) = self.on(cpu, || self.world.cpu(cpu).store(address, &value[..bytes]));
        if let Err(error) = stored {
            return self.check_refused(cpu, page, true, error, struck);
        }
        let mut model = self.model();
        let there = model.page(cpu, page).expect("a store to an unmapped page succeeded");
        assert!(there.protection.contains(Protection::WRITE) && !there.lost);
        let space = model.entered[cpu].expect("it has just stored");
        model.store(space, page, word, |old| {
            let mut kept = old.to_le_bytes();
            kept[..bytes].copy_from_slice(&value[..bytes]);
            u64::from_le_bytes(kept)
        });
    }

    fn load(&self, cpu: usize, page: usize, word: usize) {
        drain_all(self.sim());
        let address = at(page as u64, word as u64 * 8);
        let (loaded, struck) = self.on(cpu, || {
            // Touched first, so that the word itself is loaded without other CPUs' stores in between.
            self.world.cpu(cpu).read::<8>(address)?;
            drain_all(self.sim());
            self.world.cpu(cpu).read::<8>(address)
        });
        match loaded {
            Err(error) => self.check_refused(cpu, page, false, error, struck),
            Ok(bytes) => {
                let mut model = self.model();
                let there = model.page(cpu, page).expect("a load from an unmapped page succeeded");
                assert!(there.protection.is_accessible() && !there.lost);
                let value = u64::from_le_bytes(bytes);
                assert!(there.may_be(word, value), "CPU {cpu} reads {value:#x} from page {page}, word {word}");
            }
        }
    }

    /// What a migration call must answer to a range, before it looks at entries.
    fn refusal(&self, space: usize, first: usize, count: usize) -> Option<MigrateError> {
        let model = self.model();
        let part = &model.spaces[space][first..first + count];
        let range = pages(first as u64, count as u64);
        if !is_one_area(part) {
            return Some(MigrateError::Invalid(Invalid::OutsideArea(range)));
        }
        if part.iter().flatten().any(|page| page.sharers.is_some()) {
            return Some(MigrateError::Invalid(Invalid::NotAnonymous(range)));
        }
        let is_readable = part.iter().flatten().all(|page| page.protection.is_accessible());
        (!is_readable).then_some(MigrateError::Invalid(Invalid::NotReadable(range)))
    }

    fn has_lost(&self, space: usize, first: usize, count: usize) -> bool {
        self.model().spaces[space][first..first + count].iter().flatten().any(|page| page.lost)
    }

    /// Whether a migration to a device may have been refused so; `true` where it was.
    fn check_migrate_error<T>(
        &self,
        result: &Result<T, MigrateError>,
        (space, first, count): (usize, usize, usize),
        struck: bool,
    ) -> bool {
        let refusal = self.refusal(space, first, count);
        match result {
            Ok(_) => {
                assert_eq!(refusal, None);
                assert!(!self.has_lost(space, first, count), "a lost page was taken");
                false
            }
            Err(MigrateError::NoMemory) => {
                assert!(refusal.is_none() && (struck || self.is_out_of_memory()));
                true
            }
            Err(MigrateError::Fault(_)) => {
                assert!(refusal.is_none() && (self.has_lost(space, first, count) || struck));
                true
            }
            Err(error) => {
                assert_eq!(Some(*error), refusal);
                true
            }
        }
    }

    fn to_device(&self, cpu: usize, space: usize, (first, count): (usize, usize), device: u8, how: How) {
        let Some(handle) = self.spaces[space] else { return };
        let range = pages(first as u64, count as u64);
        let initiator = how.is_initiated.then(|| self.initiator(space, first, count)).flatten();
        let options = MigrateOptions { initiator, busy: how.busy, foreign: how.foreign, mode: how.mode };
        let device = DeviceId::new(device).unwrap();
        let (result, struck) = self.on(cpu, || handle.migrate_to_device_with(range, device, options));
        if struck {
            // Of another device's page, on its way home.
            self.find_lost(space, handle);
        }
        if !self.check_migrate_error(&result, (space, first, count), struck) {
            self.check_report(result.unwrap(), count);
        }
    }

    fn check_report(&self, report: Report, count: usize) {
        assert_eq!(report.moved + report.stayed.total(), count as u64, "{report:?}");
    }

    fn home(&self, cpu: usize, space: usize, first: usize, count: usize) {
        let Some(handle) = self.spaces[space] else { return };
        let range = pages(first as u64, count as u64);
        let (result, struck) = self.on(cpu, || handle.migrate_to_system(range));
        match result {
            Ok(report) => {
                assert_eq!(self.refusal(space, first, count), None);
                self.check_report(report, count);
            }
            Err(error) => assert_eq!(Some(error), self.refusal(space, first, count)),
        }
        if struck {
            self.find_lost(space, handle);
        }
    }

    /// A copy on the way home was made to fail: one more page may be poisoned.
    pub(super) fn find_lost(&self, space: usize, handle: Space<'_, Sim>) {
        let mut model = self.model();
        let mut found = 0;
        for (number, page) in model.spaces[space].iter_mut().enumerate() {
            if let Some(page) = page
                && !page.lost
                && handle.path(at(number as u64, 0)).leaf().is_some_and(|step| step.entry.decode() == Entry::Poison)
            {
                page.lost = true;
                found += 1;
            }
        }
        assert!(found <= 1, "one failure lost {found} pages");
    }

    fn take_and_drop(&self, cpu: usize, space: usize, (first, count): (usize, usize), phase: u8, device: u8) {
        let Some(handle) = self.spaces[space] else { return };
        let range = pages(first as u64, count as u64);
        let entries = || -> Vec<RawEntry> {
            (first..first + count).map(|number| without_used(handle.entry(at(number as u64, 0)))).collect()
        };
        let before = entries();
        let (result, struck) = self.on(cpu, || handle.collect(range, DeviceId::new(device).unwrap()));
        if self.check_migrate_error(&result, (space, first, count), struck) {
            assert_eq!(entries(), before, "a call that failed changed an entry");
            return;
        }
        let look = |standings: Vec<Held>| {
            self.audit(true);
            for (number, _) in (first..).zip(&standings).filter(|(_, held)| **held == Held::Yes) {
                for other in 0..CPUS {
                    let there = self.sim().load(CpuId::new(other).unwrap(), at(number as u64, 0));
                    assert!(
                        self.model().entered[other] != Some(space) || there.is_err(),
                        "CPU {other} reads a held page"
                    );
                }
            }
        };
        self.on(cpu, || {
            let mut collected = result.unwrap();
            if phase == 0 {
                look(collected.standings().collect());
                return;
            }
            let mut unmapped = collected.unmap().unwrap();
            if phase == 1 {
                look(unmapped.standings().collect());
                return;
            }
            let mut copied = unmapped.copy();
            look(copied.standings().collect());
        });
        assert_eq!(entries(), before, "what was taken was not given back");
    }

    fn swap_out(&self, cpu: usize, space: usize, first: usize, count: usize) {
        let Some(handle) = self.spaces[space] else { return };
        let (out, _) = self.on(cpu, || handle.swap_out(pages(first as u64, count as u64)));
        match out {
            Ok(out) => assert!(out.freed + out.stayed.total() <= count as u64, "{out:?}"),
            Err(SwapOutError::NoDisk) => assert!(!self.has_disk()),
        }
    }

    pub fn audit(&self, open_batch: bool) {
        let pins = self.pins.iter().map(|pinned| pinned.pin.frame()).collect();
        audit_with(self.world, &Expected { open_batch, pins }).unwrap();
        self.check_mirrors();
    }

    /// A pinned page stays in its frame for as long as it is mapped.
    pub fn check_pins(&self) {
        let model = self.model();
        for pinned in &self.pins {
            let frame = pinned.pin.frame();
            let still_there =
                model.spaces[pinned.space][pinned.page].as_ref().is_some_and(|page| page.birth == pinned.birth);
            let Some(handle) = self.spaces[pinned.space].filter(|_| still_there) else { continue };
            if frame == self.world.manager().zero_frame().into() {
                continue;
            }
            match handle.path(at(pinned.page as u64, 0)).last().decode() {
                Entry::Present { frame: there, .. } | Entry::NoAccess { frame: there, .. } => {
                    assert_eq!(self.sim().frame_at(there), frame);
                }
                other => panic!("a pinned page became {other:?}"),
            }
        }
    }

    pub fn apply(&mut self, op: &Op) {
        match *op {
            Op::Enter { cpu, space } => self.enter(cpu, space),
            Op::Leave { cpu } => self.leave(cpu),
            Op::Recreate { space } => self.recreate(space),
            Op::Fork { cpu, space } => self.fork(cpu, space),
            Op::Discard { cpu, space, first, count } => self.discard(cpu, space, first, count.min(PAGES - first)),
            Op::Map { space, first, count, protection } => {
                self.map(space, first, count.min(PAGES - first), PROTECTIONS[protection]);
            }
            Op::MapShared { cpu, space, first, count, protection } => {
                self.map_shared(cpu, space, first, count.min(PAGES - first), PROTECTIONS[protection]);
            }
            Op::FreeLazily { cpu, space, first, count } => {
                self.free_lazily(cpu, space, first, count.min(PAGES - first));
            }
            Op::Unmap { cpu, space, first, count } => self.unmap(cpu, space, first, count.min(PAGES - first)),
            Op::Protect { cpu, space, first, count, protection } => {
                self.protect(cpu, space, first, count.min(PAGES - first), PROTECTIONS[protection]);
            }
            Op::Store { cpu, page, word, value, bytes } => self.store(cpu, page, word, value, bytes),
            Op::Load { cpu, page, word } => self.load(cpu, page, word),
            Op::ToDevice { cpu, space, first, count, device, how } => {
                self.to_device(cpu, space, (first, count.min(PAGES - first)), device, how);
            }
            Op::Mirror { space, first, count, device } => {
                self.mirror(space, first..PAGES.min(first + count), device);
            }
            Op::RangeFault { cpu, space, first, count, want } => {
                self.range_fault(cpu, space, first..PAGES.min(first + count), want);
            }
            Op::MakeExclusive { cpu, space, page } => self.make_exclusive(cpu, space, page),
            Op::DeviceAccess { space, page, word, store } => {
                device_access(self.sim(), &mut self.model(), space, page, word, store);
            }
            Op::Limit { space, more } => self.limit(space, more),
            Op::Home { cpu, space, first, count } => self.home(cpu, space, first, count.min(PAGES - first)),
            Op::TakeAndDrop { cpu, space, first, count, phase, device } => {
                self.take_and_drop(cpu, space, (first, count.min(PAGES - first)), phase, device);
            }
            Op::Pin { cpu, space, page, write, long } => self.pin(cpu, space, page, write, long),
            Op::Evict { cpu, device } => self.evict(cpu, device),
            Op::Relocate { cpu, space, first, count, target, empty } => {
                let count = count.min(PAGES - first).min(PAGES - target);
                self.relocate(cpu, space, (first, count), target, empty);
            }
            Op::SwapOut { cpu, space, first, count } => self.swap_out(cpu, space, first, count.min(PAGES - first)),
            Op::Unpin { which } => {
                if which < self.pins.len() {
                    self.pins.swap_remove(which);
                }
            }
            Op::Inject { step, count } => {
                let injector = self.world.manager().injector();
                match step {
                    0 => injector.arm(Step::Alloc, count),
                    1 => injector.arm(Step::DeviceAlloc, count),
                    2 => injector.arm(Step::Copy, count),
                    3 if self.has_disk() => self.world.disk().fail(Transfer::Read, count),
                    _ if self.has_disk() => self.world.disk().fail(Transfer::Write, count),
                    _ => {}
                }
            }
        }
    }

    /// Every byte, as some CPU reads it; then everything is given back.
    pub fn finish(mut self) {
        for step in [Step::Alloc, Step::DeviceAlloc, Step::Copy] {
            self.world.manager().injector().arm(step, 0);
        }
        if self.has_disk() {
            self.world.disk().fail(Transfer::Read, 0);
            self.world.disk().fail(Transfer::Write, 0);
        }
        self.pins.clear();
        self.sim().unwatch();
        drain_all(self.sim());
        for space in 0..SPACES {
            let cpu = space % CPUS;
            self.enter(cpu, space);
            for page in 0..PAGES {
                let mut bytes = vec![0; WORDS * 8];
                match self.world.cpu(cpu).load(at(page as u64, 0), &mut bytes) {
                    Err(error) => self.check_refused(cpu, page, false, error, false),
                    Ok(()) => {
                        let mut model = self.model();
                        let there = model.page(cpu, page).expect("an unmapped page was read");
                        let words = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
                        let is_right = |(word, value)| there.may_be(word, value);
                        assert!(words.enumerate().all(is_right), "space {space}, page {page} at the end");
                    }
                }
            }
        }
        self.audit(false);
        self.world.assert_all_free();
    }
}
