//! PCI configuration space: functions, bridges, BARs of any size, lists of capabilities
//!
//! The input makes up to six functions: where each is, what its 256 bytes hold, and which bits of its BARs are not fixed.
//!
//! Oracle: every function is looked for by brute force; BARs are read by hand with numbers that cannot overflow; and whoever
//! writes a BAR while its function decodes, or does not put its value back, has broken the machine. What is handed out must be
//! in nobody else's place. A list of capabilities that is accepted is followed the way `virtio-drivers` follows it.
#![allow(unsafe_code, reason = "the accessor's trait has unsafe methods")]
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::ControlFlow;

use ferry_pci::{ConfigSpace, Pci, PhysRange};
use pci_types::{ConfigRegionAccess, PciAddress};
use x86_64::PhysAddr;

use crate::Target;
use crate::script::Script;

/// See the module.
pub const TARGET: Target = Target { name: "pci", check, seeds, most_bytes: 1024 };

/// Most functions, and the bytes of each one's configuration space that are there.
const MOST_FUNCTIONS: u8 = 6;
const BYTES: usize = 256;

/// Offsets of words: command and status, header type, BARs, the list's pointer; and BARs of an ordinary function.
const COMMAND: usize = 0x04;
const HEADER: usize = 0x0c;
const FIRST_BAR: usize = 0x10;
const POINTER: usize = 0x34;
const BARS: usize = 6;

/// Bits of the command that let a function answer, and bus mastering.
const DECODES: u32 = 0b11;
const ENABLED: u32 = 0b110;

/// Most accesses of one call: each of 65,536 functions twice, and the BARs of those that exist for each of them.
const MOST_ACCESSES: u32 = 1_000_000;

/// The least memory of a device, the CPU's address bits, and RAM.
const MINIMUM: u64 = 1 << 20;
const BITS: u8 = 40;
const RAM: [(u64, u64); 2] = [(0, 0x8000_0000), (0x1_0000_0000, 0x1_0000_0000)];

#[derive(Clone, PartialEq, Eq, Debug)]
struct Function {
    address: PciAddress,
    bytes: [u8; BYTES],
    /// The bits of each BAR that can be written.
    masks: [u32; BARS],
}

impl Function {
    fn word(&self, offset: usize) -> u32 {
        self.bytes[offset..offset + 4].iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte))
    }

    fn put(&mut self, offset: usize, word: u32) {
        self.bytes[offset..offset + 4].copy_from_slice(&word.to_le_bytes());
    }

    fn header(&self) -> u32 {
        self.word(HEADER) >> 16 & 0x7f
    }

    fn bars(&self) -> usize {
        match self.header() {
            0 => BARS,
            1 => 2,
            _ => 0,
        }
    }

    /// The ranges of its memory BARs, with their slots.
    fn naive_bars(&self) -> Vec<(usize, u128, u128)> {
        let (mut found, mut slot) = (Vec::new(), 0);
        while slot < self.bars() {
            let value = self.word(FIRST_BAR + 4 * slot);
            let ones = |slot: usize| self.word(FIRST_BAR + 4 * slot) & !self.masks[slot] | self.masks[slot];
            let wide = value & 0b111 == 0b100 && slot + 1 < self.bars();
            let (mut start, mut kept) = (u128::from(value & !0xf), u128::from(ones(slot) & !0xf));
            if wide {
                start |= u128::from(self.word(FIRST_BAR + 4 * slot + 4)) << 32;
                kept |= u128::from(ones(slot + 1)) << 32;
            } else if kept != 0 {
                kept |= u128::from(u32::MAX) << 32;
            }
            // What no address names is nobody's.
            if value & 1 == 0 && start != 0 && kept != 0 && start < 1 << 52 {
                found.push((slot, start, ((1 << 64) - kept).min((1 << 52) - start)));
            }
            slot += 1 + usize::from(wide);
        }
        found
    }
}

/// Configuration space of a machine with these functions.
struct Machine {
    functions: RefCell<Vec<Function>>,
    accesses: Cell<u32>,
}

