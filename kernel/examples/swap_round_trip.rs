//! A page that RAM has no room for goes to a disk, and comes back when somebody touches it.
//!
//!     ./run.sh run swap_round_trip
//!
//! Look at page 2: it goes from the disk to the device without anybody touching it; the kernel reads it in on the way.
#![no_std]
#![no_main]
use ferry_kernel::prelude::*;

experiment!(main);

const PAGES: u64 = 3;

fn main(lab: &Lab) -> Outcome {
    println!("the disk holds {} pages", lab.swap_disk()?);
    let memory = lab.memory(PAGES)?;
    for page in 0..PAGES {
        memory.store(page, 30 + page as u8);
    }
    assert_eq!(memory.space().swap_out(memory.range())?.freed, PAGES);
    show("swapped out", memory);
    assert!((0..PAGES).all(|page| memory.place(page).is_swapped()));

    assert_eq!(memory.load(0), 30);
    show("page 0 was loaded", memory);
    assert!(memory.place(0).is_ram() && memory.place(1).is_swapped());

    let last = memory.range().part(2, 1);
    assert_eq!(memory.space().migrate_to_device(last, lab.device()?.id)?.moved, 1);
    show("page 2 was migrated", memory);
    assert!(memory.place(2).is_device());

    assert_eq!([memory.load(1), memory.load(2)], [31, 32]);
    Ok(())
}

fn show(when: &str, memory: Memory) {
    println!("{when}: {}; {}; {}", memory.place(0), memory.place(1), memory.place(2));
}
