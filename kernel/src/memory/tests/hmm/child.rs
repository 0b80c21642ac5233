//! The device and a child that shares the parent's pages.
use ferry_mm::mirror::MirrorEntry;
use ferry_mm::space::Protection;

use super::{BUFFER_PAGES, Variant};
use crate::harness::{TestResult, check, check_eq};
use crate::memory::enter;
use crate::memory::tests::peer::{Contents, Done, Peer, ints, negated};
use crate::memory::tests::{Room, pages_at};

/// Pages of the buffers that the peer forks with: those of a huge page.
const FORKED_PAGES: u64 = 512;

pub(super) fn anon_write_child(variant: Variant) -> TestResult {
    for migrated in [false, true] {
        let parent = Room::enter()?;
        let range = parent.map(FORKED_PAGES)?;
        let mut peer = Peer::open(&parent, range, variant.first)?;
        peer.fill_memory(ints);
        if migrated {
            check_eq!(peer.migrate(range)?.moved, FORKED_PAGES);
            peer.check_mirror(ints)?;
        }
        let child = Room { space: parent.space.fork()? };
        enter(child.space);
        peer.check_memory(ints)?;
        let mut its_own = Peer::open(&child, range, variant.first)?;
        its_own.fill_mirror(negated);
        check_eq!(its_own.write(range)?, Ok(Done { pages: FORKED_PAGES, faults: 1 }));
        its_own.check_memory(negated)?;
        enter(parent.space);
        peer.check_memory(ints)?;
        drop(its_own);
        drop(child);
        enter(parent.space);
    }
    Ok(())
}

pub(super) fn anon_write_child_shared(variant: Variant) -> TestResult {
    let parent = Room::enter()?;
    let range = pages_at(0, BUFFER_PAGES)?;
    parent.space.map_shared(range, Protection::READ_WRITE)?;
    for page in 0..BUFFER_PAGES {
        ints(page).store(range, page);
    }
    let child = Room { space: parent.space.fork()? };
    enter(child.space);
    let mut peer = Peer::open(&child, range, variant.first)?;
    peer.fill_mirror(negated);
    check_eq!(peer.write(range)?, Ok(Done { pages: BUFFER_PAGES, faults: 1 }));
    drop(peer);
    enter(parent.space);
    for page in 0..BUFFER_PAGES {
        check!(negated(page) == Contents::load(range, page), "the parent sees page {page}")?;
    }
    drop(child);
    enter(parent.space);
    Ok(())
}

pub(super) fn hmm_cow_in_device(variant: Variant) -> TestResult {
    const PAGES: u64 = 4;
    let parent = Room::enter()?;
    let range = parent.map(PAGES)?;
    let mut peer = Peer::open(&parent, range, variant.first)?;
    peer.fill_memory(ints);
    check_eq!(peer.migrate(range)?.moved, PAGES);
    let child = Room { space: parent.space.fork()? };
    // The stores break the sharing; the child is there meanwhile.
    peer.fill_memory(negated);
    enter(child.space);
    peer.check_memory(ints)?;
    drop(child);
    enter(parent.space);
    for (page, entry) in peer.snapshot(range)?.into_iter().enumerate() {
        check!(matches!(entry, MirrorEntry::Ram { writable: true, .. }), "page {page} is {entry:?}")?;
    }
    peer.check_memory(negated)
}
