//! What the tests of this crate share: memory that stands for a BAR, with a canary page on either
//! side, and deadlines that let a scripted device act while the driver polls.
#![allow(unsafe_code)]

use core::ptr::NonNull;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::vec::Vec;

use zerocopy::little_endian::U64;

use crate::bar::Bar;
use crate::command::DeviceState;
use crate::driver::Deadline;
use crate::geometry::{FRAME_BYTES, Geometry};
use crate::identity::{DeviceType, Identity};
use crate::layout::{CONSUMER, IDENTIFICATION, PRODUCER, STATE};

const CANARY: u8 = 0xc7;

/// A page of RAM.
#[repr(align(4096))]
pub struct Page(pub [u8; FRAME_BYTES]);

/// Memory of the smallest BAR, between two canary pages. Only reached through raw pointers.
pub struct Memory {
    allocation: NonNull<u8>,
    bar: Bar,
}

impl Memory {
    const BAR_BYTES: usize = 1 << 20;

    fn layout() -> Layout {
        Layout::from_size_align(Self::BAR_BYTES + 2 * FRAME_BYTES, FRAME_BYTES).unwrap()
    }

    /// All zero.
    pub fn new() -> Self {
        // SAFETY: the layout is not of size zero; the allocation is used through raw pointers only and lives as long
        // as `Memory`, whose `bar` tests do not keep longer.
        unsafe {
            let Some(allocation) = NonNull::new(alloc_zeroed(Self::layout())) else {
                handle_alloc_error(Self::layout())
            };
            allocation.write_bytes(CANARY, FRAME_BYTES);
            allocation.add(FRAME_BYTES + Self::BAR_BYTES).write_bytes(CANARY, FRAME_BYTES);
            let bar = Bar::new(allocation.add(FRAME_BYTES), Self::BAR_BYTES as u64).unwrap();
            Self { allocation, bar }
        }
    }

    /// With the identification of a device that is ready, and both indices at `index`.
    pub fn ready(index: u64) -> Self {
        let memory = Self::new();
        let identity = Identity { number: 1, device_type: DeviceType::Private };
        memory.bar.store(IDENTIFICATION, &identity.encode(memory.geometry()));
        memory.bar.store(STATE, &U64::new(DeviceState::Ready.to_wire()));
        memory.bar.store(PRODUCER, &U64::new(index));
        memory.bar.store(CONSUMER, &U64::new(index));
        memory
    }

    pub fn bar(&self) -> Bar {
        self.bar.clone()
    }

    pub fn geometry(&self) -> Geometry {
        self.bar.geometry()
    }

    /// A copy of all bytes of the BAR.
    pub fn bytes(&self) -> Vec<u8> {
        self.copy(FRAME_BYTES, Self::BAR_BYTES)
    }

    /// Overwrites bytes of the BAR.
    pub fn fill(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= Self::BAR_BYTES);
        // SAFETY: inside the allocation, as just checked.
        unsafe {
            self.allocation
                .add(FRAME_BYTES + offset)
                .copy_from_nonoverlapping(NonNull::from_ref(bytes).cast(), bytes.len());
        }
    }

    fn copy(&self, offset: usize, length: usize) -> Vec<u8> {
        let mut bytes = std::vec![0; length];
        // SAFETY: callers stay inside the allocation.
        unsafe { self.allocation.add(offset).copy_to_nonoverlapping(NonNull::from_mut(&mut bytes[..]).cast(), length) };
        bytes
    }

    /// Whether the pages around the BAR are as they were.
    pub fn canaries_live(&self) -> bool {
        [0, FRAME_BYTES + Self::BAR_BYTES]
            .into_iter()
            .all(|offset| self.copy(offset, FRAME_BYTES).iter().all(|byte| *byte == CANARY))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout.
        unsafe { dealloc(self.allocation.as_ptr(), Self::layout()) };
    }
}

/// A deadline after so many looks at the device, at each of which `device` may act.
pub struct Script<F: FnMut()> {
    pub polls: u32,
    pub left: u32,
    pub device: F,
}

impl<F: FnMut()> Script<F> {
    pub fn new(polls: u32, device: F) -> Self {
        Self { polls, left: polls, device }
    }
}

impl<F: FnMut()> Deadline for Script<F> {
    fn restart(&mut self) {
        self.left = self.polls;
    }

    fn expired(&mut self) -> bool {
        (self.device)();
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                false
            }
            None => true,
        }
    }
}
