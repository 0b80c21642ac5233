//! What the virtual machine shall be: sizes, CPUs and devices, checked before anything is started.
use std::path::Path;

use ferry_device::geometry::{Geometry, SizeError};

use crate::device::{DeviceError, Ivshmem, MOST_DEVICES};
use crate::size::{Size, grouped};
use crate::swap::{SwapFault, SwapSize};
use crate::sys::PAGE_BYTES;

/// How many CPUs the kernel starts at most.
pub const MOST_CPUS: u32 = 8;

/// The least guest memory with which loader and kernel come up and have room to work.
pub const LEAST_MEMORY: Size = Size::mebibytes(32);

/// The most guest memory: QEMU's q35 places more, but no input needs it and no host of a student has it.
pub const MOST_MEMORY: Size = Size::mebibytes(1 << 20);

/// Guest memory that is not for the input: kernel image, its heap, stacks, frame descriptors and tables.
///
/// Descriptors grow with the memory, so this is a floor plus a fraction; see [`room`].
const RESERVED_MEMORY: Size = Size::mebibytes(24);

/// One byte in this many of guest memory goes to frame descriptors and page tables.
const DESCRIPTOR_FRACTION: u64 = 32;

/// So many bytes of input need one byte of RAM at least, wherever they are: page tables take 1/512, and pages on the way
/// some more.
const MOST_INPUT_PER_ROOM: u64 = 64;

/// How instructions are executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Accelerator {
    /// QEMU translates them; works everywhere and shows missing flushes.
    Tcg,
    /// The host's CPU executes them.
    Kvm,
}

/// The machine to start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MachineOptions {
    /// Virtual CPUs.
    pub cpus: u32,
    /// Guest RAM.
    pub memory: Size,
    /// Memory behind the BAR of each device.
    pub vram: Size,
    /// The devices, numbered from 0 in this order.
    pub devices: Vec<Ivshmem>,
    /// The swap disk.
    pub swap: SwapSize,
    /// What the disk does wrong, for those who want to see the kernel notice.
    pub swap_fault: Option<SwapFault>,
    /// How instructions are executed.
    pub accelerator: Accelerator,
    /// Whether it has a third serial port, for the event stream.
    pub trace: bool,
}

impl Default for MachineOptions {
    fn default() -> Self {
        Self {
            cpus: 1,
            memory: Size::mebibytes(256),
            vram: Size::mebibytes(64),
            devices: vec![Ivshmem::default()],
            swap: SwapSize::Auto,
            swap_fault: None,
            accelerator: Accelerator::Tcg,
            trace: false,
        }
    }
}

/// Why such a machine is not started.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MachineError {
    /// No CPU, or more than the kernel starts.
    #[error("--cpus {0} is none of 1 to {MOST_CPUS}, which the kernel starts")]
    Cpus(u32),
    /// Less memory than the kernel needs.
    #[error("--memory {0} is too small for the kernel; give it at least --memory {LEAST_MEMORY}")]
    TooLittleMemory(Size),
    /// More memory than there can be.
    #[error("--memory {0} is too large; this tool starts machines of up to {MOST_MEMORY}")]
    TooMuchMemory(Size),
    /// Guest memory is not whole mebibytes.
    #[error("--memory {0} is not a multiple of 1M; round it up")]
    UnevenMemory(Size),
    /// The devices contradict each other.
    #[error("{0}")]
    Devices(#[from] DeviceError),
    /// More devices than the kernel has a place for.
    #[error("--device is given {0} times; the machine takes up to {MOST_DEVICES} devices")]
    TooManyDevices(usize),
    /// Two devices want one place.
    #[error("two devices have addr={0} on the same bus; give each its own")]
    SameSlot(u8),
    /// No BAR has this size.
    #[error("--vram {0}: {1}")]
    Vram(Size, SizeError),
    /// The disk is not whole pages.
    #[error("--swap {0} is not a multiple of 4K; round it up")]
    UnevenSwap(Size),
    /// The disk has no such slot to fail in, or there is no disk.
    #[error("--swap {swap} has no place for --swap-fault {fault}; give --swap a larger size")]
    SwapFault {
        /// The disk that was asked for.
        swap: SwapSize,
        /// The fault that was.
        fault: SwapFault,
    },
    /// The input needs more memory than there is.
    #[error(
        "the input has {} bytes, but --memory {memory} with --swap {swap} leaves room for {} of them; use --memory {fix}, \
         or --swap auto",
        grouped(*.input), grouped(*.room)
    )]
    InputTooLarge {
        /// Bytes of the input.
        input: u64,
        /// The memory that was asked for.
        memory: Size,
        /// The swap disk that was.
        swap: SwapSize,
        /// Bytes of input that fit into both.
        room: u64,
        /// Memory that would be enough.
        fix: Size,
    },
    /// KVM was asked for and cannot be used.
    #[error("--accel kvm needs /dev/kvm, which this user cannot open; use --accel tcg")]
    NoKvm,
}

