//! What programs may expect, as plain bytes; and the accesses of other CPUs that are checked against it on the way.
use std::sync::{Arc, Mutex};

use ferry_mm::machine::{CpuId, Machine};
use ferry_mm::space::Protection;
use ferry_sim::Sim;

use super::mirror::{Table, device_access};
use super::{CPUS, PAGES, SPACES, WORDS};
use crate::support::at;

/// What a program may expect of a page.
#[derive(Clone)]
pub struct PageModel {
    pub protection: Protection,
    pub words: Box<[u64; WORDS]>,
    /// The contents were lost, by a copy that was made to fail.
    pub lost: bool,
    /// Where it was first mapped: neighbours whose origins are no neighbours are in different areas.
    pub origin: usize,
    /// Tells the page from others that were mapped in its place.
    pub birth: u64,
    /// In a shared area: which pages, also of other spaces, are the same memory.
    pub sharers: Option<u64>,
    /// The contents need not be kept: what they are once the page was dropped.
    pub if_dropped: Option<Box<[u64; WORDS]>>,
    /// Somebody has stored to it since it was last known whether it was dropped.
    pub stored: bool,
}

impl PageModel {
    /// A page of zeros.
    pub fn fresh(protection: Protection, origin: usize, birth: u64) -> Self {
        let words = Box::new([0; WORDS]);
        Self { protection, words, lost: false, origin, birth, sharers: None, if_dropped: None, stored: false }
    }

    /// Whether a load of a word may find `value`.
    pub fn may_be(&self, word: usize, value: u64) -> bool {
        self.words[word] == value || self.if_dropped.as_ref().is_some_and(|words| words[word] == value)
    }

    fn change(&mut self, word: usize, change: impl Fn(u64) -> u64) {
        self.words[word] = change(self.words[word]);
        if let Some(words) = &mut self.if_dropped {
            words[word] = change(words[word]);
        }
        self.stored = true;
    }
}

#[derive(Default)]
pub struct Model {
    pub spaces: [[Option<PageModel>; PAGES]; SPACES],
    /// The space that each CPU is in.
    pub entered: [Option<usize>; CPUS],
    pub births: u64,
    /// What a device has copied of each space.
    pub tables: [Option<Arc<Table>>; SPACES],
    /// For the watcher's choices.
    pub choices: u64,
}

impl Model {
    fn choose(&mut self, bound: usize) -> usize {
        self.choices = self.choices.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.choices >> 33) as usize % bound
    }

    pub fn page(&mut self, cpu: usize, page: usize) -> Option<&mut PageModel> {
        self.spaces[self.entered[cpu]?][page].as_mut()
    }

    /// Checks that a CPU may reach a page at all: no device has it for itself.
    fn check_reachable(&self, cpu: usize, page: usize) {
        let table = self.entered[cpu].and_then(|space| self.tables[space].as_ref());
        let is_exclusive = table.is_some_and(|table| table.is_exclusive(page));
        assert!(!is_exclusive, "CPU {cpu} reaches page {page}, which a device has for itself");
    }

    /// Notes a store to a word of a mapped page, which everybody sees who shares the memory.
    pub fn store(&mut self, space: usize, page: usize, word: usize, change: impl Fn(u64) -> u64) {
        let stored_to = self.spaces[space][page].as_mut().expect("a store to an unmapped page");
        let Some(sharers) = stored_to.sharers else { return stored_to.change(word, change) };
        let all = self.spaces.iter_mut().flatten().flatten();
        all.filter(|page| page.sharers == Some(sharers)).for_each(|page| page.change(word, &change));
    }
}

/// Whether pages that follow each other are one area: all mapped, with one protection, in the order in which they first were.
pub fn is_one_area(pages: &[Option<PageModel>]) -> bool {
    let follows = |first: &PageModel, second: &PageModel| {
        first.protection == second.protection
            && first.origin + 1 == second.origin
            && first.sharers.is_some() == second.sharers.is_some()
    };
    pages.iter().all(Option::is_some)
        && pages.windows(2).all(|pair| pair[0].as_ref().zip(pair[1].as_ref()).is_some_and(|(a, b)| follows(a, b)))
}

/// Those who store: the CPUs, and the devices together.
const WRITERS: usize = CPUS + 1;

/// The word of a page that a writer may store to, near `word`.
pub fn own(writer: usize, word: usize) -> usize {
    (word - word % WRITERS + writer) % (WORDS - WORDS % WRITERS)
}

pub fn drain_all(sim: &Sim) {
    sim.cpus().for_each(|cpu| sim.fence(cpu));
}

/// One access of another CPU, or of a device, while the memory manager is in the middle of something.
pub fn disturb(sim: &Sim, model: &Mutex<Model>) {
    // Held where the run itself compares with the model: then nobody disturbs it.
    let Ok(mut model) = model.try_lock() else { return };
    let cpu = model.choose(CPUS);
    let id = CpuId::new(cpu).unwrap();
    let page = model.choose(PAGES);
    let word = model.choose(WORDS);
    if model.choose(6) == 0 {
        let (space, store) = (model.choose(SPACES), model.choose(2) == 0);
        let store = store.then(|| model.choose(usize::MAX) as u64);
        device_access(sim, &mut model, space, page, word, store);
        return;
    }
    // This CPU is in the kernel; and most of the time the others do something else.
    if id == sim.cpu() || model.choose(4) != 0 {
        return;
    }
    if model.choose(2) == 0 {
        drain_all(sim);
        if let Ok(value) = sim.load(id, at(page as u64, word as u64 * 8)) {
            model.check_reachable(cpu, page);
            let there =
                model.page(cpu, page).unwrap_or_else(|| panic!("CPU {cpu} reads page {page}, which is not mapped"));
            assert!(there.protection.is_accessible() && !there.lost, "CPU {cpu} reads page {page}");
            assert!(there.may_be(word, value), "CPU {cpu} reads {value:#x} from word {word} of page {page}");
        }
    } else {
        let word = own(cpu, word);
        let value = model.choose(usize::MAX) as u64;
        if sim.store(id, at(page as u64, word as u64 * 8), u64::MAX, value).is_ok() {
            model.check_reachable(cpu, page);
            let there =
                model.page(cpu, page).unwrap_or_else(|| panic!("CPU {cpu} writes page {page}, which is not mapped"));
            assert!(there.protection.contains(Protection::WRITE) && !there.lost, "CPU {cpu} writes page {page}");
            let space = model.entered[cpu].expect("it has just stored");
            model.store(space, page, word, |_| value);
        }
    }
}
