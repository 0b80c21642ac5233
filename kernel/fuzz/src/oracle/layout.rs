//! Whether everything that the loader has placed has room of its own.
use std::ops::Range;

use bootloader_api::config::Mapping;
use ferry_loader::config::Request;
use ferry_loader::elf::Image;
use ferry_loader::layout::{Layout, Sizes};
use x86_64::VirtAddr;

const PAGE: u64 = 4096;

/// What is not the kernel's.
pub const SIZES: Sizes = Sizes { handover: 0x10_5000, boot_info_bytes: 0x1800, ram_end: 6 << 30 };

/// Addresses that no CPU has (Intel SDM 1, 3.3.7.1).
const HOLE: Range<u128> = 0x8000_0000_0000..0xffff_8000_0000_0000;

/// Checks a layout for [`SIZES`] with numbers that cannot overflow.
///
/// # Panics
/// Where two things share an address, something is at no address, or a wish was not honoured.
pub fn check_layout(request: &Request, image: &Image, layout: &Layout) {
    let placed = |start: VirtAddr, bytes: u64| (u128::from(start.as_u64()), u128::from(bytes.next_multiple_of(PAGE)));
    let start = if image.position_independent { layout.bias } else { image.first_page() };
    let bytes = if image.position_independent { image.end_page() } else { image.end_page() - image.first_page() };
    let mut ranges = vec![
        (u128::from(SIZES.handover), u128::from(PAGE)),
        (u128::from(start), u128::from(bytes)),
        placed(layout.guard, PAGE + request.stack_bytes),
        placed(layout.boot_info, SIZES.boot_info_bytes),
    ];
    ranges.extend(layout.physical_memory.map(|offset| placed(offset, SIZES.ram_end)));
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        assert!(pair[0].0 + pair[0].1 <= pair[1].0, "two things share an address: {layout:x?}");
    }
    for (start, bytes) in ranges {
        let end = start + bytes;
        assert!(end < 1 << 64 && (end <= HOLE.start || start >= HOLE.end), "{start:#x} is no place: {layout:x?}");
    }
    for (wish, found) in [(request.stack, layout.guard), (request.boot_info, layout.boot_info)] {
        assert!(
            !matches!(wish, Mapping::FixedAddress(address) if address != found.as_u64()),
            "a wish was not honoured"
        );
    }
}
