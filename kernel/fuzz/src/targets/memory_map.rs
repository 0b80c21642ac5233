//! The firmware's map of memory, as the loader paints and hands it out
//!
//! The input is entries of the map, then ranges that are taken away, then sizes that are asked for.
//!
//! Oracle: each region against each entry, with numbers that cannot overflow. What is usable must be whole pages of RAM that no
//! other entry touches, and what is given out must be usable, below the limit and nobody else's.
use bootloader_api::info::MemoryRegionKind;
use ferry_loader::memory::{FRAME_BYTES, FrameAllocator, LOW_MEMORY_END, MAX_REGIONS, MemoryMap, PhysRange, Purpose};

use crate::Target;
use crate::script::Script;

/// See the module.
pub const TARGET: Target = Target { name: "memory_map", check, seeds, most_bytes: 1024 };

/// `type` of RAM (ACPI 6.5, 15).
const RAM: u32 = 1;

/// No address is beyond (Intel SDM 3A.4.1.4), and nothing is handed out beyond this.
const ADDRESS_END: u128 = 1 << 52;
const LIMIT: u64 = 4 << 30;

const FRAME: u128 = FRAME_BYTES as u128;

/// A range of bytes, cut where addresses end.
fn range(start: u64, bytes: u64) -> (u128, u128) {
    let start = u128::from(start);
    (start.min(ADDRESS_END), (start + u128::from(bytes)).min(ADDRESS_END))
}

/// Whether whole pages of RAM entries cover all of a region.
fn is_covered(entries: &[(u64, u64, u32)], (start, end): (u128, u128)) -> bool {
    let mut whole: Vec<_> = entries
        .iter()
        .filter(|(.., kind)| *kind == RAM)
        .map(|(start, bytes, _)| range(*start, *bytes))
        .map(|(start, end)| (start.div_ceil(FRAME) * FRAME, end / FRAME * FRAME))
        .collect();
    whole.sort_unstable();
    let covered =
        whole.iter().fold(start, |covered, (from, to)| if *from <= covered { covered.max(*to) } else { covered });
    covered >= end
}

fn overlaps((start, end): (u128, u128), (from, to): (u128, u128)) -> bool {
    start < to && from < end
}

/// The pages that a range touches.
fn grown((start, end): (u128, u128)) -> (u128, u128) {
    (start / FRAME * FRAME, end.div_ceil(FRAME) * FRAME)
}

fn check(input: &[u8]) {
    let mut script = Script::new(input);
    let (many, taken) = (script.byte(), script.below(8));
    let mut next = || (script.long(), script.long());
    let entries: Vec<_> =
        (0..many % 64).map(|_| next()).map(|(start, bytes)| (start, bytes >> 3, bytes as u32 & 7)).collect();
    let claims: Vec<_> = (0..taken).map(|_| next()).collect();
    let mut map = match MemoryMap::from_firmware(entries.iter().copied()) {
        Ok(map) => map,
        Err(error) => return assert!(!error.to_string().is_empty(), "an error has a text"),
    };
    for (start, bytes) in &claims {
        if map.claim(PhysRange::new(*start, *bytes)).is_err() {
            return;
        }
    }
    let regions = map.regions();
    assert!(regions.len() <= MAX_REGIONS);
    for pair in regions.windows(2) {
        let apart = pair[0].end < pair[1].start || pair[0].end == pair[1].start && pair[0].kind != pair[1].kind;
        assert!(apart, "{pair:x?}");
    }
    let usable = regions.iter().filter(|region| region.kind == MemoryRegionKind::Usable);
    let usable: Vec<_> = usable.map(|region| (u128::from(region.start), u128::from(region.end))).collect();
    for region in regions {
        let whole = region.start.is_multiple_of(FRAME_BYTES) && region.end.is_multiple_of(FRAME_BYTES);
        assert!(whole && region.start < region.end, "{region:x?}");
    }
    for region in &usable {
        assert!(region.0 >= u128::from(LOW_MEMORY_END), "{region:x?} is the firmware's");
        assert!(is_covered(&entries, *region), "{region:x?} is not all RAM");
        let others = entries.iter().filter(|(_, bytes, kind)| *kind != RAM && *bytes > 0);
        let mut others =
            others.map(|(start, bytes, _)| range(*start, *bytes)).chain(claims.iter().map(|(s, b)| range(*s, *b)));
        assert!(!others.any(|other| other.0 < other.1 && overlaps(*region, grown(other))), "{region:x?} is somebody's");
    }
    let mut allocator = FrameAllocator::new(&map, LIMIT);
    let mut given: Vec<(u128, u128)> = Vec::new();
    while !script.is_over() {
        let bytes = script.number();
        let Ok(range) = allocator.allocate(bytes, Purpose::Segment) else { continue };
        let range = (u128::from(range.start), u128::from(range.end));
        assert!(
            range.1 - range.0 == u128::from(bytes).div_ceil(FRAME) * FRAME && range.1 <= LIMIT.into(),
            "{range:x?}"
        );
        assert!(usable.iter().any(|region| region.0 <= range.0 && range.1 <= region.1), "{range:x?} is not usable");
        assert!(given.iter().all(|other| !overlaps(*other, range)), "{range:x?} is given out twice");
        given.push(range);
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let map = |entries: &[(u64, u64, u32)], claims: &[(u64, u64)], sizes: &[u8]| {
        let mut input = vec![entries.len() as u8, claims.len() as u8];
        let entries = entries.iter().map(|(start, bytes, kind)| (*start, bytes << 3 | u64::from(*kind)));
        let numbers = entries.chain(claims.iter().copied()).flat_map(|(first, second)| [first, second]);
        input.extend(numbers.flat_map(u64::to_le_bytes));
        input.extend(sizes);
        input
    };
    let sizes = [7, 200, 255, 0, 0, 0x10, 0, 0, 0, 0, 0, 1];
    vec![
        map(&[(0, 0x9_fc00, 1), (0x9_fc00, 0x400, 2), (0x10_0000, 0xff0_0000, 1)], &[(0x10_0000, 0x2_3456)], &sizes),
        map(
            &[(0, 1 << 31, 1), (1 << 32, 1 << 32, 1), (0x7ff_e123, 0x1000, 3), (0x7fff_0000, 0x1_0000, 4)],
            &[],
            &sizes,
        ),
        map(
            &[(0x10_0001, 0x2000, 1), (u64::MAX - 5, 1 << 40, 1), (1 << 51, u64::MAX >> 3, 1), (0x10_1000, 1, 2)],
            &[],
            &sizes,
        ),
    ]
}
