//! Why a command was not done. Each text says what to type instead.
use crate::arch::probe::ProbeError;
use crate::disk::DiskProblem;
use crate::memory::device::DeviceProblem;
use alloc::string::String;
use core::fmt;
use ferry_device::driver::DeviceError;
use ferry_mm::address::RangeError;
use ferry_mm::migrate::MigrateError;
use ferry_mm::space::{CreateError, DestroyError, FaultError, ForkError, MapError};
use ferry_mm::swap::SwapOutError;
use ferry_protocol::options::InjectStep;
use ferry_protocol::shell::{self, CommandHelp};

/// Why a command was not done.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the fields are the values that the variant's sentence names")]
pub enum ShellError {
    Unknown {
        word: String,
    },
    /// Too few or too many words, or one that is not understood.
    Usage(&'static CommandHelp),
    NotANumber {
        word: String,
    },
    NotAnAddress {
        word: String,
    },
    NoSuchName {
        word: String,
        names: String,
    },
    NameTaken {
        word: String,
    },
    BadName {
        word: String,
    },
    /// More pages than the named memory has from there on.
    TooManyPages {
        asked: u64,
        there: u64,
    },
    NoPages,
    NoSuchDevice {
        word: String,
        devices: usize,
    },
    NoSuchPin {
        word: String,
    },
    NoSuchSpace {
        word: String,
    },
    InThatSpace {
        space: u16,
    },
    BadStep {
        word: String,
    },
    BadRights {
        word: String,
    },
    NoEvents,
    Nested,
    NotPrinted {
        text: String,
    },
    NotRefused {
        text: String,
    },
    Stayed,
    Access(ProbeError),
    Device(DeviceProblem),
    Disk(DiskProblem),
    Work(DeviceError),
    Create(CreateError),
    Range(RangeError),
    Map(MapError),
    Fork(ForkError),
    Migrate(MigrateError),
    SwapOut(SwapOutError),
    Fault(FaultError),
    Destroy(DestroyError),
}

impl fmt::Display for ShellError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { word } => match shell::nearest(word) {
                Some(near) => write!(f, "there is no command {word:?}; did you mean `{near}`? `help` lists all"),
                None => write!(f, "there is no command {word:?}; `help` lists what there is"),
            },
            Self::Usage(command) => {
                write!(
                    f,
                    "{} is used like this: {} {}; `help {0}` says more",
                    command.name, command.name, command.arguments
                )
            }
            Self::NotANumber { word } => write!(f, "{word:?} is no number; write 42, 0x2a or 16K"),
            Self::NotAnAddress { word } => {
                write!(f, "{word} is no address: bits 63 to 48 must repeat bit 47; write one below 0x800000000000")
            }
            Self::NoSuchName { word, names } if names.is_empty() => {
                write!(f, "nothing is called {word:?}; make memory first, such as: map heap 16K")
            }
            Self::NoSuchName { word, names } => {
                write!(f, "nothing is called {word:?}; there is {names}, or write an address such as 0x4200000000")
            }
            Self::NameTaken { word } => write!(f, "{word:?} is mapped already; choose another name, or unmap it first"),
            Self::BadName { word } => {
                write!(f, "{word:?} is no name; a name is letters and digits, and a letter first")
            }
            Self::TooManyPages { asked, there } => {
                write!(
                    f,
                    "{asked} pages are more than the {there} that are there; leave the number out for all of them"
                )
            }
            Self::NoPages => f.write_str("no page is nothing to do; name one at least"),
            Self::NoSuchDevice { word, devices } => {
                write!(f, "there is no device {word}; there are {devices}, numbered from 0 (see `device`)")
            }
            Self::NoSuchPin { word } => write!(f, "there is no pin {word}; `unpin` lists them"),
            Self::NoSuchSpace { word } => write!(f, "there is no space {word}; `space` lists them"),
            Self::InThatSpace { space } => {
                write!(f, "this CPU is in space {space}; go to another with `space N` first")
            }
            Self::BadStep { word } => {
                write!(f, "there is no step {word:?} that could fail; there are ")?;
                for (index, (name, _)) in InjectStep::NAMES.iter().enumerate() {
                    write!(f, "{}{name}", if index == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Self::BadRights { word } => write!(f, "{word:?} are no rights; write rw, r or none"),
            Self::NoEvents => f.write_str("no event is recorded; start the shell without `--trace off`"),
            Self::Nested => f.write_str("this command cannot be traced; trace one that does something with pages"),
            Self::NotPrinted { text } => {
                write!(f, "expected {text:?} in the output of the command before, but it is not there")
            }
            Self::NotRefused { text } => write!(f, "expected the command before to fail with {text:?}, but it did not"),
            Self::Stayed => f.write_str("no page moved; the reasons are above"),
            Self::Access(error) => match error.failure {
                Some(failure) => write!(f, "page fault: {failure}"),
                None => error.fmt(f),
            },
            Self::Device(error) => error.fmt(f),
            Self::Disk(error) => error.fmt(f),
            Self::Work(error) => error.fmt(f),
            Self::Create(error) => error.fmt(f),
            Self::Range(error) => error.fmt(f),
            Self::Map(error) => error.fmt(f),
            Self::Fork(error) => error.fmt(f),
            Self::Migrate(error) => error.fmt(f),
            Self::SwapOut(error) => error.fmt(f),
            Self::Fault(error) => error.fmt(f),
            Self::Destroy(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ShellError {}

macro_rules! from {
    ($($error:ty => $variant:ident),+ $(,)?) => {
        $(impl From<$error> for ShellError {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        })+
    };
}
from! {
    ProbeError => Access, DeviceProblem => Device, DiskProblem => Disk, DeviceError => Work, CreateError => Create,
    RangeError => Range, MapError => Map, ForkError => Fork, MigrateError => Migrate, SwapOutError => SwapOut,
    FaultError => Fault, DestroyError => Destroy,
}
