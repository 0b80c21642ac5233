//! The devices: found on PCI, mapped, attached, and their frames handed to the memory manager.
//!
//! Lock: [`Level::Driver`], one for each device: held while a device is taken into use and while it works on a batch of commands.
//! Copies of frames go through the accessor of the BAR and need no command; a fault takes the lock only to tell a device that
//! follows the space (see [`super::mirror`]), and then holds no lock of the memory manager.
#![forbid(unsafe_code)]
use crate::arch::bar_window::{self, WindowError, WindowNumber};
use crate::arch::config_space::ConfigSpace;
use crate::arch::machine::{self, Hardware};
use crate::arch::meter;
use crate::clock::Deadline;
use crate::pci::{self, PciError};
use crate::ram::PhysRange;
use crate::trace::{self, Told};
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;
use ferry_device::driver::{self, Device, DeviceError};
use ferry_device::geometry::{FrameIndex, MIN_BAR_BYTES};
use ferry_device::identity::{AttachError, DeviceType, Identity};
use ferry_mm::frame::{DeviceFrame, DeviceId, DeviceMemory};
use ferry_mm::lock::{Level, Lock, Once};
use ferry_mm::manager::{MAX_DEVICES, RegisterError};
use ferry_mm::page_table::install::InstallError;
use ferry_protocol::exit::ExitCode;
use pci_types::{CommandRegister, PciAddress, PciHeader};

/// How long the device may make no progress.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The drivers of the attached devices, by number.
static DEVICES: [Lock<Option<Device>>; MAX_DEVICES] = [const { Lock::new(Level::Driver, None) }; MAX_DEVICES];

/// Why there is no device to use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceProblem {
    /// PCI has no usable one.
    Pci(PciError),
    /// Its BAR cannot be mapped.
    Window(WindowError),
    /// It is not ours, or not of our version.
    Attach(AttachError),
    /// It does not work.
    Device(DeviceError),
    /// No RAM for its descriptors.
    Descriptors(InstallError),
    /// The memory manager has no place for a device of this number, or there are more devices than places.
    TooMany(u32),
    /// The memory manager does not take it.
    Register(RegisterError),
}

impl fmt::Display for DeviceProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(error) => error.fmt(f),
            Self::Window(error) => error.fmt(f),
            Self::Attach(error) => error.fmt(f),
            Self::Device(error) => error.fmt(f),
            Self::Descriptors(error) => error.fmt(f),
            Self::TooMany(number) => {
                write!(f, "device {number} cannot be used: at most {MAX_DEVICES} are supported, numbered from 0")
            }
            Self::Register(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for DeviceProblem {}

impl DeviceProblem {
    /// How a run ends that needs the device.
    pub const fn exit_code(&self) -> ExitCode {
        match self {
            Self::Pci(PciError::NoDevice(_)) => ExitCode::NoDevice,
            Self::Pci(PciError::Bar(..)) => ExitCode::BadBar,
            Self::Window(_) => ExitCode::BadBar,
            Self::Attach(_) => ExitCode::DeviceVersion,
            Self::Device(error) => code_of(error),
            Self::Descriptors(_) => ExitCode::OutOfMemory,
            Self::TooMany(_) | Self::Register(_) => ExitCode::Failed,
        }
    }
}

/// How a run ends in which the device does not work.
pub const fn code_of(error: &DeviceError) -> ExitCode {
    if matches!(error, DeviceError::Timeout { .. }) { ExitCode::DeviceTimeout } else { ExitCode::DeviceProtocol }
}

/// A bound on the silence of the device.
struct Patience(Deadline);

impl Patience {
    fn new() -> Self {
        Self(Deadline::after(PATIENCE))
    }
}

impl driver::Deadline for Patience {
    fn restart(&mut self) {
        self.0 = Deadline::after(PATIENCE);
    }

    fn expired(&mut self) -> bool {
        self.0.expired()
    }
}

/// A device that is in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attached {
    /// Its number, as it says itself.
    pub id: DeviceId,
    /// How the CPU reaches its memory.
    pub device_type: DeviceType,
    /// Its PCI function.
    pub function: PciAddress,
    /// Its BAR.
    pub range: PhysRange,
}

static ATTACHED: Once<Result<Vec<Attached>, DeviceProblem>> = Once::new(Level::Setup);

