extern crate std;
use super::*;
use std::vec::Vec;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What SeaBIOS reports on a q35 machine with 6 GiB, slightly shortened.
fn q35() -> Vec<(u64, u64, u32)> {
    std::vec![
        (0, 0x9fc00, 1),
        (0x9fc00, 0x400, 2),
        (0xf0000, 0x10000, 2),
        (MIB, 2 * GIB - MIB - 0x21000, 1),
        (2 * GIB - 0x21000, 0x21000, 2),
        (0xb000_0000, 0x1000_0000, 2),
        (0xfffc_0000, 0x40000, 2),
        (4 * GIB, 4 * GIB, 1),
    ]
}

fn map(entries: &[(u64, u64, u32)]) -> MemoryMap {
    MemoryMap::from_firmware(entries.iter().copied()).unwrap()
}

fn assert_well_formed(map: &MemoryMap) {
    for region in map.regions() {
        assert!(region.start < region.end, "{region:?}");
        assert_eq!((region.start | region.end) % FRAME_BYTES, 0, "{region:?}");
    }
    for pair in map.regions().windows(2) {
        assert!(pair[0].end <= pair[1].start, "{pair:?}");
        assert!(pair[0].end < pair[1].start || pair[0].kind != pair[1].kind, "{pair:?}");
    }
}

fn kind_at(map: &MemoryMap, address: u64) -> Option<MemoryRegionKind> {
    map.regions().iter().find(|region| region.start <= address && address < region.end).map(|region| region.kind)
}

#[test]
fn the_map_of_a_q35_machine() {
    let map = map(&q35());
    assert_well_formed(&map);
    assert_eq!(kind_at(&map, 0), Some(MemoryRegionKind::Bootloader));
    assert_eq!(kind_at(&map, 0x9f000), Some(MemoryRegionKind::UnknownBios(2)), "a page partly reserved is reserved");
    assert_eq!(kind_at(&map, 0xa0000), None);
    assert_eq!(kind_at(&map, MIB), Some(MemoryRegionKind::Usable));
    assert_eq!(kind_at(&map, 2 * GIB - 1), Some(MemoryRegionKind::UnknownBios(2)));
    assert_eq!(kind_at(&map, 7 * GIB), Some(MemoryRegionKind::Usable));
    let ram: Vec<_> = map.ram().collect();
    assert_eq!(
        ram,
        [
            PhysRange { start: 0, end: 0x9f000 },
            PhysRange { start: MIB, end: 2 * GIB - 0x21000 },
            PhysRange { start: 4 * GIB, end: 8 * GIB },
        ]
    );
}

#[test]
fn reserved_wins_in_any_order_and_a_claim_takes_only_usable_memory() {
    let entries = [(0x40_0800, 0x1000, 2), (0, 16 * MIB, 1), (8 * MIB, MIB, 3), (4 * MIB, 12 * MIB, 1)];
    let mut reversed = entries;
    reversed.reverse();
    for mut map in [map(&entries), map(&reversed)] {
        assert_well_formed(&map);
        assert_eq!(kind_at(&map, 0x40_0000), Some(MemoryRegionKind::UnknownBios(2)));
        assert_eq!(kind_at(&map, 0x40_1fff), Some(MemoryRegionKind::UnknownBios(2)));
        assert_eq!(kind_at(&map, 0x40_2000), Some(MemoryRegionKind::Usable));
        map.claim(PhysRange::new(7 * MIB + 1, 2 * MIB)).unwrap();
        assert_well_formed(&map);
        assert_eq!(kind_at(&map, 7 * MIB), Some(MemoryRegionKind::Bootloader));
        assert_eq!(kind_at(&map, 8 * MIB), Some(MemoryRegionKind::UnknownBios(3)));
        assert_eq!(kind_at(&map, 9 * MIB), Some(MemoryRegionKind::Bootloader));
        assert_eq!(kind_at(&map, 9 * MIB + 0x1000), Some(MemoryRegionKind::Usable));
        let ram: Vec<_> = map.ram().collect();
        assert_eq!(
            ram,
            [PhysRange { start: 0, end: 0x40_0000 }, PhysRange { start: 0x40_2000, end: 16 * MIB }],
            "ACPI's RAM is RAM"
        );
    }
}

#[test]
fn damaged_maps_are_errors_or_harmless() {
    assert_eq!(MemoryMap::from_firmware([].into_iter()).err(), Some(MemoryError::NoMap));
    assert_eq!(MemoryMap::from_firmware([(MIB, 100, 1)].into_iter()).err(), Some(MemoryError::NoMap));
    let odd = map(&[(u64::MAX - 5, u64::MAX, 1), (u64::MAX, 1, 2), (MIB, u64::MAX, 1), (3 * MIB, 0, 2)]);
    assert_well_formed(&odd);
    let many = (0..300).map(|index| (2 * MIB + index * 0x2000, 0x1000, 1));
    assert_eq!(MemoryMap::from_firmware(many).err(), Some(MemoryError::TooManyRegions));
}

#[test]
fn frames_are_given_out_once_from_usable_memory_below_the_limit() {
    let mut map = map(&[(0, 4 * MIB, 1), (8 * MIB, 8 * MIB, 1)]);
    map.claim(PhysRange::new(MIB, 5000)).unwrap();
    let mut allocator = FrameAllocator::new(&map, 12 * MIB);
    let mut taken: Vec<PhysRange> = Vec::new();
    for bytes in [1, 3 * MIB, 4096, MIB, 5000, 8192] {
        taken.push(allocator.allocate(bytes, Purpose::Segment).unwrap());
    }
    for (index, range) in taken.iter().enumerate() {
        assert!(range.end <= 12 * MIB && range.start >= LOW_MEMORY_END);
        assert_eq!(kind_at(&map, range.start), Some(MemoryRegionKind::Usable));
        assert!(taken[..index].iter().all(|other| !other.overlaps(*range)), "{taken:?}");
    }
    assert_eq!(
        allocator.allocate(2 * MIB, Purpose::Stack),
        Err(MemoryError::Exhausted { bytes: 2 * MIB, purpose: Purpose::Stack })
    );
    assert_eq!(
        allocator.allocate(u64::MAX, Purpose::Stack),
        Err(MemoryError::Exhausted { bytes: u64::MAX, purpose: Purpose::Stack })
    );
    let total: u64 = allocator.given_out().map(|range| range.end - range.start).sum();
    assert_eq!(total, taken.iter().map(|range| range.end - range.start).sum::<u64>());
    for range in allocator.given_out() {
        map.claim(range).unwrap();
    }
    assert_well_formed(&map);
    assert!(taken.iter().all(|range| kind_at(&map, range.start) == Some(MemoryRegionKind::Bootloader)));
}
