//! Every lock there is, outermost first, and its rules. The one place to look, and to change.
//!
//! `docs/lock-order.md` shows the same as tables, which a test compares with this file.
use crate::machine::Code;

/// The locks. One that is held inside another comes later.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// What is found on the machine and taken into use once.
    Setup,
    /// The areas of a space.
    Areas,
    /// A frame that holds a page.
    Page,
    /// The operations that a device has under way.
    Operations,
    /// The page table of a device that follows a space.
    MirrorTable,
    /// The driver of a device.
    Driver,
    /// The swap disk.
    Disk,
    /// A level-1 page table.
    PageTable,
    /// The table of address spaces.
    Spaces,
    /// The free lists of RAM frames.
    Frames,
    /// The free list of a device's frames.
    DeviceFrames,
    /// The table of listeners.
    Listeners,
    /// The table of open migrations.
    Migrations,
    /// The swap map.
    SwapMap,
    /// Values that are written once.
    Stored,
    /// The heap.
    Heap,
    /// Results of work that was given to other CPUs.
    Results,
    /// The reading side of strict mode's ring.
    StrictReader,
    /// Why the disk failed last.
    DiskFailure,
    /// The ports of PCI configuration space.
    PciConfig,
    /// The console.
    Console,
    /// The link to the host tool.
    Link,
    /// The stream of events.
    Trace,
    /// The ports of the timer.
    Timer,
}

/// What may be done with a lock, and while it is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// What nobody else changes meanwhile.
    pub protects: &'static str,
    /// In which ways it may be taken; to try it is always allowed.
    pub taken: &'static [Taken],
    /// The locks that may be taken while it is held.
    pub inside: Levels,
    /// Whether frames may be allocated while it is held.
    pub frames: bool,
    /// Whether a disk or a device may be waited for while it is held.
    pub waits: Waits,
    /// The innermost code that takes it. What interrupt handlers take is taken elsewhere only with interrupts off; for all other
    /// locks it does not matter whether they are on.
    pub innermost: Code,
}

/// How a lock is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// By one CPU at a time.
    Exclusive,
    /// Beside others who share it. May nest: a waiting writer keeps no reader out.
    Shared,
    /// Exclusively, beside one of the same level; only those who never wait may have it.
    Beside,
}

/// Who may wait for a disk or a device while holding a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waits {
    /// Nobody.
    Never,
    /// Who shares it: an open migration that meets a fault.
    Shared,
    /// Whoever has it: that is what it is for.
    Always,
}

/// A set of levels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Levels(u32);

impl Levels {
    /// No level.
    pub const NONE: Self = Self(0);

    const fn of(levels: &[Level]) -> Self {
        let (mut bits, mut index) = (0, 0);
        while index < levels.len() {
            bits |= 1 << levels[index] as u8;
            index += 1;
        }
        Self(bits)
    }

    /// Every level after `level`.
    pub const fn after(level: Level) -> Self {
        Self(((1 << Level::ALL.len()) - 1) & !((2 << level as u8) - 1))
    }

    /// Whether `level` is in the set.
    pub const fn contains(self, level: Level) -> bool {
        self.0 & 1 << level as u8 != 0
    }
}

/// Events may be told while any lock of the memory manager is held, and the stream may look at the timer.
const EVENTS: Levels = Levels::of(&[Level::Trace, Level::Timer]);

const EXCLUSIVE: &[Taken] = &[Taken::Exclusive];

/// Only tried: nobody waits for it.
const TRIED: &[Taken] = &[];

impl Level {
    /// Every level, outermost first.
    pub const ALL: [Self; 24] = [
        Self::Setup,
        Self::Areas,
        Self::Page,
        Self::Operations,
        Self::MirrorTable,
        Self::Driver,
        Self::Disk,
        Self::PageTable,
        Self::Spaces,
        Self::Frames,
        Self::DeviceFrames,
        Self::Listeners,
        Self::Migrations,
        Self::SwapMap,
        Self::Stored,
        Self::Heap,
        Self::Results,
        Self::StrictReader,
        Self::DiskFailure,
        Self::PciConfig,
        Self::Console,
        Self::Link,
        Self::Trace,
        Self::Timer,
    ];

