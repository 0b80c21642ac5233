//! The one place that knows the bits of a page-table entry.
//!
//! An entry is present (bit 0 set: the CPU uses it) or not (bit 0 clear: an access faults, and the
//! other 63 bits are ours; Intel SDM 3A 4.7). Non-present, non-zero entries are how a page is
//! remembered while it is somewhere else:
//!
//! ```text
//!  63 62    59 58     52 51                    12 11   9  8  7  6  5  4  3  2  1  0
//! ┌──┬────────┬─────────┬────────────────────────┬──────┬──┬──┬──┬──┬──┬──┬──┬──┬──┐
//! │NX│   0    │    0    │ frame number           │ OS   │G │PS│D │A │CD│WT│U │W │1 │ present
//! ├──┼────────┼─────────┼────────────────────────┼──────┼──┼──┼──┼──┼──┼──┼──┼──┼──┤
//! │NX│   0    │ owner   │ payload, all inverted  │ kind │V │0 │D │A │0 │0 │U │W │0 │ special
//! └──┴────────┴─────────┴────────────────────────┴──────┴──┴──┴──┴──┴──┴──┴──┴──┴──┘
//!     W, U, A, D, NX stand where they stand in a present entry, so that going to `Migrating` and back is a mask.
//!     V: the payload of a `Migrating` entry names a device frame, not a RAM frame.
//! ```
//!
//! Invariants:
//! 1. Bit 0 is clear in every special kind.
//! 2. The all-zero entry is [`Entry::Empty`], and no other value is.
//! 3. A payload is at most [`MAX_PAYLOAD`] and stands inverted, so bit 51 of a special entry is always set: read
//!    as an address by a CPU that speculates past the present bit (L1TF, Intel SA-00161), it points above all RAM.
//! 4. A device frame is an index and a device number, never a physical address.
//! 5. `decode(encode(entry)) == entry` for every entry, and a raw value that no `encode` makes decodes to [`Entry::Unknown`].
use bitflags::bitflags;
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use crate::frame::{AnyFrame, DeviceFrame, DeviceId};
use crate::machine::CpuId;

/// The 64 bits of an entry as they stand in memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct RawEntry(pub u64);

impl core::fmt::Debug for RawEntry {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

bitflags! {
    /// The bits of a leaf that say how the page may be used and what was done with it.
    ///
    /// Positions are those of a present entry (Intel SDM 3A 4.5.5, table 4-20).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
    pub struct LeafFlags: u64 {
        /// Stores are allowed.
        const WRITABLE = 1 << 1;
        /// User mode may access the page.
        const USER = 1 << 2;
        /// Memory type, bit 0 of the PAT index.
        const WRITE_THROUGH = 1 << 3;
        /// Memory type, bit 1 of the PAT index.
        const CACHE_DISABLE = 1 << 4;
        /// The CPU has used the translation.
        const ACCESSED = 1 << 5;
        /// The CPU has written through the translation.
        const DIRTY = 1 << 6;
        /// In a leaf of level 2 or 3: this is a leaf. (In a level-1 leaf this position is PAT; we leave it clear.)
        const HUGE = 1 << 7;
        /// Survives a write to CR3.
        const GLOBAL = 1 << 8;
        /// Instructions may not be fetched.
        const NO_EXECUTE = 1 << 63;
    }
}

impl LeafFlags {
    /// The flags that a special entry can carry.
    pub const CARRIED: Self =
        Self::WRITABLE.union(Self::USER).union(Self::ACCESSED).union(Self::DIRTY).union(Self::NO_EXECUTE);
}

const PRESENT: u64 = 1;
const PAYLOAD_SHIFT: u32 = 12;
const PAYLOAD_MASK: u64 = 0x000f_ffff_ffff_f000;
const KIND_SHIFT: u32 = 9;
const KIND_MASK: u64 = 0b111 << KIND_SHIFT;
const DEVICE_SOURCE: u64 = 1 << 8;
const OWNER_SHIFT: u32 = 52;
const OWNER_MASK: u64 = 0x7f << OWNER_SHIFT;
const DEVICE_SHIFT: u32 = 32;

/// The largest payload: 39 bits, so that its inverted form always has bit 51 set.
pub const MAX_PAYLOAD: u64 = (1 << 39) - 1;

/// The largest device number that an entry can name.
pub const MAX_DEVICE: u8 = (MAX_PAYLOAD >> DEVICE_SHIFT) as u8;

/// Codes of the special kinds; 0 is no kind, so that only `Empty` is all zero.
mod kind {
    pub const SWAP: u64 = 1;
    pub const MIGRATING: u64 = 2;
    pub const DEVICE: u64 = 3;
    pub const EXCLUSIVE: u64 = 4;
    pub const NO_ACCESS: u64 = 5;
    pub const POISON: u64 = 6;
}

/// The bits that each special kind uses, by its code; beside payload and code.
const USED_BITS: [u64; 8] = {
    let carried = LeafFlags::CARRIED.bits();
    let mut used = [PAYLOAD_MASK | KIND_MASK; 8];
    used[kind::MIGRATING as usize] |= carried | OWNER_MASK | DEVICE_SOURCE;
    used[kind::DEVICE as usize] |= LeafFlags::WRITABLE.bits();
    used[kind::EXCLUSIVE as usize] |= carried;
    used[kind::NO_ACCESS as usize] |= carried;
    used
};

/// A slot of the swap area, counted in pages from its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct SwapSlot(u64);

impl SwapSlot {
    /// The slot of this number, or `None` where it exceeds [`MAX_PAYLOAD`].
    pub const fn new(number: u64) -> Option<Self> {
        if number <= MAX_PAYLOAD { Some(Self(number)) } else { None }
    }

