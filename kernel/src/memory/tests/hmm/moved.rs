//! Pages on the device whose addresses go or change.
use ferry_mm::address::PAGE_BYTES;
use ferry_mm::space::Leave;

use super::Variant;
use crate::harness::{TestResult, check, check_eq};
use crate::memory::tests::Room;
use crate::memory::tests::peer::{Contents, Peer, ints};

/// Pages of the peer's buffers in these tests: those of a huge page.
const PAGES: u64 = 512;

/// Where the unmapped half begins, or how far beyond its size the buffer is moved.
const OFFSETS: [u64; 3] = [0, PAGES / 4, PAGES / 2];

pub(super) fn migrate_partial_unmap_fault(variant: Variant) -> TestResult {
    for offset in OFFSETS {
        let room = Room::enter()?;
        let range = room.map(PAGES)?;
        let mut peer = Peer::open(&room, range, variant.first)?;
        peer.fill_memory(ints);
        check_eq!(peer.migrate(range)?.moved, PAGES);
        peer.check_mirror(ints)?;
        room.space.unmap(range.part(offset, PAGES / 2))?;
        for page in (0..PAGES).filter(|page| !(offset..offset + PAGES / 2).contains(page)) {
            check!(ints(page) == Contents::load(range, page), "page {page}, half from {offset} on unmapped")?;
        }
    }
    Ok(())
}

pub(super) fn migrate_remap_fault(variant: Variant) -> TestResult {
    for (before, leave) in
        [(true, Leave::Nothing), (true, Leave::Empty), (false, Leave::Nothing), (false, Leave::Empty)]
    {
        for offset in OFFSETS {
            let room = Room::enter()?;
            let mut range = room.map(PAGES)?;
            Contents::store_all(range, ints);
            let target = range.start_address() + (PAGES + offset) * PAGE_BYTES;
            if before {
                range = room.space.relocate(range, target, leave)?;
            }
            let mut peer = Peer::open(&room, range, variant.first)?;
            check_eq!(peer.migrate(range)?.moved, PAGES);
            peer.check_mirror(ints)?;
            if !before {
                range = room.space.relocate(range, target, leave)?;
            }
            for page in 0..PAGES {
                check!(ints(page) == Contents::load(range, page), "page {page}, moved by {offset} more, {leave:?}")?;
            }
        }
    }
    Ok(())
}
