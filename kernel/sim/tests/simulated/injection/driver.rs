//! The driver: the k-th step of each kind fails, for every k until nothing fails any more, in every operation of the table.
//!
//! Without a disk an operation that fails must leave the tables bit for bit, but for accessed and dirty bits. With one, pages may
//! have been swapped in for it, or out for somebody who found no frame; a page that no frame was found for is no error then.
use ferry_mm::inject::Step;
use ferry_mm::page_table::entry::{Entry, LeafFlags, RawEntry};

use super::operations::{Operation, Refused, operations};
use super::scene::{Entries, Scene, machine};

const STEPS: [Step; 5] = [Step::Alloc, Step::DeviceAlloc, Step::Copy, Step::DiskRead, Step::DiskWrite];

/// More steps of one kind than any operation takes.
const MOST_STEPS: u64 = 100;

/// The entry without what CPUs, and whoever takes it and gives it back, may change.
fn without_used(raw: RawEntry) -> RawEntry {
    let used = if raw == RawEntry::EMPTY { 0 } else { (LeafFlags::ACCESSED | LeafFlags::DIRTY).bits() };
    RawEntry(raw.0 & !used)
}

/// Whether swapping alone can have made `after` of `before`.
fn is_swapping(before: RawEntry, after: RawEntry) -> bool {
    let (before, after) = (before.decode(), after.decode());
    let is_in_ram = matches!(before, Entry::Present { .. } | Entry::Exclusive { .. } | Entry::Swap { .. });
    is_in_ram && matches!(after, Entry::Present { .. } | Entry::Swap { .. })
}

fn check_unchanged(scene: &Scene<'_>, before: &Entries, lost: &[u64]) {
    let has_disk = scene.world.manager().swap().is_some();
    let after = scene.entries();
    for (index, (before, after)) in before.iter().zip(&after).enumerate() {
        for (number, before) in before {
            let after = after[number];
            let is_allowed = without_used(*before) == without_used(after)
                || lost.contains(number) && after.decode() == Entry::Poison
                || has_disk && is_swapping(*before, after);
            assert!(is_allowed, "space {index}, page {number} was {before:?} and is {after:?} after an error");
        }
    }
}

/// Whether an operation may be refused so where this step failed.
fn is_due_to(refused: Refused, step: Step, has_disk: bool) -> bool {
    match refused {
        // With a disk, room is made and the operation goes on.
        Refused::NoMemory => step == Step::Alloc && !has_disk,
        Refused::Lost | Refused::NotCopied => step == Step::Copy,
        Refused::Disk => step == Step::DiskRead,
    }
}

/// One operation with one failing step; `None` where the step did not come.
fn strike(operation: &Operation, step: Step, count: u64, has_disk: bool, tries_again: bool) -> Option<()> {
    let world = machine(has_disk);
    let mut scene = Scene::new(&world);
    let before = scene.entries();
    world.manager().injector().arm(step, count);
    let result = (operation.run)(&mut scene);
    let struck = !world.manager().injector().is_armed(step);
    world.manager().injector().arm(step, 0);
    scene.audit();
    if let Err(refused) = result {
        assert!(struck && is_due_to(refused, step, has_disk), "refused: {refused:?}, struck: {struck}");
    }
    assert_eq!(world.manager().spaces().count(), scene.places.len(), "a space that nobody was given");
    let lost = scene.find_lost();
    assert!(result != Err(Refused::NotCopied) || lost.is_empty());
    assert!(lost.len() <= usize::from(struck && step == Step::Copy), "pages {lost:?} are lost");
    if result.is_err() && !operation.keeps_progress {
        check_unchanged(&scene, &before, &lost);
    }
    scene.compare();
    if result.is_err() && tries_again && lost.is_empty() {
        (operation.run)(&mut scene).unwrap_or_else(|refused| panic!("tried again without a failure: {refused:?}"));
        scene.compare();
    }
    scene.end();
    struck.then_some(())
}

/// Every failure of every step in every operation of the table.
fn every_failure(has_disk: bool) {
    let mut strikes = [0_u64; STEPS.len()];
    for operation in operations() {
        for (step, total) in STEPS.into_iter().zip(&mut strikes) {
            let mut struck = 0;
            for count in 1..=MOST_STEPS {
                let _naming = Naming(&operation.name, step, count, has_disk);
                let came = strike(&operation, step, count, has_disk, count % 2 == 1);
                if came.is_none() {
                    break;
                }
                struck += 1;
            }
            assert!(struck < MOST_STEPS);
            let must_come = operation.takes.contains(&step) && (has_disk || !matches!(step, Step::DiskRead));
            assert!(!must_come || struck > 0, "{}: {step:?} never came", operation.name);
            *total += struck;
        }
    }
    println!("with a disk: {has_disk}, failures by step {STEPS:?}: {strikes:?}");
    let disk_steps = strikes[3] + strikes[4];
    assert!(strikes[..3].iter().all(|strikes| *strikes > 20) && (disk_steps > 20) == has_disk, "{strikes:?}");
}

/// Says what was going on when a check failed.
struct Naming<'o>(&'o str, Step, u64, bool);

impl Drop for Naming<'_> {
    fn drop(&mut self) {
        let Self(operation, step, count, has_disk) = self;
        if std::thread::panicking() {
            eprintln!("in: {operation}, {step:?} number {count} fails, with a disk: {has_disk}");
        }
    }
}

#[test]
fn every_failure_in_every_operation_without_a_disk() {
    every_failure(false);
}

#[test]
fn every_failure_in_every_operation_with_a_disk() {
    every_failure(true);
}
