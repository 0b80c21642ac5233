//! The event stream: what the memory manager does, record by record, over the third serial port.
//!
//! Records are encoded and framed like those of the [`link`](crate::link): `postcard`, then COBS, so a zero byte ends each
//! frame. Frames are counted by RAM and device frame numbers, addresses are whole virtual addresses, entries their 64 bits.
//!
//! ```text
//!   Begin, Frames.., Device.., │ what happens, one record each ... │ (the end of the run)
//!   sequence 0, 1, 2 ...       │ without a gap; a Lost record fills the gap that a full ring leaves
//! ```
//!
//! Invariants:
//! 1. The first record is [`Event::Begin`], with sequence 0; the host refuses another [`VERSION`].
//! 2. Sequence numbers rise by one from record to record. A [`Event::Lost`] has the number of the first record that is lost, and
//!    the record after it has a number as much higher as records are lost.
//! 3. Before the first record of anything that happens, the state of every RAM frame is told, and there is no address space.
//! 4. Time stamps never fall on one CPU.
//! 5. A frame is at most [`MAX_FRAME_BYTES`] long.
use serde::{Deserialize, Serialize};

/// Version of this record set; changes with every change of a type in this file.
pub const VERSION: u16 = 2;

/// Longest encoded frame in bytes, the closing zero included.
pub const MAX_FRAME_BYTES: usize = 80;

/// Longest name in a record (an outcome or a reason); the kernel cuts longer ones.
pub const MAX_NAME_BYTES: usize = 24;

/// One thing that happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record<'a> {
    /// Its place in the stream.
    pub sequence: u64,
    /// Ticks of the time-stamp counter since the stream began.
    pub time: u64,
    /// The CPU that it happened on.
    pub cpu: u8,
    /// What it was.
    #[serde(borrow)]
    pub event: Event<'a>,
}

/// A frame of RAM or of a device, by its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Frame {
    /// A RAM frame: its physical address in pages.
    Ram(u64),
    /// A device's number and the index of the frame there.
    Device(u8, u32),
}

/// What a RAM frame is when the stream begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FrameState {
    /// Not the memory manager's: firmware, the kernel's image.
    Reserved,
    /// Free.
    Free,
    /// In use by the kernel itself.
    Kernel,
    /// A page table of the kernel.
    Table,
    /// The page that every untouched page reads as.
    Zero,
}

/// What an area is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum AreaKind {
    /// Memory of its own, copied on write after a fork.
    Anonymous,
    /// Memory that a fork shares for good.
    Shared,
    /// Physical addresses of a device.
    Device,
    /// Nothing, on purpose.
    Guard,
}

/// How a page of a space is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Resident {
    /// In a RAM frame.
    Ram,
    /// The zero page stands for it.
    Zero,
    /// On a device.
    Device,
    /// On the swap disk.
    Swap,
}

/// How memory was accessed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

