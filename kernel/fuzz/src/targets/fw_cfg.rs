//! fw_cfg: the directory, sizes and names of files, transfers that fail
//!
//! The input makes a device: what its items hold, and the transfer that it refuses. Then a file is looked up and read, whole and
//! from some offset.
//!
//! Oracle: the directory is read by hand. The file must be the first one of its name, its bytes those of its item, and never
//! more than its entry says is asked for.
use std::cell::Cell;

use ferry_fw_cfg::{Action, CHUNK_BYTES, FwCfg, FwCfgError, TransferError, Transfers};
use ferry_protocol::fw_cfg::OPTIONS;

use crate::Target;
use crate::script::Script;

/// See the module.
pub const TARGET: Target = Target { name: "fw_cfg", check, seeds, most_bytes: 1024 };

/// Items that every device has, and the one that holds files here; every other item is empty.
const SIGNATURE: u16 = 0;
const FEATURES: u16 = 1;
const DIRECTORY: u16 = 0x19;
const FIRST_FILE: u16 = 0x20;

/// A directory longer than this cannot be; most transfers of one input.
const MOST_ENTRIES: u32 = 1 << 14;
const MOST_TRANSFERS: u32 = MOST_ENTRIES + 64;

/// Most bytes that are read of a file at once.
const ROOM: usize = 2 * CHUNK_BYTES + 100;

/// A device with these items.
struct Device<'i> {
    signature: &'i [u8],
    features: &'i [u8],
    directory: &'i [u8],
    file: &'i [u8],
    /// The item that it stands in, and its next byte.
    position: (u16, u64),
    /// The transfer that it refuses, counted from 1.
    refuses: u32,
    transfers: &'i Cell<u32>,
    page: [u8; CHUNK_BYTES],
}

impl Device<'_> {
    /// Bytes of the item from here on; behind its end they are zero.
    fn byte(&mut self) -> u8 {
        let (item, next) = self.position;
        self.position.1 += 1;
        let bytes = match item {
            SIGNATURE => self.signature,
            FEATURES => self.features,
            DIRECTORY => self.directory,
            FIRST_FILE => self.file,
            _ => &[],
        };
        usize::try_from(next).ok().and_then(|next| bytes.get(next)).copied().unwrap_or(0)
    }
}

impl Transfers for Device<'_> {
    fn read_start(&mut self, item: u16, bytes: &mut [u8]) {
        self.position = (item, 0);
        bytes.fill_with(|| self.byte());
    }

    fn run(&mut self, item: Option<u16>, action: Action, length: u32) -> Result<&[u8], TransferError> {
        self.transfers.set(self.transfers.get() + 1);
        assert!(self.transfers.get() <= MOST_TRANSFERS, "the directory has no end");
        if self.transfers.get() == self.refuses {
            return Err(TransferError::Refused);
        }
        self.position = item.map_or(self.position, |item| (item, 0));
        if action == Action::Skip {
            self.position.1 += u64::from(length);
            return Ok(&[]);
        }
        assert!(length as usize <= CHUNK_BYTES, "{length} bytes do not fit the page");
        let mut page = self.page;
        page[..length as usize].fill_with(|| self.byte());
        self.page = page;
        Ok(&self.page[..length as usize])
    }
}

/// The first file of this name in a directory: its item and size.
fn naive(directory: &[u8], name: &str) -> Option<(u16, u32)> {
    let padded = |offset: usize| directory.get(offset).copied().unwrap_or(0);
    let number = |offset: usize, bytes: usize| (0..bytes).fold(0, |n: u32, at| n << 8 | u32::from(padded(offset + at)));
    let count = number(0, 4) as usize;
    // Behind what the directory holds there are only entries without a name.
    (0..count.min(directory.len() / 64 + 1)).map(|index| 4 + 64 * index).find_map(|entry| {
        let found = (8..64).map(|at| padded(entry + at)).take_while(|byte| *byte != 0);
        found.eq(name.bytes()).then(|| (number(entry + 4, 2) as u16, number(entry, 4)))
    })
}

