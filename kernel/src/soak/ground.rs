//! The pages of a round, and who may write what in them.
//!
//! ```text
//!   common pages   every CPU uses each             own pages   of one CPU; others may only move them about
//!   ┌──────┬──────┬─ … ─┬──────┬───────────┐       ┌──────┬─ … ─┬──────┐
//!   │ CPU 0│ CPU 1│     │ CPU 7│  pattern  │       │ value│     │ value│  the same value in the first and last word
//!   └──────┴──────┴─ … ─┴──────┴───────────┘       └──────┴─ … ─┴──────┘
//!   0      64     128          512        4096     0                4096
//! ```
//!
//! A CPU's word of a common page only grows, and only this CPU stores there. So the writer knows what it must be, and
//! everybody else knows what it cannot be. The pattern is never stored to again.
use super::SoakError;
use super::error::Expected;
use crate::arch::areas;
use crate::arch::probe;
use ferry_mm::address::{PAGE_BYTES, PageRange};
use ferry_mm::machine::CpuId;
use x86_64::VirtAddr;

/// Common pages.
pub(super) const COMMON_PAGES: u64 = 192;

/// Pages of each CPU's own.
pub(super) const OWN_PAGES: u64 = 48;

/// Where the common pages are.
const COMMON: VirtAddr = VirtAddr::new_truncate(0x0000_0042_0000_0000);

/// Distance of the CPUs' own pages from the common ones and from each other.
const OWN_STRIDE: u64 = 1 << 30;

/// Where relocated pages go: so far after their own place.
const ELSEWHERE: u64 = OWN_STRIDE / 2;

/// Distance of the CPUs' words: a cache line, as software would lay them out.
const WORD_STRIDE: u64 = 64;

/// Where the pattern begins.
const PATTERN_OFFSET: u64 = 512;

const WORD_BYTES: u64 = size_of::<u64>() as u64;

const _: () = assert!(crate::arch::per_cpu::MOST_CPUS as u64 * WORD_STRIDE <= PATTERN_OFFSET);

/// The common pages.
pub(super) fn common() -> Result<PageRange, SoakError> {
    Ok(PageRange::covering(COMMON, COMMON_PAGES * PAGE_BYTES)?)
}

/// The pages of `cpu`.
pub(super) fn own(cpu: CpuId) -> Result<PageRange, SoakError> {
    Ok(PageRange::covering(COMMON + (cpu.number() as u64 + 1) * OWN_STRIDE, OWN_PAGES * PAGE_BYTES)?)
}

/// Where the pages of `range` go when they are relocated.
pub(super) fn elsewhere(range: PageRange) -> VirtAddr {
    range.start_address() + ELSEWHERE
}

/// The word of `cpu` in common page `index`.
pub(super) fn word(common: PageRange, index: u64, cpu: CpuId) -> VirtAddr {
    common.page(index).start_address() + cpu.number() as u64 * WORD_STRIDE
}

/// The first and the last word of an own page.
pub(super) fn ends(own: PageRange, index: u64) -> [VirtAddr; 2] {
    let start = own.page(index).start_address();
    [start, start + (PAGE_BYTES - WORD_BYTES)]
}

/// What stands in the pattern at `address`.
fn pattern(address: VirtAddr) -> u64 {
    address.as_u64().wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Stores the pattern into every common page; the words are zero, as first touched.
pub(super) fn fill(common: PageRange) {
    for index in 0..common.pages() {
        let start = common.page(index).start_address();
        for offset in (PATTERN_OFFSET..PAGE_BYTES).step_by(WORD_BYTES as usize) {
            areas::store_bytes(start + offset, &pattern(start + offset).to_le_bytes());
        }
    }
}

/// Loads the word at `address` and holds it against what may stand there.
pub(super) fn check(address: VirtAddr, expected: Expected) -> Result<u64, SoakError> {
    let found = probe::load(address)?;
    if expected.allows(found) { Ok(found) } else { Err(SoakError::Word { address, found, expected }) }
}

/// Checks one word of the pattern in common page `index`; `number` picks which.
pub(super) fn check_pattern(common: PageRange, index: u64, number: u64) -> Result<(), SoakError> {
    let words = (PAGE_BYTES - PATTERN_OFFSET) / WORD_BYTES;
    let address = common.page(index).start_address() + PATTERN_OFFSET + number % words * WORD_BYTES;
    check(address, Expected::Exactly(pattern(address))).map(drop)
}

/// Checks the whole pattern.
pub(super) fn check_whole_pattern(common: PageRange) -> Result<(), SoakError> {
    let words = (PAGE_BYTES - PATTERN_OFFSET) / WORD_BYTES;
    (0..common.pages()).try_for_each(|index| (0..words).try_for_each(|word| check_pattern(common, index, word)))
}
