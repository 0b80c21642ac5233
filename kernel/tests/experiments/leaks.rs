//! An experiment that passes and leaves something behind, to see that this is found.
#![no_std]
#![no_main]
use ferry_kernel::prelude::*;

experiment!(main);

fn main(lab: &Lab) -> Outcome {
    let memory = lab.memory(1)?;
    memory.store(0, 1);
    // A pin that nobody ends: its frame outlives the address space.
    core::mem::forget(memory.space().pin(memory.address(0), Access::Write, Term::Long)?);
    Ok(())
}