impl MachineOptions {
    /// Checks everything that can be known before the input is.
    ///
    /// # Errors
    /// The first [`MachineError`].
    pub fn check(&self) -> Result<(), MachineError> {
        if !(1..=MOST_CPUS).contains(&self.cpus) {
            return Err(MachineError::Cpus(self.cpus));
        }
        if self.memory < LEAST_MEMORY {
            return Err(MachineError::TooLittleMemory(self.memory));
        }
        if self.memory > MOST_MEMORY {
            return Err(MachineError::TooMuchMemory(self.memory));
        }
        if !self.memory.bytes().is_multiple_of(Size::mebibytes(1).bytes()) {
            return Err(MachineError::UnevenMemory(self.memory));
        }
        if self.devices.len() > MOST_DEVICES {
            return Err(MachineError::TooManyDevices(self.devices.len()));
        }
        for (index, device) in self.devices.iter().enumerate() {
            let same = |other: &&Ivshmem| (other.behind_bridge, other.slot) == (device.behind_bridge, device.slot);
            if let Some(slot) = device.slot.filter(|_| self.devices[..index].iter().any(|other| same(&other))) {
                return Err(MachineError::SameSlot(slot));
            }
        }
        Geometry::of_bar(self.vram.bytes()).map_err(|error| MachineError::Vram(self.vram, error))?;
        let swap = self.swap.size();
        if !swap.bytes().is_multiple_of(PAGE_BYTES as u64) {
            return Err(MachineError::UnevenSwap(swap));
        }
        let slots = swap.bytes() / PAGE_BYTES as u64;
        if let Some(fault) = self.swap_fault.filter(|fault| fault.slot() >= slots) {
            return Err(MachineError::SwapFault { swap: self.swap, fault });
        }
        if self.accelerator == Accelerator::Kvm && !can_write(Path::new("/dev/kvm")) {
            return Err(MachineError::NoKvm);
        }
        Ok(())
    }

    /// The machine for an input of `bytes` bytes: with a swap disk that takes what RAM has no room for.
    ///
    /// # Errors
    /// [`MachineError::InputTooLarge`] with a memory size that would do.
    pub fn for_input(&self, bytes: u64) -> Result<Self, MachineError> {
        let (memory, swap) = (self.memory, self.swap);
        if bytes <= capacity(memory, swap, bytes) {
            return Ok(Self { swap: SwapSize::Fixed(disk(memory, swap, bytes)), ..self.clone() });
        }
        let mut fix = memory;
        while fix < MOST_MEMORY && capacity(fix, swap, bytes) < bytes {
            fix = Size((fix.bytes() + 1).next_power_of_two());
        }
        Err(MachineError::InputTooLarge { input: bytes, memory, swap, room: capacity(memory, swap, bytes), fix })
    }

    /// Bytes that the machine's files may grow to.
    pub fn backing_bytes(&self) -> u64 {
        let vram = self.vram.bytes().saturating_mul(self.devices.len() as u64);
        self.memory.bytes().saturating_add(vram).saturating_add(self.swap.size().bytes())
    }
}

fn room(memory: Size) -> u64 {
    memory.bytes() - memory.bytes() / DESCRIPTOR_FRACTION - RESERVED_MEMORY.bytes()
}

/// The swap disk for an input of `bytes` bytes. Each page of it is in at most one slot.
fn disk(memory: Size, swap: SwapSize, bytes: u64) -> Size {
    match swap {
        SwapSize::Auto if bytes <= room(memory) => Size(0),
        SwapSize::Auto => Size(bytes.next_multiple_of(Size::mebibytes(1).bytes())),
        SwapSize::Fixed(size) => size,
    }
}

/// Bytes of input for which there is room, in RAM or on the disk.
fn capacity(memory: Size, swap: SwapSize, bytes: u64) -> u64 {
    let room = room(memory);
    room.saturating_add(disk(memory, swap, bytes).bytes()).min(room * MOST_INPUT_PER_ROOM)
}

