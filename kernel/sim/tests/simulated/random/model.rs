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
}

/// Whether pages that follow each other are one area: all mapped, with one protection, in the order in which they first were.
pub fn is_one_area(pages: &[Option<PageModel>]) -> bool {
    let follows = |first: &PageModel, second: &PageModel| {
        first.protection == second.protection && first.origin + 1 == second.origin
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
            let there =
                model.page(cpu, page).unwrap_or_else(|| panic!("CPU {cpu} reads page {page}, which is not mapped"));
            assert!(there.protection.is_accessible() && !there.lost, "CPU {cpu} reads page {page}");
            assert_eq!(value, there.words[word], "CPU {cpu} reads word {word} of page {page}");
        }
    } else {
        let word = own(cpu, word);
        let value = model.choose(usize::MAX) as u64;
        if sim.store(id, at(page as u64, word as u64 * 8), u64::MAX, value).is_ok() {
            let there =
                model.page(cpu, page).unwrap_or_else(|| panic!("CPU {cpu} writes page {page}, which is not mapped"));
            assert!(there.protection.contains(Protection::WRITE) && !there.lost, "CPU {cpu} writes page {page}");
            there.words[word] = value;
        }
    }
}
