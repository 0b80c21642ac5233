//! What a page or a frame is at a moment, as one small number each: what the report's grids show.
//!
//! The page in the browser computes the same from the same records; the browser test holds the two against each other.
use std::fmt::Write;

use ferry_mm::page_table::entry::{Entry, LeafFlags, RawEntry};
use ferry_protocol::trace::{Frame, Resident};

use super::replay::{Replay, Use};

/// What a virtual page is. The numbers are those of `model.js`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PageLook {
    /// In an area, and never touched.
    Untouched = 1,
    /// The zero page, read-only.
    Zero = 2,
    /// In RAM, writable.
    Writable = 3,
    /// In RAM, read-only, in a frame of its own.
    ReadOnly = 4,
    /// In RAM, in a frame that other entries name, too.
    Shared = 5,
    /// On its way.
    Migrating = 6,
    /// On a device.
    Device = 7,
    /// On a device, and mapped by CPUs there.
    DeviceMapped = 8,
    /// On the swap disk.
    Swapped = 9,
    /// In exclusive use by a device.
    Exclusive = 10,
    /// In RAM, without any access.
    NoAccess = 11,
    /// Lost.
    Poison = 12,
    /// None of these.
    Damaged = 13,
}

/// What a frame is, of RAM or of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FrameLook {
    /// The kernel's.
    Kernel = 0,
    /// Free.
    Free = 1,
    /// Taken, and named by no entry yet or no more.
    InHand = 2,
    /// A page table.
    Table = 3,
    /// Holds a page.
    Page = 4,
    /// Holds a page that several entries name.
    Shared = 5,
    /// Holds a page that is on its way.
    Moving = 6,
    /// Holds a page that is pinned.
    Pinned = 7,
    /// The zero page.
    Zero = 8,
}

impl Replay {
    /// What a page of an area is.
    pub fn page(&self, raw: u64) -> PageLook {
        let frame = self.frame_of(raw);
        let names = frame.and_then(|frame| self.named.get(&frame)).map_or(0, |(names, _)| *names);
        match (RawEntry(raw).decode(), frame) {
            (Entry::Empty, _) => PageLook::Untouched,
            (Entry::Present { .. }, Some(Frame::Device(..))) => PageLook::DeviceMapped,
            (Entry::Present { .. }, Some(Frame::Ram(number))) if self.is_zero(number) => PageLook::Zero,
            (Entry::Present { .. }, _) if names > 1 => PageLook::Shared,
            (Entry::Present { flags, .. }, _) if flags.contains(LeafFlags::WRITABLE) => PageLook::Writable,
            (Entry::Present { .. }, _) => PageLook::ReadOnly,
            (Entry::Migrating { .. }, _) => PageLook::Migrating,
            (Entry::Device { .. }, _) => PageLook::Device,
            (Entry::Swap { .. }, _) => PageLook::Swapped,
            (Entry::Exclusive { .. }, _) => PageLook::Exclusive,
            (Entry::NoAccess { .. }, _) => PageLook::NoAccess,
            (Entry::Poison, _) => PageLook::Poison,
            (Entry::Unknown(_), _) => PageLook::Damaged,
        }
    }

    /// What a frame is.
    pub fn frame(&self, frame: Frame) -> FrameLook {
        let free = match frame {
            Frame::Ram(number) => match self.ram.get(number as usize) {
                None | Some(Use::Kernel) => return FrameLook::Kernel,
                Some(Use::Zero) => return FrameLook::Zero,
                Some(used) => *used == Use::Free,
            },
            Frame::Device(device, index) => {
                !self.devices.get(&device).is_some_and(|device| device.taken.contains_key(&index))
            }
        };
        if free {
            return FrameLook::Free;
        }
        if let Frame::Ram(number) = frame
            && self.tables.contains_key(&number)
        {
            return FrameLook::Table;
        }
        match self.named.get(&frame) {
            _ if self.pins.contains_key(&frame) => FrameLook::Pinned,
            None => FrameLook::InHand,
            Some((_, moving)) if *moving > 0 => FrameLook::Moving,
            Some((1, _)) => FrameLook::Page,
            Some(_) => FrameLook::Shared,
        }
    }

    fn is_zero(&self, number: u64) -> bool {
        self.ram.get(number as usize) == Some(&Use::Zero)
    }

    /// Every space with what it counts, every page of an area, then every frame of `frames`, as lines of text; `model.js` writes the same.
    pub fn dump(&self, frames: &[Frame]) -> String {
        let mut text = String::new();
        for (number, space) in &self.spaces {
            let [ram, zero, device, swap] = [Resident::Ram, Resident::Zero, Resident::Device, Resident::Swap]
                .map(|resident| space.charged.get(&resident).copied().unwrap_or(0));
            let _ = writeln!(text, "space {number} {ram} {zero} {device} {swap}");
            for (page, (rights, kind)) in &space.areas {
                let address = page << 12;
                let raw = space.entries.get(&(1, address)).copied().unwrap_or(0);
                let stale = self.stale.get(&(*number, address)).map_or(0, Vec::len);
                let _ = writeln!(
                    text,
                    "page {number} {page:x} {rights} {} {raw:x} {} {stale}",
                    *kind as u8,
                    self.page(raw) as u8
                );
            }
        }
        for frame in frames {
            let look = self.frame(*frame) as u8;
            let _ = match frame {
                Frame::Ram(number) => writeln!(text, "ram {number:x} {look}"),
                Frame::Device(device, index) => writeln!(text, "device {device} {index:x} {look}"),
            };
        }
        text
    }
}