    /// The slot's number.
    #[inline(always)]
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// What an entry means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Nothing is here, and nothing was.
    Empty,
    /// The CPU translates through it, to a page or to the next table.
    Present {
        /// The frame it points at.
        frame: PhysFrame,
        /// How the frame may be used.
        flags: LeafFlags,
    },
    /// The page's contents stand in the swap area.
    Swap {
        /// Where.
        slot: SwapSlot,
    },
    /// The page is on its way; only `owner` may change this entry. An access waits. (v11: "locked".)
    Migrating {
        /// The frame that held the page when the entry was taken.
        frame: AnyFrame,
        /// The flags the entry had; within [`LeafFlags::CARRIED`].
        flags: LeafFlags,
        /// The CPU whose migration took the entry.
        owner: CpuId,
    },
    /// The page is in device memory that the CPU cannot reach. An access brings it home.
    Device {
        /// Where on the device.
        frame: DeviceFrame,
        /// Whether the page comes home writable.
        writable: bool,
    },
    /// A device has the page for itself (atomic operations); an access ends that.
    Exclusive {
        /// The RAM frame.
        frame: PhysFrame,
        /// The flags the entry had; within [`LeafFlags::CARRIED`].
        flags: LeafFlags,
    },
    /// The page is in RAM, but its area forbids every access.
    NoAccess {
        /// The RAM frame.
        frame: PhysFrame,
        /// The flags the entry had; within [`LeafFlags::CARRIED`].
        flags: LeafFlags,
    },
    /// The contents are lost. An access is a bus error.
    Poison,
    /// No encoding of ours: the table is damaged.
    Unknown(RawEntry),
}

impl RawEntry {
    /// The empty entry.
    pub const EMPTY: Self = Self(0);

    /// Whether the CPU would use the entry.
    #[inline(always)]
    pub const fn is_present(self) -> bool {
        self.0 & PRESENT != 0
    }

    /// Whether the entry is one of the special non-present ones.
    #[inline]
    pub const fn is_special(self) -> bool {
        !self.is_present() && self.0 != 0
    }

    /// The entry's flags where it is present.
    #[inline(always)]
    pub const fn flags(self) -> LeafFlags {
        LeafFlags::from_bits_truncate(self.0)
    }

