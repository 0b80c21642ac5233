//! Files that the host offers over QEMU's fw_cfg (QEMU, docs/specs/fw_cfg).
//!
//! ```text
//!   item 0x19: │ count │ entry │ entry │ ...        an entry: size, item, name ──▶ that item: the file's bytes
//! ```
//! A file is read in chunks of a page: [`FwCfg::chunk`] has the device copy one into a page of the
//! kernel and lends it out, so no second copy of a large file sits in RAM.
//!
//! Invariants, whatever the device says:
//! 1. The directory is read once for a look-up, and no further than it can be long.
//! 2. A file has the length that its entry has; no more of it is asked for.
#![no_std]
#![forbid(unsafe_code)]

use core::fmt;
use core::time::Duration;

/// Items that every fw_cfg device has.
const SIGNATURE: u16 = 0x00;
const FEATURES: u16 = 0x01;
const DIRECTORY: u16 = 0x19;
/// What the signature reads as.
const QEMU: [u8; 4] = *b"QEMU";
/// Feature: transfers into memory.
const TRANSFERS: u32 = 1 << 1;
/// A directory entry: size (4 bytes, big-endian), item (2), reserved (2), name, padded with zeros.
const ENTRY_BYTES: usize = 64;
const NAME_START: usize = 8;

/// Most entries of the directory: an item has 14 bits for its number.
const MOST_ENTRIES: u32 = 1 << 14;

/// Most bytes per chunk.
pub const CHUNK_BYTES: usize = 4096;

/// How long the device may take for one transfer.
pub const LIMIT: Duration = Duration::from_secs(2);

/// Why a transfer did not happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransferError {
    /// The device says that the command is wrong.
    Refused,
    /// The device did not answer within [`LIMIT`], now or earlier.
    TimedOut,
}

/// What a transfer does with the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Puts them where they are lent out from.
    Read,
    /// Leaves them out.
    Skip,
}

/// The device, as something that transfers bytes of items.
pub trait Transfers {
    /// Reads the first bytes of an item, one by one; ones where there is no device.
    fn read_start(&mut self, item: u16, bytes: &mut [u8]);

    /// Reads or skips `length` bytes, at most [`CHUNK_BYTES`] where they are read, and returns those read. With an item it
    /// begins at that item's first byte, without one where the last transfer ended.
    ///
    /// # Errors
    /// The device refuses, or does not end within [`LIMIT`].
    fn run(&mut self, item: Option<u16>, action: Action, length: u32) -> Result<&[u8], TransferError>;
}

/// A file in the directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct File {
    name: &'static str,
    item: u16,
    bytes: u32,
}

impl File {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.bytes.into()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}

/// Why something could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FwCfgError {
    /// There is no fw_cfg device; its signature read as this.
    NoDevice([u8; 4]),
    /// The device cannot transfer into memory; these are its features.
    NoTransfers(u32),
    /// Another user has it.
    Taken,
    /// The directory says that it has so many entries, more than there can be.
    Directory(u32),
    /// The directory has no such file.
    Missing(&'static str),
    /// A file is longer than its reader has room for: name, its bytes, the room.
    TooLong(&'static str, u64, u64),
    /// A transfer of this file failed.
    Failed(&'static str, TransferError),
}

impl fmt::Display for FwCfgError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevice(found) => {
                write!(f, "no fw_cfg device (its signature reads {found:x?}); start the kernel in QEMU")
            }
            Self::NoTransfers(features) => {
                write!(f, "the fw_cfg device has no DMA (features {features:#x}); use QEMU 7.2 or newer")
            }
            Self::Taken => f.write_str("fw_cfg is in use already"),
            Self::Directory(entries) => {
                write!(
                    f,
                    "fw_cfg's directory claims {entries} files, and {MOST_ENTRIES} at most can be; start the kernel in QEMU"
                )
            }
            Self::Missing(name) => {
                write!(
                    f,
                    "QEMU offers no fw_cfg file {name}; start the kernel with ferry or -fw_cfg name={name},file=FILE"
                )
            }
            Self::TooLong(name, bytes, room) => write!(f, "the fw_cfg file {name} has {bytes} bytes, more than {room}"),
            Self::Failed(name, TransferError::Refused) => {
                write!(f, "QEMU refused to read the fw_cfg file {name}; its contents may have changed: start again")
            }
            Self::Failed(name, TransferError::TimedOut) => {
                write!(f, "QEMU did not deliver the fw_cfg file {name} within {LIMIT:?}; start again")
            }
        }
    }
}

