//! Two CPUs touch the same page on the device at the same time: it comes home once, and both go on.
//!
//!     ./run.sh run shared_on_two_cpus
//!
//! Look at the faults: there may be one or two for each page, as the race goes, but each page is copied home once.
#![no_std]
#![no_main]
use ferry_kernel::prelude::*;

experiment!(main);

const PAGES: u64 = 64;

fn main(lab: &Lab) -> Outcome {
    let (device, cpus) = (lab.device()?, lab.cpus(2)?);
    let memory = lab.memory(PAGES)?;
    for page in 0..PAGES {
        memory.store(page, page as u8);
    }
    assert_eq!(memory.migrate_to(device)?.moved, PAGES);
    assert_eq!(memory.invert_on(device)?, PAGES);

    let before = lab.manager().statistics().read();
    let right =
        run_in(memory.space(), cpus, |_| (0..PAGES).filter(|page| memory.load(*page) == !(*page as u8)).count());
    let after = lab.manager().statistics().read();

    for (cpu, right) in right.iter().enumerate().filter_map(|(cpu, right)| Some((cpu, (*right)?))) {
        println!("CPU {cpu}: {right} of {PAGES} pages hold what the device made");
        assert_eq!(right as u64, PAGES);
    }
    assert_eq!(after.returned_by_fault - before.returned_by_fault, PAGES);
    println!("{} pages came home by {} faults", PAGES, after.special_faults - before.special_faults);
    Ok(())
}
