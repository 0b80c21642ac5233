//! Mappings of the kernel's half, and walks that look at everything.
use ferry_mm::address::PAGE_BYTES;
use ferry_mm::page_table::entry::{Entry, LeafFlags, RawEntry};
use ferry_mm::page_table::install::{InstallError, install, new_root};
use ferry_mm::page_table::walk;
use ferry_mm::space::Protection;
use x86_64::structures::paging::page_table::PageTableLevel;
use x86_64::structures::paging::{Page, PhysFrame};
use x86_64::{PhysAddr, VirtAddr};

use crate::support::*;

const LARGE: u64 = 512 * PAGE_BYTES;

fn frame(address: u64) -> PhysFrame {
    PhysFrame::containing_address(PhysAddr::new(address))
}

#[test]
fn leaves_of_both_sizes_are_found_where_they_were_installed() {
    let world = small().build();
    let (sim, memory) = (world.sim(), world.manager().memory());
    let root = new_root(sim, memory).unwrap();
    let data = LeafFlags::WRITABLE | LeafFlags::NO_EXECUTE;
    let user = LeafFlags::USER | LeafFlags::WRITABLE;
    let start = 0xffff_8000_0000_0000;
    // In ascending order, with neighbours in every table above.
    let leaves = [
        (start, 7 * LARGE, PageTableLevel::Two, data),
        (start + 511 * LARGE, 9 * LARGE, PageTableLevel::Two, LeafFlags::NO_EXECUTE),
        (start + 512 * LARGE, 0x5000, PageTableLevel::One, LeafFlags::empty()),
        (start + 512 * LARGE + 511 * PAGE_BYTES, 0x6000, PageTableLevel::One, user),
        (0xffff_ffff_ffff_f000, 0x7000, PageTableLevel::One, data),
    ];
    for (address, to, level, flags) in leaves {
        install(sim, memory, root, VirtAddr::new(address), frame(to), level, flags).unwrap();
    }
    let mut found = Vec::new();
    walk::for_each_leaf(sim, root, &mut |address, entry, rights| {
        let Entry::Present { frame, flags } = entry.decode() else { panic!("{entry:?}") };
        let level = if flags.contains(LeafFlags::HUGE) { PageTableLevel::Two } else { PageTableLevel::One };
        assert_eq!(flags - LeafFlags::HUGE, rights, "tables take no right away");
        found.push((address.as_u64(), frame.start_address().as_u64(), level, rights));
    });
    assert_eq!(found, leaves);
    for (address, _, level, _) in leaves {
        let path = walk::path(sim, root, VirtAddr::new(address));
        let last = path.steps().last().unwrap();
        assert_eq!((last.level, last.entry.is_present()), (level, true));
    }
}

#[test]
fn what_cannot_be_installed_is_refused_and_changes_nothing() {
    let world = small().build();
    let (sim, memory) = (world.sim(), world.manager().memory());
    let root = new_root(sim, memory).unwrap();
    let put = |address: u64, to: u64, level| {
        install(sim, memory, root, VirtAddr::new(address), frame(to), level, LeafFlags::NO_EXECUTE)
    };
    let start = 0xffff_9000_0000_0000;
    put(start, LARGE, PageTableLevel::Two).unwrap();
    put(start + LARGE, 0x5000, PageTableLevel::One).unwrap();
    for (address, to) in [(start + 2 * LARGE + PAGE_BYTES, LARGE), (start + 2 * LARGE, LARGE + PAGE_BYTES)] {
        let misaligned = InstallError::Misaligned(VirtAddr::new(address), frame(to));
        assert_eq!(put(address, to, PageTableLevel::Two), Err(misaligned));
    }
    let mapped = |result| match result {
        Err(InstallError::AlreadyMapped(address, entry)) => (address.as_u64(), entry.decode().frame()),
        other => panic!("{other:?}"),
    };
    let again = [(start, PageTableLevel::Two), (start + 5 * PAGE_BYTES, PageTableLevel::One)];
    for (address, level) in again {
        let (at, there) = mapped(put(address, 0x20_0000 * 4, level));
        assert_eq!((at, there), (address, Some(world.sim().frame_at(frame(LARGE)))), "inside a large leaf, too");
    }
    assert_eq!(mapped(put(start + LARGE, 0x9000, PageTableLevel::One)).0, start + LARGE);
    let mut leaves = 0;
    walk::for_each_leaf(sim, root, &mut |_, _, _| leaves += 1);
    assert_eq!(leaves, 2);
}

/// Every entry of a space is met, once, and nothing else.
#[test]
fn the_entries_of_a_space_are_those_of_its_pages() {
    let world = small().swap(8).build();
    let space = space_of(&world, 8);
    space.map_anonymous(pages(600, 2), Protection::READ).unwrap();
    fill(world.cpu(0), 7);
    space.unmap(pages(2, 1)).unwrap();
    assert_eq!(space.migrate_to_device(pages(3, 1), DEVICE).unwrap().moved, 1);
    assert_eq!(space.swap_out(pages(4, 1)).unwrap().freed, 1);
    assert_eq!(page(world.cpu(0), 601), zeros());
    let mut found: Vec<(u64, RawEntry)> = Vec::new();
    space.for_each_entry(|page, entry| found.push((page - Page::containing_address(at(0, 0)), entry)));
    let expected = [0, 1, 3, 4, 5, 6, 601].map(|number| (number, space.entry(at(number, 0))));
    assert_eq!(found, expected);
    let mut present = Vec::new();
    walk::for_each_leaf(world.sim(), space.root(), &mut |address, entry, rights| {
        assert_eq!(rights, entry.flags() & (LeafFlags::WRITABLE | LeafFlags::USER | LeafFlags::NO_EXECUTE));
        present.push((address, entry));
    });
    let expected = [0, 1, 5, 6, 601].map(|number| (at(number, 0), space.entry(at(number, 0))));
    assert_eq!(present, expected);
    world.assert_all_free();
}
