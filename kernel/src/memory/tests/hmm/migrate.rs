//! Pages go to the device, are read there by the device, and come home.
use ferry_mm::migrate::{Invalid, MigrateError};
use ferry_mm::mirror::{MirrorEntry, Place};
use ferry_mm::space::{Access, Protection, Term};

use super::{BUFFER_PAGES, ROUNDS, Variant};
use crate::harness::{TestResult, check, check_eq};
use crate::memory::manager;
use crate::memory::tests::peer::{Contents, Peer, ints};
use crate::memory::tests::{Room, pages_at};

pub(super) fn migrate(variant: Variant) -> TestResult {
    let room = Room::enter()?;
    let range = room.map(BUFFER_PAGES)?;
    let mut peer = Peer::open(&room, range, variant.first)?;
    peer.fill_memory(ints);
    check_eq!(peer.migrate(range)?.moved, BUFFER_PAGES);
    peer.check_mirror(ints)
}

pub(super) fn migrate_fault(variant: Variant) -> TestResult {
    let room = Room::enter()?;
    let range = room.map(BUFFER_PAGES)?;
    let mut peer = Peer::open(&room, range, variant.first)?;
    peer.fill_memory(ints);
    check_eq!(peer.migrate(range)?.moved, BUFFER_PAGES);
    peer.check_mirror(ints)?;
    for page in 0..BUFFER_PAGES / 2 {
        check!(ints(page) == Contents::load(range, page), "page {page}")?;
    }
    // A coherent page has not moved when the CPU reads it.
    let came_home = if variant.is_coherent() { 0 } else { BUFFER_PAGES / 2 };
    check_eq!(peer.migrate(range)?.moved, came_home);
    peer.check_mirror(ints)
}

pub(super) fn migrate_release(variant: Variant) -> TestResult {
    let room = Room::enter()?;
    let range = room.map(BUFFER_PAGES)?;
    let mut peer = Peer::open(&room, range, variant.first)?;
    peer.fill_memory(ints);
    check_eq!(peer.migrate(range)?.moved, BUFFER_PAGES);
    peer.check_mirror(ints)?;
    let evicted = manager().evict_device(variant.first);
    manager().device(variant.first).into_iter().for_each(|device| device.reopen());
    check_eq!(evicted.map(|evicted| evicted.returned), Some(BUFFER_PAGES));
    for page in 0..BUFFER_PAGES / 2 {
        check!(ints(page) == Contents::load(range, page), "page {page}")?;
    }
    Ok(())
}

pub(super) fn migrate_shared(variant: Variant) -> TestResult {
    let room = Room::enter()?;
    let range = pages_at(0, BUFFER_PAGES)?;
    room.space.map_shared(range, Protection::READ_WRITE)?;
    let refused = room.space.migrate_to_device(range, variant.first);
    check!(matches!(refused, Err(MigrateError::Invalid(Invalid::NotAnonymous(_)))), "{refused:?}")
}

pub(super) fn migrate_multiple(variant: Variant) -> TestResult {
    for _ in 0..ROUNDS {
        let room = Room::enter()?;
        let range = room.map(BUFFER_PAGES)?;
        let mut peer = Peer::open(&room, range, variant.first)?;
        peer.fill_memory(ints);
        check_eq!(peer.migrate(range)?.moved, BUFFER_PAGES);
        peer.check_mirror(ints)?;
        if variant.is_coherent() {
            check_eq!(room.space.migrate_to_system(range)?.moved, BUFFER_PAGES);
        }
        peer.check_memory(ints)?;
    }
    Ok(())
}

pub(super) fn hmm_gup_test(variant: Variant) -> TestResult {
    const PAGES: u64 = 4;
    let room = Room::enter()?;
    let range = room.map(PAGES)?;
    let mut peer = Peer::open(&room, range, variant.first)?;
    peer.fill_memory(ints);
    check_eq!(peer.migrate(range)?.moved, PAGES);
    for (page, term) in (0..).zip([Term::Short, Term::Short, Term::Long, Term::Long]) {
        drop(room.space.pin(range.page(page).start_address(), Access::Write, term)?);
    }
    for (page, entry) in peer.snapshot(range)?.into_iter().enumerate() {
        let expected = match entry {
            MirrorEntry::Device { writable: true, place: Place::Local, .. } => variant.is_coherent() && page < 2,
            MirrorEntry::Ram { writable: true, .. } => !variant.is_coherent() || page >= 2,
            _ => false,
        };
        check!(expected, "page {page} is {entry:?}")?;
    }
    peer.check_memory(ints)
}
