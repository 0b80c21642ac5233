//! The checks, over a guest and a device made by hand: what is right passes, and each wrong thing is noticed.
use std::collections::BTreeMap;

use ferry_device::DeviceType;
use ferry_device::geometry::{FrameIndex, Geometry};
use ferry_device_model::MemoryError;
use ferry_mm::frame::DeviceId;
use ferry_mm::page_table::entry::{Entry, SwapSlot};

use super::*;
use crate::demo::view::SwapSlots;
use crate::sys::PAGE_BYTES;
use std::io;

const ROOT: u64 = 0x1000;
const LEAF_TABLE: u64 = 0x4000;
/// Where the frames of pages begin in the guest's RAM.
const FRAMES: u64 = 0x10_0000;
const START: u64 = 0x20_0000;
/// Present, writable, user, accessed, dirty.
const PRESENT: u64 = 0x67;
const PAGES: u64 = 3;
/// Where the BAR of device 1, which is coherent, lies; its frames begin behind the control area.
const BAR: u64 = 0x8000_0000;
const FIRST_FRAME: u64 = BAR + 0x8000;

#[derive(Default)]
struct World {
    words: BTreeMap<u64, u64>,
    ram: BTreeMap<u64, PageBytes>,
    device: BTreeMap<u64, PageBytes>,
    coherent: BTreeMap<u64, PageBytes>,
    slots: BTreeMap<u64, PageBytes>,
}

impl Physical for World {
    fn word(&self, address: PhysAddr) -> Option<u64> {
        Some(self.words.get(&address.as_u64()).copied().unwrap_or(0))
    }

    fn page(&self, address: PhysAddr) -> Option<PageBytes> {
        self.ram.get(&address.as_u64()).copied()
    }
}

/// A device of the smallest size.
struct Frames(DeviceType, BTreeMap<u64, PageBytes>);

/// A swap disk of ten slots.
struct Slots(BTreeMap<u64, PageBytes>);

impl SwapSlots for Slots {
    fn page(&self, slot: u64) -> io::Result<Option<PageBytes>> {
        Ok((slot < 10).then(|| self.0.get(&slot).copied().unwrap_or([0; PAGE_BYTES])))
    }
}

impl DeviceMemory for Frames {
    fn device_type(&self) -> DeviceType {
        self.0
    }

    fn frame_at(&self, offset: u64) -> Option<u32> {
        let index = offset.checked_sub(0x8000)? / PAGE_BYTES as u64;
        (index < self.frames()).then_some(index as u32)
    }

    fn frames(&self) -> u64 {
        Geometry::of_bar(1 << 20).unwrap().frames()
    }

    fn frame(&self, index: u64) -> Result<PageBytes, MemoryError> {
        Geometry::of_bar(1 << 20).unwrap().frame_offset(FrameIndex(index))?;
        Ok(self.1.get(&index).copied().unwrap_or([0; PAGE_BYTES]))
    }

    fn bytes_not_zero(&self) -> Result<u64, MemoryError> {
        Ok(self.1.values().flatten().filter(|byte| **byte != 0).count() as u64)
    }
}

impl World {
    fn populated(input: &Input) -> Self {
        let mut world = Self::default();
        // START has the indices 0, 0, 1, 0.
        world.words.extend([(ROOT, 0x2067), (0x2000, 0x3067), (0x3008, LEAF_TABLE | PRESENT)]);
        for page in 0..input.pages() {
            world.place_in_ram(page, input.page(page));
        }
        world
    }

    fn set(&mut self, page: u64, raw: u64) {
        self.words.insert(LEAF_TABLE + page * 8, raw);
    }

    fn place_in_ram(&mut self, page: u64, bytes: PageBytes) {
        let frame = FRAMES + page * 0x1000;
        self.ram.insert(frame, bytes);
        self.set(page, frame | PRESENT);
    }

    fn place_on_device(&mut self, page: u64, device: u8, frame: u32, bytes: PageBytes) {
        let name = DeviceFrame::new(DeviceId::new(device).unwrap(), frame);
        self.set(page, Entry::Device { frame: name, writable: true }.encode().0);
        self.device.insert(frame.into(), bytes);
    }

