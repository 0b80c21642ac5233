//! The lab: the machine as an experiment finds it.
use super::memory::Memory;
use crate::arch::cpus;
use crate::disk::{self, DiskProblem};
use crate::memory::device::{self, Attached, DeviceProblem};
use crate::memory::{self, AddressSpace, MemoryManager};
use core::fmt;
use ferry_mm::machine::CpuSet;
use ferry_mm::space::{CreateError, DestroyError};

/// What an experiment is handed: the way to devices, address spaces and CPUs.
///
/// An experiment runs on the CPU that boots, in ring 0. It may keep what it makes; when it is over, every address space goes.
pub struct Lab {
    devices: Result<&'static [Attached], DeviceProblem>,
    disk: Result<Option<disk::Disk>, DiskProblem>,
}

/// What the machine lacks that an experiment needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Lacking {
    /// No device can be used.
    Devices(DeviceProblem),
    /// Too few of them.
    Device {
        /// The number that was asked for.
        wanted: usize,
        /// How many there are.
        devices: usize,
    },
    /// Too few CPUs.
    Cpus {
        /// How many are needed.
        wanted: usize,
        /// How many run.
        running: usize,
    },
    /// There is a swap disk that cannot be used.
    Disk(DiskProblem),
    /// There is no swap disk.
    NoDisk,
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Devices(problem) => problem.fmt(f),
            Self::Device { wanted, devices } => {
                write!(f, "there is no device {wanted}, only {devices}; give the machine one more --device ivshmem")
            }
            Self::Cpus { wanted, running } => {
                write!(f, "the experiment needs {wanted} CPUs, but {running} run; use --cpus {wanted}")
            }
            Self::Disk(problem) => problem.fmt(f),
            Self::NoDisk => f.write_str("the machine has no swap disk; give it one with --swap 4M"),
        }
    }
}

impl core::error::Error for Lacking {}

impl Lab {
    /// Takes devices and disk into use. What is wrong with one, whoever asks for it is told.
    pub(super) fn open() -> Self {
        Self { devices: device::all(), disk: disk::attach() }
    }

    /// Device 0.
    ///
    /// # Errors
    /// The machine has none, or it cannot be used.
    pub fn device(&self) -> Result<Attached, Lacking> {
        self.device_number(0)
    }

    /// A device by its number.
    ///
    /// # Errors
    /// The machine has none of this number, or one that cannot be used.
    pub fn device_number(&self, number: usize) -> Result<Attached, Lacking> {
        let devices = self.devices.map_err(Lacking::Devices)?;
        devices.get(number).copied().ok_or(Lacking::Device { wanted: number, devices: devices.len() })
    }

    /// The swap disk; returns how many pages it holds.
    ///
    /// # Errors
    /// The machine has none, or it cannot be used.
    pub fn swap_disk(&self) -> Result<u64, Lacking> {
        let disk = self.disk.as_ref().map_err(|problem| Lacking::Disk(problem.clone()))?;
        disk.as_ref().map(disk::Disk::pages).ok_or(Lacking::NoDisk)
    }

    /// The first `count` CPUs, this one among them.
    ///
    /// # Errors
    /// The machine has fewer.
    pub fn cpus(&self, count: usize) -> Result<CpuSet, Lacking> {
        let running = cpus::count();
        if running < count {
            return Err(Lacking::Cpus { wanted: count, running });
        }
        Ok(CpuSet::from_bits((1 << count) - 1))
    }

    /// A new address space without any memory, which this CPU enters.
    ///
    /// # Errors
    /// See [`CreateError`].
    pub fn space(&self) -> Result<AddressSpace, CreateError> {
        let space = self.manager().create_space()?;
        memory::enter(space);
        Ok(space)
    }

    /// `pages` pages of private anonymous memory in a new address space, which this CPU enters. None has been touched yet.
    ///
    /// # Errors
    /// There is no space, or no place in it.
    pub fn memory(&self, pages: u64) -> Result<Memory, super::memory::NoMemory> {
        Memory::map(self.space()?, pages)
    }

    /// The memory manager, with its statistics.
    pub fn manager(&self) -> &'static MemoryManager {
        memory::manager()
    }

    /// Leaves and removes every address space.
    pub(super) fn close(self) -> Result<(), DestroyError> {
        memory::leave();
        self.manager().spaces().try_for_each(AddressSpace::destroy)
    }
}
