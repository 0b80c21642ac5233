//! Pages that a device has for itself.
use ferry_device::request::OperationStatus;
use ferry_mm::space::Protection;

use super::{BUFFER_PAGES, Variant};
use crate::harness::{TestResult, check, check_eq};
use crate::memory::enter;
use crate::memory::tests::Room;
use crate::memory::tests::peer::{Contents, Peer, ints};

pub(super) fn exclusive(variant: Variant) -> TestResult {
    let room = Room::enter()?;
    let range = room.map(BUFFER_PAGES)?;
    let mut peer = Peer::open(&room, range, variant.first)?;
    peer.fill_memory(ints);
    check_eq!(peer.make_exclusive(range)?, BUFFER_PAGES);
    peer.check_mirror(ints)?;
    // The device changes a word atomically, as only the owner of a page can.
    let before = peer.add(range.part(7, 1), 3)?;
    check_eq!(before, Ok(ints(7).first_word()));
    for page in 0..BUFFER_PAGES {
        let changed = if page == 7 { ints(page).with_first_word(before_plus(page, 3)) } else { ints(page) };
        check!(changed == Contents::load(range, page), "page {page}")?;
        changed.plus(1).store(range, page);
        check!(changed.plus(1) == Contents::load(range, page), "page {page} after the CPU's store")?;
    }
    check_eq!(peer.exclusive_pages(range)?, 0);
    Ok(())
}

fn before_plus(page: u64, operand: u64) -> u64 {
    ints(page).first_word() + operand
}

pub(super) fn exclusive_mprotect(variant: Variant) -> TestResult {
    let room = Room::enter()?;
    let range = room.map(BUFFER_PAGES)?;
    let mut peer = Peer::open(&room, range, variant.first)?;
    peer.fill_memory(ints);
    check_eq!(peer.make_exclusive(range)?, BUFFER_PAGES);
    peer.check_mirror(ints)?;
    room.space.protect(range, Protection::READ)?;
    check_eq!(peer.write(range)?, Err(OperationStatus::NotPermitted));
    peer.check_memory(ints)
}

pub(super) fn exclusive_cow(variant: Variant) -> TestResult {
    let parent = Room::enter()?;
    let range = parent.map(BUFFER_PAGES)?;
    let mut peer = Peer::open(&parent, range, variant.first)?;
    peer.fill_memory(ints);
    check_eq!(peer.make_exclusive(range)?, BUFFER_PAGES);
    let child = Room { space: parent.space.fork()? };
    for space in [parent.space, child.space] {
        enter(space);
        peer.check_memory(ints)?;
        peer.fill_memory(|page| ints(page).plus(1));
        peer.check_memory(|page| ints(page).plus(1))?;
    }
    drop(child);
    enter(parent.space);
    peer.check_memory(|page| ints(page).plus(1))
}
