//! A look at the page tables for reports: reads that cannot fault.
use super::layout::DIRECT_MAP;
use crate::ram;
use x86_64::registers::control::Cr3;
use x86_64::{PhysAddr, VirtAddr};

/// Entries of a page table (Intel SDM 3A, 4.5).
pub const ENTRIES: u64 = 512;

/// The level-4 table in use.
pub fn root() -> PhysAddr {
    Cr3::read().0.start_address()
}

/// Entry `index` of the table at `table`, or `None` where that is not RAM.
pub fn entry(table: PhysAddr, index: u16) -> Option<u64> {
    if u64::from(index) >= ENTRIES {
        return None;
    }
    let address = table + u64::from(index) * size_of::<u64>() as u64;
    if !ram::contains(address, size_of::<u64>() as u64) {
        return None;
    }
    let pointer = (DIRECT_MAP.start() + address.as_u64()).as_ptr::<u64>();
    // SAFETY: the direct map covers all RAM readably from the loader on; a volatile read, because
    // the CPU and other code change entries at any time.
    Some(unsafe { pointer.read_volatile() })
}

/// The frame or table that a present entry names.
pub fn frame_of(entry: u64) -> PhysAddr {
    /// Address bits of an entry (Intel SDM 3A, tables 4-15 to 4-20).
    const FRAME: u64 = 0x000f_ffff_ffff_f000;
    PhysAddr::new_truncate(entry & FRAME)
}

/// Where the current tables map `address`, or `None` where they do not, or through a large page.
pub fn translate(address: VirtAddr) -> Option<PhysAddr> {
    /// Bits of an entry (Intel SDM 3A, tables 4-15 to 4-20).
    const PRESENT: u64 = 1;
    const LARGE: u64 = 1 << 7;
    let mut table = root();
    let indices = [address.p4_index(), address.p3_index(), address.p2_index(), address.p1_index()];
    for (depth, index) in indices.into_iter().enumerate() {
        let entry = entry(table, index.into())?;
        let above_leaf = depth + 1 < indices.len();
        if entry & PRESENT == 0 || above_leaf && entry & LARGE != 0 {
            return None;
        }
        table = frame_of(entry);
    }
    Some(table + u64::from(address.page_offset()))
}
