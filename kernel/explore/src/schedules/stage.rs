//! The stage: a world with a space that every CPU is in, its pages, and what must hold when all have gone home.
//!
//! ```text
//!   v0x3fe000   data pages 0 and 1 │ border of two level-1 tables │ data pages 2 and 3       stay mapped
//!   v0x800000   scratch pages 0 and 1, alone in their level-1 table                          come and go
//! ```
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ferry_mm::address::{PAGE_BYTES, PageRange};
use ferry_mm::frame::{AnyFrame, DeviceId};
use ferry_mm::notify::{ListenerId, Watch};
use ferry_mm::page_table::entry::Entry;
use ferry_mm::space::{Protection, Space};
use ferry_sim::{Chaos, Cpu, Moment, Random, Sim, World, audit};
use shuttle::sync::atomic::{AtomicBool, Ordering};
use x86_64::VirtAddr;

use super::device::LooksEachTime;
use super::ledger::{self, Ledger, Scratch, Writer};

/// CPUs there may be.
pub(super) const CPUS: usize = 4;

/// Pages that stay mapped.
pub(super) const DATA_PAGES: usize = 4;

/// The device whose memory only copies reach.
pub(super) const PRIVATE: DeviceId = DeviceId::new(0).expect("a number");

/// The device whose memory CPUs reach, too.
pub(super) const COHERENT: DeviceId = DeviceId::new(1).expect("a number");

const BORDER: u64 = 0x40_0000;
const SCRATCH: u64 = 0x80_0000;
const ELSEWHERE: u64 = 0xc0_0000;
const WORD_BYTES: usize = 8;
const FRAME_WORDS: usize = PAGE_BYTES as usize / WORD_BYTES;

/// Device frames of each device: fewer than pages, now and then.
const DEVICE_FRAMES: std::ops::Range<usize> = 2..7;

/// RAM with room for everything, and RAM that makes the memory manager swap.
const RAM_FRAMES: [usize; 3] = [160, 160, 44];

/// Slots of the swap disk.
const SLOTS: usize = 12;

/// Where the CPUs act.
pub(super) struct Stage {
    pub(super) world: World,
    ledger: Mutex<Ledger>,
    scratch: Mutex<Scratch>,
    /// The device of each CPU, where the data pages are watched; without a listener, nobody is told of anything.
    listeners: OnceLock<[ListenerId; CPUS]>,
}

/// A scheduling point: the CPU that runs may be another one afterwards.
pub(super) fn switch(moment: Moment) {
    match moment {
        Moment::Relax => shuttle::hint::spin_loop(),
        // Any access to an atomic of shuttle is a scheduling point; this one is for nothing else.
        _ => _ = AtomicBool::new(false).load(Ordering::SeqCst),
    }
}

/// Data pages `first..first + count`.
pub(super) fn data_pages(first: usize, count: usize) -> PageRange {
    PageRange::covering(data(first, 0), count as u64 * PAGE_BYTES).expect("inside the lower half")
}

/// Every scratch page.
pub(super) fn scratch_pages() -> PageRange {
    PageRange::covering(scratch(0, 0), ledger::SCRATCH_PAGES as u64 * PAGE_BYTES).expect("inside the lower half")
}

/// Where the scratch pages go for a while.
pub(super) fn elsewhere() -> VirtAddr {
    VirtAddr::new(ELSEWHERE)
}

/// The address of a word of a data page.
pub(super) fn data(page: usize, word: usize) -> VirtAddr {
    VirtAddr::new(BORDER + page as u64 * PAGE_BYTES - DATA_PAGES as u64 / 2 * PAGE_BYTES + (word * WORD_BYTES) as u64)
}

/// The address of a word of a scratch page.
pub(super) fn scratch(page: usize, word: usize) -> VirtAddr {
    VirtAddr::new(SCRATCH + page as u64 * PAGE_BYTES + (word * WORD_BYTES) as u64)
}

/// What stands in the words of a page that are no cells.
fn pattern(page: usize, word: usize) -> u64 {
    (page as u64 + 1) << 32 | word as u64
}

impl Stage {
    /// A world of 2 to 4 CPUs, as `random` says.
    pub(super) fn new(random: &mut Random) -> Self {
        let frames = RAM_FRAMES[random.below(RAM_FRAMES.len())];
        let mut device_frames = || DEVICE_FRAMES.start + random.below(DEVICE_FRAMES.len());
        let builder = World::builder().frames(frames).device(device_frames()).coherent_device(device_frames());
        let chaos = match random.below(4) {
            0 => Chaos::CALM,
            _ => Chaos::seeded(random.draw()),
        };
        let world = builder.swap(SLOTS).cpus(2 + random.below(CPUS - 1)).chaos(chaos).tasks(switch).build();
        let stage = Self { world, ledger: Mutex::default(), scratch: Mutex::default(), listeners: OnceLock::new() };
        stage.world.cpu(0).run(|| {
            stage.set();
            if random.chance(128) {
                stage.listen();
            }
        });
        stage
    }

