//! What the host looks at, at each checkpoint.
//!
//! Each page of the input goes once around; the host knows where it must be and what it must hold:
//!
//! ```text
//!   Home(original) ──Migrated──▶ Away(frame, original) ──Transformed──▶ Away(frame, inverted) ──Returned──▶ Done(inverted)
//!        └─ stays: full device, pin, ... ─▶ tried again in a later round
//! ```
//! At home a page is in RAM or, where RAM has no room for it, on the swap disk.
//!
//! Invariants:
//! 1. Everything is read through [`View`], from outside.
//! 2. While pages are away, no two share a device frame.
//! 3. A page's contents are compared whole, all 4096 bytes, when it arrives on the device, after the device's work and
//!    when it is home again. In the end the whole input is hashed once more.
use std::collections::HashMap;

use ferry_mm::frame::DeviceFrame;
use ferry_protocol::link::{Checkpoint, Stage};
use x86_64::PhysAddr;

use super::failure::{Mismatch, Place};
use super::view::{Bars, DeviceMemory, Location, Outside, Unwritten, View};
use crate::guest::ram::Physical;
use crate::guest::walk::Walk;
use crate::input::{Hash, Input};
use crate::sys::PageBytes;

/// Where a page is on its way around.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Whereabouts {
    /// At home, as it came from the file.
    Home,
    /// On this device frame.
    Away(DeviceFrame),
    /// At home again, inverted.
    Done,
}

/// What a checkpoint showed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// Pages that this checkpoint was about.
    pub pages: u64,
    /// The same by device; a device without any may be missing.
    pub by_device: Vec<u64>,
    /// Pages that are still at home and have not been away.
    pub waiting: u64,
    /// Pages of the input that are on the swap disk.
    pub swapped: u64,
    /// The way to the sample page, where this checkpoint was about it.
    pub sample: Option<Walk>,
    /// SHA-256 of the input's bytes at home, once every page is back.
    pub hash: Option<Hash>,
    /// Bytes in device frames that are not zero, once the address space is gone.
    pub stale_bytes: Option<u64>,
}

impl Seen {
    fn count(&mut self, frame: DeviceFrame) {
        let number = usize::from(frame.device().number());
        if self.by_device.len() <= number {
            self.by_device.resize(number + 1, 0);
        }
        self.by_device[number] += 1;
        self.pages += 1;
    }
}

/// The checks, with what they know of each page.
pub struct Verifier<'a> {
    input: &'a Input,
    pages: Vec<Whereabouts>,
    bars: Bars,
    unwritten: Unwritten,
    last: Option<(Stage, u32)>,
}

impl<'a> Verifier<'a> {
    /// Checks for a run with this input.
    pub fn new(input: &'a Input) -> Self {
        let pages = vec![Whereabouts::Home; input.pages() as usize];
        Self { input, pages, bars: Bars::new(), unwritten: Unwritten::new(), last: None }
    }

    /// Takes in where the kernel says that the BAR of a device lies.
    pub fn place_bar(&mut self, number: u8, address: u64) {
        self.bars.insert(number, PhysAddr::new_truncate(address));
    }

    /// Takes in, for the next checkpoint, where the kernel says that a swapped page stands that could not be written.
    pub fn unwritten(&mut self, slot: u64, frame: u64) {
        self.unwritten.insert(slot, PhysAddr::new_truncate(frame));
    }

    /// The page whose way through the tables is shown: the middle one, or `None` where the input is empty.
    pub fn sample(&self) -> Option<u64> {
        (!self.pages.is_empty()).then_some(self.pages.len() as u64 / 2)
    }