    fn place_on_coherent(&mut self, page: u64, frame: u64, bytes: PageBytes) {
        self.set(page, (FIRST_FRAME + frame * 0x1000) | PRESENT);
        self.coherent.insert(frame, bytes);
    }

    fn place_in_slot(&mut self, page: u64, slot: u64, bytes: PageBytes) {
        self.set(page, Entry::Swap { slot: SwapSlot::new(slot).unwrap() }.encode().0);
        self.slots.insert(slot, bytes);
    }

    fn look(&self, verifier: &mut Verifier, stage: Stage, round: u32) -> Result<Seen, Mismatch> {
        let checkpoint = Checkpoint { stage, round, root: ROOT, start: START, pages: PAGES };
        verifier.place_bar(1, BAR);
        let devices = [(DeviceType::Private, &self.device), (DeviceType::Coherent, &self.coherent)]
            .map(|(t, d)| Frames(t, d.clone()));
        let slots = Slots(self.slots.clone());
        verifier.look(&Outside { memory: self, devices: &devices, swap: Some(&slots) }, &checkpoint)
    }
}

fn input() -> Input {
    let directory = crate::run_dir::RunDir::create(0).unwrap();
    let path = directory.file("input");
    let bytes: Vec<u8> = (0..PAGES as usize * PAGE_BYTES - 100).map(|i| (i % 251) as u8 + 1).collect();
    std::fs::write(&path, bytes).unwrap();
    Input::read(&path).unwrap()
}

/// Brings the world and the checks to where all pages are on the device.
fn migrated(input: &Input) -> (World, Verifier<'_>) {
    let (mut world, mut verifier) = (World::populated(input), Verifier::new(input));
    world.look(&mut verifier, Stage::Populated, 0).unwrap();
    for page in 0..PAGES {
        world.place_on_device(page, 0, page as u32 + 5, input.page(page));
    }
    (world, verifier)
}

#[test]
fn a_run_in_two_rounds_is_verified() {
    let input = input();
    let (mut world, mut verifier) = (World::populated(&input), Verifier::new(&input));
    let seen = world.look(&mut verifier, Stage::Populated, 0).unwrap();
    assert_eq!((seen.pages, seen.waiting, seen.sample.unwrap().steps.len()), (3, 3, 4));
    for (round, pages) in [(1, vec![0, 2]), (2, vec![1])] {
        for &page in &pages {
            world.place_on_device(page, 0, page as u32 + 7, input.page(page));
        }
        let seen = world.look(&mut verifier, Stage::Migrated, round).unwrap();
        assert_eq!((seen.pages, seen.waiting), (pages.len() as u64, u64::from(round == 1)));
        assert_eq!(seen.sample.is_some(), round == 2, "page 1 is the sample");
        for &page in &pages {
            world.place_on_device(page, 0, page as u32 + 7, input.inverted_page(page));
        }
        assert_eq!(world.look(&mut verifier, Stage::Transformed, round).unwrap().pages, pages.len() as u64);
        for &page in &pages {
            world.place_in_ram(page, input.inverted_page(page));
            world.device.remove(&(page + 7));
        }
        let seen = world.look(&mut verifier, Stage::Returned, round).unwrap();
        assert_eq!(seen.hash, (round == 2).then(|| input.inverted_hash()));
    }
    let seen = world.look(&mut verifier, Stage::TornDown, 0).unwrap();
    assert_eq!(seen.stale_bytes, Some(0));
}

