//! Registers of QEMU's fw_cfg device, and the page that it copies into (QEMU, docs/specs/fw_cfg).
//!
//! Invariants:
//! 1. There is one [`Transfer`] at most, so one user of the page and of the ports.
//! 2. The page is read only between transfers. A transfer that does not end in time leaves the
//!    device free to write at any later time, so nothing is ever read or started again.
use super::tables::translate;
use crate::clock::Deadline;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst, fence};
use ferry_fw_cfg::{Action, CHUNK_BYTES, LIMIT, TransferError, Transfers};
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

/// A command in memory; all numbers big-endian.
#[repr(C, align(16))]
struct Command {
    control: u32,
    length: u32,
    address: u64,
}

#[repr(C, align(4096))]
struct Shared {
    page: UnsafeCell<[u8; CHUNK_BYTES]>,
    command: UnsafeCell<Command>,
}

// SAFETY: both cells belong to the one `Transfer`.
unsafe impl Sync for Shared {}

static SHARED: Shared = Shared {
    page: UnsafeCell::new([0; CHUNK_BYTES]),
    command: UnsafeCell::new(Command { control: 0, length: 0, address: 0 }),
};
static TAKEN: AtomicBool = AtomicBool::new(false);

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
}

impl Transfers for Transfer {
    fn read_start(&mut self, item: u16, bytes: &mut [u8]) {
        // SAFETY: `self` is the only user of the ports; where there is no device they read as ones.
        unsafe {
            Port::new(SELECTOR).write(item);
            for byte in bytes {
                *byte = Port::new(DATA).read();
            }
        }
    }

    fn run(&mut self, item: Option<u16>, action: Action, length: u32) -> Result<&[u8], TransferError> {
        if self.lost {
            return Err(TransferError::TimedOut);
        }
        let (bit, read) = match action {
            Action::Read => (READ, length as usize),
            Action::Skip => (SKIP, 0),
        };
        assert!(read <= CHUNK_BYTES, "a transfer fits the page");
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
