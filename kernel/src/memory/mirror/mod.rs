//! A device that follows an address space: it reads and writes the space's pages on its own, in RAM and in its own memory.
//!
//! ```text
//!   Mirror::read ─▶ command Start ─▶ device walks its page table ─▶ DMA, or its own frames
//!                                        │ nothing usable there
//!                                        ▼
//!   serve ◀── request PageFault ◀── operation waits             serve: Space::range_fault, entries written, answer
//!
//!   somebody weakens an entry ─▶ Listener::invalidate: device entries cleared, command Invalidate, waited for
//! ```
//!
//! In reading order: `context` (one space on one device: page table and listener), `service` (requests and answers),
//! `buffer` (device memory that operations fill and empty).
//!
//! Invariants:
//! 1. An entry is written into a device page table only under the table's lock and only while the listener's sequence has not
//!    moved since the space was looked at; `invalidate` clears entries under the same lock. So none outlives what it stands for.
//! 2. The driver's lock is held for single commands, never while pages are faulted in; no lock of the memory manager is
//!    held while the device is waited for.
//! 3. Each wait ends by the device, by its failure, or by the patience of the driver without progress.
//!
//! Locks, outermost first: the page table of a context; the operations of a device (`service`); the device's driver.
#![forbid(unsafe_code)]
mod buffer;
mod context;
mod service;

pub use buffer::Buffer;
pub use service::UnderWay;

use crate::memory::{AddressSpace, manager};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use context::Context;
use core::fmt;
use ferry_device::bar::WordIndex;
use ferry_device::command::Operation;
use ferry_device::context::BadSpan;
use ferry_device::page_table::TableError;
use ferry_device::request::OperationStatus;
use ferry_device::{DeviceError, PageSpan, VirtualPage};
use ferry_mm::address::{PAGE_BYTES, PageRange};
use ferry_mm::frame::DeviceId;
use ferry_mm::migrate::{MigrateError, Report};
use ferry_mm::mirror::{MirrorEntry, MirrorError, MirrorRequest, Want};
use ferry_mm::notify::ListenError;
use ferry_mm::space::ExclusiveError;

/// Looks at a range whose pages change all the time, before the look is given up.
const MOST_LOOKS: u32 = 64;

/// Why a device does not follow a space, or did not do what it was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MirrorProblem {
    /// The window has no page, or more than the device can follow.
    Span(BadSpan),
    /// The device has no room for so many neighbouring frames.
    DeviceFull {
        /// The device.
        device: DeviceId,
        /// How many frames.
        frames: u64,
    },
    /// The device follows as many spaces as it can.
    TooMany(DeviceId),
    /// Nobody would tell it about changes.
    Listen(ListenError),
    /// Its page table.
    Table(TableError),
    /// The device.
    Device(DeviceError),
    /// The pages.
    Pages(MirrorError),
    /// Pages for the device alone.
    Exclusive(ExclusiveError),
    /// Others changed the pages all the time.
    Restless(PageRange),
}

impl fmt::Display for MirrorProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Span(error) => error.fmt(f),
            Self::DeviceFull { device, frames } => write!(
                f,
                "device {} has no {frames} neighbouring frames left; bring pages home, or give it more with --vram",
                device.number()
            ),
            Self::TooMany(device) => {
                write!(f, "device {} follows as many address spaces as it can; close a mirror", device.number())
            }
            Self::Listen(error) => error.fmt(f),
            Self::Table(error) => error.fmt(f),
            Self::Device(error) => error.fmt(f),
            Self::Pages(error) => error.fmt(f),
            Self::Exclusive(error) => error.fmt(f),
            Self::Restless(range) => write!(
                f,
                "the pages v{:#x}..v{:#x} changed each time they were looked at; try again when they rest",
                range.start_address(),
                range.end()
            ),
        }
    }
}

impl core::error::Error for MirrorProblem {}

macro_rules! from {
    ($($error:ty => $variant:ident),+) => {
        $(impl From<$error> for MirrorProblem {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        })+
    };
}
from! {
    BadSpan => Span, ListenError => Listen, TableError => Table, DeviceError => Device, MirrorError => Pages,
    ExclusiveError => Exclusive
}

/// What an operation of the device did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Done {
    /// Pages, all that it was asked for.
    pub pages: u64,
    /// Misses that were answered meanwhile.
    pub faults: u64,
    /// What an addition found.
    pub value: u64,
}

/// How an operation ended: done, or refused by what it met.
pub type Ending = Result<Done, OperationStatus>;

/// A device that follows a window of an address space, until this is dropped.
pub struct Mirror {
    context: Arc<Context>,
}