#[test]
fn wrong_contents_are_noticed_wherever_they_are() {
    let input = input();
    let mut world = World::populated(&input);
    // The last 100 bytes lie behind the end of the input and must be zero.
    world.ram.get_mut(&(FRAMES + 2 * 0x1000)).unwrap()[PAGE_BYTES - 1] = 1;
    let error = world.look(&mut Verifier::new(&input), Stage::Populated, 0).unwrap_err();
    assert!(matches!(error, Mismatch::Contents { page: 2, offset: 4095, found: 1, expected: 0, .. }), "{error}");

    let (mut world, mut verifier) = migrated(&input);
    world.device.get_mut(&6).unwrap()[17] ^= 0x80;
    let error = world.look(&mut verifier, Stage::Migrated, 1).unwrap_err();
    assert!(matches!(error, Mismatch::Contents { page: 1, offset: 17, place: Place::DeviceFrame(_), .. }), "{error}");

    let (mut world, mut verifier) = migrated(&input);
    world.look(&mut verifier, Stage::Migrated, 1).unwrap();
    let error = world.look(&mut verifier, Stage::Transformed, 1).unwrap_err();
    assert!(matches!(error, Mismatch::Contents { page: 0, offset: 0, .. }), "nothing was inverted: {error}");
    for page in 0..PAGES {
        world.place_on_device(page, 0, page as u32 + 5, input.inverted_page(page));
    }
    world.last_stage_again(&mut verifier);
    world.look(&mut verifier, Stage::Transformed, 1).unwrap();
    for page in 0..PAGES {
        world.place_in_ram(page, input.page(page));
    }
    let error = world.look(&mut verifier, Stage::Returned, 1).unwrap_err();
    assert!(
        matches!(error, Mismatch::Contents { page: 0, place: Place::Ram(_), .. }),
        "old contents came home: {error}"
    );
}

impl World {
    /// Forgets that the last stage was looked at, so that it can be looked at once more.
    fn last_stage_again(&self, verifier: &mut Verifier) {
        verifier.last = Some((Stage::Migrated, 1));
    }
}