/// The devices, by number, found on PCI and taken into use the first time somebody asks; never none.
///
/// # Errors
/// See [`DeviceProblem`]: that of the first device that cannot be used, the same each time.
///
/// # Panics
/// Where the first call comes after the first address space was made, which would not see the windows of the BARs.
pub fn all() -> Result<&'static [Attached], DeviceProblem> {
    ATTACHED.get_or_init(&Hardware, attach_all).as_deref().map_err(|problem| *problem)
}

fn attach_all() -> Result<Vec<Attached>, DeviceProblem> {
    assert!(super::manager().spaces().next().is_none(), "devices are found before the first address space is made");
    let memories = pci::bus().device_memories(MIN_BAR_BYTES).map_err(DeviceProblem::Pci)?;
    let too_many = DeviceProblem::TooMany(memories.len() as u32);
    let mut windows = WindowNumber::all();
    let attach = |memory| attach(windows.next().ok_or(too_many)?, memory);
    let mut attached = memories.into_iter().map(attach).collect::<Result<Vec<_>, _>>()?;
    attached.sort_unstable_by_key(|device| device.id);
    Ok(attached)
}

fn attach(window: WindowNumber, found: pci::DeviceMemory) -> Result<Attached, DeviceProblem> {
    let manager = super::manager();
    let bar = bar_window::map(manager, window, found.range).map_err(DeviceProblem::Window)?;
    let mut device = Device::attach(bar.clone()).map_err(DeviceProblem::Attach)?;
    meter::waiting(|| device.ping(&mut Patience::new())).map_err(DeviceProblem::Device)?;
    let Identity { number, device_type } = device.identity();
    let too_many = DeviceProblem::TooMany(number);
    let id = u8::try_from(number).ok().and_then(DeviceId::new).ok_or(too_many)?;
    let driver = DEVICES.get(usize::from(id.number())).ok_or(too_many)?;
    let frames = device.geometry().frames();
    let descriptors = bar_window::descriptors(manager, window, frames).map_err(DeviceProblem::Descriptors)?;
    machine::connect_device(id, bar);
    let memory = match device_type {
        DeviceType::Private => DeviceMemory::new(id, descriptors),
        DeviceType::Coherent => DeviceMemory::coherent(id, descriptors, bar_window::frames_for_cpus(found.range)),
    };
    manager.register_device(memory).map_err(DeviceProblem::Register)?;
    *driver.lock(&Hardware) = Some(device);
    log::info!(
        "device {number} ({device_type}) is PCI function {}: BAR {}, {frames} device frames",
        found.function,
        found.range
    );
    Ok(Attached { id, device_type, function: found.function, range: found.range })
}

/// Runs `work` with the driver of a device and a bound for what it waits for. The driver is this CPU's meanwhile.
///
/// # Panics
/// Where no device of this number is attached.
pub(super) fn with_driver<R>(id: DeviceId, work: impl FnOnce(&mut Device, &mut dyn driver::Deadline) -> R) -> R {
    let mut driver = DEVICES[usize::from(id.number())].lock(&Hardware);
    let driver = driver.as_mut().expect("only an attached device is asked to work");
    work(driver, &mut Patience::new())
}

/// Takes a device that does not answer off the bus: it may start no transfer any more (PCI 3.0, 6.2.2).
pub(super) fn silence(id: DeviceId) {
    let Ok(attached) = all() else { return };
    if let Some(device) = attached.iter().find(|device| device.id == id) {
        PciHeader::new(device.function)
            .update_command(ConfigSpace, |command| command - CommandRegister::BUS_MASTER_ENABLE);
    }
}

/// Has the device invert every byte of these frames of its memory; returns how many frames it did.
///
/// # Errors
/// What the device answered or failed to.
///
/// # Panics
/// Where no device of this number is attached.
pub fn invert(id: DeviceId, frames: impl IntoIterator<Item = DeviceFrame>) -> Result<u64, DeviceError> {
    let indices = frames.into_iter().map(|frame| FrameIndex(u64::from(frame.index())));
    let done = with_driver(id, |device, patience| device.invert(indices, patience))?;
    trace::tell(|| Told::DeviceWorked { device: id.number(), frames: done });
    Ok(done)
}
