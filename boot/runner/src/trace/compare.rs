//! The replayed state against the guest's memory, while the guest stands still.
//!
//! The tables are walked from outside ([`crate::guest::walk`]); the frames' states follow from what those tables name. Accessed and
//! dirty bits are left out of the comparison: CPUs set them and tell nobody.
use std::collections::BTreeMap;

use ferry_mm::page_table::entry::{Entry, RawEntry};
use ferry_protocol::trace::{AreaKind, Frame, Resident};
use x86_64::{PhysAddr, VirtAddr};

use super::replay::{Replay, Use, without_used};
use crate::guest::ram::Physical;
use crate::guest::walk::{Step, Walk, WalkError, walk};
use crate::sys::PAGE_BYTES;

/// What differs.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Difference {
    /// The root that the kernel names belongs to no space that was told of.
    #[error("no address space with its root at p{0:#x} was told of")]
    Root(u64),
    /// The guest's tables are damaged.
    #[error(transparent)]
    Tables(#[from] WalkError),
    /// An entry is another one.
    #[error("on the way to v{address:#x} stands {found}, told was {told:#018x}")]
    Entry {
        /// The page.
        address: u64,
        /// What stands in memory, in words.
        found: String,
        /// What was told.
        told: u64,
    },
    /// A path goes on where it was told to end, or the other way round.
    #[error("the way to v{address:#x} has {found} entries, {told} were told")]
    Length {
        /// The page.
        address: u64,
        /// Entries in memory.
        found: usize,
        /// Entries told.
        told: usize,
    },
    /// An entry names a frame that was told to be free.
    #[error("v{address:#x} is in {frame:?}, which was told to be free")]
    Free {
        /// The page.
        address: u64,
        /// The frame.
        frame: Frame,
    },
    /// A space was told to count other pages than its entries name.
    #[error("the space's entries name {found} pages as {resident:?}, told were {told}")]
    Charged {
        /// The kind.
        resident: Resident,
        /// Pages of this kind in memory.
        found: u64,
        /// Pages told to be counted.
        told: u64,
    },
    /// A device frame is taken that no entry names.
    #[error("frame {frame:#x} of device {device} was told to be taken, but no entry names it")]
    Unnamed {
        /// The device.
        device: u8,
        /// The frame.
        frame: u32,
    },
}

/// What was compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Compared {
    /// Pages of all areas.
    pub pages: u64,
    /// Entries, on all levels.
    pub entries: u64,
}

/// Holds the space whose level-4 table is at `root` against memory; 0 where no space is left.
///
/// # Errors
/// The first [`Difference`].
pub fn compare(replay: &Replay, memory: &impl Physical, root: u64) -> Result<Compared, Difference> {
    let mut compared = Compared::default();
    if root != 0 {
        let (_, space) = replay
            .spaces
            .iter()
            .find(|(_, space)| space.root * PAGE_BYTES as u64 == root)
            .ok_or(Difference::Root(root))?;
        let mut counted = BTreeMap::new();
        for (page, (_, kind)) in &space.areas {
            let address = page * PAGE_BYTES as u64;
            let Walk { steps, .. } = walk(memory, PhysAddr::new_truncate(root), VirtAddr::new_truncate(address))?;
            let told = |step: &Step| {
                let first = address & !((1_u64 << step.level.shift()) - 1);
                space.entries.get(&(step.level.number(), first)).copied().unwrap_or(0)
            };
            for step in &steps {
                let told = told(step);
                if without_used(step.raw.0) != without_used(told) {
                    return Err(Difference::Entry { address, found: step.to_string(), told });
                }
                compared.entries += 1;
            }
            let leaf = space.entries.get(&(1, address));
            if leaf.is_some() && steps.len() != 4 {
                return Err(Difference::Length { address, found: steps.len(), told: 4 });
            }
            compared.pages += 1;
            let raw = steps.last().map_or(0, |step| step.raw.0);
            check_frame(replay, address, raw)?;
            if let Some(resident) = resident(replay, raw).filter(|_| *kind != AreaKind::Device) {
                *counted.entry(resident).or_default() += 1;
            }
        }
        for resident in [Resident::Ram, Resident::Zero, Resident::Device, Resident::Swap] {
            let [found, told] = [&counted, &space.charged].map(|pages| pages.get(&resident).copied().unwrap_or(0));
            if found != told {
                return Err(Difference::Charged { resident, found, told });
            }
        }
    }
    for (device, shape) in &replay.devices {
        for frame in shape.taken.keys() {
            if !replay.named.contains_key(&Frame::Device(*device, *frame)) {
                return Err(Difference::Unnamed { device: *device, frame: *frame });
            }
        }
    }
    Ok(compared)
}

/// How a page with this level-1 entry is counted; `None` where it is not. No migration is at work while the guest stands still.
fn resident(replay: &Replay, raw: u64) -> Option<Resident> {
    if matches!(RawEntry(raw).decode(), Entry::Swap { .. }) {
        return Some(Resident::Swap);
    }
    replay.frame_of(raw).map(|frame| match frame {
        Frame::Device(..) => Resident::Device,
        Frame::Ram(number) if replay.ram.get(number as usize) == Some(&Use::Zero) => Resident::Zero,
        Frame::Ram(_) => Resident::Ram,
    })
}

/// The frame that an entry in memory names must be one that was told to be taken.
fn check_frame(replay: &Replay, address: u64, raw: u64) -> Result<(), Difference> {
    let Some(frame) = replay.frame_of(raw) else { return Ok(()) };
    let taken = match frame {
        // Beyond RAM are the addresses of devices, in areas that show those.
        Frame::Ram(number) => replay.ram.get(number as usize).is_none_or(|used| *used != Use::Free),
        Frame::Device(device, index) => {
            replay.devices.get(&device).is_some_and(|device| device.taken.contains_key(&index))
        }
    };
    if taken { Ok(()) } else { Err(Difference::Free { address, frame }) }
}
