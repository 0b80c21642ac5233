//! Whoever keeps translations of an address space is told before an entry gets weaker, with the reason.
//!
//!     ./run.sh run told_before
//!
//! Look at what is told, and what is not: a first touch makes an entry stronger, so nobody needs to know. Rights that change
//! are told either way.
#![no_std]
#![no_main]
extern crate alloc;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use ferry_kernel::prelude::*;
use ferry_mm::notify::{Invalidation, Listener, Watch};

experiment!(main);

/// Prints and counts what it is told.
#[derive(Default)]
struct Told(AtomicU32);

impl Listener for Told {
    fn invalidate(&self, event: &Invalidation) {
        self.0.fetch_add(1, Relaxed);
        println!("  told: {} pages, {:?}", event.range.pages(), event.reason);
    }
}

fn main(lab: &Lab) -> Outcome {
    let (device, memory) = (lab.device()?, lab.memory(4)?);
    let told = Arc::new(Told::default());
    let listener = memory.space().listen(Watch { range: memory.range(), device: None }, told.clone())?;
    let mut seen = 0;
    let mut since = |what: &str, told: &Told| {
        let new = told.0.load(Relaxed) - seen;
        seen += new;
        println!("{what}: {new} times");
        new
    };

    memory.store(0, 1);
    assert_eq!(since("first touch", &told), 0);
    memory.space().protect(memory.range(), Protection::READ)?;
    assert_eq!(since("protect", &told), 1);
    memory.space().protect(memory.range(), Protection::READ_WRITE)?;
    assert_eq!(since("allow again", &told), 1);
    assert_eq!(memory.migrate_to(device)?.moved, 4);
    assert_eq!(since("migrate", &told), 1);
    assert_eq!(memory.load(0), 1);
    assert!(since("come home by fault", &told) <= 1);

    lab.manager().unlisten(listener);
    Ok(())
}
