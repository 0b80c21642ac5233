//! The check that no page is both writable and executable, over the whole table.
//!
//! Rights on a path are the intersection of the rights of its entries (Intel SDM 3A, 4.6.1), so the walk carries them down.
#![forbid(unsafe_code)]
use crate::arch::machine::Hardware;
use core::fmt;
use ferry_mm::page_table::entry::{Entry, LeafFlags};
use ferry_mm::page_table::walk;
use x86_64::VirtAddr;
use x86_64::structures::paging::PhysFrame;

/// A page that can be both written and executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WritableAndExecutable(pub VirtAddr);

impl fmt::Display for WritableAndExecutable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the page at v{:#x} is writable and executable", self.0)
    }
}

/// Walks every path of `root`; returns how many leaves it saw.
///
/// # Errors
/// The first page that breaks the rule.
pub fn check(root: PhysFrame) -> Result<u64, WritableAndExecutable> {
    let mut leaves = 0;
    let mut found = None;
    walk::for_each_leaf(&Hardware, root, &mut |address, entry, rights| {
        leaves += 1;
        let Entry::Present { .. } = entry.decode() else { return };
        let executable = !rights.contains(LeafFlags::NO_EXECUTE);
        if executable && rights.contains(LeafFlags::WRITABLE) {
            found.get_or_insert(address);
        }
    });
    found.map_or(Ok(leaves), |address| Err(WritableAndExecutable(address)))
}
