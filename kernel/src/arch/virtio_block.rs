//! Requests to a virtio block device (Virtio 1.2, 5.2), one at a time, begun and then polled.
//!
//! ```text
//!   caller's frame ◀─ copy ─▶ page ◀─ DMA ─▶ device
//!                             header: request and response
//! ```
//!
//! Invariants:
//! 1. At most one request is under way. While it is, header and page are the device's: nothing here touches them.
//! 2. The device is never given a frame of a caller's. So a request that does not end, or fails half-way, leaves the
//!    caller's frame as it was, and nothing that was freed since is written late.
//!
//! No locks, and no memory is allocated after [`BlockDevice::start`].
use super::config_space::ConfigSpace;
use super::machine::{Hardware, direct};
use super::virtio::{DmaMemory, device_function};
use crate::memory::MemoryManager;
use core::fmt;
use ferry_mm::address::PAGE_BYTES;
use ferry_mm::frame::OutOfFrames;
use ferry_mm::machine::Machine;
use pci_types::PciAddress;
use virtio_drivers::Error;
use virtio_drivers::device::blk::{BlkReq, BlkResp, SECTOR_SIZE, VirtIOBlk};
use virtio_drivers::transport::pci::bus::PciRoot;
use virtio_drivers::transport::pci::{PciTransport, VirtioPciError};
use x86_64::structures::paging::PhysFrame;

/// Sectors of a page.
const SECTORS_PER_PAGE: u64 = PAGE_BYTES / SECTOR_SIZE as u64;

/// Order of the block that holds page and header.
const BUFFERS_ORDER: u8 = 1;

/// What the device is told, and what it answers.
#[derive(Default)]
#[repr(C)]
struct Header {
    request: BlkReq,
    response: BlkResp,
}

const _: () = assert!(size_of::<Header>() as u64 <= PAGE_BYTES, "the header fits its frame");

/// Why a device does not start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StartError {
    /// It does not describe its registers as virtio wants it.
    Transport(VirtioPciError),
    /// It refuses its queue.
    Queue(Error),
    /// No RAM for the buffers.
    OutOfFrames(OutOfFrames),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transport(error) => write!(f, "{error} Use QEMU's virtio-blk-pci"),
            Self::Queue(Error::DmaError) => OutOfFrames.fmt(f),
            Self::Queue(error) => write!(f, "{error}; use QEMU's virtio-blk-pci"),
            Self::OutOfFrames(error) => error.fmt(f),
        }
    }
}

/// A page's way, and the frame at the other end of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transfer {
    /// From the device into the frame.
    Read(PhysFrame),
    /// From the frame to the device.
    Write(PhysFrame),
}

/// The request that the device works on.
struct UnderWay {
    token: u16,
    transfer: Transfer,
}

/// A started device.
pub struct BlockDevice {
    driver: VirtIOBlk<DmaMemory, PciTransport>,
    page: PhysFrame,
    under_way: Option<UnderWay>,
}

impl BlockDevice {
    /// Starts the device that is this function, whose BARs are mapped (see [`super::virtio::map_registers`]) and which
    /// may access memory.
    ///
    /// Here, and only here, the crate waits without a bound of its own: until the size has not changed while it was read,
    /// and, where the device is refused, until it has reset. QEMU does both within the access that asks for it.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(manager: &MemoryManager, function: PciAddress) -> Result<Self, StartError> {
        let mut root = PciRoot::new(ConfigSpace);
        let transport = PciTransport::new::<DmaMemory, _>(&mut root, device_function(function));
        let driver = VirtIOBlk::new(transport.map_err(StartError::Transport)?).map_err(StartError::Queue)?;
        let page = manager.memory().allocate_block(&Hardware, BUFFERS_ORDER).map_err(StartError::OutOfFrames)?;
        Ok(Self { driver, page, under_way: None })
    }

    /// How many whole pages the device holds.
    pub fn pages(&self) -> u64 {
        self.driver.capacity() / SECTORS_PER_PAGE
    }

    /// Begins to move page `index` of the device.
    ///
    /// The frame is one that the caller owns and nobody else uses until the request has ended.
    ///
    /// # Errors
    /// The device's queue does not take the request.
    ///
    /// # Panics
    /// Where a request is under way.
    pub fn begin(&mut self, index: u64, transfer: Transfer) -> Result<(), Error> {
        assert!(self.under_way.is_none(), "one request at a time");
        let sector = (index * SECTORS_PER_PAGE) as usize;
        if let Transfer::Write(frame) = transfer {
            Hardware.copy(frame.into(), self.page.into());
        }
        let (header, page) = self.buffers();
        // SAFETY: both are frames of our own in the direct map, and no request is under way, so nobody else has them
        // (invariant 1). The references end with this block, before the device's work is looked at.
        let token = unsafe {
            header.write(Header::default());
            let Header { request, response } = &mut *header;
            match transfer {
                Transfer::Read(_) => self.driver.read_blocks_nb(sector, request, &mut *page, response)?,
                Transfer::Write(_) => self.driver.write_blocks_nb(sector, request, &*page, response)?,
            }
        };
        self.under_way = Some(UnderWay { token, transfer });
        Ok(())
    }

    /// What became of the request under way, or `None` as long as the device works on it.
    ///
    /// A page that was read is in the caller's frame when this says so.
    ///
    /// # Errors
    /// The device could not do it; the caller's frame is as it was.
    ///
    /// # Panics
    /// Where no request is under way.
    pub fn poll(&mut self) -> Option<Result<(), Error>> {
        let UnderWay { token, transfer } = *self.under_way.as_ref().expect("a request is under way");
        if self.driver.peek_used() != Some(token) {
            return None;
        }
        let (header, page) = self.buffers();
        // SAFETY: the buffers are those of `begin`, and the device has given them back by using the token.
        let result = unsafe {
            let Header { request, response } = &mut *header;
            match transfer {
                Transfer::Read(_) => self.driver.complete_read_blocks(token, request, &mut *page, response),
                Transfer::Write(_) => self.driver.complete_write_blocks(token, request, &*page, response),
            }
        };
        self.under_way = None;
        if let (Transfer::Read(frame), Ok(())) = (transfer, result) {
            Hardware.copy(self.page.into(), frame.into());
        }
        Some(result)
    }

    fn buffers(&self) -> (*mut Header, *mut [u8]) {
        let page = core::ptr::slice_from_raw_parts_mut(direct(self.page), PAGE_BYTES as usize);
        (direct(self.page + 1).cast(), page)
    }
}
