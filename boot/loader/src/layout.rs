//! Where everything goes in the kernel's virtual address space.
//!
//! ```text
//!   0x0000_0000_0010_xxxx  the handover page (its own physical address), read and execute
//!   0xffff_8000_0000_0000  lowest address for everything dynamic, unless the kernel says otherwise
//!       ...                [direct map] [guard page, stack] [boot info], each with a free page behind
//!   0xffff_ffff_8000_0000  a PIE kernel without a wish
//! ```
//!
//! Invariants:
//! 1. What the kernel fixed goes exactly there or is refused; dynamic things fill the gaps.
//! 2. No two ranges overlap, none touches the non-canonical hole, the last page or page zero.
//! 3. The direct map starts at a 2 MiB boundary, so that it can use 2 MiB leaves.
use crate::config::{Field, Request};
use crate::elf::{Image, UPPER_HALF};
use bootloader_api::config::Mapping;
use core::fmt;
use core::ops::Range;
use x86_64::VirtAddr;

const PAGE_BYTES: u64 = 4096;

/// Size of a leaf one level above a page, in bytes (Intel SDM 3A.4.5).
pub const BIG_PAGE_BYTES: u64 = 2 << 20;

/// Where a PIE kernel goes that does not care: the last 2 GiB, as small code models want it.
const PREFERRED_IMAGE_BASE: u64 = 0xffff_ffff_8000_0000;

/// End of the lower half of the canonical address space.
const LOWER_HALF_END: u64 = 0x0000_8000_0000_0000;

/// Nothing is placed at or above: the last page would end at 2^64.
const TOP: u64 = 0xffff_ffff_ffff_f000;

/// Handover page, image, stack with guard, boot info, direct map.
const MAX_PLACED: usize = 5;

/// Why something cannot go where it should.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LayoutError {
    /// The fixed address is not a multiple of this many bytes.
    Misaligned(Field, u64, u64),
    /// Not all addresses from this one on are canonical, or page zero or the last page is among them.
    NotCanonical(Field, u64),
    /// The fixed address overlaps something that starts at the second address.
    Occupied(Field, u64, u64),
    /// A kernel linked to a fixed address cannot be moved to this one.
    NotMovable(u64),
    /// The dynamic range has no gap of this many bytes.
    NoGap(Field, u64),
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misaligned(field, address, align) => {
                write!(f, "{field} at v{address:#x} is not a multiple of {align:#x}")
            }
            Self::NotCanonical(field, address) => write!(f, "{field} at v{address:#x} leaves the usable addresses"),
            Self::Occupied(field, address, other) => {
                write!(f, "{field} at v{address:#x} overlaps what lies at v{other:#x}")
            }
            Self::NotMovable(address) => {
                write!(f, "mappings.kernel_base is v{address:#x}, but the kernel is no PIE; link it with -static-pie")
            }
            Self::NoGap(field, bytes) => {
                write!(f, "{field}: no gap of {bytes:#x} bytes between dynamic_range_start and dynamic_range_end")
            }
        }
    }
}

impl core::error::Error for LayoutError {}

/// Where everything goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// What is added to a link address of the image, with wrap-around.
    pub bias: u64,
    /// The guard page; the stack begins on the page behind it.
    pub guard: VirtAddr,
    /// `BootInfo`.
    pub boot_info: VirtAddr,
    /// What is added to a physical address in the direct map.
    pub physical_memory: Option<VirtAddr>,
}

/// Sizes that do not come from the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// The page that is mapped at its own physical address.
    pub handover: u64,
    /// Bytes for `BootInfo` and the regions.
    pub boot_info_bytes: u64,
    /// End of RAM: the length of the direct map in bytes.
    pub ram_end: u64,
}

/// Something to place.
#[derive(Clone, Copy)]
struct Wish {
    field: Field,
    mapping: Mapping,
    bytes: u64,
    align: u64,
    /// Where it goes first of all if it is dynamic and there is room.
    preferred: Option<u64>,
}