impl Machine {
    fn read_word(&self, address: PciAddress, offset: u16) -> u32 {
        self.accesses.set(self.accesses.get() + 1);
        assert!(self.accesses.get() < MOST_ACCESSES, "a walk does not end");
        let functions = self.functions.borrow();
        let function = functions.iter().find(|function| function.address == address);
        assert!(offset.is_multiple_of(4) && usize::from(offset) < BYTES, "offset {offset:#x}");
        function.map_or(u32::MAX, |function| function.word(offset.into()))
    }

    fn write_word(&self, address: PciAddress, offset: u16, value: u32) {
        let (mut functions, offset) = (self.functions.borrow_mut(), usize::from(offset));
        let function = functions.iter_mut().find(|function| function.address == address);
        let function = function.expect("a function is written that does not exist");
        if offset == COMMAND {
            return function.put(COMMAND, function.word(COMMAND) & 0xffff_0000 | value & 0xffff);
        }
        let slot = offset.wrapping_sub(FIRST_BAR) / 4;
        assert!(offset.is_multiple_of(4) && slot < function.bars(), "offset {offset:#x} was written");
        assert!(function.word(COMMAND) & DECODES == 0, "a BAR was written while the function decodes");
        let mask = function.masks[slot];
        function.put(offset, function.word(offset) & !mask | value & mask);
    }
}

#[derive(Clone, Copy)]
struct Access<'m>(&'m Machine);

impl ConfigRegionAccess for Access<'_> {
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        self.0.read_word(address, offset)
    }

    unsafe fn write(&self, address: PciAddress, offset: u16, value: u32) {
        self.0.write_word(address, offset, value);
    }
}

impl ConfigSpace for Access<'_> {
    fn get(self, address: PciAddress, offset: u16) -> u32 {
        self.0.read_word(address, offset)
    }

    fn set(self, address: PciAddress, offset: u16, value: u32) {
        self.0.write_word(address, offset, value);
    }
}

fn function(script: &mut Script) -> Function {
    let (bus, place) = (script.byte(), script.byte());
    let mut bytes = [0; BYTES];
    let header = script.bytes(0x40);
    bytes[..header.len()].copy_from_slice(header);
    let masks = std::array::from_fn(|_| {
        let (kept, shift) = (script.byte(), script.below(33));
        // The size is a power of two, unless it is not.
        u32::MAX.checked_shl(shift.into()).unwrap_or(0) & !(u32::from(kept) << 8)
    });
    let capabilities = usize::from(script.below(192));
    let list = script.bytes(capabilities);
    bytes[0x40..0x40 + list.len()].copy_from_slice(list);
    Function { address: PciAddress::new(0, bus, place >> 3, place & 7), bytes, masks }
}

/// The functions that can be found, by brute force.
fn visible(functions: &[Function]) -> BTreeSet<PciAddress> {
    let at = |address: PciAddress| {
        functions.iter().find(|function| function.address == address && function.word(0) as u16 != 0xffff)
    };
    let is_visible = |function: &&Function| {
        let address = function.address;
        let first = at(PciAddress::new(0, address.bus(), address.device(), 0));
        let several = first.is_some_and(|first| first.word(HEADER) & 1 << 23 != 0);
        at(address).is_some() && first.is_some() && (address.function() == 0 || several)
    };
    functions.iter().filter(is_visible).map(|function| function.address).collect()
}

/// Follows a list that was accepted as `virtio-drivers` does: without a bound, in 8 and 32 bits.
fn follow(function: &Function) {
    let mut at = function.word(POINTER) as u8 & !3;
    let mut hops = 0;
    while function.word(COMMAND) & 1 << 20 != 0 && at != 0 {
        hops += 1;
        assert!(hops <= 48, "the list has no end");
        let word = |offset: u8| {
            let place = at.checked_add(offset).expect("a capability wraps around");
            function.word(usize::from(place))
        };
        let [id, next, length, kind] = word(0).to_le_bytes();
        if id == 9 && length >= 16 && (1..=4).contains(&kind) {
            let (bar, offset, bytes) = (word(4) as u8, word(8), word(12));
            let end = offset.checked_add(bytes).expect("a structure wraps around");
            let bars = function.naive_bars();
            let (_, _, size) =
                bars.iter().find(|(slot, ..)| *slot == usize::from(bar)).expect("a structure is in no BAR");
            assert!(u128::from(end) <= *size, "a structure ends at {end:#x} of {size:#x}");
        }
        at = next;
    }
}

