//! Everything that can stop the loader, with the exit code that it ends with.
use crate::config::ConfigError;
use crate::elf::ElfError;
use crate::layout::LayoutError;
use crate::memory::MemoryError;
use crate::paging::PagingError;
use core::fmt;
use ferry_protocol::exit::ExitCode;

/// Why no kernel was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoadError {
    /// The structure at this address, handed over at the entry, is no PVH start information.
    NoStartInfo(u32),
    /// There is no module.
    NoKernel,
    /// The module does not lie below the end of the memory that the loader reaches.
    KernelOutOfReach(u64),
    /// The kernel file at this address was written over the loader: RAM is too small for both.
    KernelOverLoader(u64),
    /// The kernel file is refused.
    Elf(ElfError),
    /// The kernel's configuration is refused.
    Config(ConfigError),
    /// An address that the kernel asks for cannot be had.
    Layout(LayoutError),
    /// There is too little memory.
    Memory(MemoryError),
    /// The loader contradicts itself.
    Paging(PagingError),
}

impl LoadError {
    /// The code that the run ends with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::NoKernel => ExitCode::LoaderNoKernel,
            Self::Elf(_) => ExitCode::LoaderBadElf,
            Self::Config(ConfigError::Unsupported(_)) | Self::Layout(_) => ExitCode::LoaderUnsupported,
            Self::Config(_) => ExitCode::LoaderBadConfig,
            Self::Memory(_) | Self::Paging(PagingError::Memory(_)) | Self::KernelOverLoader(_) => {
                ExitCode::LoaderNoMemory
            }
            Self::NoStartInfo(_) | Self::KernelOutOfReach(_) | Self::Paging(_) => ExitCode::LoaderPanic,
        }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStartInfo(address) => {
                write!(f, "p{address:#x} holds no PVH start information; start this file with -kernel")
            }
            Self::NoKernel => f.write_str("there is no kernel; give QEMU one with -initrd"),
            Self::KernelOutOfReach(address) => write!(f, "the kernel file at p{address:#x} lies above 4 GiB"),
            Self::KernelOverLoader(address) => {
                write!(f, "too little memory: the kernel file at p{address:#x} overlaps the loader")
            }
            Self::Elf(error) => write!(f, "cannot load the kernel file: {error}"),
            Self::Config(error) => write!(f, "cannot load the kernel file: {error}"),
            Self::Layout(error) => write!(f, "cannot do what the kernel asks for: {error}"),
            Self::Memory(error) => write!(f, "too little memory: {error}"),
            Self::Paging(PagingError::Memory(error)) => write!(f, "too little memory: {error}"),
            Self::Paging(error) => write!(f, "cannot build the page tables: {error}"),
        }
    }
}

impl core::error::Error for LoadError {}

macro_rules! from {
    ($($error:ident => $variant:ident),+) => {
        $(impl From<$error> for LoadError {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        })+
    };
}

from!(ElfError => Elf, ConfigError => Config, LayoutError => Layout, MemoryError => Memory, PagingError => Paging);
