//! Strict mode: every access of a CPU that brings a page home is noted, and told to the host.
//!
//! ```text
//!   page fault, any CPU ── note ──▶ ring of CAPACITY places ── drain ──▶ link ──▶ host, which knows the symbols
//!                                     full: counted as lost
//! ```
//! Invariants:
//! 1. [`note`] runs in the fault path: it takes no lock and no heap memory, sends nothing and waits for nobody.
//! 2. A place belongs to the writer whose number it was reserved for until `written` says so, and then to the reader
//!    until `read` has passed it. So a record is never torn.
//!
//! Lock: [`Level::StrictReader`], only tried, held by who drains; never by a fault.
#![forbid(unsafe_code)]
use crate::arch::machine::Hardware;
use crate::link;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use ferry_mm::lock::{Level, Lock};
use ferry_mm::space::Access;
use ferry_protocol::link::FromKernel;
use x86_64::VirtAddr;

/// Records that the ring holds.
pub const CAPACITY: u64 = 256;

/// An access that brought a page home.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Homecoming {
    /// What was accessed.
    pub address: VirtAddr,
    /// The instruction that did.
    pub instruction: VirtAddr,
    /// Whether it was a store.
    pub write: bool,
}

struct Place {
    address: AtomicU64,
    instruction: AtomicU64,
    write: AtomicBool,
    /// The number of the record that stands here, from 1; 0 for none yet.
    written: AtomicU64,
}

struct Ring {
    enabled: AtomicBool,
    places: [Place; CAPACITY as usize],
    /// Records that were reserved since the start.
    reserved: AtomicU64,
    /// Records that were read.
    read: AtomicU64,
    lost: AtomicU64,
}

static RING: Ring = Ring {
    enabled: AtomicBool::new(false),
    places: [const {
        Place {
            address: AtomicU64::new(0),
            instruction: AtomicU64::new(0),
            write: AtomicBool::new(false),
            written: AtomicU64::new(0),
        }
    }; CAPACITY as usize],
    reserved: AtomicU64::new(0),
    read: AtomicU64::new(0),
    lost: AtomicU64::new(0),
};

static READER: Lock<()> = Lock::new(Level::StrictReader, ());

/// Switches strict mode on or off.
pub fn enable(on: bool) {
    RING.enabled.store(on, Ordering::Relaxed);
}

/// Notes an access, where strict mode is on.
#[inline]
pub fn note(address: VirtAddr, instruction: VirtAddr, access: Access) {
    if RING.enabled.load(Ordering::Relaxed) {
        write(Homecoming { address, instruction, write: access == Access::Write });
    }
}

fn write(record: Homecoming) {
    let reserve = |reserved: u64| {
        (reserved.wrapping_sub(RING.read.load(Ordering::Acquire)) < CAPACITY).then(|| reserved.wrapping_add(1))
    };
    let Ok(number) = RING.reserved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, reserve) else {
        RING.lost.fetch_add(1, Ordering::Relaxed);
        return;
    };
    let place = &RING.places[(number % CAPACITY) as usize];
    place.address.store(record.address.as_u64(), Ordering::Relaxed);
    place.instruction.store(record.instruction.as_u64(), Ordering::Relaxed);
    place.write.store(record.write, Ordering::Relaxed);
    place.written.store(number + 1, Ordering::Release);
}

/// The oldest record that nobody has read, or `None` where there is none or another CPU reads.
pub fn take() -> Option<Homecoming> {
    let _reader = READER.try_lock(&Hardware)?;
    let number = RING.read.load(Ordering::Relaxed);
    let place = &RING.places[(number % CAPACITY) as usize];
    if place.written.load(Ordering::Acquire) != number + 1 {
        return None;
    }
    let record = Homecoming {
        address: VirtAddr::new_truncate(place.address.load(Ordering::Relaxed)),
        instruction: VirtAddr::new_truncate(place.instruction.load(Ordering::Relaxed)),
        write: place.write.load(Ordering::Relaxed),
    };
    RING.read.store(number + 1, Ordering::Release);
    Some(record)
}

/// Sends every record to the host. Not for the fault path.
pub fn drain() {
    while let Some(Homecoming { address, instruction, write }) = take() {
        link::send(&FromKernel::Homecoming { address: address.as_u64(), instruction: instruction.as_u64(), write });
    }
}

/// Records that found no place, since the start.
pub fn lost() -> u64 {
    RING.lost.load(Ordering::Relaxed)
}