fn check_devices(bus: &Pci<Access>, before: &[Function]) {
    let found = match bus.device_memories(MINIMUM) {
        Ok(found) => found,
        Err(error) => return assert!(!error.to_string().is_empty(), "an error has a text"),
    };
    let others = |address: PciAddress| {
        let bars = before.iter().flat_map(|function| {
            function.naive_bars().into_iter().map(|(slot, start, bytes)| (function.address, slot, start, bytes))
        });
        bars.filter(move |(owner, slot, ..)| (*owner, *slot) != (address, 2))
    };
    let visible = visible(before);
    for device in found {
        let (start, bytes) = (u128::from(device.range.start.as_u64()), u128::from(device.range.bytes));
        let apart = |other: u128, length: u128| start + bytes <= other || other + length <= start;
        assert!(bytes.is_power_of_two() && bytes >= u128::from(MINIMUM) && start.is_multiple_of(bytes), "{device:?}");
        assert!(start + bytes <= 1 << BITS, "{device:?} is out of reach");
        assert!(RAM.iter().all(|(ram, length)| apart((*ram).into(), (*length).into())), "{device:?} is over RAM");
        let mut in_place = others(device.function).filter(|(owner, ..)| visible.contains(owner));
        assert!(in_place.all(|(_, _, other, length)| apart(other, length)), "{device:?} is over a BAR");
        let function = before.iter().find(|function| function.address == device.function).expect("a device exists");
        assert_eq!(function.word(0), 0x1110_1af4, "{device:?} is another device");
    }
}

fn check(input: &[u8]) {
    let mut script = Script::new(input);
    let mut functions: Vec<Function> = Vec::new();
    for _ in 0..1 + script.below(MOST_FUNCTIONS) {
        let next = function(&mut script);
        if functions.iter().all(|function| function.address != next.address) {
            functions.push(next);
        }
    }
    let before = functions.clone();
    let machine = Machine { functions: RefCell::new(functions), accesses: Cell::new(0) };
    let ram = RAM.map(|(start, bytes)| PhysRange { start: PhysAddr::new(start), bytes });
    let bus = Pci { config: Access(&machine), ram: &ram, address_bits: BITS };
    let mut seen = Vec::new();
    bus.each_function(|header| {
        seen.push(header.address());
        ControlFlow::<()>::Continue(())
    });
    let count = seen.len();
    let seen: BTreeSet<_> = seen.into_iter().collect();
    assert_eq!((count, &seen), (seen.len(), &visible(&before)), "other functions, or one twice");
    for function in before.iter().filter(|function| seen.contains(&function.address)) {
        let bars: Vec<_> = bus.memory_bars(function.address).collect();
        for (slot, range) in &bars {
            let naive = function.naive_bars();
            let found = (usize::from(*slot), u128::from(range.start.as_u64()), u128::from(range.bytes));
            assert!(naive.contains(&found), "{found:x?} of {naive:x?}");
            if let Ok(()) = bus.check_place(function.address, *slot, *range) {
                assert!(range.end() <= 1 << BITS, "{range} is out of reach");
            }
        }
        match bus.check_virtio(function.address) {
            Ok(()) => follow(function),
            Err(error) => assert!(!error.to_string().is_empty(), "an error has a text"),
        }
    }
    assert_eq!(*machine.functions.borrow(), before, "a look has changed something");
    machine.accesses.set(0);
    check_devices(&bus, &before);
    // Only decoding and bus mastering of our own devices may be on now.
    for (after, before) in machine.functions.borrow().iter().zip(&before) {
        let mut expected = before.clone();
        if before.word(0) == 0x1110_1af4 {
            expected.put(COMMAND, before.word(COMMAND) | after.word(COMMAND) & ENABLED);
        }
        assert_eq!(*after, expected, "a BAR or a command was not put back");
    }
}

