//! An experiment whose claim does not hold, to see that this is reported.
#![no_std]
#![no_main]
use ferry_kernel::prelude::*;

experiment!(main);

fn main(lab: &Lab) -> Outcome {
    let memory = lab.memory(1)?;
    memory.store(0, 1);
    assert_eq!(memory.load(0), 2, "a byte that was stored");
    Ok(())
}
