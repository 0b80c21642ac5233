//! Some pages of an address space, to be touched page by page.
use super::place::Place;
use crate::arch::areas;
use crate::memory::device::{self, Attached};
use crate::memory::{self, AddressSpace};
use crate::trace::{self, Told};
use core::fmt;
use ferry_device::driver::DeviceError;
use ferry_mm::address::{PAGE_BYTES, PageRange, RangeError};
use ferry_mm::frame::AnyFrame;
use ferry_mm::migrate::{MigrateError, Report};
use ferry_mm::page_table::entry::Entry;
use ferry_mm::space::{CreateError, ForkError, MapError, Protection};
use x86_64::VirtAddr;

/// Where the memory of an experiment is: an address whose four indices are all different.
pub const START: VirtAddr = VirtAddr::new_truncate(0x0000_1234_5678_9000);

/// Pages of private anonymous memory from [`START`] on. Copies name the same pages.
///
/// Loads and stores are those of a program: they fault, and a page comes home for them. They reach the space that this CPU is
/// in, so [`Self::enter`] first where there are several.
#[derive(Clone, Copy)]
pub struct Memory {
    space: AddressSpace,
    range: PageRange,
}

/// Why there is no memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoMemory {
    /// There is no address space.
    Space(CreateError),
    /// So many pages have no place.
    Range(RangeError),
    /// They were not mapped.
    Map(MapError),
}

impl fmt::Display for NoMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Space(error) => error.fmt(f),
            Self::Range(error) => error.fmt(f),
            Self::Map(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for NoMemory {}

impl From<CreateError> for NoMemory {
    fn from(error: CreateError) -> Self {
        Self::Space(error)
    }
}

impl Memory {
    /// Maps `pages` pages at [`START`] in `space`, readable and writable.
    ///
    /// # Errors
    /// See [`NoMemory`].
    pub fn map(space: AddressSpace, pages: u64) -> Result<Self, NoMemory> {
        let range = PageRange::covering(START, pages.saturating_mul(PAGE_BYTES)).map_err(NoMemory::Range)?;
        space.map_anonymous(range, Protection::READ_WRITE).map_err(NoMemory::Map)?;
        Ok(Self { space, range })
    }

    /// The address space: everything that the memory manager can do with it.
    pub fn space(&self) -> AddressSpace {
        self.space
    }

    /// The pages.
    pub fn range(&self) -> PageRange {
        self.range
    }

    /// The first address of a page.
    ///
    /// # Panics
    /// Where there is no such page; as every function here that takes one.
    pub fn address(&self, page: u64) -> VirtAddr {
        assert!(page < self.range.pages(), "there is no page {page}, only {}", self.range.pages());
        self.range.page(page).start_address()
    }

    /// Makes this CPU use the address space; it leaves the one it was in.
    pub fn enter(&self) {
        memory::enter(self.space);
    }

    /// Stores a byte at the start of a page.
    pub fn store(&self, page: u64, value: u8) {
        let address = self.address(page);
        areas::store_bytes(address, &[value]);
        trace::tell(|| Told::Stored { address: address.as_u64(), value });
    }

    /// Loads the byte at the start of a page.
    pub fn load(&self, page: u64) -> u8 {
        let address = self.address(page);
        let value = areas::load_byte(address);
        trace::tell(|| Told::Loaded { address: address.as_u64(), value });
        value
    }

    /// The page's entry in the page table, as it is now.
    pub fn entry(&self, page: u64) -> Entry {
        self.space.entry(self.address(page)).decode()
    }

    /// Where the page is, by its entry.
    pub fn place(&self, page: u64) -> Place {
        Place::of(self.entry(page))
    }

    /// Moves all pages to the memory of `device`. Those that must stay are counted in the report, with the reason.
    ///
    /// # Errors
    /// See [`MigrateError`].
    pub fn migrate_to(&self, device: Attached) -> Result<Report, MigrateError> {
        self.space.migrate_to_device(self.range, device.id)
    }

    /// Brings all pages back to RAM.
    ///
    /// # Errors
    /// See [`MigrateError`].
    pub fn bring_home(&self) -> Result<Report, MigrateError> {
        self.space.migrate_to_system(self.range)
    }

    /// Has `device` invert every byte of the pages that are in its memory; returns how many those were.
    ///
    /// # Errors
    /// What the device answered or failed to.
    pub fn invert_on(&self, device: Attached) -> Result<u64, DeviceError> {
        let frames = (0..self.range.pages()).filter_map(|page| match self.entry(page).frame() {
            Some(AnyFrame::Device(frame)) if frame.device() == device.id => Some(frame),
            _ => None,
        });
        device::invert(device.id, frames)
    }

    /// The same pages in a copy of the address space: shared until somebody stores.
    ///
    /// # Errors
    /// See [`ForkError`].
    pub fn fork(&self) -> Result<Self, ForkError> {
        Ok(Self { space: self.space.fork()?, range: self.range })
    }
}
