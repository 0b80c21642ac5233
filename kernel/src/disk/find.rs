//! Finding the swap disk on PCI and taking it into use.
use super::{Disk, Driver, Shared};
use crate::arch::config_space::ConfigSpace;
use crate::arch::machine::Hardware;
use crate::arch::virtio;
use crate::arch::virtio_block::{BlockDevice, StartError};
use crate::memory;
use crate::pci;
use crate::pci::{BarError, CapabilityError};
use core::fmt;
use core::ops::ControlFlow;
use ferry_mm::lock::{Level, Lock, Once};
use ferry_mm::page_table::install::InstallError;
use ferry_mm::swap::AttachError;
use pci_types::{CommandRegister, PciAddress, PciHeader};

/// A virtio block device: vendor, and its two device numbers (Virtio 1.2, 4.1.2.1 and 4.1.2.3). The second is that of
/// a transitional one, which has the modern interface as well.
const VENDOR: u16 = 0x1af4;
const DEVICES: [u16; 2] = [0x1042, 0x1001];

/// Why there is a disk that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DiskProblem {
    /// This BAR of its function lies in a wrong place.
    Bar(PciAddress, u8, BarError),
    /// Its function does not say where its registers are as it must.
    Capability(PciAddress, CapabilityError),
    /// Its registers cannot be mapped.
    Registers(InstallError),
    /// It does not start.
    Start(StartError),
    /// The memory manager does not take it.
    Attach(AttachError),
}

impl fmt::Display for DiskProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bar(function, slot, error) => write!(f, "swap disk: BAR {slot} of PCI function {function}: {error}"),
            Self::Capability(function, error) => write!(f, "swap disk: PCI function {function}: {error}"),
            Self::Registers(error) => write!(f, "swap disk: {error}"),
            Self::Start(error) => write!(f, "swap disk: {error}"),
            Self::Attach(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for DiskProblem {}

static FOUND: Once<Result<Option<Shared>, DiskProblem>> = Once::new(Level::Setup);

/// The machine's disk, or `None` where it has none; where it has several, the first on PCI. The first call takes it into
/// use, and later ones give the same answer.
///
/// # Errors
/// There is one that cannot be used.
///
/// # Panics
/// Where there is a disk and the first call comes after the first address space was made, which would not see the
/// disk's registers.
pub fn find() -> Result<Option<Disk>, DiskProblem> {
    match FOUND.get_or_init(&Hardware, open) {
        Ok(shared) => Ok(shared.as_ref().map(Disk)),
        Err(problem) => Err(problem.clone()),
    }
}

fn open() -> Result<Option<Shared>, DiskProblem> {
    let bus = pci::bus();
    let found = bus.each_function(|header| match header.id(ConfigSpace) {
        (VENDOR, device) if DEVICES.contains(&device) => ControlFlow::Break(header.address()),
        _ => ControlFlow::Continue(()),
    });
    let Some(function) = found else { return Ok(None) };
    let manager = memory::manager();
    assert!(manager.spaces().next().is_none(), "the disk is found before the first address space is made");
    bus.check_virtio(function).map_err(|error| DiskProblem::Capability(function, error))?;
    for (slot, range) in bus.memory_bars(function) {
        bus.check_place(function, slot, range).map_err(|error| DiskProblem::Bar(function, slot, error))?;
        virtio::map_registers(manager, range).map_err(DiskProblem::Registers)?;
    }
    // Nobody serves its interrupts: whoever waits polls.
    let enabled =
        CommandRegister::MEMORY_ENABLE | CommandRegister::BUS_MASTER_ENABLE | CommandRegister::INTERRUPT_DISABLE;
    PciHeader::new(function).update_command(ConfigSpace, |command| command | enabled);
    let device = BlockDevice::start(manager, function).map_err(DiskProblem::Start)?;
    let pages = device.pages();
    log::info!("the swap disk is PCI function {function}: {pages} slots");
    let driver = Lock::new(Level::Disk, Driver { device, lost: None });
    Ok(Some(Shared { pages, driver, failure: Lock::new(Level::DiskFailure, None) }))
}
