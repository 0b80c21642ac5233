//! CPU and device add to the same counter: while the device does, the page is its alone.
//!
//!     ./run.sh run device_atomic
//!
//! Look at the entry: the device gets the page for itself, in RAM. The load of the CPU takes it back by a fault.
#![no_std]
#![no_main]
use ferry_kernel::prelude::*;

experiment!(main);

const ROUNDS: u8 = 5;

fn main(lab: &Lab) -> Outcome {
    let memory = lab.memory(1)?;
    let mirror = Mirror::open(memory.space(), memory.range(), lab.device()?.id)?;
    memory.store(0, 0);
    for round in 0..ROUNDS {
        let added = mirror.add(memory.range(), 10)?.expect("the memory may be written");
        assert_eq!(added.value, u64::from(round) * 11, "the device sees all that the CPU added");
        assert!(matches!(memory.entry(0), Entry::Exclusive { .. }));
        assert_eq!(mirror.exclusive_pages(memory.range())?, 1);

        let value = memory.load(0);
        memory.store(0, value + 1);
        println!("round {round}: device found {}, CPU found {value}", added.value);
        assert_eq!(mirror.exclusive_pages(memory.range())?, 0, "the CPU took the page back");
    }
    assert_eq!(memory.load(0), ROUNDS * 11);
    Ok(())
}
