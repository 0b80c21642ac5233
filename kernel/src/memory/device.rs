//! The device: found on PCI, mapped, attached, and its frames handed to the memory manager.
//!
//! Lock: `DEVICES`, one for each device, taken before all others: held while a device is taken into use and while it works on
//! a batch of commands. Never by the fault path, which copies frames through the accessor of the BAR and needs no command.
#![forbid(unsafe_code)]
use crate::arch::bar_window::{self, WindowError};
use crate::arch::machine;
use crate::clock::Deadline;
use crate::pci::{self, PciError};
use core::fmt;
use core::time::Duration;
use ferry_device::driver::{self, Device, DeviceError};
use ferry_device::geometry::{FrameIndex, MIN_BAR_BYTES};
use ferry_device::identity::AttachError;
use ferry_mm::frame::{DeviceFrame, DeviceId, DeviceMemory};
use ferry_mm::manager::{MAX_DEVICES, RegisterError};
use ferry_mm::page_table::install::InstallError;
use ferry_protocol::exit::ExitCode;
use spin::Mutex;

/// How long the device may make no progress.
const PATIENCE: Duration = Duration::from_secs(10);

/// The drivers of the attached devices, by number.
static DEVICES: [Mutex<Option<Device>>; MAX_DEVICES] = [const { Mutex::new(None) }; MAX_DEVICES];

/// Why there is no device to use.
#[derive(Debug)]
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
            Self::Register(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for DeviceProblem {}

impl DeviceProblem {
    /// How a run ends that needs the device.
    pub const fn exit_code(&self) -> ExitCode {
        match self {
            Self::Pci(error) => error.exit_code(),
            Self::Window(_) => ExitCode::BadBar,
            Self::Attach(_) => ExitCode::DeviceVersion,
            Self::Device(error) => code_of(error),
            Self::Descriptors(_) => ExitCode::OutOfMemory,
            Self::Register(_) => ExitCode::Failed,
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

/// The device, found on PCI and taken into use the first time somebody asks.
///
/// # Errors
/// See [`DeviceProblem`].
pub fn first() -> Result<DeviceId, DeviceProblem> {
    let manager = super::manager();
    let id = DeviceId::new(0).expect("the first number");
    let mut driver = DEVICES[usize::from(id.number())].lock();
    if driver.is_some() {
        return Ok(id);
    }
    let found = pci::device_memory(MIN_BAR_BYTES).map_err(DeviceProblem::Pci)?;
    let bar = bar_window::map(manager, id, found.range).map_err(DeviceProblem::Window)?;
    let mut device = Device::attach(bar.clone()).map_err(DeviceProblem::Attach)?;
    device.ping(&mut Patience::new()).map_err(DeviceProblem::Device)?;
    let frames = device.geometry().frames();
    let descriptors = bar_window::descriptors(manager, id, frames).map_err(DeviceProblem::Descriptors)?;
    machine::connect_device(id, bar);
    manager.register_device(DeviceMemory::new(id, descriptors)).map_err(DeviceProblem::Register)?;
    *driver = Some(device);
    log::info!(
        "device {} is PCI function {}: BAR {}, {frames} device frames",
        id.number(),
        found.function,
        found.range
    );
    Ok(id)
}

/// Has the device invert every byte of these frames of its memory; returns how many frames it did.
///
/// # Errors
/// What the device answered or failed to.
///
/// # Panics
/// Where no device of this number is attached.
pub fn invert(id: DeviceId, frames: impl IntoIterator<Item = DeviceFrame>) -> Result<u64, DeviceError> {
    let mut device = DEVICES[usize::from(id.number())].lock();
    let device = device.as_mut().expect("only an attached device is asked to work");
    let indices = frames.into_iter().map(|frame| FrameIndex(u64::from(frame.index())));
    device.invert(indices, &mut Patience::new())
}
