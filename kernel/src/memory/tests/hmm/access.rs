//! The device reads and writes memory that stays in RAM.
use ferry_device::request::OperationStatus;
use ferry_mm::space::Protection;

use super::{BUFFER_PAGES, ROUNDS, Variant};
use crate::arch::areas::load_byte;
use crate::harness::{TestResult, check, check_eq};
use crate::memory::tests::Room;
use crate::memory::tests::peer::{Contents, Done, Peer, ints, negated, zeros};

const WHOLE: Done = Done { pages: BUFFER_PAGES, faults: 1 };

pub(super) fn open_close(variant: Variant) -> TestResult {
    let room = Room::enter()?;
    let range = room.map(BUFFER_PAGES)?;
    // What it took comes back: the census around the test sees to that.
    drop(Peer::open(&room, range, variant.first)?);
    Ok(())
}

pub(super) fn anon_read(variant: Variant) -> TestResult {
    let room = Room::enter()?;
    let range = room.map(BUFFER_PAGES)?;
    let mut peer = Peer::open(&room, range, variant.first)?;
    // Page 0 stays untouched, page 1 becomes the zero page.
    load_byte(range.page(1).start_address());
    for page in 2..BUFFER_PAGES {
        ints(page).store(range, page);
    }
    room.space.protect(range, Protection::READ)?;
    check_eq!(peer.read(range)?, Ok(WHOLE));
    peer.check_mirror(|page| if page < 2 { zeros() } else { ints(page) })
}

pub(super) fn anon_read_prot(variant: Variant) -> TestResult {
    let room = Room::enter()?;
    let range = room.map(BUFFER_PAGES)?;
    let mut peer = Peer::open(&room, range, variant.first)?;
    peer.fill_memory(ints);
    peer.fill_mirror(negated);
    room.space.protect(range, Protection::empty())?;
    check_eq!(peer.read(range)?, Err(OperationStatus::Fault));
    peer.check_mirror(negated)?;
    room.space.protect(range, Protection::READ)?;
    peer.check_memory(ints)
}

pub(super) fn anon_write(variant: Variant) -> TestResult {
    let room = Room::enter()?;
    let range = room.map(BUFFER_PAGES)?;
    let mut peer = Peer::open(&room, range, variant.first)?;
    peer.fill_mirror(ints);
    check_eq!(peer.write(range)?, Ok(WHOLE));
    peer.check_memory(ints)
}

pub(super) fn anon_write_prot(variant: Variant) -> TestResult {
    let room = Room::enter()?;
    let range = room.map(BUFFER_PAGES)?;
    let mut peer = Peer::open(&room, range, variant.first)?;
    room.space.protect(range, Protection::READ)?;
    check_eq!(peer.read(peer.pages(0, 1))?, Ok(Done { pages: 1, faults: 1 }));
    peer.fill_mirror(ints);
    check_eq!(peer.write(range)?, Err(OperationStatus::NotPermitted));
    peer.check_memory(|_| zeros())?;
    room.space.protect(range, Protection::READ_WRITE)?;
    check_eq!(peer.write(range)?, Ok(WHOLE));
    peer.check_memory(ints)
}

pub(super) fn anon_read_multiple(variant: Variant) -> TestResult {
    for round in 0..ROUNDS {
        let room = Room::enter()?;
        let range = room.map(BUFFER_PAGES)?;
        let mut peer = Peer::open(&room, range, variant.first)?;
        peer.fill_memory(|page| ints(page).plus(round));
        check_eq!(peer.read(range)?, Ok(WHOLE));
        peer.check_mirror(|page| ints(page).plus(round))?;
    }
    Ok(())
}

pub(super) fn anon_teardown(variant: Variant) -> TestResult {
    let mut torn = 0;
    for round in 0..ROUNDS {
        let room = Room::enter()?;
        let range = room.map(BUFFER_PAGES)?;
        let mut peer = Peer::open(&room, range, variant.first)?;
        let contents = |page| ints(page).plus(round);
        peer.fill_memory(contents);
        let read = peer.begin_read(range)?;
        // Not even looked at yet, asked for pages, or half-way: later in each round.
        peer.serve_for(round, &read)?;
        room.space.unmap(peer.pages(BUFFER_PAGES / 2, BUFFER_PAGES / 2))?;
        // Any end will do, but what it says must be so.
        match peer.finish(read)? {
            Ok(done) => {
                check_eq!(done.pages, BUFFER_PAGES);
                peer.check_mirror(contents)?;
            }
            Err(_) => torn += 1,
        }
        for page in 0..BUFFER_PAGES / 2 {
            check!(contents(page) == Contents::load(range, page), "page {page} of round {round}")?;
        }
    }
    // In the first round nothing has been answered when half of the pages go.
    check!(torn > 0, "every read was over before its pages were unmapped")
}
