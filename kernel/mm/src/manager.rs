//! The memory manager: frames, devices and address spaces, in one value.
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;
use x86_64::structures::paging::PhysFrame;

use crate::frame::{DeviceId, DeviceMemory, OutOfFrames, SystemMemory};
use crate::inject::Injector;
use crate::lock::{Level, Lock, Once};
use crate::machine::Machine;
use crate::migrate::OpenBatches;
use crate::notify::Registry;
use crate::space::{MAX_SPACES, SpaceId, SpaceState};
use crate::stats::Statistics;
use crate::swap::SwapMap;
use crate::trace::{Event, record};

/// How many devices there may be. An entry could name more; the table of devices is an array of this size.
pub const MAX_DEVICES: usize = 8;

/// Everything the memory manager knows. Shared by all CPUs; each part has its own lock, see [`crate::lock`].
pub struct MemoryManager<M: Machine> {
    pub(crate) machine: M,
    pub(crate) memory: SystemMemory<M::Descriptors>,
    pub(crate) devices: [Once<DeviceMemory<M::Descriptors>>; MAX_DEVICES],
    pub(crate) spaces: Box<[SpaceState]>,
    /// Which entries of `spaces` are in use.
    pub(crate) spaces_in_use: Lock<[bool; MAX_SPACES]>,
    /// Those whose table can be looked at, one bit each.
    pub(crate) living: AtomicU64,
    pub(crate) swap: Once<SwapMap<M>>,
    pub(crate) kernel_root: PhysFrame,
    pub(crate) zero_frame: PhysFrame,
    pub(crate) statistics: Statistics,
    pub(crate) injector: Injector,
    pub(crate) listeners: Registry,
    pub(crate) open_batches: OpenBatches,
}

/// Why a device was not registered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegisterError {
    /// The number is [`MAX_DEVICES`] or more.
    TooMany(DeviceId),
    /// There is a device of this number already.
    Taken(DeviceId),
}

impl core::fmt::Display for RegisterError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooMany(id) => {
                write!(f, "device {} cannot be used: at most {MAX_DEVICES} are supported", id.number())
            }
            Self::Taken(id) => write!(f, "there is a device {} already; give each its own number", id.number()),
        }
    }
}

impl core::error::Error for RegisterError {}

/// What there is of everything that can leak.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Census {
    /// Free RAM frames.
    pub free_frames: u64,
    /// Frames that are page tables.
    pub table_frames: u64,
    /// Free device frames, over all devices.
    pub free_device_frames: u64,
    /// Free slots of the swap disk.
    pub free_slots: u64,
    /// Address spaces.
    pub spaces: u64,
    /// Special entries in all address spaces.
    pub special_entries: u64,
    /// Locks held by the calling CPU (with the feature `lock-order`).
    pub held_locks: u32,
}

impl<M: Machine> MemoryManager<M> {
    /// A manager of `memory`, whose new address spaces share the upper half of the tables at `kernel_root`.
    ///
    /// # Errors
    /// [`OutOfFrames`] where there is no frame for the zero page.
    pub fn new(machine: M, memory: SystemMemory<M::Descriptors>, kernel_root: PhysFrame) -> Result<Self, OutOfFrames> {
        let injector = Injector::new();
        let zero_frame = memory.allocate_zeroed(&machine, &injector)?.into_frame();
        machine.complete_copies();
        memory.descriptor(zero_frame).set_kind(crate::frame::FrameKind::Zero, 0);
        let spaces: Vec<SpaceState> = (0..MAX_SPACES as u16).filter_map(SpaceId::new).map(SpaceState::new).collect();
        Ok(Self {
            machine,
            memory,
            devices: [const { Once::new(Level::Stored) }; MAX_DEVICES],
            spaces: spaces.into_boxed_slice(),
            spaces_in_use: Lock::new(Level::Spaces, [false; MAX_SPACES]),
            living: AtomicU64::new(0),
            swap: Once::new(Level::Stored),
            kernel_root,
            zero_frame,
            statistics: Statistics::default(),
            injector,
            listeners: Registry::new(),
            open_batches: OpenBatches::new(),
        })
    }

    /// Makes the frames of a device available. All of them are free and zero.
    ///
    /// # Errors
    /// See [`RegisterError`].
    pub fn register_device(&self, device: DeviceMemory<M::Descriptors>) -> Result<(), RegisterError> {
        let id = device.id();
        let place = self.devices.get(usize::from(id.number())).ok_or(RegisterError::TooMany(id))?;
        let (frames, window) = (device.frames(), device.window());
        place.set(&self.machine, device).map_err(|_| RegisterError::Taken(id))?;
        record(&self.machine, || Event::DeviceRegistered { device: id, frames, window });
        Ok(())
    }

    /// The device of this number.
    #[inline]
    pub fn device(&self, id: DeviceId) -> Option<&DeviceMemory<M::Descriptors>> {
        self.devices.get(usize::from(id.number())).and_then(Once::get)
    }

    /// Every device there is.
    pub fn devices(&self) -> impl Iterator<Item = &DeviceMemory<M::Descriptors>> {
        self.devices.iter().filter_map(Once::get)
    }

    /// RAM.
    pub fn memory(&self) -> &SystemMemory<M::Descriptors> {
        &self.memory
    }

    /// The level-4 table whose upper half every space shares.
    pub fn kernel_root(&self) -> PhysFrame {
        self.kernel_root
    }

    /// The machine underneath.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// The zero page: what an untouched page reads as.
    #[inline]
    pub fn zero_frame(&self) -> PhysFrame {
        self.zero_frame
    }

    /// The counters.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Fault injection.
    pub fn injector(&self) -> &Injector {
        &self.injector
    }

    /// Counts everything that can leak. Exact only while nobody else works.
    pub fn census(&self) -> Census {
        let mut spaces = 0;
        let mut special_entries = 0;
        for space in self.spaces() {
            spaces += 1;
            space.for_each_entry(|_, entry| special_entries += u64::from(entry.is_special()));
        }
        Census {
            held_locks: self.machine.held_locks().count(),
            free_frames: self.memory.free(&self.machine),
            table_frames: self.memory.tables(),
            free_device_frames: self.devices().map(DeviceMemory::free).sum(),
            free_slots: self.swap().map_or(0, |swap| swap.free(&self.machine)),
            spaces,
            special_entries,
        }
    }
}
