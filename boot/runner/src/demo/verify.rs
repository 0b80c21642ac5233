//! What the host looks at, at each checkpoint.
//!
//! Each page of the input goes once around; the host knows where it must be and what it must hold:
//!
//! ```text
//!   Home(original) ──Migrated──▶ Away(frame, original) ──Transformed──▶ Away(frame, inverted) ──Returned──▶ Done(inverted)
//!        └─ stays: full device, pin, ... ─▶ tried again in a later round
//! ```
//!
//! Invariants:
//! 1. Everything is read from guest RAM through the guest's own tables, or from the memory behind the BAR. The kernel
//!    only says where its root table is and where the input begins.
//! 2. While pages are away, no two share a device frame.
//! 3. A page's contents are compared whole, all 4096 bytes, when it arrives on the device, after the device's work and
//!    when it is home again. In the end the whole input is hashed once more.
use std::collections::HashMap;

use ferry_device::geometry::{FRAME_BYTES, FrameIndex};
use ferry_device_model::MemoryError;
use ferry_mm::frame::DeviceFrame;
use ferry_mm::page_table::entry::Entry;
use ferry_protocol::link::{Checkpoint, Stage};
use x86_64::{PhysAddr, VirtAddr};

use super::failure::{Mismatch, Place};
use crate::guest::ram::Physical;
use crate::guest::walk::{Target, Walk, walk};
use crate::input::{Hash, Input};
use crate::sys::{PAGE_BYTES, PageBytes};

/// A device's memory, as the checks read it.
pub trait DeviceMemory {
    /// Number of device frames.
    fn frames(&self) -> u64;
    /// A copy of device frame `index`.
    ///
    /// # Errors
    /// Where there is no such frame or the memory cannot be read.
    fn frame(&self, index: u64) -> Result<PageBytes, MemoryError>;
    /// Bytes of all device frames that are not zero.
    ///
    /// # Errors
    /// Where the memory cannot be read.
    fn bytes_not_zero(&self) -> Result<u64, MemoryError>;
}

const _: () = assert!(FRAME_BYTES == PAGE_BYTES, "a device frame holds a page");

impl DeviceMemory for &ferry_device_model::DeviceMemory {
    fn frames(&self) -> u64 {
        self.geometry().frames()
    }

    fn frame(&self, index: u64) -> Result<PageBytes, MemoryError> {
        let mut bytes = [0; PAGE_BYTES];
        self.frame_bytes(FrameIndex(index), &mut bytes)?;
        Ok(bytes)
    }

    fn bytes_not_zero(&self) -> Result<u64, MemoryError> {
        self.non_zero_bytes()
    }
}

/// Where a page is on its way around.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Whereabouts {
    /// In RAM, as it came from the file.
    Home,
    /// On this device frame.
    Away(DeviceFrame),
    /// In RAM again, inverted.
    Done,
}

/// What a checkpoint showed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// Pages that this checkpoint was about.
    pub pages: u64,
    /// Pages that are still at home and have not been away.
    pub waiting: u64,
    /// The way to the sample page, where this checkpoint was about it.
    pub sample: Option<Walk>,
    /// SHA-256 of the input's bytes in RAM, once every page is back.
    pub hash: Option<Hash>,
    /// Bytes in device frames that are not zero, once the address space is gone.
    pub stale_bytes: Option<u64>,
}

/// The checks, with what they know of each page.
pub struct Verifier<'a> {
    input: &'a Input,
    pages: Vec<Whereabouts>,
    last: Option<(Stage, u32)>,
    verified: u64,
    inverted: u64,
}

impl<'a> Verifier<'a> {
    /// Checks for a run with this input.
    pub fn new(input: &'a Input) -> Self {
        let pages = vec![Whereabouts::Home; input.pages() as usize];
        Self { input, pages, last: None, verified: 0, inverted: 0 }
    }

    /// Pages that were found on the device, byte for byte as in the file.
    pub fn verified(&self) -> u64 {
        self.verified
    }

    /// Pages that were found on the device, inverted.
    pub fn inverted(&self) -> u64 {
        self.inverted
    }

    /// The page whose way through the tables is shown: the middle one, or `None` where the input is empty.
    pub fn sample(&self) -> Option<u64> {
        (!self.pages.is_empty()).then_some(self.pages.len() as u64 / 2)
    }

