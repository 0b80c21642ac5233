//! Memory that is mapped is not there yet: a page gets a frame when somebody first stores to it.
//!
//!     ./run.sh run first_touch
//!
//! Look at the three places. A page that was only read shares one frame of zeros with all others that were only read.
#![no_std]
#![no_main]
use ferry_kernel::prelude::*;

experiment!(main);

fn main(lab: &Lab) -> Outcome {
    let memory = lab.memory(3)?;
    let free = lab.manager().memory().free(lab.manager().machine());
    let faults = lab.manager().statistics().read().faults;

    assert_eq!(memory.load(1), 0);
    memory.store(2, 7);

    for (page, what) in ["untouched", "only read", "written"].into_iter().enumerate() {
        println!("page {page}, {what:<9}: {}", memory.place(page as u64));
    }
    assert_eq!(memory.place(0), Place::Nowhere);
    assert_eq!(memory.place(1), Place::ZeroPage);
    assert!(memory.place(2).is_ram());

    let resident = memory.space().resident();
    assert_eq!((resident.zero, resident.ram), (1, 1), "pages of the space, by kind");
    assert_eq!(lab.manager().statistics().read().faults, faults + 2, "one fault for each first touch");

    // The page itself, and the tables of three levels on the way to it.
    let used = free - lab.manager().memory().free(lab.manager().machine());
    println!("frames of RAM that this took: {used}");
    assert_eq!(used, 4);
    Ok(())
}
