//! A device follows the address space: it reads pages by their virtual addresses, with DMA, and asks for those it lacks.
//!
//!     ./run.sh run device_reads_memory
//!
//! Look at the misses: the device has a page table of its own. After the first read it needs nobody; after the swap-out the
//! kernel has taken one entry out of that table, so it asks once more.
#![no_std]
#![no_main]
use ferry_kernel::prelude::*;

experiment!(main);

const PAGES: u64 = 4;

fn main(lab: &Lab) -> Outcome {
    let device = lab.device()?;
    lab.swap_disk()?;
    let memory = lab.memory(PAGES)?;
    let mirror = Mirror::open(memory.space(), memory.range(), device.id)?;
    let buffer = Buffer::new(device.id, PAGES)?;
    for page in 0..PAGES {
        memory.store(page, 50 + page as u8);
    }
    assert!(read(&mirror, memory, &buffer, "first")? > 0);
    check(&buffer);
    assert_eq!(read(&mirror, memory, &buffer, "again")?, 0);

    assert_eq!(memory.space().swap_out(memory.range().part(1, 1))?.freed, 1);
    assert_eq!(read(&mirror, memory, &buffer, "after a swap-out")?, 1);
    check(&buffer);
    assert!((0..PAGES).all(|page| memory.place(page).is_ram()), "a read by DMA moves nothing to the device");
    Ok(())
}

/// Has the device copy all pages into its own memory; returns how often it had to ask for some.
fn read(mirror: &Mirror, memory: Memory, buffer: &Buffer, when: &str) -> Result<u64, Failure> {
    let done = mirror.read(memory.range(), buffer)?.expect("the memory may be read");
    println!("{when}: {} pages read, {} misses", done.pages, done.faults);
    assert_eq!(done.pages, PAGES);
    Ok(done.faults)
}

/// Looks at what the device has read, through the BAR.
fn check(buffer: &Buffer) {
    let mut bytes = PageBuffer::zeros();
    for page in 0..PAGES {
        buffer.load(page, &mut bytes);
        assert_eq!(bytes.0[0], 50 + page as u8);
    }
}