    /// Looks at the guest, which stands still.
    ///
    /// # Errors
    /// [`Mismatch`]: the first thing that is not as it must be.
    pub fn look(
        &mut self,
        memory: &impl Physical,
        devices: &[impl DeviceMemory],
        checkpoint: &Checkpoint,
    ) -> Result<Seen, Mismatch> {
        self.check_order(checkpoint)?;
        if checkpoint.stage != Stage::TornDown && checkpoint.pages != self.input.pages() {
            return Err(Mismatch::Pages { found: checkpoint.pages, expected: self.input.pages() });
        }
        let root = PhysAddr::new_truncate(checkpoint.root);
        let view = View { memory, devices, root, start: checkpoint.start };
        match checkpoint.stage {
            Stage::Populated => self.populated(&view),
            Stage::Migrated => self.migrated(&view),
            Stage::Transformed => self.transformed(&view),
            Stage::Returned => self.returned(&view),
            Stage::TornDown => torn_down(&view),
        }
    }

    fn check_order(&mut self, checkpoint: &Checkpoint) -> Result<(), Mismatch> {
        let (stage, round) = (checkpoint.stage, checkpoint.round);
        let due = match (self.last, stage) {
            (None, Stage::Populated) => round == 0,
            (Some((Stage::Populated, _)), Stage::Migrated) => round == 1,
            (Some((Stage::Migrated, last)), Stage::Transformed) => round == last,
            (Some((Stage::Transformed, last)), Stage::Returned) => round == last,
            (Some((Stage::Returned, last)), Stage::Migrated) => round == last + 1,
            (Some((Stage::Returned, _)), Stage::TornDown) => round == 0,
            (None, Stage::TornDown) => round == 0 && self.pages.is_empty(),
            _ => false,
        };
        if !due {
            let last = self.last.map_or("none".to_owned(), |(stage, round)| format!("{stage:?} of round {round}"));
            return Err(Mismatch::Order { found: stage, round, last });
        }
        self.last = Some((stage, round));
        Ok(())
    }

    fn populated<M: Physical, D: DeviceMemory>(&self, view: &View<M, D>) -> Result<Seen, Mismatch> {
        for page in 0..self.input.pages() {
            compare(page, view.page_in_ram(page)?, &self.input.page(page))?;
        }
        let sample = self.sample().map(|page| view.walk(page)).transpose()?;
        Ok(Seen { pages: self.input.pages(), waiting: self.input.pages(), sample, ..Seen::default() })
    }

    fn migrated<M: Physical, D: DeviceMemory>(&mut self, view: &View<M, D>) -> Result<Seen, Mismatch> {
        let mut seen = Seen::default();
        let mut holders = HashMap::new();
        for page in 0..self.input.pages() {
            let walk = view.walk(page)?;
            let frame = match walk.target {
                Target::Present(_) => {
                    seen.waiting += u64::from(self.pages[page as usize] == Whereabouts::Home);
                    continue;
                }
                Target::NotPresent(Entry::Device { frame, .. }) => frame,
                _ => return Err(view.not_in_ram(page, &walk)),
            };
            if self.pages[page as usize] == Whereabouts::Done {
                return Err(Mismatch::WentTwice(page));
            }
            if let Some(first) = holders.insert(frame, page) {
                return Err(Mismatch::Shared { frame, first, second: page });
            }
            compare(page, view.page_on_device(page, frame)?, &self.input.page(page))?;
            self.pages[page as usize] = Whereabouts::Away(frame);
            seen.pages += 1;
            if self.sample() == Some(page) {
                seen.sample = Some(walk);
            }
        }
        self.verified += seen.pages;
        Ok(seen)
    }

    fn transformed<M: Physical, D: DeviceMemory>(&mut self, view: &View<M, D>) -> Result<Seen, Mismatch> {
        let mut seen = Seen::default();
        for (page, frame) in self.away() {
            let walk = view.walk(page)?;
            match walk.target {
                Target::NotPresent(Entry::Device { frame: now, .. }) if now == frame => {}
                _ => return Err(Mismatch::Moved { page, address: view.address(page), frame }),
            }
            compare(page, view.page_on_device(page, frame)?, &self.input.inverted_page(page))?;
            seen.pages += 1;
        }
        self.inverted += seen.pages;
        Ok(seen)
    }