    /// The present entry with those of its flags that are among `kept`, and with `given`.
    #[inline(always)]
    pub(crate) const fn with_flags(self, kept: LeafFlags, given: LeafFlags) -> Self {
        Self(self.0 & (PAYLOAD_MASK | PRESENT | kept.bits()) | given.bits())
    }

    /// The frame that a present entry names.
    #[inline]
    pub fn named_frame(self) -> Option<PhysFrame> {
        match self.decode() {
            Entry::Present { frame, .. } => Some(frame),
            _ => None,
        }
    }

    /// The device frame of a `Device` entry: what [`Self::decode`] says, in one comparison.
    #[inline(always)]
    pub(crate) fn device_frame(self) -> Option<DeviceFrame> {
        // Bit 51 of the inverted payload is set where the payload is within its limit.
        const FREE: u64 = MAX_PAYLOAD << PAYLOAD_SHIFT | LeafFlags::WRITABLE.bits();
        let is_device = self.0 & !FREE == special(kind::DEVICE, 0) & !FREE;
        is_device.then(|| device_frame((!self.0 >> PAYLOAD_SHIFT) & MAX_PAYLOAD))
    }

    /// What the bits mean.
    #[inline(always)]
    pub fn decode(self) -> Entry {
        if self.is_present() {
            let frame = PhysFrame::containing_address(PhysAddr::new_truncate(self.0 & PAYLOAD_MASK));
            return Entry::Present { frame, flags: self.flags() };
        }
        if self.0 == 0 {
            return Entry::Empty;
        }
        self.decode_special()
    }

    #[inline]
    fn decode_special(self) -> Entry {
        let payload = (!self.0 & PAYLOAD_MASK) >> PAYLOAD_SHIFT;
        let flags = self.flags().intersection(LeafFlags::CARRIED);
        let frame = PhysFrame::containing_address(PhysAddr::new_truncate(payload << PAYLOAD_SHIFT));
        let kind = (self.0 & KIND_MASK) >> KIND_SHIFT;
        // A bit that the kind does not use, or a payload above the limit, means that no `encode` of ours made this.
        if self.0 & !USED_BITS[kind as usize] != 0 || payload > MAX_PAYLOAD {
            return Entry::Unknown(self);
        }
        match kind {
            kind::SWAP => Entry::Swap { slot: SwapSlot(payload) },
            kind::MIGRATING => {
                let Some(owner) = CpuId::new(((self.0 & OWNER_MASK) >> OWNER_SHIFT) as usize) else {
                    return Entry::Unknown(self);
                };
                let frame =
                    if self.0 & DEVICE_SOURCE != 0 { device_frame(payload).into() } else { AnyFrame::System(frame) };
                Entry::Migrating { frame, flags, owner }
            }
            kind::DEVICE => {
                Entry::Device { frame: device_frame(payload), writable: flags.contains(LeafFlags::WRITABLE) }
            }
            kind::EXCLUSIVE => Entry::Exclusive { frame, flags },
            kind::NO_ACCESS => Entry::NoAccess { frame, flags },
            kind::POISON if payload == 0 => Entry::Poison,
            _ => Entry::Unknown(self),
        }
    }
}

impl Entry {
    /// The bits of the entry.
    #[inline(always)]
    pub fn encode(self) -> RawEntry {
        RawEntry(match self {
            Self::Empty => 0,
            Self::Present { frame, flags } => frame.start_address().as_u64() | flags.bits() | PRESENT,
            Self::Swap { slot } => special(kind::SWAP, slot.0),
            Self::Migrating { frame, flags, owner } => {
                let source = match frame {
                    AnyFrame::System(frame) => special(kind::MIGRATING, number(frame)),
                    AnyFrame::Device(frame) => special(kind::MIGRATING, device_payload(frame)) | DEVICE_SOURCE,
                };
                source | carried(flags) | (owner.number() as u64) << OWNER_SHIFT
            }
            Self::Device { frame, writable } => {
                let writable = if writable { LeafFlags::WRITABLE.bits() } else { 0 };
                special(kind::DEVICE, device_payload(frame)) | writable
            }
            Self::Exclusive { frame, flags } => special(kind::EXCLUSIVE, number(frame)) | carried(flags),
            Self::NoAccess { frame, flags } => special(kind::NO_ACCESS, number(frame)) | carried(flags),
            Self::Poison => special(kind::POISON, 0),
            Self::Unknown(raw) => raw.0,
        })
    }
}

impl Entry {
    /// The frame that the entry names.
    pub fn frame(self) -> Option<AnyFrame> {
        match self {
            Self::Present { frame, .. } | Self::Exclusive { frame, .. } | Self::NoAccess { frame, .. } => {
                Some(AnyFrame::System(frame))
            }
            Self::Migrating { frame, .. } => Some(frame),
            Self::Device { frame, .. } => Some(AnyFrame::Device(frame)),
            Self::Empty | Self::Swap { .. } | Self::Poison | Self::Unknown(_) => None,
        }
    }
}

/// In words, for reports.
impl core::fmt::Display for Entry {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Empty => f.write_str("empty"),
            Self::Present { frame, flags } => {
                write!(f, "present, in frame p{:#x}, {}", frame.start_address(), FlagWords(*flags))
            }
            Self::Swap { slot } => write!(f, "swapped out, to slot {}", slot.number()),
            Self::Migrating { frame, flags, owner } => {
                write!(f, "migrating from frame {frame} by CPU {}, was {}", owner.number(), FlagWords(*flags))
            }
            Self::Device { frame, writable } => {
                write!(
                    f,
                    "on device {}, in device frame {:#x}, {}",
                    frame.device().number(),
                    frame.index(),
                    if *writable { "writable" } else { "read-only" }
                )
            }
            Self::Exclusive { frame, .. } => {
                write!(f, "in frame p{:#x}, in exclusive use by a device", frame.start_address())
            }
            Self::NoAccess { frame, .. } => write!(f, "in frame p{:#x}, without any access", frame.start_address()),
            Self::Poison => f.write_str("poisoned: its contents are lost"),
            Self::Unknown(raw) => write!(f, "none of ours: {raw:?}"),
        }
    }
}

