//! Sizes: how many device frames a BAR holds, and which of them a number names.
//!
//! ```text
//!   0             CONTROL_BYTES                                     bar_bytes (a power of two)
//!   ├─────────────┼──────────┬──────────┬── ─ ─ ──┬─────────────────┤
//!   │ control area│ frame 0  │ frame 1  │         │ frame frames-1  │
//!   └─────────────┴──────────┴──────────┴── ─ ─ ──┴─────────────────┘
//! ```
//!
//! Invariants:
//! 1. A [`Geometry`] only exists for a BAR that holds the whole control area and at least one frame.
//! 2. `control_pages + frames` pages are the whole BAR: nothing is left over.
//! 3. The offset of a frame is only handed out after its index was compared with the frame count.
use core::fmt;

/// Bytes in a device frame, and in a page of the control area.
pub const FRAME_BYTES: usize = 4096;

/// Pages of the control area in this version of the layout.
pub const CONTROL_PAGES: u64 = 8;

/// Bytes of the control area.
pub const CONTROL_BYTES: usize = CONTROL_PAGES as usize * FRAME_BYTES;

/// Smallest BAR: 1 MiB, the smallest for which the control area is small beside the frames.
pub const MIN_BAR_BYTES: u64 = 1 << 20;

/// Largest BAR: 64 GiB, the largest that was tried (QEMU 7.2, `q35`, default 64-bit PCI hole).
pub const MAX_BAR_BYTES: u64 = 1 << 36;

/// Most device frames in one command: bounds how long a device may be busy with it.
pub const MAX_COMMAND_FRAMES: u64 = 1024;

const _: () = {
    assert!(MIN_BAR_BYTES > CONTROL_BYTES as u64, "the smallest BAR holds the control area and frames");
    assert!(MAX_BAR_BYTES <= usize::MAX as u64, "every offset into the BAR is a usize");
};

/// A device frame, by its index from 0. Never a physical address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FrameIndex(pub u64);

impl fmt::Display for FrameIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device frame {:#x}", self.0)
    }
}

/// Consecutive device frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameRange {
    /// The first one.
    pub first: FrameIndex,
    /// How many, from 1 to [`MAX_COMMAND_FRAMES`] in a command.
    pub count: u64,
}

/// How a BAR divides into control area and device frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    bar_bytes: u64,
}

impl Geometry {
    /// The geometry of a BAR of `bar_bytes` bytes.
    ///
    /// # Errors
    /// [`SizeError`] unless the size is a power of two (PCI Local Bus Specification 3.0, 6.2.5.1)
    /// from [`MIN_BAR_BYTES`] to [`MAX_BAR_BYTES`].
    pub const fn of_bar(bar_bytes: u64) -> Result<Self, SizeError> {
        if bar_bytes < MIN_BAR_BYTES {
            return Err(SizeError::TooSmall(bar_bytes));
        }
        if bar_bytes > MAX_BAR_BYTES {
            return Err(SizeError::TooLarge(bar_bytes));
        }
        if !bar_bytes.is_power_of_two() {
            return Err(SizeError::NotPowerOfTwo(bar_bytes));
        }
        Ok(Self { bar_bytes })
    }

    /// Bytes of the whole BAR.
    pub const fn bar_bytes(self) -> u64 {
        self.bar_bytes
    }

    /// Pages of the control area.
    pub const fn control_pages(self) -> u64 {
        CONTROL_PAGES
    }

    /// Device frames there are; indices run from 0 to one less.
    pub const fn frames(self) -> u64 {
        self.bar_bytes / FRAME_BYTES as u64 - CONTROL_PAGES
    }

    /// Offset of a frame's first byte from the start of the BAR, in bytes.
    ///
    /// # Errors
    /// [`NoSuchFrame`] where the BAR has fewer frames.
    pub const fn frame_offset(self, frame: FrameIndex) -> Result<usize, NoSuchFrame> {
        if frame.0 >= self.frames() {
            return Err(NoSuchFrame { frame, frames: self.frames() });
        }
        Ok(CONTROL_BYTES + frame.0 as usize * FRAME_BYTES)
    }

    /// The frame that holds the byte at `offset` from the start of the BAR; `None` for an offset in
    /// the control area or behind the BAR.
    pub const fn frame_at(self, offset: u64) -> Option<FrameIndex> {
        if offset < CONTROL_BYTES as u64 || offset >= self.bar_bytes {
            return None;
        }
        Some(FrameIndex((offset - CONTROL_BYTES as u64) / FRAME_BYTES as u64))
    }

    /// Checks that a command may name `range`.
    ///
    /// # Errors
    /// [`RangeError`] for an empty or too long range, or one that leaves the device's frames.
    pub const fn check(self, range: FrameRange) -> Result<(), RangeError> {
        if range.count == 0 || range.count > MAX_COMMAND_FRAMES {
            return Err(RangeError::Count(range.count));
        }
        let last = FrameIndex(range.first.0.saturating_add(range.count - 1));
        match self.frame_offset(last) {
            Ok(_) => Ok(()),
            Err(none) => Err(RangeError::Frame(none)),
        }
    }
}

