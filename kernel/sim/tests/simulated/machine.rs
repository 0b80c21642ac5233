//! The machine itself: it must be as unforgiving as it says.
use ferry_mm::frame::DeviceFrame;
use ferry_mm::machine::{CpuSet, Machine};
use ferry_mm::page_table::entry::{Entry, LeafFlags, RawEntry};
use ferry_mm::page_table::flush::{FlushRequest, FlushScope};
use ferry_mm::space::{Access, Space};
use ferry_sim::{Chaos, Moment, PageFault, Sim, World};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::*;

/// Changes a leaf behind everybody's back: nobody flushes.
fn rewrite(world: &World, space: Space<'_, Sim>, page: u64, change: impl Fn(RawEntry) -> Entry) {
    let step = *space.path(at(page, 0)).leaf().unwrap();
    world.sim().swap_entry(step.slot, change(step.entry).encode());
}

fn flush(world: &World, cpu: usize, page: u64) {
    let cpus = CpuSet::of(world.cpu(cpu).id());
    world.sim().flush(FlushRequest { cpus, scope: FlushScope::Pages(pages(page, 1)) });
}

#[test]
fn a_stale_translation_reads_the_old_frame_until_flushed() {
    let world = small().build();
    let space = space_of(&world, 2);
    fill(world.cpu(0), 2);
    let (frame, flags) = present(space, 1);
    assert_eq!(page(world.cpu(1), 0), contents(0));
    rewrite(&world, space, 0, |_| Entry::Present { frame, flags });
    assert_eq!(page(world.cpu(1), 0), contents(0), "the old frame, although the entry names another");
    flush(&world, 0, 0);
    assert_eq!(page(world.cpu(1), 0), contents(0), "the flush of another CPU changes nothing");
    flush(&world, 1, 0);
    assert_eq!(page(world.cpu(1), 0), contents(1));
}

#[test]
fn a_stale_translation_writes_the_old_frame_without_a_look_at_the_tables() {
    let world = small().build();
    let space = space_of(&world, 1);
    fill(world.cpu(0), 1);
    let (frame, _) = present(space, 0);
    rewrite(&world, space, 0, |_| Entry::Empty);
    world.sim().store(world.cpu(0).id(), at(0, 8), u64::MAX, 77).unwrap();
    world.sim().fence(world.cpu(0).id());
    assert_eq!(host(&world, frame)[8..16], 77_u64.to_le_bytes());
    flush(&world, 0, 0);
    let fault = PageFault { address: at(0, 8), access: Access::Write };
    assert_eq!(world.sim().store(world.cpu(0).id(), at(0, 8), u64::MAX, 78), Err(fault));
}

#[test]
fn cpus_reach_coherent_device_memory_and_the_device_sees_their_stores() {
    let world = World::builder().frames(128).device(8).coherent_device(8).cpus(2).build();
    let space = space_of(&world, 1);
    fill(world.cpu(0), 1);
    assert_eq!(space.migrate_to_device(pages(0, 1), COHERENT).unwrap().moved, 1);
    let (on_device, _) = in_coherent_memory(&world, space, 0);
    world.sim().poke(on_device.into(), 5, 0x0123_4567_89ab_cdef);
    let (first, second) = (world.cpu(0).id(), world.cpu(1).id());
    assert_eq!(world.sim().load(second, at(0, 40)), Ok(0x0123_4567_89ab_cdef), "what the device wrote");
    let before = host(&world, on_device);
    world.sim().store(first, at(0, 48), u64::MAX, 77).unwrap();
    assert_eq!(host(&world, on_device), before, "the store waits in the CPU's buffer");
    world.sim().fence(first);
    assert_eq!(host(&world, on_device)[48..56], 77_u64.to_le_bytes(), "the device sees the store");
}

#[test]
#[should_panic(expected = "nothing is at p0x10000003000")]
fn private_device_memory_has_no_physical_address() {
    let world = small().build();
    let space = space_of(&world, 1);
    fill(world.cpu(0), 1);
    let (_, flags) = present(space, 0);
    let behind_bar = world.sim().coherent_frame(DeviceFrame::new(DEVICE, 3));
    rewrite(&world, space, 0, |_| Entry::Present { frame: behind_bar, flags });
    flush(&world, 0, 0);
    let _ = world.sim().load(world.cpu(0).id(), at(0, 0));
}