#[test]
fn entries_that_cannot_be_are_noticed() {
    let input = input();
    type Change = fn(&mut World, &Input);
    let wrong: [(Change, &str); 7] = [
        (|w, i| w.place_on_device(2, 0, 5, i.page(0)), "device frame d0:0x5 holds page 0 and page 2"),
        (|w, i| w.place_on_device(2, 2, 9, i.page(2)), "no such device"),
        (|w, i| w.place_on_device(2, 1, 9, i.page(2)), "by an entry of a private device, but the device is coherent"),
        (|w, i| w.place_on_coherent(2, 9, i.page(1)), "of page 2 is"),
        (|w, i| w.place_on_device(2, 0, 1 << 20, i.page(2)), "device has 0xf8 frames"),
        (|w, _| w.set(2, Entry::Poison.encode().0), "Poison"),
        (|w, _| w.set(2, 0), "Empty"),
    ];
    for (change, part) in wrong {
        let (mut world, mut verifier) = migrated(&input);
        change(&mut world, &input);
        let error = world.look(&mut verifier, Stage::Migrated, 1).unwrap_err().to_string();
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn pages_that_move_behind_the_hosts_back_are_noticed() {
    let input = input();
    let (mut world, mut verifier) = migrated(&input);
    world.look(&mut verifier, Stage::Migrated, 1).unwrap();
    world.place_on_device(1, 0, 50, input.inverted_page(1));
    for page in [0, 2] {
        world.place_on_device(page, 0, page as u32 + 5, input.inverted_page(page));
    }
    let error = world.look(&mut verifier, Stage::Transformed, 1).unwrap_err();
    assert!(matches!(error, Mismatch::Moved { page: 1, .. }), "{error}");

    world.place_on_device(1, 0, 6, input.inverted_page(1));
    world.last_stage_again(&mut verifier);
    world.look(&mut verifier, Stage::Transformed, 1).unwrap();
    for page in 0..2 {
        world.place_in_ram(page, input.inverted_page(page));
    }
    let error = world.look(&mut verifier, Stage::Returned, 1).unwrap_err();
    assert!(matches!(error, Mismatch::NotHome { page: 2, .. }), "one did not come home: {error}");
}

#[test]
fn a_page_goes_only_once() {
    let input = input();
    let (mut world, mut verifier) = migrated(&input);
    world.look(&mut verifier, Stage::Migrated, 1).unwrap();
    for page in 0..PAGES {
        world.place_on_device(page, 0, page as u32 + 5, input.inverted_page(page));
    }
    world.look(&mut verifier, Stage::Transformed, 1).unwrap();
    for page in 0..PAGES {
        world.place_in_ram(page, input.inverted_page(page));
    }
    world.look(&mut verifier, Stage::Returned, 1).unwrap();
    world.place_on_device(0, 0, 5, input.inverted_page(0));
    assert!(matches!(world.look(&mut verifier, Stage::Migrated, 2), Err(Mismatch::WentTwice(0))));
}

#[test]
fn stages_out_of_order_and_wrong_sizes_are_noticed() {
    let input = input();
    let world = World::populated(&input);
    for (stage, round) in [(Stage::Migrated, 1), (Stage::TornDown, 0), (Stage::Populated, 1)] {
        let result = world.look(&mut Verifier::new(&input), stage, round);
        assert!(matches!(result, Err(Mismatch::Order { .. })), "{stage:?}");
    }
    let mut verifier = Verifier::new(&input);
    world.look(&mut verifier, Stage::Populated, 0).unwrap();
    assert!(matches!(world.look(&mut verifier, Stage::TornDown, 0), Err(Mismatch::Order { .. })));
    let short = Checkpoint { stage: Stage::Populated, round: 0, root: ROOT, start: START, pages: PAGES - 1 };
    let result = Verifier::new(&input).look(&Outside { memory: &world, devices: &[] as &[Frames], swap: None }, &short);
    assert!(matches!(result, Err(Mismatch::Pages { found: 2, expected: 3 })));
}

#[test]
fn bytes_left_on_the_device_are_counted() {
    let input = input();
    let (mut world, mut verifier) = migrated(&input);
    world.look(&mut verifier, Stage::Migrated, 1).unwrap();
    verifier.last = Some((Stage::Returned, 1));
    world.device = BTreeMap::from([(3, [0; PAGE_BYTES])]);
    world.device.get_mut(&3).unwrap()[9] = 1;
    assert_eq!(world.look(&mut verifier, Stage::TornDown, 0).unwrap().stale_bytes, Some(1));
}

#[test]
fn pages_on_a_coherent_device_and_on_the_disk_are_found_where_they_are() {
    let input = input();
    let (mut world, mut verifier) = (World::populated(&input), Verifier::new(&input));
    world.place_in_slot(2, 7, input.page(2));
    let seen = world.look(&mut verifier, Stage::Populated, 0).unwrap();
    assert_eq!((seen.pages, seen.swapped), (3, 1));
    world.place_on_device(0, 0, 4, input.page(0));
    world.place_on_coherent(1, 4, input.page(1));
    let seen = world.look(&mut verifier, Stage::Migrated, 1).unwrap();
    assert_eq!((seen.pages, seen.by_device, seen.waiting, seen.swapped), (2, vec![1, 1], 1, 1));
    world.place_on_device(0, 0, 4, input.inverted_page(0));
    world.coherent.insert(4, input.inverted_page(1));
    assert_eq!(world.look(&mut verifier, Stage::Transformed, 1).unwrap().by_device, [1, 1]);
    world.place_in_ram(0, input.inverted_page(0));
    let error = world.look(&mut verifier, Stage::Returned, 1).unwrap_err();
    assert!(matches!(error, Mismatch::NotHome { page: 1, .. }), "a page in a BAR is not at home: {error}");
    verifier.pages[0] = Whereabouts::Away(DeviceFrame::new(DeviceId::new(0).unwrap(), 4));
    verifier.last = Some((Stage::Transformed, 1));
    world.place_in_slot(1, 9, input.inverted_page(1));
    let seen = world.look(&mut verifier, Stage::Returned, 1).unwrap();
    assert_eq!((seen.by_device, seen.waiting, seen.swapped, seen.hash), (vec![1, 1], 1, 2, None));
}

#[test]
fn wrong_slots_are_noticed() {
    let input = input();
    let look = |slot, bytes| {
        let mut world = World::populated(&input);
        world.place_in_slot(1, slot, bytes);
        world.look(&mut Verifier::new(&input), Stage::Populated, 0).unwrap_err().to_string()
    };
    let mut flipped = input.page(1);
    flipped[99] ^= 1;
    assert!(look(4, flipped).contains("byte 99 of page 1") && look(4, flipped).contains("slot 4 of the swap disk"));
    assert!(look(10, input.page(1)).contains("has no such slot"));
}
