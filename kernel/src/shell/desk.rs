//! What lies on the desk between two commands: spaces, names, pins, and what the last command printed.
use super::error::ShellError;
use crate::arch::machine::Hardware;
use crate::link;
use crate::memory::device::Attached;
use crate::memory::{self, AddressSpace, manager};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};
use ferry_mm::address::{PAGE_BYTES, PageRange};
use ferry_mm::frame::DeviceId;
use ferry_mm::space::Pin;
use ferry_mm::stats::Counts;
use ferry_protocol::link::{FromKernel, cut};
use ferry_protocol::shell::number;
use x86_64::VirtAddr;

/// Where the first named memory goes: an address whose four indices are all different, which makes a walk easy to follow.
const FIRST: VirtAddr = VirtAddr::new_truncate(0x0000_1234_5678_9000);

/// Named memory begins at multiples of this after the first: every name has tables of its own, so a walk of one shows no other.
const STRIDE: u64 = 1 << 30;

/// Memory with a name, the same in every space that descends from the one where it was mapped.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub name: String,
    pub range: PageRange,
}

/// What lies on the desk.
pub(super) struct Desk {
    pub devices: &'static [Attached],
    pub space: AddressSpace,
    pub names: Vec<Named>,
    /// By number from 1; `None` for those that were let go.
    pub pins: Vec<Option<Pin<'static, Hardware>>>,
    /// Flushes are left out.
    pub broken: bool,
    /// What the command has printed so far, and the one before it.
    printed: String,
    pub last: String,
    /// Whether the command before was refused.
    pub refused: bool,
    places_used: u64,
    /// The counters when they were shown last.
    pub seen: Counts,
}

impl Desk {
    /// A desk with one fresh space on it, which this CPU enters.
    pub(super) fn new(devices: &'static [Attached]) -> Result<Self, ShellError> {
        let space = manager().create_space()?;
        memory::enter(space);
        Ok(Self {
            devices,
            space,
            names: Vec::new(),
            pins: Vec::new(),
            broken: false,
            printed: String::new(),
            last: String::new(),
            refused: false,
            places_used: 0,
            seen: manager().statistics().read(),
        })
    }

    /// Prints a line.
    pub(super) fn say(&mut self, text: fmt::Arguments<'_>) {
        let start = self.printed.len();
        // A String takes everything.
        let _ = self.printed.write_fmt(text);
        self.printed.push('\n');
        for line in self.printed[start..].lines() {
            link::send(&FromKernel::Text { text: cut(line) });
        }
    }

    /// The command is over: what it printed, and whether it was done, is what expectations are about.
    pub(super) fn turn_page(&mut self, done: bool) {
        self.last = core::mem::take(&mut self.printed);
        self.refused = !done;
    }

    /// What was printed is nothing that expectations are about.
    pub(super) fn forget_printed(&mut self) {
        self.printed.clear();
    }

    /// Removes everything: pins, and every space.
    pub(super) fn clear(mut self) -> Result<(), ShellError> {
        self.pins.clear();
        memory::leave();
        let spaces: Vec<AddressSpace> = manager().spaces().collect();
        Ok(spaces.into_iter().try_for_each(AddressSpace::destroy)?)
    }

    /// A free place for `pages` pages.
    pub(super) fn place(&mut self, pages: u64) -> Result<PageRange, ShellError> {
        if pages == 0 {
            return Err(ShellError::NoPages);
        }
        let range = PageRange::covering(FIRST + self.places_used * STRIDE, pages.saturating_mul(PAGE_BYTES))?;
        self.places_used += range.bytes().div_ceil(STRIDE);
        Ok(range)
    }

    /// The address that a word names, and the pages from there on that belong to it.
    fn find(&self, word: &str) -> Result<(VirtAddr, u64), ShellError> {
        let (name, offset) = match word.split_once('+') {
            Some((name, offset)) => (name, Some(parse(offset)?)),
            None => (word, None),
        };
        if let Some(named) = self.names.iter().find(|named| named.name == name) {
            let within = offset.unwrap_or(0) / PAGE_BYTES;
            if within >= named.range.pages() {
                return Err(ShellError::TooManyPages { asked: within + 1, there: named.range.pages() });
            }
            return Ok((
                named.range.start_address() + offset.unwrap_or(0),
                if offset.is_some() { 1 } else { named.range.pages() },
            ));
        }
        let starts_like_a_number = name.starts_with(|first: char| first.is_ascii_digit());
        if !starts_like_a_number {
            return Err(ShellError::NoSuchName { word: name.into(), names: self.all_names() });
        }
        let address = parse(name)?.checked_add(offset.unwrap_or(0));
        let address = address.and_then(|address| VirtAddr::try_new(address).ok());
        Ok((address.ok_or_else(|| ShellError::NotAnAddress { word: word.into() })?, 1))
    }

    /// The address that a word names.
    pub(super) fn address(&self, word: &str) -> Result<VirtAddr, ShellError> {
        Ok(self.find(word)?.0)
    }

    /// The pages that a word and perhaps a count name.
    pub(super) fn pages(&self, word: &str, count: Option<&str>) -> Result<PageRange, ShellError> {
        let (address, there) = self.find(word)?;
        let pages = match count {
            Some(count) => parse(count)?,
            None => there,
        };
        if pages == 0 {
            return Err(ShellError::NoPages);
        }
        Ok(PageRange::covering(address.align_down(PAGE_BYTES), pages.saturating_mul(PAGE_BYTES))?)
    }

    /// The device that a word names; without one, the first.
    pub(super) fn device(&self, word: Option<&str>) -> Result<DeviceId, ShellError> {
        let Some(word) = word else { return Ok(self.devices[0].id) };
        let found =
            number(word).and_then(|number| self.devices.iter().find(|device| u64::from(device.id.number()) == number));
        found
            .map(|device| device.id)
            .ok_or_else(|| ShellError::NoSuchDevice { word: word.into(), devices: self.devices.len() })
    }

    fn all_names(&self) -> String {
        let names: Vec<&str> = self.names.iter().map(|named| named.name.as_str()).collect();
        names.join(", ")
    }
}

/// A number, or why it is none.
pub(super) fn parse(word: &str) -> Result<u64, ShellError> {
    number(word).ok_or_else(|| ShellError::NotANumber { word: word.into() })
}
