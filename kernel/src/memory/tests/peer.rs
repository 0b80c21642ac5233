//! What the peer's fixture has: a device that follows a buffer, and the mirror, the device's own copy of it.
use alloc::vec::Vec;
use ferry_device::request::OperationStatus;
use ferry_mm::address::{PAGE_BYTES, PageRange};
use ferry_mm::frame::DeviceId;
use ferry_mm::migrate::Report;
use ferry_mm::mirror::MirrorEntry;

use crate::arch::areas::{load_bytes, store_bytes};
use crate::arch::machine::PageBuffer;
use crate::harness::{TestFailure, TestResult, check, check_eq};
use crate::memory::mirror::{Buffer, Ending, Mirror, UnderWay};
use crate::memory::tests::Room;

/// Integers in a page, as the peer fills it: each is its place in the buffer.
const INTS: u64 = PAGE_BYTES / size_of::<i32>() as u64;

/// What a page holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Contents(PageBuffer);

/// Page `page` of a buffer of integers that count up from 0.
pub(super) fn ints(page: u64) -> Contents {
    Contents::of(|index| (page * INTS + index) as i32)
}

/// The same with each integer negated.
pub(super) fn negated(page: u64) -> Contents {
    Contents::of(|index| -((page * INTS + index) as i32))
}

pub(super) fn zeros() -> Contents {
    Contents::of(|_| 0)
}

impl Contents {
    fn of(int: impl Fn(u64) -> i32) -> Self {
        let mut page = PageBuffer::zeros();
        for (index, bytes) in (0..).zip(page.0.chunks_exact_mut(size_of::<i32>())) {
            bytes.copy_from_slice(&int(index).to_le_bytes());
        }
        Self(page)
    }

    /// Each integer plus `more`.
    pub(super) fn plus(self, more: u32) -> Self {
        let mut page = self.0;
        for bytes in page.0.chunks_exact_mut(size_of::<i32>()) {
            let int = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            bytes.copy_from_slice(&int.wrapping_add_unsigned(more).to_le_bytes());
        }
        Self(page)
    }

    /// The first eight bytes, as the device's atomic operation sees them.
    pub(super) fn first_word(self) -> u64 {
        let mut word = [0; size_of::<u64>()];
        word.copy_from_slice(&self.0.0[..size_of::<u64>()]);
        u64::from_le_bytes(word)
    }

    pub(super) fn with_first_word(self, word: u64) -> Self {
        let mut page = self.0;
        page.0[..size_of::<u64>()].copy_from_slice(&word.to_le_bytes());
        Self(page)
    }

    /// Page `page` of `range`, as this CPU loads it.
    pub(super) fn load(range: PageRange, page: u64) -> Self {
        let mut bytes = PageBuffer::zeros();
        load_bytes(range.page(page).start_address(), &mut bytes.0);
        Self(bytes)
    }

    /// Page `page` of a device's buffer, through the BAR.
    pub(super) fn read(buffer: &Buffer, page: u64) -> Self {
        let mut bytes = PageBuffer::zeros();
        buffer.load(page, &mut bytes);
        Self(bytes)
    }

    /// Stores it to page `page` of `range`.
    pub(super) fn store(self, range: PageRange, page: u64) {
        store_bytes(range.page(page).start_address(), &self.0.0);
    }

    /// Fills every page of `range`.
    pub(super) fn store_all(range: PageRange, contents: impl Fn(u64) -> Self) {
        for page in 0..range.pages() {
            contents(page).store(range, page);
        }
    }
}

/// What an operation of the device did, as the peer counts it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Done {
    pub(super) pages: u64,
    pub(super) faults: u64,
}

/// How an operation ended.
pub(super) type Ended = Result<Done, OperationStatus>;

fn ended(ending: Ending) -> Ended {
    ending.map(|done| Done { pages: done.pages, faults: done.faults })
}

/// A device that follows a buffer.
pub(super) struct Peer {
    mirror: Mirror,
    copy: Buffer,
    range: PageRange,
}

impl Peer {
    /// Opens `device` for the buffer at `range`.
    pub(super) fn open(room: &Room, range: PageRange, device: DeviceId) -> Result<Self, TestFailure> {
        let copy = Buffer::new(device, range.pages())?;
        Ok(Self { mirror: Mirror::open(room.space, range, device)?, copy, range })
    }

