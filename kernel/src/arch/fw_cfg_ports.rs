//! Registers of QEMU's fw_cfg device, and the page that it copies into (QEMU, docs/specs/fw_cfg).
//!
//! Invariants:
//! 1. There is one [`Transfer`] at most, so one user of the page and of the ports.
//! 2. The page is read only between transfers. A transfer that does not end in time leaves the
//!    device free to write at any later time, so nothing is ever read or started again.
use super::layout::PAGE_SIZE;
use super::tables::translate;
use crate::clock::Deadline;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst, fence};
use core::time::Duration;
use x86_64::instructions::port::Port;
use x86_64::{PhysAddr, VirtAddr};

/// Ports: choice of an item, its bytes one by one, and the address of a command (high half first).
const SELECTOR: u16 = 0x510;
const DATA: u16 = 0x511;
const COMMAND_HIGH: u16 = 0x514;
const COMMAND_LOW: u16 = 0x518;

/// Bits of a command. The device clears all but the error when it is done.
const ERROR: u32 = 1 << 0;
const READ: u32 = 1 << 1;
const SKIP: u32 = 1 << 2;
const SELECT: u32 = 1 << 3;
const ITEM_SHIFT: u32 = 16;

/// How long the device may take for one command.
pub const LIMIT: Duration = Duration::from_secs(2);

/// Most bytes per transfer.
pub const PAGE: usize = PAGE_SIZE as usize;

/// A command in memory; all numbers big-endian.
#[repr(C, align(16))]
struct Command {
    control: u32,
    length: u32,
    address: u64,
}

#[repr(C, align(4096))]
struct Shared {
    page: UnsafeCell<[u8; PAGE]>,
    command: UnsafeCell<Command>,
}

// SAFETY: both cells belong to the one `Transfer`.
unsafe impl Sync for Shared {}

static SHARED: Shared = Shared {
    page: UnsafeCell::new([0; PAGE]),
    command: UnsafeCell::new(Command { control: 0, length: 0, address: 0 }),
};
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Why a transfer did not happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransferError {
    /// The device says that the command is wrong.
    Refused,
    /// The device did not answer within [`LIMIT`], now or earlier.
    TimedOut,
}

/// What a command does with the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Puts them at the start of the page.
    Read,
    /// Leaves them out.
    Skip,
}

/// The right to use the device.
pub struct Transfer {
    page: PhysAddr,
    command: PhysAddr,
    lost: bool,
}

impl Transfer {
    /// The one transfer there is, or `None` where it is taken or its page is not mapped page by page.
    pub fn take() -> Option<Self> {
        let page = translate(VirtAddr::from_ptr(SHARED.page.get()))?;
        let command = translate(VirtAddr::from_ptr(SHARED.command.get()))?;
        (!TAKEN.swap(true, Relaxed)).then_some(Self { page, command, lost: false })
    }

    /// Reads the first bytes of an item, one by one.
    pub fn read_start(&mut self, item: u16, bytes: &mut [u8]) {
        // SAFETY: `self` is the only user of the ports; where there is no device they read as ones.
        unsafe {
            Port::new(SELECTOR).write(item);
            for byte in bytes {
                *byte = Port::new(DATA).read();
            }
        }
    }

    /// Reads or skips `length` bytes, at most [`PAGE`] where they are read, and returns those read.
    /// With an item it begins at that item's first byte, without one where the last transfer ended.
    ///
    /// # Errors
    /// The device refuses, or does not end within [`LIMIT`].
    pub fn run(&mut self, item: Option<u16>, action: Action, length: u32) -> Result<&[u8], TransferError> {
        if self.lost {
            return Err(TransferError::TimedOut);
        }
        let (bit, read) = match action {
            Action::Read => (READ, length as usize),
            Action::Skip => (SKIP, 0),
        };
        assert!(read <= PAGE, "a transfer fits the page");
        let select = item.map_or(0, |item| SELECT | u32::from(item) << ITEM_SHIFT);
        let address = self.command.as_u64();
        // SAFETY: no transfer is under way, so the command is ours until the second port write; the
        // addresses are those of the static, whose pages stay where they are.
        unsafe {
            SHARED.command.get().write_volatile(Command {
                control: (bit | select).to_be(),
                length: length.to_be(),
                address: self.page.as_u64().to_be(),
            });
            fence(SeqCst);
            Port::new(COMMAND_HIGH).write(((address >> 32) as u32).to_be());
            Port::new(COMMAND_LOW).write((address as u32).to_be());
        }
        let mut deadline = Deadline::after(LIMIT);
        loop {
            // SAFETY: the device may change the word at any time, hence volatile.
            let control = u32::from_be(unsafe { (&raw const (*SHARED.command.get()).control).read_volatile() });
            if control & ERROR != 0 {
                return Err(TransferError::Refused);
            }
            if control == 0 {
                fence(SeqCst);
                // SAFETY: the transfer is over, and the next needs `self` mutably, which ends this borrow.
                return Ok(unsafe { &(&(*SHARED.page.get()))[..read] });
            }
            if deadline.expired() {
                self.lost = true;
                return Err(TransferError::TimedOut);
            }
            core::hint::spin_loop();
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        // After a lost transfer the page belongs to the device for ever.
        if !self.lost {
            TAKEN.store(false, Relaxed);
        }
    }
}
