//! Every call that changes areas, over pages of every kind: contents, counts, and never leave to write by the way.
mod scene;

use ferry_mm::page_table::entry::{LeafFlags, RawEntry};
use ferry_mm::space::{Access, FaultError, Leave, Protection, Residency, Space};
use ferry_sim::{AccessError, Sim};

use self::scene::*;
use crate::support::*;

/// Pages between where the pages are and where they go.
const AWAY: u64 = 16;

fn is_writable(raw: &RawEntry) -> bool {
    // W stands at the same place in every kind of entry that has it.
    raw.flags().contains(LeafFlags::WRITABLE)
}

/// Expects no page of `space` to be writable where it was not, and the child's entries to be what they were.
fn expect_no_leave_to_write(scene: &Scene<'_>, before: &[Vec<RawEntry>; 2], now: impl Fn(u64) -> RawEntry) {
    for (number, before) in PAGES.into_iter().zip(&before[0]) {
        assert!(is_writable(before) || !is_writable(&now(number)), "from {before:?} to {:?}", now(number));
    }
    assert_eq!(scene.entries()[1], before[1], "the child's");
}

fn now<'a>(scene: &'a Scene<'_>) -> impl Fn(u64) -> RawEntry + 'a {
    |number| scene.entry(number)
}

fn no_area(number: u64) -> AccessError {
    AccessError::Refused(FaultError::NoArea(at(number, 0)))
}

#[test]
fn unmapped_pages_are_gone() {
    for_each_kind(|scene| {
        let before = scene.entries();
        scene.space.unmap(pages(PAGES[0], 2)).unwrap();
        assert_eq!(scene.space.resident(), scene.neighbours_and(Residency::default()));
        for number in PAGES {
            assert_eq!(scene.entry(number), RawEntry::EMPTY);
            assert_eq!(scene.page_of(scene.space, number), Err(no_area(number)));
        }
        assert_eq!(scene.entries()[1], before[1], "the child's");
        for (frame, number) in scene.pinned().into_iter().zip(PAGES) {
            assert_eq!(host(scene.world, frame), contents(number), "a pinned frame outlives its page");
        }
        scene.expect_others_untouched();
    });
}

#[test]
fn one_page_of_two_is_unmapped() {
    for unmapped in PAGES {
        for_each_kind(|scene| {
            let before = scene.entries();
            scene.space.unmap(pages(unmapped, 1)).unwrap();
            assert_eq!(scene.space.resident(), scene.neighbours_and(scene.kind.residency(1)));
            for (number, before) in PAGES.into_iter().zip(&before[0]) {
                let expected = if number == unmapped { RawEntry::EMPTY } else { *before };
                assert_eq!(scene.entry(number), expected);
            }
            assert_eq!(scene.page_of(scene.space, unmapped), Err(no_area(unmapped)));
            let kept: Vec<u64> = PAGES.into_iter().filter(|number| *number != unmapped).collect();
            scene.expect_kept_and_usable(&kept, 0);
        });
    }
}

#[test]
fn discarded_pages_are_zeros() {
    for_each_kind(|scene| {
        let before = scene.entries();
        scene.space.discard(pages(PAGES[0], 2)).unwrap();
        assert_eq!(scene.space.resident(), scene.neighbours_and(Residency::default()));
        for number in PAGES {
            assert_eq!(scene.entry(number), RawEntry::EMPTY);
            assert_eq!(scene.page_of(scene.space, number), Ok(zeros()));
            scene.world.cpu(0).store(at(number, 9), &[1]).unwrap();
        }
        assert_eq!(scene.entries()[1], before[1], "the child's");
        for (frame, number) in scene.pinned().into_iter().zip(PAGES) {
            assert_eq!(host(scene.world, frame), contents(number), "the pinned frame is the page's no more");
        }
        scene.expect_others_untouched();
    });
}

#[test]
fn unwanted_pages_stay_while_there_is_memory() {
    for_each_kind(|scene| {
        let before = scene.entries();
        scene.space.free_lazily(pages(PAGES[0], 2)).unwrap();
        assert_eq!(scene.space.resident(), scene.neighbours_and(scene.kind.residency(2)));
        let alone = matches!(scene.kind, Kind::Dirty | Kind::Clean | Kind::ReadOnly | Kind::Unwanted);
        let cleared = if alone { LeafFlags::ACCESSED | LeafFlags::DIRTY } else { LeafFlags::empty() };
        for (number, before) in PAGES.into_iter().zip(&before[0]) {
            assert_eq!(
                scene.entry(number),
                RawEntry(before.0 & !cleared.bits()),
                "a page that is not ours alone stays"
            );
        }
        scene.expect_kept_and_usable(&PAGES, 0);
    });
}