    /// Looks at the guest, which stands still.
    ///
    /// # Errors
    /// [`Mismatch`]: the first thing that is not as it must be.
    pub fn look<M: Physical, D: DeviceMemory>(
        &mut self,
        outside: &Outside<M, D>,
        checkpoint: &Checkpoint,
    ) -> Result<Seen, Mismatch> {
        self.check_order(checkpoint)?;
        if checkpoint.stage != Stage::TornDown && checkpoint.pages != self.input.pages() {
            return Err(Mismatch::Pages { found: checkpoint.pages, expected: self.input.pages() });
        }
        let root = PhysAddr::new_truncate(checkpoint.root);
        let (bars, unwritten) = (std::mem::take(&mut self.bars), std::mem::take(&mut self.unwritten));
        let view = View { outside, bars: &bars, unwritten: &unwritten, root, start: checkpoint.start };
        let seen = match checkpoint.stage {
            Stage::Populated => self.populated(&view),
            Stage::Migrated => self.migrated(&view),
            Stage::Transformed => self.transformed(&view),
            Stage::Returned => self.returned(&view),
            Stage::TornDown => torn_down(outside),
        };
        self.bars = bars;
        seen
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
        let mut seen = Seen { pages: self.input.pages(), waiting: self.input.pages(), ..Seen::default() };
        for page in 0..self.input.pages() {
            let contents = view.read_at_home(page)?;
            seen.swapped += u64::from(matches!(contents.0, Place::Slot(_)));
            compare(page, contents, &self.input.page(page))?;
        }
        seen.sample = self.sample().map(|page| view.walk(page)).transpose()?;
        Ok(seen)
    }

    fn migrated<M: Physical, D: DeviceMemory>(&mut self, view: &View<M, D>) -> Result<Seen, Mismatch> {
        let mut seen = Seen::default();
        let mut holders = HashMap::new();
        for page in 0..self.input.pages() {
            let place = self.pages[page as usize];
            let (location, walk) = view.locate(page)?;
            let Location::Device(frame) = location else {
                seen.swapped += u64::from(matches!(location, Location::Swap(_)));
                seen.waiting += u64::from(place == Whereabouts::Home);
                continue;
            };
            if place == Whereabouts::Done {
                return Err(Mismatch::WentTwice(page));
            }
            if let Some(first) = holders.insert(frame, page) {
                return Err(Mismatch::Shared { frame, first, second: page });
            }
            compare(page, view.read(page, location)?, &self.input.page(page))?;
            self.pages[page as usize] = Whereabouts::Away(frame);
            seen.count(frame);
            if self.sample() == Some(page) {
                seen.sample = Some(walk);
            }
        }
        Ok(seen)
    }

    fn transformed<M: Physical, D: DeviceMemory>(&mut self, view: &View<M, D>) -> Result<Seen, Mismatch> {
        let mut seen = Seen::default();
        for (page, frame) in self.away() {
            let location = Location::Device(frame);
            if view.locate(page)?.0 != location {
                return Err(Mismatch::Moved { page, address: view.address(page), frame });
            }
            compare(page, view.read(page, location)?, &self.input.inverted_page(page))?;
            seen.count(frame);
        }
        Ok(seen)
    }

    fn returned<M: Physical, D: DeviceMemory>(&mut self, view: &View<M, D>) -> Result<Seen, Mismatch> {
        let mut seen = Seen::default();
        for (page, frame) in self.away() {
            compare(page, view.read_at_home(page)?, &self.input.inverted_page(page))?;
            self.pages[page as usize] = Whereabouts::Done;
            seen.count(frame);
            if self.sample() == Some(page) {
                seen.sample = Some(view.walk(page)?);
            }
        }
        seen.waiting = self.pages.iter().filter(|page| **page == Whereabouts::Home).count() as u64;
        for page in 0..self.input.pages() {
            match view.locate(page)?.0 {
                Location::Ram(_) => {}
                Location::Swap(_) => seen.swapped += 1,
                Location::Device(frame) => {
                    return Err(Mismatch::NotHome { page, address: view.address(page), frame });
                }
            }
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
            let (_, bytes) = view.read_at_home(page)?;
            contents.extend_from_slice(&bytes[..self.input.part(page).len()]);
        }
        Ok(Hash::of([contents.as_slice()]))
    }
}

fn torn_down<M, D: DeviceMemory>(outside: &Outside<M, D>) -> Result<Seen, Mismatch> {
    let (mut frames, mut stale) = (0, 0);
    for device in outside.devices {
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