/// A function with these words in its header, BARs of `2^shift` bytes, and a list.
fn sample(bus: u8, place: u8, words: &[(usize, u32)], shifts: [u8; BARS], list: &[u8]) -> Vec<u8> {
    let mut header = [0; 0x40];
    for (offset, word) in words {
        header[*offset..offset + 4].copy_from_slice(&word.to_le_bytes());
    }
    let masks = shifts.iter().flat_map(|shift| [0, *shift]);
    let mut input = vec![bus, place];
    input.extend(header);
    input.extend(masks);
    input.push(list.len() as u8);
    input.extend(list);
    input
}

fn seeds() -> Vec<Vec<u8>> {
    let ours = [(0, 0x1110_1af4), (COMMAND, 0b11), (0x18, 0xc), (0x1c, 0xf0)];
    let device = sample(0, 8, &ours, [32, 32, 26, 0, 32, 32], &[]);
    // The same with a command that decodes nothing, a BAR of 32 bits, and over RAM.
    let narrow = sample(0, 16, &[(0, 0x1110_1af4), (0x18, 0xe000_0008)], [32, 32, 21, 32, 32, 32], &[]);
    let over_ram = sample(1, 8, &[(0, 0x1110_1af4), (0x18, 0xc), (0x1c, 1)], [32, 32, 20, 0, 32, 32], &[]);
    let bridge = sample(0, 24, &[(0, 0x0001_1b36), (HEADER, 1 << 16), (0x18, 0x0001_0100)], [32; BARS], &[]);
    let several = sample(0, 0, &[(0, 0x29c0_8086), (HEADER, 1 << 23)], [32; BARS], &[]);
    let loops = sample(1, 16, &[(0, 0x0001_1b36), (HEADER, 1 << 16), (0x18, 1 << 8)], [32; BARS], &[]);
    let structure = |next: u8, kind: u8, offset: u32, bytes: u32| {
        let words = [4, offset, bytes, 0].map(u32::to_le_bytes).concat();
        [&[9, next, 20, kind][..], &words].concat()
    };
    let virtio = |list: &[u8]| {
        let words = [(0, 0x1042_1af4), (COMMAND, 1 << 20 | 2), (0x20, 0xfe00_000c), (0x24, 0), (POINTER, 0x40)];
        sample(0, 32, &words, [32, 32, 32, 32, 14, 0], list)
    };
    let good =
        [structure(0x54, 1, 0, 0x1000), structure(0x68, 3, 0x1000, 0x1000), structure(0, 2, 0x3000, 0x1000)].concat();
    let endless = [structure(0x54, 1, 0, 0x1000), structure(0x40, 3, 0, 8)].concat();
    let bad = [structure(0x54, 1, 0xffff_f000, 0x1000), structure(0x40, 4, 0, 8)].concat();
    vec![
        [vec![0], device.clone()].concat(),
        [vec![3], device.clone(), bridge.clone(), over_ram, several].concat(),
        [vec![2], bridge, loops, device].concat(),
        [vec![0], narrow].concat(),
        [vec![0], virtio(&good)].concat(),
        [vec![0], virtio(&bad)].concat(),
        [vec![0], virtio(&endless)].concat(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_seed_has_a_device_and_a_list_is_accepted() {
        let device = |seed: &[u8]| {
            let functions = vec![function(&mut Script::new(&seed[1..]))];
            Machine { functions: RefCell::new(functions), accesses: Cell::new(0) }
        };
        let seeds = seeds();
        let machine = device(&seeds[0]);
        let bus = Pci { config: Access(&machine), ram: &[], address_bits: BITS };
        assert_eq!(bus.device_memories(MINIMUM).map(|found| found.len()), Ok(1));
        let machine = device(&seeds[4]);
        let bus = Pci { config: Access(&machine), ..bus };
        assert_eq!(bus.check_virtio(PciAddress::new(0, 0, 4, 0)), Ok(()));
    }
}