/// A size that no BAR of this device can have; the value is the size in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SizeError {
    /// Below [`MIN_BAR_BYTES`].
    TooSmall(u64),
    /// Above [`MAX_BAR_BYTES`].
    TooLarge(u64),
    /// Not a power of two.
    NotPowerOfTwo(u64),
}

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooSmall(bytes) => {
                write!(f, "{} of device memory is too little; use at least {}", Bytes(bytes), Bytes(MIN_BAR_BYTES))
            }
            Self::TooLarge(bytes) => {
                write!(f, "{} of device memory is too much; use at most {}", Bytes(bytes), Bytes(MAX_BAR_BYTES))
            }
            Self::NotPowerOfTwo(bytes) => {
                let above = bytes.next_power_of_two();
                write!(
                    f,
                    "{} of device memory is not a power of two, which a PCI BAR needs; use {} or {}",
                    Bytes(bytes),
                    Bytes(above / 2),
                    Bytes(above)
                )
            }
        }
    }
}

impl core::error::Error for SizeError {}

/// A number of bytes in the largest unit that divides it, as sizes are written in options (`64M`).
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "G"), (20, "M"), (10, "K")];
        match units.into_iter().find(|(shift, _)| self.0 != 0 && self.0.trailing_zeros() >= *shift) {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

/// An index of a device frame that the device does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoSuchFrame {
    /// The index that was asked for.
    pub frame: FrameIndex,
    /// How many frames there are.
    pub frames: u64,
}

impl fmt::Display for NoSuchFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no {}: the device has {:#x} frames", self.frame, self.frames)
    }
}

impl core::error::Error for NoSuchFrame {}

/// A range of device frames that no command may name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RangeError {
    /// The range leaves the device's frames; the index is the range's last.
    Frame(NoSuchFrame),
    /// No frame at all, or more than [`MAX_COMMAND_FRAMES`].
    Count(u64),
}

impl fmt::Display for RangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(none) => none.fmt(f),
            Self::Count(count) => write!(f, "a command takes 1 to {MAX_COMMAND_FRAMES} device frames, not {count}"),
        }
    }
}

impl core::error::Error for RangeError {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_bar_is_control_area_and_frames_and_nothing_else() {
        let mut bytes = MIN_BAR_BYTES;
        while bytes <= MAX_BAR_BYTES {
            let geometry = Geometry::of_bar(bytes).unwrap();
            assert_eq!((geometry.control_pages() + geometry.frames()) * 4096, bytes);
            let last = FrameIndex(geometry.frames() - 1);
            assert_eq!(geometry.frame_offset(last).unwrap() as u64 + 4096, bytes);
            let none = NoSuchFrame { frame: FrameIndex(geometry.frames()), frames: geometry.frames() };
            assert_eq!(geometry.frame_offset(none.frame), Err(none));
            assert_eq!(geometry.frame_at(bytes - 1), Some(last));
            assert_eq!(geometry.frame_at(bytes), None);
            bytes *= 2;
        }
        let smallest = Geometry::of_bar(1 << 20).unwrap();
        assert_eq!(smallest.frames(), 248);
        assert_eq!(smallest.frame_offset(FrameIndex(0)), Ok(0x8000));
        assert_eq!(smallest.frame_at(0x7fff), None);
        assert_eq!(smallest.frame_at(0x8fff), Some(FrameIndex(0)));
    }

    #[test]
    fn other_sizes_are_refused_with_the_remedy() {
        for (bytes, error, text) in [
            (0, SizeError::TooSmall(0), "0 bytes of device memory is too little; use at least 1M"),
            (1 << 19, SizeError::TooSmall(1 << 19), "512K of device memory is too little; use at least 1M"),
            (1 << 37, SizeError::TooLarge(1 << 37), "128G of device memory is too much; use at most 64G"),
            (
                3 << 20,
                SizeError::NotPowerOfTwo(3 << 20),
                "3M of device memory is not a power of two, which a PCI BAR needs; use 2M or 4M",
            ),
        ] {
            assert_eq!(Geometry::of_bar(bytes), Err(error));
            assert_eq!(error.to_string(), text);
        }
        assert_eq!(Geometry::of_bar(u64::MAX), Err(SizeError::TooLarge(u64::MAX)));
    }

    #[test]
    fn a_range_is_checked_at_both_ends_and_against_overflow() {
        let geometry = Geometry::of_bar(16 << 20).unwrap();
        let check = |first, count| geometry.check(FrameRange { first: FrameIndex(first), count });
        let frames = geometry.frames();
        assert_eq!(check(0, 1), Ok(()));
        assert_eq!(check(frames - 1024, 1024), Ok(()));
        assert_eq!(check(0, 0), Err(RangeError::Count(0)));
        assert_eq!(check(0, 1025), Err(RangeError::Count(1025)));
        for (first, count) in [(frames, 1), (frames - 1023, 1024), (u64::MAX, 1), (u64::MAX, 1024), (1 << 52, 16)] {
            assert!(matches!(check(first, count), Err(RangeError::Frame(_))), "{first:#x} {count}");
        }
        assert_eq!(check(0, u64::MAX), Err(RangeError::Count(u64::MAX)));
    }
}