fn can_write(path: &Path) -> bool {
    std::fs::OpenOptions::new().read(true).write(true).open(path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut MachineOptions)) -> Result<(), MachineError> {
        let mut options = MachineOptions::default();
        change(&mut options);
        options.check()
    }

    #[test]
    fn impossible_machines_are_refused() {
        assert_eq!(with(|_| ()), Ok(()));
        for cpus in [0, MOST_CPUS + 1] {
            assert_eq!(with(|m| m.cpus = cpus), Err(MachineError::Cpus(cpus)));
        }
        let small = Size::mebibytes(31);
        assert_eq!(with(|m| m.memory = small), Err(MachineError::TooLittleMemory(small)));
        assert_eq!(with(|m| m.memory = Size(u64::MAX)), Err(MachineError::TooMuchMemory(Size(u64::MAX))));
        assert_eq!(with(|m| m.devices = vec![Ivshmem::default(); 8]), Ok(()));
        assert_eq!(with(|m| m.devices = vec![Ivshmem::default(); 9]), Err(MachineError::TooManyDevices(9)));
        let at = |behind_bridge, slot| Ivshmem { behind_bridge, slot: Some(slot), ..Ivshmem::default() };
        assert_eq!(with(|m| m.devices = vec![at(false, 4), at(true, 4), at(false, 5)]), Ok(()));
        assert_eq!(with(|m| m.devices = vec![at(true, 4), at(false, 4), at(true, 4)]), Err(MachineError::SameSlot(4)));
        let odd = Size((256 << 20) + 4096);
        assert_eq!(with(|m| m.memory = odd), Err(MachineError::UnevenMemory(odd)));
        for (vram, error) in [
            (Size::mebibytes(3), SizeError::NotPowerOfTwo(3 << 20)),
            (Size(4096), SizeError::TooSmall(4096)),
            (Size(1 << 63), SizeError::TooLarge(1 << 63)),
        ] {
            assert_eq!(with(|m| m.vram = vram), Err(MachineError::Vram(vram, error)));
        }
        let uneven = Size(5000);
        assert_eq!(with(|m| m.swap = SwapSize::Fixed(uneven)), Err(MachineError::UnevenSwap(uneven)));
        let (swap, fault) = (SwapSize::Fixed(Size(2 * 4096)), SwapFault::Read(2));
        let faulty = |swap| with(|m| (m.swap, m.swap_fault) = (swap, Some(fault)));
        let enough = SwapSize::Fixed(Size(3 * 4096));
        assert_eq!((faulty(swap), faulty(enough)), (Err(MachineError::SwapFault { swap, fault }), Ok(())));
        let stalled = with(|m| m.swap_fault = Some(SwapFault::Stall));
        assert_eq!(stalled, Err(MachineError::SwapFault { swap: SwapSize::Auto, fault: SwapFault::Stall }));
    }

    #[test]
    fn an_input_that_does_not_fit_names_a_memory_that_does() {
        let disk = |megabytes| SwapSize::Fixed(Size::mebibytes(megabytes));
        for (swap, input) in
            [(disk(0), 256 << 20), (disk(0), 5 << 30), (disk(64), 300 << 20), (SwapSize::Auto, 1 << 36)]
        {
            let machine = MachineOptions { swap, ..MachineOptions::default() };
            let Err(MachineError::InputTooLarge { fix, room, .. }) = machine.for_input(input) else {
                panic!("{input} bytes were accepted");
            };
            assert_eq!(machine.for_input(room).unwrap().for_input(room).map(drop), Ok(()));
            assert_eq!(MachineOptions { memory: fix, ..machine }.for_input(input).map(drop), Ok(()));
        }
    }

    #[test]
    fn the_disk_is_as_large_as_the_input_needs() {
        let machine = MachineOptions { memory: Size::mebibytes(64), ..MachineOptions::default() };
        let swap = |machine: &MachineOptions, bytes| machine.for_input(bytes).unwrap().swap;
        assert_eq!(swap(&machine, room(machine.memory)), SwapSize::Fixed(Size(0)));
        assert_eq!(swap(&machine, room(machine.memory) + 1), SwapSize::Fixed(Size::mebibytes(39)));
        assert_eq!(swap(&machine, 96 << 20), SwapSize::Fixed(Size::mebibytes(96)));
        let fixed = MachineOptions { swap: SwapSize::Fixed(Size::mebibytes(5)), ..machine };
        assert_eq!(swap(&fixed, 1), fixed.swap);
    }
}