fn check(input: &[u8]) {
    let mut script = Script::new(input);
    let (flags, refuses, offset) = (script.byte(), u32::from(script.byte()), script.number());
    let signature: &[u8] = if flags & 1 == 0 { b"QEMU" } else { script.bytes(4) };
    let features: &[u8] = if flags & 2 == 0 { &[3, 0, 0, 0] } else { script.bytes(4) };
    let file = script.bytes(flags.into());
    let directory = script.rest();
    let transfers = Cell::new(0);
    let page = [0; CHUNK_BYTES];
    let device =
        Device { signature, features, directory, file, position: (0, 0), refuses, transfers: &transfers, page };
    let mut fw_cfg = match FwCfg::new(device) {
        Ok(fw_cfg) => fw_cfg,
        Err(error) => return assert!(!error.to_string().is_empty(), "an error has a text"),
    };
    assert!(signature == b"QEMU" && features.first().is_some_and(|first| first & 2 != 0), "that is no such device");
    let expected = naive(directory, OPTIONS);
    let found = match fw_cfg.file(OPTIONS) {
        Ok(found) => found,
        Err(FwCfgError::Missing(_)) => return assert_eq!(expected, None, "it is there"),
        Err(FwCfgError::Directory(count)) => return assert!(count > MOST_ENTRIES),
        Err(error) => return assert_eq!(error, FwCfgError::Failed(OPTIONS, TransferError::Refused)),
    };
    let (item, bytes) = expected.expect("a file was found that is not there");
    assert_eq!(found.len(), u64::from(bytes), "another length");
    let contents = |at: u64| {
        match item {
            FIRST_FILE => file,
            DIRECTORY => directory,
            SIGNATURE => signature,
            FEATURES => features,
            _ => &[],
        }
        .get(usize::try_from(at).unwrap_or(usize::MAX))
        .copied()
        .unwrap_or(0)
    };
    let before = transfers.get();
    match fw_cfg.chunk(&found, offset) {
        Ok(chunk) => {
            let expected = u64::from(bytes).saturating_sub(offset).min(CHUNK_BYTES as u64);
            assert_eq!(chunk.len() as u64, expected, "a chunk of another length");
            assert!(chunk.iter().zip(offset..).all(|(byte, at)| *byte == contents(at)), "other bytes");
        }
        Err(error) => assert_eq!(error, FwCfgError::Failed(OPTIONS, TransferError::Refused)),
    }
    let mut buffer = vec![0xa5; ROOM];
    match fw_cfg.read_whole(&found, &mut buffer) {
        Ok(whole) => {
            assert_eq!(whole.len(), bytes as usize, "not the whole file");
            assert!(whole.iter().zip(0..).all(|(byte, at)| *byte == contents(at)), "other bytes");
        }
        Err(FwCfgError::TooLong(..)) => assert!(bytes as usize > ROOM, "there is room"),
        Err(error) => assert_eq!(error, FwCfgError::Failed(OPTIONS, TransferError::Refused)),
    }
    assert!(transfers.get() - before <= 2 + 1 + ROOM.div_ceil(CHUNK_BYTES) as u32, "more transfers than chunks");
}

/// An entry of the directory.
fn entry(bytes: u32, item: u16, name: &str) -> Vec<u8> {
    let mut entry = [&bytes.to_be_bytes()[..], &item.to_be_bytes(), &[0, 0], name.as_bytes()].concat();
    entry.resize(64, 0);
    entry
}

fn seeds() -> Vec<Vec<u8>> {
    let begin = |flags: u8, refuses: u8, offset: u8| vec![flags, refuses, offset];
    let file = b"command=demo\nstrict=yes\n".to_vec();
    let other = entry(9, 0x21, "etc/acpi/tables");
    let directory = |count: u32, bytes: u32| {
        [&count.to_be_bytes()[..], &other, &entry(bytes, FIRST_FILE, OPTIONS), &entry(1, 0x22, OPTIONS)].concat()
    };
    let length = file.len() as u8;
    assert!(length.is_multiple_of(4), "its length is the flags, of which two have a meaning");
    vec![
        [begin(length, 0, 5), file.clone(), directory(3, length.into())].concat(),
        [begin(length, 3, 0), file.clone(), directory(3, 5000)].concat(),
        [begin(length, 0, 0), file.clone(), directory(1, 5)].concat(),
        [begin(length, 0, 0), file.clone(), directory(u32::MAX, u32::MAX)].concat(),
        [begin(length + 3, 0, 0), b"QEMU\x02\0\0\0".to_vec(), file, vec![b'\n'; 3], directory(3, 1)].concat(),
    ]
}
