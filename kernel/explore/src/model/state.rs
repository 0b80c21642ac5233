//! The state of the model: a small machine, and where each CPU stands in the protocol.
//!
//! ```text
//!   3 pages ──▶ entries        3 RAM frames, 2 device frames, of 2 words each: a copy has 2 parts
//!   3 CPUs  ──▶ translations, one store on its way, marks of flushes, the step of what the CPU does
//!   locks   ──▶ the areas (shared or not), the level-1 table
//! ```
//!
//! CPU 1 stores to word 0 of pages, CPU 2 to word 1, so the last store to each word is known.

/// CPUs of the model.
pub const CPUS: usize = 3;
/// Pages of the model.
pub const PAGES: usize = 3;
/// Words of a frame.
pub const WORDS: usize = 2;
/// RAM frames: one for each page, so that a page which comes home gets the frame of another that left.
pub const RAM_FRAMES: usize = 3;
/// Device frames: fewer than pages, so that the device may be full.
pub const DEVICE_FRAMES: usize = 2;
/// Frames of both kinds; those of RAM come first.
pub const FRAMES: usize = RAM_FRAMES + DEVICE_FRAMES;

/// A CPU, by its number.
pub type Cpu = u8;
/// A page, by its number.
pub type Page = u8;
/// A frame, by its number.
pub type Frame = u8;

/// A set of CPUs or pages: bit `n` stands for number `n`.
pub type Set = u8;

/// Whether a set has a member.
pub fn has(set: Set, member: u8) -> bool {
    set & 1 << member != 0
}

/// The entry of a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Entry {
    /// Nothing: the page is unmapped.
    Empty,
    /// Present, in RAM.
    Present(Frame),
    /// In the hands of a CPU; the frame is where the contents are.
    Migrating(Frame, Cpu),
    /// On the device.
    Device(Frame),
}

impl Entry {
    /// The frame that holds the page.
    pub fn frame(self) -> Option<Frame> {
        match self {
            Self::Empty => None,
            Self::Present(frame) | Self::Migrating(frame, _) | Self::Device(frame) => Some(frame),
        }
    }
}

/// What a CPU is asked to do beside its stores.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Task {
    /// Migrate every page to the device.
    Migrate,
    /// Bring every page home.
    Return,
    /// Unmap page 0.
    Unmap,
    /// Pin page 0 and let a device store to its frame.
    Pin,
    /// Leave the space and enter it again.
    Reenter,
}

/// Which way pages move.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Way {
    /// To the device.
    Device,
    /// To RAM.
    Ram,
}

/// Pages on the move, in the hands of one CPU.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Move {
    /// Which way.
    pub to: Way,
    /// The page of a fault, whose handler has interrupts off.
    pub fault: Option<Page>,
    /// The pages whose entries are the CPU's own.
    pub mine: Set,
    /// The frame that each page was copied to.
    pub copied: [Option<Frame>; PAGES],
}

/// How far a move is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Phase {
    /// Wants the areas, shared.
    WantAreas,
    /// Wants the table, to take entries.
    WantTable,
    /// Has the table; takes the entry of this page.
    Take(Page),
    /// Reads which CPUs may have cached the entries, and writes its request.
    Request,
    /// Marks these CPUs.
    Mark(Set),
    /// Waits until they have answered.
    Await,
    /// Looks whether somebody uses the pages by their address.
    Check,
    /// Copies word `.1` of the lowest page of `.0`, for which it allocates a frame first.
    Copy(Set, u8),
    /// Wants the table, to write entries.
    WantTableAgain,
    /// Has the table; writes the entry of its lowest page, and notes the frames to free.
    Write(Set),
    /// Frees the frames of `.0`; clears word `.1` of the lowest first, where it is the device's.
    Free(Set, u8),
}

/// How far the unmapping of page 0 is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Unmapping {
    /// Wants the areas for itself.
    WantAreas,
    /// Empties the entry.
    Zap,
    /// Reads which CPUs may have cached the entry, and writes its request; this frame was the page's.
    Request(Frame),
    /// Marks these CPUs.
    Mark(Frame, Set),
    /// Waits until they have answered.
    Await(Frame),
    /// Frees the frame; clears word `.1` first, where it is the device's.
    Free(Frame, u8),
}

/// Where a CPU stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    /// In the program.
    User,
    /// Moves pages.
    Move(Move, Phase),
    /// A fault waits until the entry of its page is in nobody's hands.
    AwaitPage(Page),
    /// Unmaps page 0.
    Unmap(Unmapping),
    /// Wants the table, to pin page 0.
    WantPin,
    /// The device stores to the pinned frame, this often.
    Pinned(Frame, u8),
    /// Has loaded the kernel's root; still marked.
    Left,
    /// Is outside.
    Outside,
    /// Is marked; loads the root next.
    Entering,
}

/// One CPU.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Core {
    /// Where it stands.
    pub step: Step,
    /// What it still does.
    pub tasks: [Option<Task>; 2],
    /// Stores that it still makes.
    pub stores: u8,
    /// The cached translation of each page.
    pub cached: [Option<Frame>; PAGES],
    /// The store on its way: frame and value, in the CPU's own word.
    pub on_its_way: Option<(Frame, u8)>,
    /// Whether it translates through the space's root.
    pub has_root: bool,
    /// The pages of its flush request.
    pub request: Set,
    /// The CPUs that ask it to forget.
    pub marks: Set,
    /// The marks it has taken and not answered yet.
    pub taken: Set,
}

/// The whole machine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct State {
    /// The entries of the pages.
    pub entries: [Entry; PAGES],
    /// What stands in memory.
    pub memory: [[u8; WORDS]; FRAMES],
    /// Frames that are not free.
    pub used: Set,
    /// References to a frame beside the mapping's.
    pub pinned: Set,
    /// The last store to each word of each page.
    pub stored: [[u8; WORDS]; PAGES],
    /// The CPUs.
    pub cores: [Core; CPUS],
    /// CPUs marked in the space.
    pub marked: Set,
    /// CPUs that hold the areas shared.
    pub readers: Set,
    /// The CPU that holds the areas alone.
    pub writer: Option<Cpu>,
    /// The CPU that holds the table.
    pub table: Option<Cpu>,
}

/// The word that a CPU stores to.
pub fn word_of(cpu: Cpu) -> usize {
    usize::from(cpu != 1)
}

/// The value of the store of this number to a page.
pub fn value(page: Page, number: u8) -> u8 {
    (page + 1) << 4 | number
}