impl core::error::Error for FwCfgError {}

/// The device.
pub struct FwCfg<T> {
    transfer: T,
    /// Item that the device stands in, and its next byte.
    position: Option<(u16, u64)>,
}

impl<T: Transfers> FwCfg<T> {
    /// Finds the device behind `transfer`.
    ///
    /// # Errors
    /// It is not there, or cannot do what we need.
    pub fn new(mut transfer: T) -> Result<Self, FwCfgError> {
        let mut signature = [0; QEMU.len()];
        transfer.read_start(SIGNATURE, &mut signature);
        if signature != QEMU {
            return Err(FwCfgError::NoDevice(signature));
        }
        let mut features = [0; size_of::<u32>()];
        transfer.read_start(FEATURES, &mut features);
        let features = u32::from_le_bytes(features);
        if features & TRANSFERS == 0 {
            return Err(FwCfgError::NoTransfers(features));
        }
        Ok(Self { transfer, position: None })
    }

    /// Looks up a file.
    ///
    /// # Errors
    /// [`FwCfgError::Missing`] where there is none of this name; the directory is none, or cannot be read.
    pub fn file(&mut self, name: &'static str) -> Result<File, FwCfgError> {
        let failed = |error| FwCfgError::Failed(name, error);
        self.position = None;
        let count = self.transfer.run(Some(DIRECTORY), Action::Read, size_of::<u32>() as u32).map_err(failed)?;
        let count = count.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        if count > MOST_ENTRIES {
            return Err(FwCfgError::Directory(count));
        }
        for _ in 0..count {
            let entry = self.transfer.run(None, Action::Read, ENTRY_BYTES as u32).map_err(failed)?;
            let [s0, s1, s2, s3, i0, i1, ..] = *entry else { break };
            let entry_name = entry[NAME_START..].split(|byte| *byte == 0).next().unwrap_or_default();
            if entry_name == name.as_bytes() {
                let (bytes, item) = (u32::from_be_bytes([s0, s1, s2, s3]), u16::from_be_bytes([i0, i1]));
                return Ok(File { name, item, bytes });
            }
        }
        Err(FwCfgError::Missing(name))
    }

    /// The bytes of `file` from `offset`: a whole chunk, or what is left of the file, so nothing at its
    /// end. Going on where the last chunk ended is cheapest.
    ///
    /// # Errors
    /// The device refuses or does not answer.
    pub fn chunk(&mut self, file: &File, offset: u64) -> Result<&[u8], FwCfgError> {
        let failed = |error| FwCfgError::Failed(file.name, error);
        let left = file.len().saturating_sub(offset);
        if left == 0 {
            return Ok(&[]);
        }
        let length = left.min(CHUNK_BYTES as u64);
        if self.position.take() != Some((file.item, offset)) {
            // Below the file's length, so it fits the command's field.
            self.transfer.run(Some(file.item), Action::Skip, offset as u32).map_err(failed)?;
        }
        self.position = Some((file.item, offset + length));
        self.transfer.run(None, Action::Read, length as u32).map_err(failed)
    }

    /// Reads all of `file` into the start of `buffer` and returns it.
    ///
    /// # Errors
    /// The file is longer than `buffer`; the device refuses or does not answer.
    pub fn read_whole<'b>(&mut self, file: &File, buffer: &'b mut [u8]) -> Result<&'b [u8], FwCfgError> {
        let room = buffer.len() as u64;
        let Some(target) = buffer.get_mut(..file.bytes as usize) else {
            return Err(FwCfgError::TooLong(file.name, file.len(), room));
        };
        let mut offset = 0;
        for part in target.chunks_mut(CHUNK_BYTES) {
            part.copy_from_slice(self.chunk(file, offset)?);
            offset += part.len() as u64;
        }
        Ok(target)
    }
}
