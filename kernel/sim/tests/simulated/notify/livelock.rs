//! A device that faults on the pages that CPUs fault on: both get through (R35).
use ferry_mm::migrate::MigrateOptions;
use ferry_mm::mirror::{MirrorEntry, MirrorError, MirrorRequest, Want};
use ferry_sim::{Chaos, audit};

use super::watching::*;
use crate::support::*;

/// Rounds of each side.
const ROUNDS: u64 = 60;

/// Attempts of the device for one page, at most: each that fails means that somebody else changed a page.
const MOST_ATTEMPTS: u32 = 100_000;

#[test]
fn a_device_and_two_cpus_that_fight_for_a_page_all_get_it() {
    const PAGES: u64 = 2;
    let world = forever(small().cpus(4).chaos(Chaos::seeded(5)));
    let space = space_of(world, PAGES);
    fill(world.cpu(0), PAGES);
    let (_, id) = Witness::for_device(world, space, 0, PAGES, Some(DEVICE));
    std::thread::scope(|scope| {
        // CPUs 1 and 2 store to words of their own; each fault brings the page home.
        let writers: Vec<_> = (1..3_u64)
            .map(|cpu| {
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        for number in 0..PAGES {
                            let place = at(number, cpu * 8);
                            world.cpu(cpu as usize).store(place, &round.to_le_bytes()).unwrap();
                            assert_eq!(world.cpu(cpu as usize).read(place).unwrap(), round.to_le_bytes());
                        }
                    }
                })
            })
            .collect();
        // CPU 3 works for the device: it takes the pages over, and faults them in for writing.
        let device = scope.spawn(|| {
            world.cpu(3).run(|| {
                for _ in 0..ROUNDS {
                    let options = MigrateOptions { initiator: Some(id), ..MigrateOptions::default() };
                    let _ = space.migrate_to_device_with(pages(0, PAGES), DEVICE, options).unwrap();
                    let mut entries = [MirrorEntry::None; PAGES as usize];
                    let mut attempts = 0;
                    loop {
                        attempts += 1;
                        assert!(attempts < MOST_ATTEMPTS, "the device never gets its pages");
                        let Ok(since) = world.manager().sequence(id) else { continue };
                        let request = MirrorRequest { listener: id, since, want: Want::Write };
                        match space.range_fault(pages(0, PAGES), &request, &mut entries) {
                            Ok(_) => break,
                            Err(MirrorError::Again) => std::thread::yield_now(),
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            });
        });
        for thread in writers {
            thread.join().unwrap();
        }
        device.join().unwrap();
    });
    world.sim().cpus().for_each(|cpu| world.sim().fence(cpu));
    audit(world).unwrap();
    for number in 0..PAGES {
        for cpu in 1..3 {
            assert_eq!(world.cpu(0).read(at(number, cpu * 8)).unwrap(), (ROUNDS - 1).to_le_bytes());
        }
    }
    world.assert_all_free();
}