impl Mirror {
    /// Lets `device` follow the pages of `window`, mapped or not.
    ///
    /// # Errors
    /// See [`MirrorProblem`].
    ///
    /// # Panics
    /// Where no device of this number is attached.
    pub fn open(space: AddressSpace, window: PageRange, device: DeviceId) -> Result<Self, MirrorProblem> {
        Ok(Self { context: Context::open(space, window, device)? })
    }

    /// Has the device copy pages into a buffer.
    ///
    /// # Errors
    /// See [`MirrorProblem`]. How the operation ended is no error.
    pub fn read(&self, range: PageRange, buffer: &Buffer) -> Result<Ending, MirrorProblem> {
        self.finish(self.begin_read(range, buffer)?)
    }

    /// Has the device copy a buffer into pages.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn write(&self, range: PageRange, buffer: &Buffer) -> Result<Ending, MirrorProblem> {
        let operation = Operation::Write { span: span_of(range)?, buffer: buffer.first() };
        self.finish(service::begin(&self.context, operation)?)
    }

    /// Has the device add `operand` to the first word of a page in one step; the page becomes the device's own first.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn add(&self, page: PageRange, operand: u64) -> Result<Ending, MirrorProblem> {
        let operation = Operation::Add { span: span_of(page)?, word: WordIndex::low_bits_of(0), operand };
        self.finish(service::begin(&self.context, operation)?)
    }

    /// Starts copying pages into a buffer; the device works while this CPU does something else.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn begin_read(&self, range: PageRange, buffer: &Buffer) -> Result<UnderWay, MirrorProblem> {
        service::begin(&self.context, Operation::Read { span: span_of(range)?, buffer: buffer.first() })
    }

    /// Answers what the device has asked so far, without waiting; returns how many requests that were.
    ///
    /// # Errors
    /// [`MirrorProblem::Device`].
    pub fn serve(&self) -> Result<u64, MirrorProblem> {
        let mut served = 0;
        while service::serve(self.context.device())? {
            served += 1;
        }
        Ok(served)
    }

    /// Whether the operation has not ended, as far as requests have been answered.
    pub fn is_under_way(&self, operation: &UnderWay) -> bool {
        service::is_under_way(operation)
    }

    /// Answers what the device asks until the operation has ended.
    ///
    /// # Errors
    /// [`MirrorProblem::Device`].
    pub fn finish(&self, operation: UnderWay) -> Result<Ending, MirrorProblem> {
        service::finish(operation)
    }

    /// Moves pages to the device that follows them. It stops using them first, as any listener does.
    ///
    /// # Errors
    /// See [`MigrateError`].
    pub fn migrate(&self, range: PageRange) -> Result<Report, MigrateError> {
        self.context.space().migrate_to_device(range, self.context.device())
    }

    /// Gives every page of `range` to the device alone; it may change them atomically until somebody else touches them.
    ///
    /// # Errors
    /// See [`MirrorProblem`]; pages before the one at fault are the device's.
    pub fn make_exclusive(&self, range: PageRange) -> Result<(), MirrorProblem> {
        (0..range.pages()).try_for_each(|index| self.context.take_page(range.page(index)))
    }

    /// How many pages of `range` the device has for itself, by its page table.
    ///
    /// # Errors
    /// [`MirrorProblem::Table`].
    pub fn exclusive_pages(&self, range: PageRange) -> Result<u64, MirrorProblem> {
        self.context.exclusive_pages(span_of(range)?)
    }

    /// How each page of `range` stands for the device, without faulting anything in.
    ///
    /// # Errors
    /// [`MirrorProblem::Pages`], [`MirrorProblem::Restless`].
    pub fn snapshot(&self, range: PageRange) -> Result<Vec<MirrorEntry>, MirrorProblem> {
        let mut entries = vec![MirrorEntry::None; range.pages() as usize];
        let listener = self.context.listener();
        for _ in 0..MOST_LOOKS {
            let Ok(since) = manager().sequence(listener) else { continue };
            match self.context.space().range_fault(
                range,
                &MirrorRequest { listener, since, want: Want::Look },
                &mut entries,
            ) {
                Ok(_) => return Ok(entries),
                Err(MirrorError::Again) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(MirrorProblem::Restless(range))
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        if let Err(problem) = self.context.close() {
            // What is left behind shows in the census of whoever counts.
            log::error!("device {}: {problem}", self.context.device().number());
        }
    }
}

/// The pages of `range` as the device names them.
fn span_of(range: PageRange) -> Result<PageSpan, BadSpan> {
    PageSpan::new(VirtualPage(range.start_address().as_u64() / PAGE_BYTES), range.pages())
}
