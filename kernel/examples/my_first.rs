//! The template: one page goes to the device, is changed there, and comes home.
//!
//!     ./run.sh run my_first
//!
//! Copy this file under a name of your own and change `main`; `./run.sh run YOUR_NAME` finds it.
#![no_std]
#![no_main]
use ferry_kernel::prelude::*;

experiment!(main);

fn main(lab: &Lab) -> Outcome {
    let device = lab.device()?;
    let memory = lab.memory(1)?;
    memory.store(0, 5);
    println!("stored 5; the page is in {}", memory.place(0));

    assert_eq!(memory.migrate_to(device)?.moved, 1);
    println!("migrated; the page is in {}", memory.place(0));

    memory.invert_on(device)?;
    println!("loaded {}; the page is in {}", memory.load(0), memory.place(0));
    assert_eq!(memory.load(0), !5);
    Ok(())
}