    fn returned<M: Physical, D: DeviceMemory>(&mut self, view: &View<M, D>) -> Result<Seen, Mismatch> {
        let mut seen = Seen::default();
        for (page, _) in self.away() {
            compare(page, view.page_in_ram(page)?, &self.input.inverted_page(page))?;
            self.pages[page as usize] = Whereabouts::Done;
            seen.pages += 1;
            if self.sample() == Some(page) {
                seen.sample = Some(view.walk(page)?);
            }
        }
        seen.waiting = self.pages.iter().filter(|page| **page == Whereabouts::Home).count() as u64;
        for page in 0..self.input.pages() {
            view.frame_in_ram(page)?;
        }
        if seen.waiting == 0 {
            seen.hash = Some(self.hash_of_memory(view)?);
        }
        Ok(seen)
    }

    fn away(&self) -> Vec<(u64, DeviceFrame)> {
        let places = self.pages.iter().enumerate();
        let away = places.filter_map(|(page, place)| match place {
            Whereabouts::Away(frame) => Some((page as u64, *frame)),
            Whereabouts::Home | Whereabouts::Done => None,
        });
        away.collect()
    }

    /// The hash of exactly the input's length, read through the tables.
    fn hash_of_memory<M: Physical, D: DeviceMemory>(&self, view: &View<M, D>) -> Result<Hash, Mismatch> {
        let mut contents = Vec::with_capacity(self.input.bytes().len());
        for page in 0..self.input.pages() {
            let (_, bytes) = view.page_in_ram(page)?;
            contents.extend_from_slice(&bytes[..self.input.part(page).len()]);
        }
        Ok(Hash::of([contents.as_slice()]))
    }
}

/// The memory that holds the input, as the guest's tables show it.
struct View<'m, M, D> {
    memory: &'m M,
    devices: &'m [D],
    root: PhysAddr,
    start: u64,
}

impl<M: Physical, D: DeviceMemory> View<'_, M, D> {
    fn address(&self, page: u64) -> VirtAddr {
        VirtAddr::new_truncate(self.start.wrapping_add(page * PAGE_BYTES as u64))
    }

    fn walk(&self, page: u64) -> Result<Walk, Mismatch> {
        Ok(walk(self.memory, self.root, self.address(page))?)
    }

    fn frame_in_ram(&self, page: u64) -> Result<PhysAddr, Mismatch> {
        let walk = self.walk(page)?;
        match walk.target {
            Target::Present(address) => Ok(address),
            _ => Err(self.not_in_ram(page, &walk)),
        }
    }

    fn page_in_ram(&self, page: u64) -> Result<(Place, PageBytes), Mismatch> {
        let address = self.frame_in_ram(page)?;
        let bytes = self.memory.page(address).ok_or(Mismatch::NoRam { page, address })?;
        Ok((Place::Ram(address), bytes))
    }

    fn page_on_device(&self, page: u64, frame: DeviceFrame) -> Result<(Place, PageBytes), Mismatch> {
        let number = frame.device().number();
        let device = self.devices.get(usize::from(number)).ok_or(Mismatch::NoSuchDevice { page, device: number })?;
        let bytes = device.frame(frame.index().into()).map_err(|source| Mismatch::Device { page, source })?;
        Ok((Place::DeviceFrame(frame), bytes))
    }

    fn not_in_ram(&self, page: u64, walk: &Walk) -> Mismatch {
        let entry = match walk.target {
            Target::NotPresent(entry) => entry,
            Target::NoTable | Target::Present(_) => Entry::Empty,
        };
        Mismatch::NotInRam { page, address: self.address(page), entry }
    }
}

fn torn_down<M, D: DeviceMemory>(view: &View<M, D>) -> Result<Seen, Mismatch> {
    let (mut frames, mut stale) = (0, 0);
    for device in view.devices {
        frames += device.frames();
        stale += device.bytes_not_zero().map_err(Mismatch::Scan)?;
    }
    Ok(Seen { pages: frames, stale_bytes: Some(stale), ..Seen::default() })
}

fn compare(page: u64, (place, found): (Place, PageBytes), expected: &PageBytes) -> Result<(), Mismatch> {
    let differs = found.iter().zip(expected).position(|(found, expected)| found != expected);
    match differs {
        None => Ok(()),
        Some(offset) => {
            Err(Mismatch::Contents { page, place, offset, found: found[offset], expected: expected[offset] })
        }
    }
}

#[cfg(test)]
mod tests;
