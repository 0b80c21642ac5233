//! Two devices and one address space (the peer's fixture `hmm2`).
use ferry_mm::migrate::{Invalid, MigrateError};
use ferry_mm::mirror::{MirrorEntry, Place};
use ferry_mm::space::Protection;
use ferry_mm::stats::Reason;

use super::Variant;
use crate::arch::areas::load_byte;
use crate::harness::{TestResult, check, check_eq};
use crate::memory::tests::Room;
use crate::memory::tests::peer::{Done, Peer, ints};

pub(super) fn migrate_mixed(variant: Variant) -> TestResult {
    let room = Room::enter()?;
    let range = room.map(6)?;
    let mut peer = Peer::open(&room, range, variant.second)?;
    room.space.protect(range, Protection::empty())?;
    let migrate = |first, count| room.space.migrate_to_device(range.part(first, count), variant.second);
    check_eq!(migrate(0, 6), Err(MigrateError::Invalid(Invalid::NotReadable(range))));
    room.space.unmap(range.part(1, 1))?;
    check_eq!(migrate(0, 3), Err(MigrateError::Invalid(Invalid::OutsideArea(range.part(0, 3)))));
    // Page 2 reads as the zero page, page 3 is read-only with contents, 4 and 5 are writable.
    room.space.protect(range.part(2, 1), Protection::READ)?;
    load_byte(range.page(2).start_address());
    room.space.protect(range.part(3, 3), Protection::READ_WRITE)?;
    for page in 3..6 {
        ints(page).store(range, page);
    }
    room.space.protect(range.part(3, 1), Protection::READ)?;
    // A call is for one area, as in v11; the peer's driver makes one for each, too.
    check_eq!(peer.migrate(range.part(2, 2))?.moved + peer.migrate(range.part(4, 2))?.moved, 4);
    let again = room.space.migrate_to_device(range.part(5, 1), variant.first)?;
    check_eq!((again.moved, again.stayed.count(Reason::ForeignDevice)), (0, 1));
    Ok(())
}

pub(super) fn snapshot(variant: Variant) -> TestResult {
    let room = Room::enter()?;
    let range = room.map(7)?;
    let mut peer = Peer::open(&room, range, variant.first)?;
    let mut other = Peer::open(&room, range, variant.second)?;
    ints(4).store(range, 4);
    ints(3).store(range, 3);
    check_eq!((peer.migrate(range.part(5, 1))?.moved, other.migrate(range.part(6, 1))?.moved), (1, 1));
    load_byte(range.page(2).start_address());
    room.space.protect(range.part(0, 1), Protection::empty())?;
    room.space.unmap(range.part(1, 1))?;
    room.space.protect(range.part(2, 2), Protection::READ)?;
    let seen = peer.snapshot(range)?;
    let [p0, p1, p2, p3, p4, p5, p6] = seen[..] else { unreachable!("an entry for each page") };
    check_eq!((p0, p1), (MirrorEntry::Error, MirrorEntry::Error));
    check!(matches!(p2, MirrorEntry::Ram { writable: false, zero: true, .. }), "{p2:?}")?;
    check!(matches!(p3, MirrorEntry::Ram { writable: false, zero: false, .. }), "{p3:?}")?;
    check!(matches!(p4, MirrorEntry::Ram { writable: true, zero: false, .. }), "{p4:?}")?;
    check!(matches!(p5, MirrorEntry::Device { writable: true, place: Place::Local, .. }), "{p5:?}")?;
    let remote = matches!(p6, MirrorEntry::Device { writable: true, place: Place::Remote, .. });
    check!(if variant.is_coherent() { remote } else { p6 == MirrorEntry::None }, "{p6:?}")
}

pub(super) fn double_map(variant: Variant) -> TestResult {
    const PAGES: u64 = 6;
    const DONE: Done = Done { pages: PAGES, faults: 1 };
    let room = Room::enter()?;
    let range = room.map(PAGES)?;
    let mut first = Peer::open(&room, range, variant.first)?;
    let mut second = Peer::open(&room, range, variant.second)?;
    first.fill_memory(ints);
    room.space.protect(range, Protection::READ)?;
    for peer in [&mut first, &mut second] {
        check_eq!(peer.read(range)?, Ok(DONE));
        peer.check_mirror(ints)?;
    }
    check_eq!(second.migrate(range)?.moved, PAGES);
    second.check_mirror(ints)?;
    check_eq!(first.read(range)?, Ok(DONE));
    first.check_mirror(ints)
}
