//! What a batch knows about one page of its range, in 24 bytes, because a batch has many.
use x86_64::structures::paging::PhysFrame;

use crate::frame::{AnyFrame, DeviceFrame, DeviceId, frame_of, number};
use crate::page_table::entry::RawEntry;
use crate::stats::Reason;

/// One page of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot {
    /// The entry as it was when the batch took it.
    pub(crate) saved: RawEntry,
    /// The frame that it named, if it named one.
    pub(crate) source: Source,
    pub(crate) state: SlotState,
}

const _: () = assert!(size_of::<Slot>() == 24);

/// The frame that a taken entry named, in one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Source(u64);

/// How far one page is.
///
/// A number is that of a frame where the pages of the batch go: its index on the batch's device on the way there, its number in RAM
/// on the way home.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SlotState {
    /// Not looked at yet.
    Unseen,
    /// The entry is not ours, or not any more.
    Stays(Reason),
    /// The entry is present and cannot be written, and its frame is locked by us; there is no copy, and the page is to stay for this
    /// reason.
    Protected(Reason),
    /// The same, and the contents stand in this frame, too, which is ours.
    CopiedAhead(u32),
    /// The entry is `Migrating` and ours.
    Taken,
    /// Ours, and to be given back.
    GivingUp(Reason),
    /// Ours, and its contents stand in this frame, which is ours too.
    Copied(u32),
    /// Ours, and its contents could not be brought home: to be poisoned.
    Lost,
    /// The new entry is written.
    Moved,
}

/// How one page of a batch stands, for whoever watches the phases.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Held {
    /// The batch holds the page.
    Yes,
    /// The page stays, for this reason.
    No(Reason),
}

impl Source {
    /// None: the page was empty.
    pub(crate) const NONE: Self = Self(u64::MAX);

    /// Set for a device frame, whose device's number stands above its index; clear for the number of a RAM frame.
    const DEVICE: u64 = 1 << 63;
    const DEVICE_SHIFT: u32 = 32;

    #[inline(always)]
    pub(crate) fn of(frame: AnyFrame) -> Self {
        match frame {
            AnyFrame::System(frame) => Self(number(frame).into()),
            AnyFrame::Device(frame) => {
                Self(Self::DEVICE | u64::from(frame.device().number()) << Self::DEVICE_SHIFT | u64::from(frame.index()))
            }
        }
    }

    /// The RAM frame, where it is one.
    #[inline(always)]
    pub(crate) fn system(self) -> Option<PhysFrame> {
        if self.0 & Self::DEVICE == 0 { Some(frame_of(self.0 as u32)) } else { None }
    }

    /// The device frame, where it is one.
    #[inline(always)]
    pub(crate) fn device(self) -> Option<DeviceFrame> {
        if self.0 & Self::DEVICE == 0 || self == Self::NONE {
            return None;
        }
        let device = DeviceId::truncated((self.0 >> Self::DEVICE_SHIFT) as u8);
        Some(DeviceFrame::new(device, self.0 as u32))
    }

    /// The frame of either kind.
    #[inline]
    pub(crate) fn any(self) -> Option<AnyFrame> {
        self.system().map(AnyFrame::System).or_else(|| self.device().map(AnyFrame::Device))
    }
}

impl Slot {
    pub(crate) const UNSEEN: Self = Self { saved: RawEntry::EMPTY, source: Source::NONE, state: SlotState::Unseen };

    #[inline(always)]
    pub(crate) const fn stays(reason: Reason) -> Self {
        Self { state: SlotState::Stays(reason), ..Self::UNSEEN }
    }

    #[inline]
    pub(crate) fn is_ours(&self) -> bool {
        !matches!(self.state, SlotState::Unseen | SlotState::Stays(_) | SlotState::Moved)
    }

    /// Whether the entry is `Migrating` and the page may still move.
    #[inline(always)]
    pub(crate) fn is_taken(&self) -> bool {
        matches!(self.state, SlotState::Taken | SlotState::Copied(_))
    }

    /// How the page stands.
    pub(crate) fn standing(&self) -> Held {
        match self.state {
            SlotState::Stays(reason) | SlotState::GivingUp(reason) => Held::No(reason),
            SlotState::Unseen => Held::No(Reason::Empty),
            SlotState::Protected(_)
            | SlotState::CopiedAhead(_)
            | SlotState::Taken
            | SlotState::Copied(_)
            | SlotState::Lost
            | SlotState::Moved => Held::Yes,
        }
    }
}