#[test]
fn protection_is_that_of_the_area_whatever_stands_there() {
    let (none, read, write) = (Protection::empty(), Protection::READ, Protection::READ_WRITE);
    for steps in [&[none][..], &[read], &[write], &[none, read], &[none, write], &[read, write], &[none, read, write]] {
        for_each_kind(|scene| {
            let mut last = write;
            for protection in steps {
                let before = scene.entries();
                scene.space.protect(pages(PAGES[0], 2), *protection).unwrap();
                last = *protection;
                expect_no_leave_to_write(scene, &before, now(scene));
                let allows = |raw: &RawEntry| (raw.is_present(), is_writable(raw));
                for raw in &scene.entries()[0] {
                    assert!(last.is_accessible() || !allows(raw).0, "{raw:?} without any access");
                    assert!(last.contains(Protection::WRITE) || !allows(raw).1, "{raw:?} in a read-only area");
                }
                assert_eq!(scene.space.resident(), scene.neighbours_and(scene.kind.residency(2)));
                scene.audit();
            }
            if last == write {
                return scene.expect_kept_and_usable(&PAGES, 0);
            }
            for number in PAGES {
                let forbidden = |access| AccessError::Refused(FaultError::Forbidden(at(number, 0), access, last));
                assert_eq!(scene.world.cpu(0).store(at(number, 0), &[1]), Err(forbidden(Access::Write)));
                let loaded = scene.page_of(scene.space, number);
                assert_eq!(loaded, if last == none { Err(forbidden(Access::Read)) } else { scene.expected(number) });
            }
            scene.expect_others_untouched();
        });
    }
}

#[test]
fn pages_keep_what_they_are_where_they_go() {
    for leave in [Leave::Nothing, Leave::Empty] {
        for_each_kind(|scene| {
            let before = scene.entries();
            let moved = scene.space.relocate(pages(PAGES[0], 2), at(PAGES[0] + AWAY, 0), leave).unwrap();
            assert_eq!(moved, pages(PAGES[0] + AWAY, 2));
            expect_no_leave_to_write(scene, &before, |number| scene.entry(number + AWAY));
            assert_eq!(scene.space.resident(), scene.neighbours_and(scene.kind.residency(2)));
            for (number, before) in PAGES.into_iter().zip(&before[0]) {
                assert_eq!(scene.entry(number), RawEntry::EMPTY);
                // Its device has been told that it is over.
                let ended = scene.kind == Kind::Exclusive && scene.entry(number + AWAY).is_present();
                assert!(scene.entry(number + AWAY) == *before || ended);
                assert!(scene.kind != Kind::Exclusive || ended, "still {:?}", scene.entry(number + AWAY).decode());
                let left = scene.page_of(scene.space, number);
                assert_eq!(left, if leave == Leave::Empty { Ok(zeros()) } else { Err(no_area(number)) });
            }
            scene.expect_kept_and_usable(&PAGES, AWAY);
        });
    }
}

/// What a fork leaves is stored to in both spaces, in either order; also where nobody could access it at the time.
#[test]
fn a_fork_gives_each_side_its_own() {
    for (child_first, hidden) in [(false, false), (true, false), (false, true), (true, true)] {
        for_each_kind(|scene| {
            let both = pages(PAGES[0], 2);
            if hidden {
                scene.space.protect(both, Protection::empty()).unwrap();
            }
            let before = scene.entries();
            let fork = scene.space.fork().unwrap();
            if hidden {
                for space in [scene.space, fork] {
                    space.protect(both, Protection::READ_WRITE).unwrap();
                }
            }
            expect_no_leave_to_write(scene, &before, now(scene));
            for (number, before) in PAGES.into_iter().zip(&before[0]) {
                assert!(is_writable(before) || !is_writable(&fork.entry(at(number, 0))));
            }
            assert_eq!(scene.space.resident(), scene.neighbours_and(scene.kind.residency(2)));
            // A page that is pinned is copied, to RAM.
            assert_eq!(fork.resident(), scene.neighbours_and(scene.kind.residency(2)));
            scene.audit();
            let store = |space: Space<'_, Sim>, byte| {
                scene.world.cpu(0).enter(space);
                for number in PAGES {
                    let stored = scene.world.cpu(0).store(at(number, 0), &[byte]);
                    assert_eq!(stored.is_ok(), scene.kind != Kind::Lost, "{stored:?}");
                }
                scene.world.cpu(0).enter(scene.space);
            };
            let (first, second) = if child_first { (fork, scene.space) } else { (scene.space, fork) };
            store(first, 1);
            for number in PAGES {
                assert_eq!(scene.page_of(second, number), scene.expected(number));
            }
            store(second, 2);
            for (space, byte) in [(first, 1), (second, 2)] {
                for number in PAGES {
                    let mut expected = scene.expected(number);
                    expected.iter_mut().for_each(|contents| contents.splice_front(&[byte]));
                    assert_eq!(scene.page_of(space, number), expected);
                }
            }
            scene.expect_others_untouched();
        });
    }
}

#[test]
fn an_exit_leaves_nothing() {
    for_each_kind(|scene| {
        let before = scene.entries();
        for cpu in [0, 1] {
            scene.world.cpu(cpu).leave();
        }
        scene.space.destroy().unwrap();
        scene.audit();
        for (child, before) in scene.child.into_iter().zip(&before[1..]) {
            assert_eq!(PAGES.map(|number| child.entry(at(number, 0))).to_vec(), *before);
            scene.world.cpu(1).enter(child);
            for number in PAGES {
                assert_eq!(page(scene.world.cpu(1), number), contents(number));
            }
        }
        for (frame, number) in scene.pinned().into_iter().zip(PAGES) {
            assert_eq!(host(scene.world, frame), contents(number));
        }
    });
}
