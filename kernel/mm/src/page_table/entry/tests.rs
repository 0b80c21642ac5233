//! The codec, exhaustively where the space is small and by property where it is not.
//!
//! Expected bits are written down here once more, from the drawing in `entry.rs` and the Intel SDM, and not taken from the constants there.
extern crate std;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::machine::MAX_CPUS;

/// Bit 51, the highest that a physical address can have: no RAM is there.
const ABOVE_ALL_RAM: u64 = 1 << 51;
/// The frame numbers that a present entry can hold: 40 bits.
const PRESENT_FRAMES: u32 = 40;
/// The payload of a special entry: 39 bits.
const PAYLOAD_BITS: u32 = 39;
/// The flags of a present entry, by position.
const PRESENT_FLAGS: [u32; 9] = [1, 2, 3, 4, 5, 6, 7, 8, 63];
/// The flags that a special entry carries, by position: W, U, A, D, NX.
const CARRIED_FLAGS: [u32; 5] = [1, 2, 5, 6, 63];

/// Every combination of the flags at these positions.
fn combinations(positions: &'static [u32]) -> impl Iterator<Item = LeafFlags> {
    (0..1_u64 << positions.len()).map(move |chosen| {
        let bits = (0..).zip(positions).filter(|(index, _)| chosen & 1 << index != 0);
        LeafFlags::from_bits(bits.fold(0, |bits, (_, position)| bits | 1 << position)).expect("positions of flags")
    })
}

/// 0, 1, the largest, its neighbour, and every power of two with its neighbours, below 2^`bits`.
fn boundaries(bits: u32) -> Vec<u64> {
    let max = (1_u64 << bits) - 1;
    let mut numbers: Vec<u64> = (0..bits).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1]).collect();
    numbers.extend([0, 1, max - 1, max]);
    numbers.retain(|number| *number <= max);
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

fn ram(number: u64) -> PhysFrame {
    PhysFrame::containing_address(PhysAddr::new(number << 12))
}

fn on_device(payload: u64) -> DeviceFrame {
    DeviceFrame::new(DeviceId::new((payload >> 32) as u8).expect("7 bits"), payload as u32)
}

fn owners() -> impl Iterator<Item = CpuId> {
    (0..MAX_CPUS).filter_map(CpuId::new)
}

/// What every special entry keeps, whatever its kind.
fn assert_special(entry: Entry) {
    let raw = entry.encode();
    assert_eq!(raw.decode(), entry, "{raw:?}");
    assert_eq!(raw.0 & 1, 0, "{entry:?} must not be present: {raw:?}");
    assert_ne!(raw.0 & ABOVE_ALL_RAM, 0, "{entry:?} must not point at RAM: {raw:?}");
    assert!(raw.is_special() && !raw.is_present(), "{raw:?}");
}

#[test]
fn present_entries_hold_every_flag_and_boundary_frame() {
    for number in boundaries(PRESENT_FRAMES) {
        for flags in combinations(&PRESENT_FLAGS) {
            let entry = Entry::Present { frame: ram(number), flags };
            let raw = entry.encode();
            assert_eq!(raw.0, number << 12 | flags.bits() | 1);
            assert_eq!(raw.decode(), entry, "{raw:?}");
            assert!(raw.is_present() && !raw.is_special());
            assert_eq!(raw.flags(), flags);
        }
    }
}

#[test]
fn migrating_entries_hold_every_flag_owner_and_boundary_frame() {
    for number in boundaries(PAYLOAD_BITS) {
        for flags in combinations(&CARRIED_FLAGS) {
            for owner in owners() {
                assert_special(Entry::Migrating { frame: ram(number).into(), flags, owner });
                assert_special(Entry::Migrating { frame: on_device(number).into(), flags, owner });
            }
        }
    }
}

#[test]
fn other_entries_with_a_frame_hold_every_flag_and_boundary_frame() {
    for number in boundaries(PAYLOAD_BITS) {
        for flags in combinations(&CARRIED_FLAGS) {
            assert_special(Entry::Exclusive { frame: ram(number), flags });
            assert_special(Entry::NoAccess { frame: ram(number), flags });
        }
        for writable in [false, true] {
            assert_special(Entry::Device { frame: on_device(number), writable });
        }
        assert_special(Entry::Swap { slot: SwapSlot::new(number).expect("39 bits") });
    }
    assert_special(Entry::Poison);
}

#[test]
fn carried_flags_stand_where_they_stand_in_a_present_entry() {
    for flags in combinations(&CARRIED_FLAGS) {
        let present = Entry::Present { frame: ram(5), flags }.encode();
        let mask = CARRIED_FLAGS.iter().fold(0, |mask, position| mask | 1_u64 << position);
        for special in [
            Entry::Migrating { frame: ram(5).into(), flags, owner: CpuId::BOOT },
            Entry::NoAccess { frame: ram(5), flags },
            Entry::Exclusive { frame: ram(5), flags },
        ] {
            assert_eq!(special.encode().0 & mask, present.0 & mask);
        }
    }
}

#[test]
fn flags_that_a_special_entry_cannot_carry_are_left_out() {
    for flags in combinations(&PRESENT_FLAGS) {
        let raw = Entry::NoAccess { frame: ram(7), flags }.encode();
        assert_eq!(raw.decode(), Entry::NoAccess { frame: ram(7), flags: flags & LeafFlags::CARRIED });
    }
}

