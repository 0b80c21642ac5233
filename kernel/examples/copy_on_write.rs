//! After a fork, two address spaces share every frame until one of them stores.
//!
//!     ./run.sh run copy_on_write
//!
//! Look at the frames: the store gives the parent a copy of its own, and only of the page that it stores to.
#![no_std]
#![no_main]
use ferry_kernel::prelude::*;

experiment!(main);

fn main(lab: &Lab) -> Outcome {
    let parent = lab.memory(2)?;
    parent.store(0, 10);
    parent.store(1, 11);
    let child = parent.fork()?;
    show("after the fork", parent, child);
    assert_eq!([parent.place(0), parent.place(1)], [child.place(0), child.place(1)], "both share both frames");

    parent.store(0, 99);
    show("after the store", parent, child);
    assert_ne!(parent.place(0), child.place(0), "page 0 was copied");
    assert_eq!(parent.place(1), child.place(1), "page 1 is still shared");
    assert_eq!(parent.load(0), 99);

    // The same addresses, seen from the other space.
    child.enter();
    assert_eq!([child.load(0), child.load(1)], [10, 11]);
    Ok(())
}

fn show(when: &str, parent: Memory, child: Memory) {
    for page in 0..2 {
        println!("{when}: page {page}: parent {}, child {}", parent.place(page), child.place(page));
    }
}