    /// Maps the pages, fills the data pages with their pattern, and lets every CPU enter.
    fn set(&self) {
        let sim = self.world.sim();
        let space = self.world.manager().create_space().expect("the first space");
        space.map_anonymous(data_pages(0, DATA_PAGES), Protection::READ_WRITE).expect("a free range");
        space.map_anonymous(scratch_pages(), Protection::READ_WRITE).expect("a free range");
        for number in 0..self.cpus() {
            self.world.cpu(number).enter(space);
        }
        for page in 0..DATA_PAGES {
            // The first store makes the frame. The others come from outside, which takes no time.
            self.world
                .cpu(0)
                .store(data(page, 0), &pattern(page, 0).to_le_bytes())
                .expect("a page that may be written");
            let frame = self.frame_of(space, page);
            for word in 0..FRAME_WORDS {
                sim.poke(frame, word, self.expected_word(page, word, &|_| 0));
            }
        }
        sim.fence(self.world.cpu(0).id());
    }

    /// Has every CPU's device watch the data pages.
    fn listen(&self) {
        let watch = Watch { range: data_pages(0, DATA_PAGES), device: None };
        self.listeners.get_or_init(|| {
            core::array::from_fn(|_| self.space().listen(watch, Arc::new(LooksEachTime)).expect("room for a few"))
        });
    }

    /// The listener of a CPU's device, where the data pages are watched.
    pub(super) fn listener(&self, cpu: usize) -> Option<ListenerId> {
        self.listeners.get().map(|listeners| listeners[cpu])
    }

    /// Number of CPUs.
    pub(super) fn cpus(&self) -> usize {
        self.world.sim().cpus().count()
    }

    /// The space that every CPU is in at first.
    pub(super) fn space(&self) -> Space<'_, Sim> {
        self.world.manager().spaces().next().expect("made first, destroyed last")
    }

    /// What was stored to the data pages. Never held at a scheduling point.
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was stored to the scratch pages. Never held at a scheduling point.
    pub(super) fn scratch(&self) -> MutexGuard<'_, Scratch> {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The frame of a data page that is present.
    fn frame_of(&self, space: Space<'_, Sim>, page: usize) -> AnyFrame {
        match space.entry(data(page, 0)).decode() {
            Entry::Present { frame, .. } => self.world.sim().frame_at(frame),
            entry => panic!("page {page} was just used, and is not present but {entry:?}"),
        }
    }

    /// What a word of a data page must be, by the number of the last store to each cell.
    fn expected_word(&self, page: usize, word: usize, last: &dyn Fn(Writer) -> u64) -> u64 {
        let writer = Writer::all().find(|writer| writer.cell() == word);
        writer.map_or_else(|| pattern(page, word), |writer| ledger::word(writer, page, last(writer)))
    }

    /// Checks that a word which is no cell is what it always was.
    ///
    /// # Panics
    /// Where it is not.
    pub(super) fn check_pattern(&self, page: usize, word: usize, found: u64) {
        if Writer::all().all(|writer| writer.cell() != word) {
            let expected = pattern(page, word);
            assert!(found == expected, "page {page}, word {word} holds {found:#x}, expected {expected:#x}");
        }
    }

    /// Checks a data page, byte for byte.
    ///
    /// # Panics
    /// Where it is not what it must be.
    fn check_page(&self, cpu: Cpu<'_>, space: Space<'_, Sim>, page: usize, last: &dyn Fn(Writer) -> u64) {
        cpu.read::<WORD_BYTES>(data(page, 0)).expect("a page that may be read");
        let bytes = self.world.sim().bytes(self.frame_of(space, page));
        for (word, found) in bytes.chunks_exact(WORD_BYTES).enumerate() {
            let expected = self.expected_word(page, word, last);
            assert!(
                found == expected.to_le_bytes(),
                "in the end page {page}, word {word} holds {found:x?}, expected {:x?}: a store is lost",
                expected.to_le_bytes()
            );
        }
    }

    /// What must hold when every CPU is done: each page byte for byte, every count, and nothing left over.
    ///
    /// # Panics
    /// Where it does not hold.
    pub(super) fn check_at_the_end(&self) {
        let (cpu, space) = (self.world.cpu(0), self.space());
        for cpu in self.world.sim().cpus() {
            self.world.sim().fence(cpu);
        }
        let last = self.ledger().last();
        (0..DATA_PAGES).for_each(|page| self.check_page(cpu, space, page, &|writer| last[writer.index()][page]));
        if let Err(report) = audit(&self.world) {
            panic!("{report}");
        }
        self.world.assert_all_free();
    }
}