#[test]
fn entries_that_differ_have_bits_that_differ() {
    let mut seen = std::collections::HashMap::new();
    let frames = [0, 1, 1 << 20, MAX_PAYLOAD];
    let mut check = |entry: Entry| {
        if let Some(other) = seen.insert(entry.encode(), entry) {
            assert_eq!(other, entry, "two entries share {:?}", entry.encode());
        }
    };
    check(Entry::Empty);
    check(Entry::Poison);
    for number in frames {
        for flags in combinations(&CARRIED_FLAGS) {
            check(Entry::Present { frame: ram(number), flags });
            check(Entry::Exclusive { frame: ram(number), flags });
            check(Entry::NoAccess { frame: ram(number), flags });
            for owner in owners() {
                check(Entry::Migrating { frame: ram(number).into(), flags, owner });
                check(Entry::Migrating { frame: on_device(number).into(), flags, owner });
            }
        }
        check(Entry::Swap { slot: SwapSlot::new(number).expect("39 bits") });
        check(Entry::Device { frame: on_device(number), writable: false });
        check(Entry::Device { frame: on_device(number), writable: true });
    }
}

#[test]
fn only_zero_is_empty() {
    assert_eq!(RawEntry(0).decode(), Entry::Empty);
    assert_eq!(Entry::Empty.encode(), RawEntry(0));
    for bit in 0..64 {
        assert_ne!(RawEntry(1 << bit).decode(), Entry::Empty, "bit {bit}");
    }
}

#[test]
fn limits_are_refused() {
    assert_eq!(SwapSlot::new(MAX_PAYLOAD + 1), None);
    assert_eq!(DeviceId::new(MAX_DEVICE + 1), None);
    assert_eq!(MAX_PAYLOAD, (1 << PAYLOAD_BITS) - 1);
    assert_eq!(
        (u64::from(MAX_DEVICE) << 32) | u64::from(u32::MAX),
        MAX_PAYLOAD,
        "a device number and an index fill it"
    );
}

#[test]
fn a_flipped_bit_never_goes_unnoticed_as_the_same_entry() {
    let entries = [
        Entry::Device { frame: on_device(0x1_0000_0007), writable: true },
        Entry::Migrating { frame: ram(0x1234).into(), flags: LeafFlags::CARRIED, owner: CpuId::BOOT },
        Entry::NoAccess { frame: ram(0x77), flags: LeafFlags::WRITABLE },
        Entry::Poison,
    ];
    for entry in entries {
        for bit in 0..64 {
            let raw = RawEntry(entry.encode().0 ^ 1 << bit);
            assert_ne!(raw.decode(), entry, "bit {bit} of {entry:?} means nothing");
        }
    }
}

fn flags() -> impl Strategy<Value = LeafFlags> {
    any::<u64>().prop_map(|bits| LeafFlags::from_bits_truncate(bits) & LeafFlags::CARRIED)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn special_entries_of_any_payload_survive(
        payload in 0..=MAX_PAYLOAD,
        flags in flags(),
        writable: bool,
        owner in 0..MAX_CPUS,
    ) {
        let owner = CpuId::new(owner).expect("below the limit");
        for entry in [
            Entry::Swap { slot: SwapSlot::new(payload).expect("39 bits") },
            Entry::Migrating { frame: ram(payload).into(), flags, owner },
            Entry::Migrating { frame: on_device(payload).into(), flags, owner },
            Entry::Device { frame: on_device(payload), writable },
            Entry::Exclusive { frame: ram(payload), flags },
            Entry::NoAccess { frame: ram(payload), flags },
        ] {
            assert_special(entry);
        }
    }

    /// Whatever stands in a table: what decodes to a meaning encodes to the same bits, and the rest is kept as it is.
    ///
    /// A present entry may have bits that mean nothing to us (9 to 11 and 52 to 62); they are not kept, the others are.
    #[test]
    fn any_bits_mean_one_thing(bits: u64) {
        let raw = RawEntry(bits);
        match raw.decode() {
            Entry::Empty => prop_assert_eq!(bits, 0),
            Entry::Present { .. } => {
                prop_assert_eq!(bits & 1, 1);
                let ours = PRESENT_FLAGS.iter().fold(0x000f_ffff_ffff_f001, |ours, position| ours | 1_u64 << position);
                prop_assert_eq!(raw.decode().encode().0, bits & ours);
            }
            Entry::Unknown(kept) => {
                prop_assert_eq!(kept, raw);
                prop_assert_eq!(raw.decode().encode(), raw);
            }
            entry => {
                prop_assert_eq!(entry.encode(), raw);
                assert_special(entry);
            }
        }
    }

    /// The same, for bits that look like one of our special entries.
    #[test]
    fn bits_near_a_special_entry_mean_one_thing(kind in 0u64..8, payload: u64, rest: u64) {
        let bits = (kind << 9) | (!(payload << 12) & 0x000f_ffff_ffff_f000) | (rest & 0x87f0_0000_0000_01fe);
        let raw = RawEntry(bits);
        prop_assert_eq!(raw.decode().encode(), raw);
        if !matches!(raw.decode(), Entry::Unknown(_) | Entry::Empty) {
            assert_special(raw.decode());
        }
    }
}
