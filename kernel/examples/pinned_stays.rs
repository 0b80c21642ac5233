//! A page that somebody uses by its physical address stays where it is; the rest of the migration goes on.
//!
//!     ./run.sh run pinned_stays
//!
//! Look at the report of the migration: a page that stays is no error. It is counted, with the reason.
#![no_std]
#![no_main]
use ferry_kernel::prelude::*;

experiment!(main);

const PAGES: u64 = 4;
const PINNED: u64 = 2;

fn main(lab: &Lab) -> Outcome {
    let device = lab.device()?;
    let memory = lab.memory(PAGES)?;
    for page in 0..PAGES {
        memory.store(page, 1);
    }
    let pin = memory.space().pin(memory.address(PINNED), Access::Write, Term::Long)?;
    let before = memory.place(PINNED);

    let report = memory.migrate_to(device)?;
    for (reason, pages) in report.stayed.iter() {
        println!("{} pages moved, {pages} stayed: {}", report.moved, reason.name());
    }
    assert_eq!((report.moved, report.stayed.count(Reason::Pinned)), (PAGES - 1, 1));
    assert_eq!(memory.place(PINNED), before, "not even its frame has changed");

    // A drop ends the pin; the next migration takes the page, too.
    drop(pin);
    let report = memory.migrate_to(device)?;
    println!("without the pin: {} page moved, page {PINNED} is in {}", report.moved, memory.place(PINNED));
    assert_eq!((report.moved, report.stayed.count(Reason::AlreadyThere)), (1, PAGES - 1));
    assert!(memory.place(PINNED).is_device());
    Ok(())
}