#[test]
fn loads_set_accessed_and_stores_set_dirty() {
    let world = small().build();
    let space = space_of(&world, 1);
    fill(world.cpu(0), 1);
    let (frame, flags) = present(space, 0);
    let clean = flags - LeafFlags::ACCESSED - LeafFlags::DIRTY;
    rewrite(&world, space, 0, |_| Entry::Present { frame, flags: clean });
    flush(&world, 0, 0);
    world.cpu(0).read::<1>(at(0, 0)).unwrap();
    assert_eq!(present(space, 0).1, clean | LeafFlags::ACCESSED);
    world.cpu(0).store(at(0, 0), &[1]).unwrap();
    assert_eq!(present(space, 0).1, clean | LeafFlags::ACCESSED | LeafFlags::DIRTY);
    let upper = space.path(at(0, 0));
    assert!(upper.steps().all(|step| step.entry.flags().contains(LeafFlags::ACCESSED)), "{upper:?}");
}

#[test]
fn a_store_through_a_clean_translation_walks_again_and_faults_where_the_entry_is_gone() {
    let world = small().build();
    let space = space_of(&world, 1);
    fill(world.cpu(0), 1);
    let (frame, flags) = present(space, 0);
    rewrite(&world, space, 0, |_| Entry::Present { frame, flags: flags - LeafFlags::DIRTY });
    let cpu = world.cpu(1).id();
    world.sim().load(cpu, at(0, 0)).unwrap();
    rewrite(&world, space, 0, |_| Entry::Empty);
    assert!(world.sim().load(cpu, at(0, 0)).is_ok(), "a load needs no walk");
    assert!(world.sim().store(cpu, at(0, 0), u64::MAX, 1).is_err());
    assert_eq!(space.entry(at(0, 0)), RawEntry::EMPTY, "the walk set no bit in an entry that is gone");
}

#[test]
fn a_store_is_seen_by_its_own_cpu_at_once_and_by_others_when_it_drains() {
    let world = small().build();
    let space = space_of(&world, 1);
    fill(world.cpu(0), 1);
    world.sim().fence(world.cpu(0).id());
    let before = world.cpu(1).read::<8>(at(0, 0)).unwrap();
    world.cpu(0).store(at(0, 0), b"new data").unwrap();
    assert_eq!(&world.cpu(0).read(at(0, 0)).unwrap(), b"new data");
    assert_eq!(world.cpu(1).read(at(0, 0)).unwrap(), before);
    assert_eq!(host(&world, present(space, 0).0)[..8], before);
    world.sim().fence(world.cpu(0).id());
    assert_eq!(&world.cpu(1).read(at(0, 0)).unwrap(), b"new data");
}

#[test]
fn partial_stores_keep_the_bytes_around_them_and_drain_in_order() {
    let world = small().build();
    let space = space_of(&world, 1);
    world.cpu(0).store(at(0, 0), &[0x11; 24]).unwrap();
    world.cpu(0).store(at(0, 5), &[0x22; 9]).unwrap();
    world.cpu(0).store(at(0, 6), &[0x33; 1]).unwrap();
    let mut expected = [0x11; 24];
    expected[5..14].fill(0x22);
    expected[6] = 0x33;
    assert_eq!(world.cpu(0).read::<24>(at(0, 0)).unwrap(), expected);
    world.sim().fence(world.cpu(0).id());
    assert_eq!(host(&world, present(space, 0).0)[..24], expected);
}

#[test]
fn a_flush_is_acknowledged_only_when_older_stores_are_out() {
    let world = small().build();
    let space = space_of(&world, 1);
    fill(world.cpu(1), 1);
    world.cpu(1).store(at(0, 0), &[9; 8]).unwrap();
    let frame = present(space, 0).0;
    assert_ne!(host(&world, frame)[..8], [9; 8]);
    flush(&world, 1, 0);
    assert_eq!(host(&world, frame)[..8], [9; 8]);
}

