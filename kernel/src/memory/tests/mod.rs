//! Tests of the memory manager on the real machine: what only a CPU and its translation cache show.
//!
//! A missing flush shows only while the CPU still holds the translation, so tests that hunt for stale ones touch
//! [`WARM_PAGES`] pages first, more than any level of the cache of QEMU's CPU holds, and look at all of them.
#![deny(unsafe_code)]
mod coherent;
mod contended;
mod device;
mod fork;
mod hmm;
mod kinds;
mod many_cpus;
mod migrate;
mod mirror;
mod peer;
mod space;
mod strict;

use super::{AddressSpace, device as driver, enter, leave, manager};
use crate::arch::areas::store_bytes;
use crate::harness::{TestFailure, fail};
use ferry_mm::address::{PAGE_BYTES, PageRange};
use ferry_mm::frame::DeviceId;
use ferry_mm::space::Protection;
use x86_64::VirtAddr;

/// Pages that are touched to warm the translation cache.
const WARM_PAGES: u64 = 4096;

const START: VirtAddr = VirtAddr::new_truncate(0x0000_0042_0000_0000);

/// An address space that the test runs in; gone at the end of the test, however it ends.
struct Room {
    space: AddressSpace,
}

impl Room {
    fn enter() -> Result<Self, TestFailure> {
        let space = manager().create_space()?;
        enter(space);
        Ok(Self { space })
    }

    /// Maps `pages` pages from [`START`] on.
    fn map(&self, pages: u64) -> Result<PageRange, TestFailure> {
        let range = pages_at(0, pages)?;
        self.space.map_anonymous(range, Protection::READ_WRITE)?;
        Ok(range)
    }

    /// Maps `pages` pages and fills each with its own pattern, through the CPU.
    fn map_filled(&self, pages: u64) -> Result<PageRange, TestFailure> {
        let range = self.map(pages)?;
        for index in 0..pages {
            store_bytes(range.page(index).start_address(), &pattern(index));
        }
        Ok(range)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        leave();
        if let Err(error) = self.space.destroy() {
            // The census around the test finds the space that is left and fails the test.
            log::error!("{error}");
        }
    }
}

/// `pages` pages, `first` pages after [`START`].
fn pages_at(first: u64, pages: u64) -> Result<PageRange, TestFailure> {
    Ok(PageRange::covering(START + first * PAGE_BYTES, pages * PAGE_BYTES)?)
}

/// What page `index` is filled with: different in every page, and no byte of it zero.
fn pattern(index: u64) -> [u8; PAGE_BYTES as usize] {
    core::array::from_fn(|offset| (index.wrapping_mul(31) as usize + offset) as u8 | 1)
}

/// The first eight bytes of [`pattern`], as the CPU loads them.
fn first_word(index: u64) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = pattern(index);
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// The device of this number; the host gives the tests 0 and 1, which are private, and 2 and 3, which are coherent.
fn device_numbered(number: u8) -> Result<DeviceId, TestFailure> {
    match driver::all()?.iter().find(|device| device.id.number() == number) {
        Some(device) => Ok(device.id),
        None => fail!("there is no device {number}"),
    }
}

fn the_device() -> Result<DeviceId, TestFailure> {
    device_numbered(0)
}