/// Places everything that `request` wants.
///
/// # Errors
/// [`LayoutError`]: the request names an address that cannot be honoured.
pub fn place(request: &Request, image: &Image, sizes: Sizes) -> Result<Layout, LayoutError> {
    let wish = |field, mapping, bytes: u64, align| Wish {
        field,
        mapping,
        bytes: bytes.next_multiple_of(PAGE_BYTES),
        align,
        preferred: None,
    };
    let kernel = match (image.position_independent, request.image) {
        (true, mapping) => Wish {
            preferred: Some(PREFERRED_IMAGE_BASE),
            ..wish(Field::KernelBase, mapping, image.end_page(), image.align)
        },
        (false, Mapping::FixedAddress(base)) => return Err(LayoutError::NotMovable(base)),
        (false, Mapping::Dynamic) => {
            let (first, end) = (image.first_page(), image.end_page());
            wish(Field::KernelBase, Mapping::FixedAddress(first), end - first, PAGE_BYTES)
        }
    };
    let stack = wish(Field::KernelStack, request.stack, PAGE_BYTES + request.stack_bytes, PAGE_BYTES);
    let boot_info = wish(Field::BootInfo, request.boot_info, sizes.boot_info_bytes, PAGE_BYTES);
    let direct_map =
        request.physical_memory.map(|mapping| wish(Field::PhysicalMemory, mapping, sizes.ram_end, BIG_PAGE_BYTES));

    let mut space = Space::new(request);
    space.take(sizes.handover..sizes.handover + PAGE_BYTES);
    for wish in [Some(kernel), Some(stack), Some(boot_info), direct_map].iter().flatten() {
        if let Mapping::FixedAddress(address) = wish.mapping {
            space.take_fixed(wish, address)?;
        }
    }
    let base = space.address(&kernel)?;
    Ok(Layout {
        bias: if image.position_independent { base } else { 0 },
        physical_memory: match direct_map {
            Some(wish) => Some(VirtAddr::new_truncate(space.address(&wish)?)),
            None => None,
        },
        guard: VirtAddr::new_truncate(space.address(&stack)?),
        boot_info: VirtAddr::new_truncate(space.address(&boot_info)?),
    })
}

/// The virtual addresses that are taken.
struct Space {
    taken: [Range<u64>; MAX_PLACED],
    len: usize,
    /// Where dynamic things may go.
    dynamic: Range<u64>,
}

impl Space {
    fn new(request: &Request) -> Self {
        let start = request.dynamic_start.unwrap_or(UPPER_HALF).max(PAGE_BYTES);
        let end = request.dynamic_end.map_or(TOP, |last| last.saturating_add(1)).min(TOP);
        Self { taken: [const { 0..0 }; MAX_PLACED], len: 0, dynamic: start..end }
    }

    fn take(&mut self, range: Range<u64>) {
        self.taken[self.len] = range;
        self.len += 1;
    }

    /// What overlaps `range`.
    fn occupant(&self, range: &Range<u64>) -> Option<&Range<u64>> {
        self.taken[..self.len].iter().find(|taken| taken.start < range.end && range.start < taken.end)
    }

    fn take_fixed(&mut self, wish: &Wish, address: u64) -> Result<(), LayoutError> {
        if !address.is_multiple_of(wish.align) {
            return Err(LayoutError::Misaligned(wish.field, address, wish.align));
        }
        let range = usable(address, wish.bytes).ok_or(LayoutError::NotCanonical(wish.field, address))?;
        if let Some(other) = self.occupant(&range) {
            return Err(LayoutError::Occupied(wish.field, address, other.start));
        }
        self.take(range);
        Ok(())
    }

    /// Where `wish` goes: a fixed one (taken before) to its address, a dynamic one into the lowest gap.
    fn address(&mut self, wish: &Wish) -> Result<u64, LayoutError> {
        if let Mapping::FixedAddress(address) = wish.mapping {
            return Ok(address);
        }
        // Gaps begin at the start of the dynamic range, of the upper half, or a page behind something taken, unless that is at
        // the top.
        let behind = self.taken[..self.len].iter().filter_map(|taken| taken.end.checked_add(PAGE_BYTES));
        let starts = behind.chain([self.dynamic.start, UPPER_HALF.max(self.dynamic.start)]);
        let aligned = starts.filter_map(|start| start.checked_next_multiple_of(wish.align));
        let fits = |address: &u64| {
            let range = usable(*address, wish.bytes).filter(|range| self.occupant(range).is_none());
            range.is_some_and(|range| range.start >= self.dynamic.start && range.end <= self.dynamic.end)
        };
        let place = wish.preferred.filter(fits).or_else(|| aligned.filter(fits).min());
        let place = place.ok_or(LayoutError::NoGap(wish.field, wish.bytes))?;
        self.take(place..place + wish.bytes);
        Ok(place)
    }
}