#[test]
fn entering_a_space_forgets_the_one_before() {
    let world = small().build();
    let [first, second] = [(); 2].map(|()| {
        let space = world.manager().create_space().unwrap();
        space.map_anonymous(pages(0, 1), ferry_mm::space::Protection::READ_WRITE).unwrap();
        space
    });
    let cpu = world.cpu(0);
    for (space, value) in [(first, 1), (second, 2)] {
        cpu.enter(space);
        cpu.store(at(0, 0), &[value]).unwrap();
    }
    for (space, value) in [(first, 1), (second, 2)] {
        cpu.enter(space);
        assert_eq!(cpu.read(at(0, 0)).unwrap(), [value]);
    }
    world.assert_all_free();
}

#[test]
fn a_cached_path_outlives_its_table_until_any_page_is_flushed() {
    let world = small().build();
    let space = space_of(&world, 2);
    fill(world.cpu(0), 1);
    let level_2 = space.path(at(0, 0)).steps().nth(2).copied().unwrap();
    world.cpu(1).read::<1>(at(0, 0)).unwrap();
    world.sim().swap_entry(level_2.slot, RawEntry::EMPTY);
    let (frame, flags) = match level_2.entry.decode() {
        Entry::Present { frame, flags } => (frame, flags),
        other => panic!("{other:?}"),
    };
    // Page 1 was never touched: a walk from the root ends at level 2, the cached path leads on to the table.
    let word = (at(1, 0).as_u64() >> 12) as usize & 0x1ff;
    world.sim().poke(frame.into(), word, Entry::Present { frame: world.manager().zero_frame(), flags }.encode().0);
    assert_eq!(world.sim().load(world.cpu(1).id(), at(1, 0)), Ok(0));
    flush(&world, 1, 3);
    assert!(world.sim().load(world.cpu(1).id(), at(2, 0)).is_err());
}

#[test]
fn chaos_fills_and_forgets_translations_without_an_access() {
    let world = small().chaos(Chaos { seed: 7, drain: 0, forget: 0, fill: 255 }).build();
    let space = space_of(&world, 1);
    fill(world.cpu(0), 1);
    for _ in 0..100 {
        space.entry(at(0, 0));
    }
    rewrite(&world, space, 0, |_| Entry::Empty);
    world.sim().load(world.cpu(1).id(), at(0, 0)).expect("CPU 1 cached what only CPU 0 has touched");

    let world = small().chaos(Chaos { seed: 7, drain: 0, forget: 255, fill: 0 }).build();
    let space = space_of(&world, 1);
    fill(world.cpu(0), 1);
    rewrite(&world, space, 0, |_| Entry::Empty);
    for _ in 0..100 {
        space.entry(at(0, 0));
    }
    assert!(world.sim().load(world.cpu(0).id(), at(0, 0)).is_err(), "forgotten, and the entry is gone");
}

#[test]
fn the_same_seed_makes_the_same_run() {
    let run = |seed| {
        let world = small().chaos(Chaos::seeded(seed)).build();
        space_of(&world, 8);
        let moments = Arc::new(AtomicUsize::new(0));
        let seen = moments.clone();
        world.sim().watch(move |sim, _| {
            let held = (0..8).filter(|page| sim.load(sim.cpus().nth(1).unwrap(), at(*page, 0)).is_ok()).count();
            seen.fetch_add(held + 1, Ordering::Relaxed);
        });
        fill(world.cpu(0), 8);
        moments.load(Ordering::Relaxed)
    };
    assert_eq!(run(3), run(3));
}

#[test]
fn watchers_see_the_moments_in_order() {
    let world = small().build();
    let space = space_of(&world, 1);
    fill(world.cpu(0), 1);
    let moments = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = moments.clone();
    world.sim().watch(move |_, moment| seen.lock().unwrap().push(moment));
    assert_eq!(space.migrate_to_device(pages(0, 1), DEVICE).unwrap().moved, 1);
    let moments = moments.lock().unwrap();
    let place = |wanted| moments.iter().position(|moment| *moment == wanted).unwrap();
    assert!(place(Moment::CompareExchangeEntry) < place(Moment::Flush));
    assert!(place(Moment::Flush) < place(Moment::Flushed));
    assert!(place(Moment::Flushed) < place(Moment::Copy));
    assert!(place(Moment::Copy) < place(Moment::CompleteCopies));
    assert!(place(Moment::CompleteCopies) < place(Moment::SwapEntry));
}