    /// Ends the following, whatever the device is at, and has `device`, the same, follow the buffer again. The mirror keeps
    /// its contents.
    pub(super) fn reopen(self, room: &Room, device: DeviceId) -> Result<Self, TestFailure> {
        let Self { mirror, copy, range } = self;
        drop(mirror);
        Ok(Self { mirror: Mirror::open(room.space, range, device)?, copy, range })
    }

    /// `count` pages of the buffer from page `first` on.
    pub(super) fn pages(&self, first: u64, count: u64) -> PageRange {
        self.range.part(first, count)
    }

    /// Fills the buffer, by this CPU's stores.
    pub(super) fn fill_memory(&self, contents: impl Fn(u64) -> Contents) {
        Contents::store_all(self.range, contents);
    }

    /// Checks the buffer, by this CPU's loads.
    pub(super) fn check_memory(&self, contents: impl Fn(u64) -> Contents) -> TestResult {
        (0..self.range.pages()).try_for_each(|page| {
            check!(Contents::load(self.range, page) == contents(page), "page {page}, as the CPU sees it")
        })
    }

    /// Fills the mirror, through the BAR.
    pub(super) fn fill_mirror(&self, contents: impl Fn(u64) -> Contents) {
        for page in 0..self.range.pages() {
            self.copy.store(page, &contents(page).0);
        }
    }

    /// Checks the mirror, through the BAR.
    pub(super) fn check_mirror(&self, contents: impl Fn(u64) -> Contents) -> TestResult {
        (0..self.range.pages()).try_for_each(|page| {
            check!(Contents::read(&self.copy, page) == contents(page), "page {page}, as the device has read it")
        })
    }

    /// Lets the device read pages into the beginning of the mirror.
    pub(super) fn read(&mut self, range: PageRange) -> Result<Ended, TestFailure> {
        Ok(ended(self.mirror.read(range, &self.copy)?))
    }

    /// Lets the device write the beginning of the mirror into pages.
    pub(super) fn write(&mut self, range: PageRange) -> Result<Ended, TestFailure> {
        Ok(ended(self.mirror.write(range, &self.copy)?))
    }

    /// Lets the device add to the first word of a page; what it found.
    pub(super) fn add(&mut self, page: PageRange, operand: u64) -> Result<Result<u64, OperationStatus>, TestFailure> {
        Ok(self.mirror.add(page, operand)?.map(|done| done.value))
    }

    pub(super) fn begin_read(&mut self, range: PageRange) -> Result<UnderWay, TestFailure> {
        Ok(self.mirror.begin_read(range, &self.copy)?)
    }

    /// Answers `requests` requests of the device, as they come, or as many as there are before the operation ends.
    pub(super) fn serve_for(&mut self, requests: u32, operation: &UnderWay) -> TestResult {
        let mut served = 0;
        while served < u64::from(requests) && self.is_under_way(operation) {
            served += self.mirror.serve()?;
            core::hint::spin_loop();
        }
        Ok(())
    }

    pub(super) fn is_under_way(&self, operation: &UnderWay) -> bool {
        self.mirror.is_under_way(operation)
    }

    pub(super) fn finish(&mut self, operation: UnderWay) -> Result<Ended, TestFailure> {
        Ok(ended(self.mirror.finish(operation)?))
    }

    /// Moves pages to the device, and has it read them through its own page table into the mirror, as the peer's driver does.
    pub(super) fn migrate(&mut self, range: PageRange) -> Result<Report, TestFailure> {
        let report = self.mirror.migrate(range)?;
        check_eq!(self.read(range)?.map(|done| done.pages), Ok(range.pages()));
        Ok(report)
    }

    /// Gives pages to the device alone, and has it read them into the mirror.
    pub(super) fn make_exclusive(&mut self, range: PageRange) -> Result<u64, TestFailure> {
        self.mirror.make_exclusive(range)?;
        let exclusive = self.exclusive_pages(range)?;
        check_eq!(self.read(range)?, Ok(Done { pages: range.pages(), faults: 0 }));
        Ok(exclusive)
    }

    pub(super) fn exclusive_pages(&self, range: PageRange) -> Result<u64, TestFailure> {
        Ok(self.mirror.exclusive_pages(range)?)
    }

    pub(super) fn snapshot(&self, range: PageRange) -> Result<Vec<MirrorEntry>, TestFailure> {
        Ok(self.mirror.snapshot(range)?)
    }
}
