//! Which mutant this kernel is: the one whose number was written into its image, or none.
#![allow(dead_code, missing_docs)]
use core::sync::atomic::{AtomicU64, Ordering};

/// The host writes the number here, into the file, before it boots it.
#[used]
static FERRY_MUTANT: AtomicU64 = AtomicU64::new(u64::MAX);

pub(crate) fn chosen(number: u64) -> bool {
    // Opaque, because the compiler sees no store.
    core::hint::black_box(&FERRY_MUTANT).load(Ordering::Relaxed) == number
}