    /// What may be done with locks of this level.
    pub const fn rules(self) -> Rules {
        match self {
            Self::Setup => Rules {
                frames: true,
                waits: Waits::Always,
                ..Rules::outer("devices and disk, while they are found", Levels::after(self), Code::Ordinary)
            },
            Self::Areas => Rules {
                taken: &[Taken::Exclusive, Taken::Shared, Taken::Beside],
                frames: true,
                waits: Waits::Shared,
                ..Rules::outer("the areas of one space, and that its tables stay", Levels::after(self), Code::Fault)
            },
            Self::Page => Rules {
                taken: TRIED,
                frames: true,
                waits: Waits::Always,
                ..Rules::outer("which page a frame holds", Levels::after(self), Code::Fault)
            },
            Self::Operations => Rules {
                waits: Waits::Always,
                ..Rules::outer(
                    "the operations of one device under way",
                    Levels::of(&[Self::Driver, Self::Heap, Self::Trace, Self::Timer]),
                    Code::Ordinary,
                )
            },
            Self::MirrorTable => Rules::leaf("a device's page table for one space", Code::Fault),
            Self::Driver => {
                Rules { waits: Waits::Always, ..Rules::outer("one device's command ring", EVENTS, Code::Fault) }
            }
            Self::Disk => Rules { waits: Waits::Always, ..Rules::outer("the swap disk's queue", EVENTS, Code::Fault) },
            Self::PageTable => Rules::outer(
                "the entries of one level-1 table",
                Levels::of(&[Self::Frames, Self::DeviceFrames, Self::SwapMap, Self::Trace, Self::Timer]),
                Code::Fault,
            ),
            Self::Spaces => Rules::outer("which address spaces exist", EVENTS, Code::Fault),
            Self::Frames => Rules::outer("the free lists of RAM", EVENTS, Code::Fault),
            Self::DeviceFrames => Rules::outer("the free list of one device", EVENTS, Code::Fault),
            Self::Listeners => Rules::outer("who listens where", EVENTS, Code::Fault),
            Self::Migrations => Rules::outer("which migrations are open", EVENTS, Code::Fault),
            Self::SwapMap => Rules::outer("what each slot of the disk holds", EVENTS, Code::Fault),
            Self::Stored => Rules::leaf("a value that is written once", Code::Ordinary),
            Self::Heap => Rules::leaf("the free blocks of the heap", Code::Ordinary),
            Self::Results => Rules::leaf("what one CPU's work came to", Code::Ordinary),
            Self::StrictReader => Rules { taken: TRIED, ..Rules::leaf("who reads strict mode's ring", Code::Ordinary) },
            Self::DiskFailure => Rules::leaf("why the swap disk failed last", Code::Fault),
            Self::PciConfig => Rules::leaf("the pair of configuration ports", Code::Fault),
            Self::Console => {
                Rules::outer("the first serial port, for one message", Levels::of(&[Self::Timer]), Code::Ordinary)
            }
            Self::Link => {
                Rules::outer("the second serial port, for one record", Levels::of(&[Self::Timer]), Code::Ordinary)
            }
            Self::Trace => {
                Rules::outer("the third serial port, and the order of events", Levels::of(&[Self::Timer]), Code::Fault)
            }
            Self::Timer => Rules::leaf("latch and read of the counter", Code::Fault),
        }
    }
}

impl Rules {
    /// A lock that is held by one CPU while it takes those `inside`, and neither allocates frames nor waits for devices.
    const fn outer(protects: &'static str, inside: Levels, innermost: Code) -> Self {
        Self { protects, taken: EXCLUSIVE, inside, frames: false, waits: Waits::Never, innermost }
    }

    /// The same with nothing inside.
    const fn leaf(protects: &'static str, innermost: Code) -> Self {
        Self::outer(protects, Levels::NONE, innermost)
    }
}

/// Invariant 1 of [`super`]: levels stand at their own numbers, and every rule allows only what comes later.
const _: () = {
    let mut index = 0;
    while index < Level::ALL.len() {
        let level = Level::ALL[index];
        assert!(level as usize == index, "ALL is in the order of the levels");
        assert!(level.rules().inside.0 & !Levels::after(level).0 == 0, "a lock inside another comes later");
        index += 1;
    }
};