/// The range of `bytes` bytes at `address`, if it lies in one half, above page zero and below the last page.
fn usable(address: u64, bytes: u64) -> Option<Range<u64>> {
    let end = address.checked_add(bytes)?;
    let lower = address >= PAGE_BYTES && end <= LOWER_HALF_END;
    let upper = address >= UPPER_HALF && end <= TOP;
    (lower || upper).then_some(address..end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::{plan, sample};

    const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
    const SIZES: Sizes = Sizes { handover: 0x10_5000, boot_info_bytes: 0x1800, ram_end: 6 << 30 };
    const DYNAMIC: Request = Request {
        stack_bytes: 0x5001,
        stack: Mapping::Dynamic,
        image: Mapping::Dynamic,
        boot_info: Mapping::Dynamic,
        physical_memory: Some(Mapping::Dynamic),
        dynamic_start: None,
        dynamic_end: None,
    };

    fn place_sample(request: &Request) -> Result<Layout, LayoutError> {
        place(request, &plan(&sample::kernel()).unwrap(), SIZES)
    }

    #[test]
    fn dynamic_things_share_nothing() {
        let layout = place_sample(&DYNAMIC).unwrap();
        assert_eq!(layout.bias, 0xffff_ffff_8000_0000);
        assert_eq!(layout.physical_memory, Some(VirtAddr::new(DIRECT_MAP)));
        assert!(layout.guard.as_u64() > DIRECT_MAP + SIZES.ram_end);
        assert_eq!(layout.boot_info - layout.guard, 0x1000 + 0x6000 + 0x1000, "guard, stack, free page");
        assert_eq!(place_sample(&Request { physical_memory: None, ..DYNAMIC }).unwrap().physical_memory, None);
    }

    #[test]
    fn the_dynamic_range_is_honoured() {
        let limited = Request { dynamic_start: Some(0xffff_9000_0000_0000), ..DYNAMIC };
        assert_eq!(place_sample(&limited).unwrap().physical_memory, Some(VirtAddr::new(0xffff_9000_0000_0000)));
        // The lower half, up to and including a last byte.
        let end = 0x4000_0000_0000 - 1;
        let lower = Request { dynamic_start: Some(0x1234), dynamic_end: Some(end), ..DYNAMIC };
        let layout = place_sample(&lower).unwrap();
        assert!(layout.bias < end && layout.bias.is_multiple_of(0x1000));
        let small = Request { dynamic_start: Some(0x20_0000), dynamic_end: Some(0x20_0fff), ..DYNAMIC };
        assert!(matches!(place_sample(&small), Err(LayoutError::NoGap(Field::KernelBase, _))));
        // From below the hole: nothing may reach into it.
        let hole = Request { dynamic_start: Some(0x7fff_ffff_f000), ..DYNAMIC };
        assert_eq!(place_sample(&hole).unwrap().physical_memory, Some(VirtAddr::new(DIRECT_MAP)));
    }

    #[test]
    fn a_fixed_address_is_honoured_or_refused() {
        let fixed = Mapping::FixedAddress;
        let at = |address| Request { stack: fixed(address), ..DYNAMIC };
        assert_eq!(place_sample(&at(0x40_0000)).unwrap().guard.as_u64(), 0x40_0000);
        assert_eq!(place_sample(&at(0x40_0008)), Err(LayoutError::Misaligned(Field::KernelStack, 0x40_0008, 0x1000)));
        for address in [0, 0x7fff_ffff_f000, 0x8000_0000_0000, 0xffff_ffff_ffff_f000] {
            assert_eq!(place_sample(&at(address)), Err(LayoutError::NotCanonical(Field::KernelStack, address)));
        }
        assert_eq!(
            place_sample(&at(SIZES.handover)),
            Err(LayoutError::Occupied(Field::KernelStack, SIZES.handover, SIZES.handover))
        );
        let both =
            Request { physical_memory: Some(fixed(DIRECT_MAP)), boot_info: fixed(DIRECT_MAP + 0x1000), ..DYNAMIC };
        assert!(matches!(place_sample(&both), Err(LayoutError::Occupied(..))));
        let odd = Request { physical_memory: Some(fixed(DIRECT_MAP + 0x1000)), ..DYNAMIC };
        assert!(matches!(place_sample(&odd), Err(LayoutError::Misaligned(Field::PhysicalMemory, ..))));
        // A fixed stack where the kernel would go by itself: the kernel gives way.
        let pushed = place_sample(&at(0xffff_ffff_8000_0000)).unwrap();
        assert_ne!(pushed.bias, 0xffff_ffff_8000_0000);
    }

    #[test]
    fn a_kernel_at_a_fixed_address_stays_there() {
        let file = sample::at_fixed_address(0xffff_ffff_a000_0000);
        let image = plan(&file).unwrap();
        assert_eq!(place(&DYNAMIC, &image, SIZES).unwrap().bias, 0);
        let moved = Request { image: Mapping::FixedAddress(0xffff_ffff_8000_0000), ..DYNAMIC };
        assert_eq!(place(&moved, &image, SIZES), Err(LayoutError::NotMovable(0xffff_ffff_8000_0000)));
        let clash = Request { stack: Mapping::FixedAddress(0xffff_ffff_a000_0000), ..DYNAMIC };
        assert!(matches!(place(&clash, &image, SIZES), Err(LayoutError::Occupied(Field::KernelStack, ..))));
    }
}
