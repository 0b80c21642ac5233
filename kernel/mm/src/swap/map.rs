//! Which slots there are.
use alloc::boxed::Box;

use super::SwapDisk;
use crate::machine::Machine;
use crate::manager::MemoryManager;

/// The largest number of slots: a frame's descriptor has 28 bits for the one that holds its page, and 0 means none. 1 TiB.
pub const MAX_SLOTS: u64 = (1 << 28) - 1;

/// Why a disk was not attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttachError {
    /// There is a disk already.
    Taken,
    /// It has this many slots, more than [`MAX_SLOTS`].
    TooLarge(u64),
    /// The heap has no room for the map of this many slots.
    HeapFull(u64),
}

impl core::fmt::Display for AttachError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Taken => f.write_str("there is a swap disk already; one is supported"),
            Self::TooLarge(slots) => {
                write!(f, "a swap disk of {slots} pages is too large; make it {MAX_SLOTS} pages at most")
            }
            Self::HeapFull(slots) => {
                write!(f, "the heap has no room for the map of {slots} slots; make the swap disk smaller")
            }
        }
    }
}

impl core::error::Error for AttachError {}

/// The slots of the disk.
pub struct SwapMap<M: Machine> {
    disk: Box<dyn SwapDisk<M>>,
}

impl<M: Machine> SwapMap<M> {
    /// The slots of `disk`, all free.
    fn new(disk: Box<dyn SwapDisk<M>>) -> Result<Self, AttachError> {
        let slots = disk.slots();
        if slots > MAX_SLOTS {
            return Err(AttachError::TooLarge(slots));
        }
        Ok(Self { disk })
    }

    /// The disk.
    pub fn disk(&self) -> &dyn SwapDisk<M> {
        &*self.disk
    }
}

impl<M: Machine> MemoryManager<M> {
    /// Lets pages go to `disk`, whose contents no longer matter, where RAM runs short.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn attach_swap(&self, disk: Box<dyn SwapDisk<M>>) -> Result<(), AttachError> {
        let mut map = Some(SwapMap::new(disk)?);
        self.swap.call_once(|| map.take().expect("called once"));
        if map.is_some() { Err(AttachError::Taken) } else { Ok(()) }
    }

    /// The slots, where a disk is attached.
    #[inline]
    pub fn swap(&self) -> Option<&SwapMap<M>> {
        self.swap.get()
    }
}
