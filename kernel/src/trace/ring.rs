//! The ring: the newest records, encoded.
//!
//! Invariants:
//! 1. All its memory is taken when it is made.
//! 2. `lost` counts every record that a newer one has overwritten.
use alloc::vec::Vec;
use ferry_protocol::trace::MAX_FRAME_BYTES;

/// How many records are kept.
const RECORDS: usize = 8192;

/// One encoded record.
#[derive(Clone, Copy)]
struct Kept {
    bytes: [u8; MAX_FRAME_BYTES],
    length: u8,
}

const _: () = assert!(MAX_FRAME_BYTES <= u8::MAX as usize);

pub(super) struct Ring {
    records: Vec<Kept>,
    first: usize,
    length: usize,
    lost: u64,
}

impl Ring {
    /// An empty ring; `None` where the heap has no room for it.
    pub(super) fn new() -> Option<Self> {
        let mut records = Vec::new();
        records.try_reserve_exact(RECORDS).ok()?;
        records.resize(RECORDS, Kept { bytes: [0; MAX_FRAME_BYTES], length: 0 });
        Some(Self { records, first: 0, length: 0, lost: 0 })
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// Keeps a record, in place of the oldest where there is no room.
    pub(super) fn push(&mut self, frame: &[u8]) {
        if self.length == RECORDS {
            self.first = (self.first + 1) % RECORDS;
            self.length -= 1;
            self.lost += 1;
        }
        let place = &mut self.records[(self.first + self.length) % RECORDS];
        place.bytes[..frame.len()].copy_from_slice(frame);
        place.length = frame.len() as u8;
        self.length += 1;
    }

    /// Takes the oldest record out.
    pub(super) fn pop(&mut self) -> Option<&[u8]> {
        if self.length == 0 {
            return None;
        }
        let kept = &self.records[self.first];
        self.first = (self.first + 1) % RECORDS;
        self.length -= 1;
        Some(&kept.bytes[..usize::from(kept.length)])
    }
}

#[cfg(feature = "tests")]
mod tests {
    use super::*;
    use crate::harness::{TestResult, check, check_eq, kernel_test};

    kernel_test! {
        fn the_ring_keeps_the_newest_and_counts_the_rest() -> TestResult {
            let Some(mut ring) = Ring::new() else { return check!(false, "the heap has room for a ring") };
            let pushed = RECORDS as u32 + 3;
            for number in 0..pushed {
                ring.push(&number.to_le_bytes());
            }
            check_eq!((ring.len(), ring.lost()), (RECORDS, 3));
            for number in 3..pushed {
                check_eq!(ring.pop(), Some(number.to_le_bytes().as_slice()));
            }
            check_eq!(ring.pop(), None);
            Ok(())
        }
    }
}
