//! Swap: contents against plain bytes and against the disk's own, failures, sharing, pressure.
mod contents;
mod failures;
mod migration;
mod pressure;
mod sharing;

use ferry_mm::page_table::entry::{Entry, SwapSlot};
use ferry_mm::space::Space;
use ferry_sim::{Builder, Sim, World};

use crate::support::*;

/// A calm machine with 2 CPUs, a device of 32 frames and a disk of 64 slots.
fn swapping() -> Builder {
    small().swap(64)
}

/// The slot of a page that is swapped out.
fn slot(space: Space<'_, Sim>, page: u64) -> SwapSlot {
    match space.entry(at(page, 0)).decode() {
        Entry::Swap { slot } => slot,
        other => panic!("page {page} is not swapped out but {other:?}"),
    }
}

/// The bytes of a page on the disk.
fn on_disk(world: &World, space: Space<'_, Sim>, page: u64) -> Vec<u8> {
    world.disk().bytes(slot(space, page))
}

/// Swaps `count` pages from `first` on out; all of them must go.
fn swap_out(space: Space<'_, Sim>, first: u64, count: u64) {
    let out = space.swap_out(pages(first, count)).unwrap();
    assert_eq!((out.freed, out.stayed.total()), (count, 0), "{out:?}");
}