/// How far a migration is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Phase {
    /// Entries become `Migrating`, then one flush.
    Collect,
    /// Nobody else may use the pages.
    Unmap,
    /// New frames, and the contents.
    Copy,
    /// The new entries, or the old ones again.
    Finalize,
    /// The pages that are held go back.
    GiveBack,
    /// It is over: pages that moved, and pages that stayed.
    Done(u64, u64),
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Event<'a> {
    /// The stream begins.
    Begin {
        /// [`VERSION`] as the kernel was built with.
        version: u16,
        /// Ticks of the time stamps in a millisecond, as measured.
        ticks_per_millisecond: u64,
    },
    /// As many records are missing here, because the ring was full.
    Lost {
        /// How many.
        records: u64,
    },
    /// A run of RAM frames, as they are when the stream begins.
    Frames {
        /// The first one.
        first: u64,
        /// How many.
        count: u64,
        /// What each is.
        state: FrameState,
    },
    /// There is a device; its frames are free.
    Device {
        /// Its number.
        device: u8,
        /// How many frames it has.
        frames: u64,
        /// The physical frame where CPUs map its first one, where they map them.
        window: Option<u64>,
    },
    /// An address space was made.
    SpaceCreated {
        /// Its number.
        space: u16,
        /// The frame of its level-4 table.
        root: u64,
    },
    /// An address space is gone.
    SpaceDestroyed {
        /// Its number.
        space: u16,
    },
    /// A space got the areas of another.
    Forked {
        /// The older space.
        parent: u16,
        /// The new one.
        child: u16,
    },
    /// This CPU uses a space from now on.
    Entered {
        /// Which one.
        space: u16,
    },
    /// This CPU uses a space no more.
    Left {
        /// Which one.
        space: u16,
    },
    /// What the areas of a space say about a range.
    Areas {
        /// The space.
        space: u16,
        /// Address of the first page.
        start: u64,
        /// How many pages.
        pages: u64,
        /// The bits of the protection and the kind; `None` where no area is.
        area: Option<(u8, AreaKind)>,
    },
    /// A page-table entry was replaced.
    Entry {
        /// The space whose table it is in; `None` for the kernel's.
        space: Option<u16>,
        /// First address that it maps.
        address: u64,
        /// The level of its table, 1 to 4.
        level: u8,
        /// What stood there.
        old: u64,
        /// What stands there now.
        new: u64,
    },
    /// The CPU raised a page fault.
    FaultRaised {
        /// What was accessed.
        address: u64,
        /// The instruction that accessed it.
        instruction: u64,
        /// The CPU's error code (Intel SDM 3A 4.7).
        code: u64,
    },
    /// The memory manager has dealt with a fault.
    FaultHandled {
        /// The space.
        space: u16,
        /// What was accessed.
        address: u64,
        /// How.
        access: Access,
        /// Whether the access can be tried again.
        resolved: bool,
        /// What was done, or why the access cannot succeed.
        outcome: &'a str,
    },
    /// CPUs forget translations.
    Flush {
        /// The space.
        space: u16,
        /// One bit for each CPU.
        cpus: u64,
        /// Address of the first page and how many; `None` for the whole lower half.
        pages: Option<(u64, u64)>,
    },
    /// The flush told before this was left out on purpose.
    FlushLost,
    /// A migration goes on.
    Migration {
        /// The space that it was called for.
        space: u16,
        /// Address of its first page.
        start: u64,
        /// How many pages.
        pages: u64,
        /// The device it goes to; `None` on the way home.
        device: Option<u8>,
        /// How far it is.
        phase: Phase,
    },
    /// A page of the migration has moved; its entry says where to.
    Moved {
        /// The space.
        space: u16,
        /// The page's address.
        address: u64,
    },
    /// A page of the migration stays.
    Stays {
        /// The space.
        space: u16,
        /// The page's address.
        address: u64,
        /// Why.
        reason: &'a str,
    },
    /// All pages of a device shall come home.
    EvictionBegins {
        /// The device.
        device: u8,
    },
    /// That is over.
    EvictionEnds {
        /// The device.
        device: u8,
        /// Pages that came home.
        returned: u64,
        /// Pages that did not.
        failed: u64,
    },
    /// Listeners have stopped using a range.
    Announced {
        /// The space.
        space: u16,
        /// Address of the first page.
        start: u64,
        /// How many pages.
        pages: u64,
        /// Why.
        reason: &'a str,
    },
    /// They may use it again.
    AnnouncementEnds {
        /// The space.
        space: u16,
        /// Address of the first page.
        start: u64,
        /// How many pages.
        pages: u64,
    },
    /// A space counts more pages of a kind.
    Charged {
        /// The space.
        space: u16,
        /// The kind.
        resident: Resident,
        /// How many more.
        pages: u64,
    },
    /// A space counts fewer pages of a kind.
    Uncharged {
        /// The space.
        space: u16,
        /// The kind.
        resident: Resident,
        /// How many fewer.
        pages: u64,
    },
    /// A block of RAM frames was taken.
    FrameTaken {
        /// Its first frame.
        frame: u64,
        /// 2 to this power is how many.
        order: u8,
    },
    /// A block of RAM frames is free again.
    FrameFreed {
        /// Its first frame.
        frame: u64,
        /// 2 to this power is how many.
        order: u8,
    },
    /// A device frame was taken.
    DeviceFrameTaken {
        /// The device.
        device: u8,
        /// The frame.
        frame: u32,
    },
    /// A device frame was cleared and is free again.
    DeviceFrameFreed {
        /// The device.
        device: u8,
        /// The frame.
        frame: u32,
    },
    /// A frame is filled with zeros.
    Cleared {
        /// Which one.
        frame: Frame,
    },
    /// The bytes of a page were copied.
    Copied {
        /// From where.
        source: Frame,
        /// To where.
        target: Frame,
    },
    /// A page was pinned.
    Pinned {
        /// The space.
        space: u16,
        /// The page's address.
        address: u64,
        /// Its frame.
        frame: Frame,
    },
    /// A pin ended.
    Unpinned {
        /// The frame.
        frame: Frame,
    },
    /// A device changed the contents of its frames.
    DeviceWorked {
        /// The device.
        device: u8,
        /// How many frames.
        frames: u64,
    },
    /// A page was written to the swap disk.
    DiskWritten {
        /// Its slot there.
        slot: u64,
        /// The RAM frame that it was read from.
        frame: u64,
    },
    /// A page was read from the swap disk.
    DiskRead {
        /// Its slot there.
        slot: u64,
        /// The RAM frame that it was written to.
        frame: u64,
    },
    /// A step of the story begins.
    Step {
        /// Its number in the story, from 0.
        number: u8,
    },
    /// A program of the story has loaded a byte.
    Loaded {
        /// From where.
        address: u64,
        /// What it was.
        value: u8,
    },
    /// A program of the story has stored a byte.
    Stored {
        /// Where.
        address: u64,
        /// What.
        value: u8,
    },
}

/// Cuts a name to at most [`MAX_NAME_BYTES`]. Names are ASCII.
pub fn cut(name: &str) -> &str {
    name.get(..MAX_NAME_BYTES).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{decode, encode};

    #[test]
    fn the_longest_records_fit_and_come_back() {
        let name = cut("a-name-that-is-longer-than-a-record-has-room-for");
        let max = u64::MAX;
        for event in [
            Event::Entry { space: Some(u16::MAX), address: max, level: 4, old: max, new: max },
            Event::FaultHandled { space: 63, address: max, access: Access::Write, resolved: true, outcome: name },
            Event::Flush { space: u16::MAX, cpus: max, pages: Some((max, max)) },
            Event::Migration {
                space: u16::MAX,
                start: max,
                pages: 1 << 18,
                device: Some(7),
                phase: Phase::Done(1 << 18, 1 << 18),
            },
        ] {
            let record = Record { sequence: max, time: max, cpu: 63, event };
            let mut buffer = [0; MAX_FRAME_BYTES];
            let length = encode(&record, &mut buffer).unwrap().len();
            assert_eq!(decode::<Record>(&mut buffer[..length]), Ok(record));
        }
    }
}
