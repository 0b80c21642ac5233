//! The allocators under several CPUs at once.
use std::sync::atomic::{AtomicBool, Ordering};

use ferry_sim::{Moment, World, audit};
use x86_64::structures::paging::PhysFrame;

/// Threads as CPUs take and give back single frames and small blocks; nobody may get what somebody has.
#[test]
fn threads_never_hold_the_same_frame() {
    const CPUS: usize = 3;
    const FRAMES: usize = 32;
    const ROUNDS: usize = 4_000;
    let world = World::builder().frames(FRAMES).cpus(CPUS).build();
    // Between giving a lock back and whatever comes next, the others get their turn.
    world.sim().watch(|_, moment| {
        if moment == Moment::Lock {
            std::thread::yield_now();
        }
    });
    let taken: [AtomicBool; FRAMES] = [const { AtomicBool::new(false) }; FRAMES];
    let number = |frame: PhysFrame| (frame.start_address().as_u64() / frame.size()) as usize;
    std::thread::scope(|scope| {
        for cpu in 0..CPUS {
            let (world, taken, number) = (&world, &taken, &number);
            scope.spawn(move || {
                let (memory, sim) = (world.manager().memory(), world.sim());
                world.cpu(cpu).run(|| {
                    for round in 0..ROUNDS {
                        let order = u8::from(round % 7 == 0);
                        let Ok(block) = memory.allocate_block(sim, order) else { continue };
                        let part = &taken[number(block)..][..1 << order];
                        for frame in part {
                            assert!(!frame.swap(true, Ordering::SeqCst), "{block:?} was handed out twice");
                        }
                        std::thread::yield_now();
                        part.iter().for_each(|frame| frame.store(false, Ordering::SeqCst));
                        memory.free_block(sim, block, order);
                    }
                });
            });
        }
    });
    audit(&world).unwrap();
    world.assert_all_free();
}
