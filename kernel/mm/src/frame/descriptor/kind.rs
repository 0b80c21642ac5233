//! What frames are used for, as the low bits of a descriptor's state say it.

/// The bits of the kind.
pub(super) const KIND_MASK: u32 = 0xff;

/// What a frame is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FrameKind {
    /// Not ours to use: firmware, the kernel's image, holes.
    Reserved = 0,
    /// In a free list.
    Free = 1,
    /// Inside a free block of a higher order, whose first frame is in a free list.
    FreeTail = 2,
    /// Allocated; used by the kernel itself or not yet mapped.
    Owned = 3,
    /// A page table.
    Table = 4,
    /// Holds an anonymous page.
    Anonymous = 5,
    /// The zero page.
    Zero = 6,
    /// Holds a page of a shared area: never moved, never copied on write, so nobody locks it.
    Shared = 7,
}

impl FrameKind {
    /// The kind in the low bits of a descriptor's state.
    pub(super) const fn from_bits(bits: u32) -> Self {
        match bits & KIND_MASK {
            1 => Self::Free,
            2 => Self::FreeTail,
            3 => Self::Owned,
            4 => Self::Table,
            5 => Self::Anonymous,
            6 => Self::Zero,
            7 => Self::Shared,
            _ => Self::Reserved,
        }
    }
}