/// The flags of a leaf in words.
struct FlagWords(LeafFlags);

impl core::fmt::Display for FlagWords {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(if self.0.contains(LeafFlags::WRITABLE) { "writable" } else { "read-only" })?;
        f.write_str(if self.0.contains(LeafFlags::NO_EXECUTE) { "" } else { ", executable" })?;
        f.write_str(if self.0.contains(LeafFlags::USER) { ", user" } else { "" })?;
        f.write_str(if self.0.contains(LeafFlags::ACCESSED) { ", accessed" } else { "" })?;
        f.write_str(if self.0.contains(LeafFlags::DIRTY) { ", dirty" } else { "" })?;
        f.write_str(if self.0.contains(LeafFlags::HUGE) { ", huge" } else { "" })?;
        f.write_str(if self.0.contains(LeafFlags::GLOBAL) { ", global" } else { "" })
    }
}

#[inline(always)]
const fn special(kind: u64, payload: u64) -> u64 {
    (!(payload << PAYLOAD_SHIFT) & PAYLOAD_MASK) | kind << KIND_SHIFT
}

#[inline(always)]
const fn carried(flags: LeafFlags) -> u64 {
    flags.intersection(LeafFlags::CARRIED).bits()
}

#[inline]
fn number(frame: PhysFrame) -> u64 {
    frame.start_address().as_u64() >> PAYLOAD_SHIFT
}

#[inline(always)]
const fn device_payload(frame: DeviceFrame) -> u64 {
    (frame.device().number() as u64) << DEVICE_SHIFT | frame.index() as u64
}

#[inline(always)]
fn device_frame(payload: u64) -> DeviceFrame {
    let device = DeviceId::truncated((payload >> DEVICE_SHIFT) as u8);
    DeviceFrame::new(device, payload as u32)
}

#[cfg(test)]
mod tests;
