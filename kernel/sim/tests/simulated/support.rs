//! What the tests share: a small world, pages to work on, and contents to recognise.
use ferry_mm::address::{PAGE_BYTES, PageRange};
use ferry_mm::frame::{AnyFrame, DeviceFrame, DeviceId};
use ferry_mm::page_table::entry::{Entry, LeafFlags, SwapSlot};
use ferry_mm::space::{Protection, Space};
use ferry_sim::{Builder, Cpu, Sim, World};
use x86_64::VirtAddr;
use x86_64::structures::paging::PhysFrame;

/// The first page of the tests: four pages below a border between two level-1 tables.
pub const BASE: u64 = 0x0040_0000 - 4 * PAGE_BYTES;

/// Device 0.
pub const DEVICE: DeviceId = DeviceId::new(0).unwrap();

/// Device 1, where a test gives the machine a coherent one.
pub const COHERENT: DeviceId = DeviceId::new(1).unwrap();

/// A calm machine with 2 CPUs and a device of 32 frames.
pub fn small() -> Builder {
    World::builder().frames(128).device(32).cpus(2)
}

/// The same with a coherent device of 32 frames beside the private one.
pub fn with_coherent() -> Builder {
    small().coherent_device(32)
}

/// A world that lives as long as the test program, for a listener or a watcher who looks into it.
pub fn forever(builder: Builder) -> &'static World {
    Box::leak(Box::new(builder.build()))
}

/// Pages `first..first + pages`, counted from [`BASE`].
pub fn pages(first: u64, pages: u64) -> PageRange {
    PageRange::covering(at(first, 0), pages * PAGE_BYTES).unwrap()
}

/// The address of a byte of a page.
pub fn at(page: u64, offset: u64) -> VirtAddr {
    VirtAddr::new(BASE + page * PAGE_BYTES + offset)
}

/// The bytes of a page; in a failure message, only the runs of equal bytes at its start.
#[derive(Clone, PartialEq, Eq)]
pub struct Contents(Vec<u8>);

impl Contents {
    /// Puts other bytes in place of the first ones.
    pub fn splice_front(&mut self, bytes: &[u8]) {
        self.0[..bytes.len()].copy_from_slice(bytes);
    }
}

impl std::ops::Deref for Contents {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let runs = self.0.chunk_by(|first, second| first == second).take(12);
        f.debug_list().entries(runs.map(|run| format_args!("{} x {:#04x}", run.len(), run[0]).to_string())).finish()
    }
}

/// A page's worth of bytes that depend on `seed` and on the place in the page; none is zero.
pub fn contents(seed: u64) -> Contents {
    let byte = |place: u64| (place.wrapping_mul(31) ^ (place >> 8) ^ seed.wrapping_mul(97)) as u8 | 1;
    Contents((0..PAGE_BYTES).map(byte).collect())
}

/// A page's worth of zeros.
pub fn zeros() -> Contents {
    Contents(vec![0; PAGE_BYTES as usize])
}

/// A space with `count` read-write pages from [`BASE`], that every CPU is in.
pub fn space_of(world: &World, count: u64) -> Space<'_, Sim> {
    let space = world.manager().create_space().unwrap();
    space.map_anonymous(pages(0, count), Protection::READ_WRITE).unwrap();
    for number in 0..world.sim().cpus().count() {
        world.cpu(number).enter(space);
    }
    space
}

/// Stores [`contents`] of its number in each of the first `count` pages.
pub fn fill(cpu: Cpu<'_>, count: u64) {
    for page in 0..count {
        cpu.store(at(page, 0), &contents(page)).unwrap();
    }
}

/// The whole page, as a CPU reads it.
pub fn page(cpu: Cpu<'_>, page: u64) -> Contents {
    let mut bytes = zeros();
    cpu.load(at(page, 0), &mut bytes.0).unwrap();
    bytes
}

/// Frame and flags of a present entry.
pub fn present(space: Space<'_, Sim>, page: u64) -> (PhysFrame, LeafFlags) {
    match space.entry(at(page, 0)).decode() {
        Entry::Present { frame, flags } => (frame, flags),
        other => panic!("page {page} is not present but {other:?}"),
    }
}

/// The device frame of a page on the device, and whether it comes home writable.
pub fn on_device(space: Space<'_, Sim>, page: u64) -> (DeviceFrame, bool) {
    match space.entry(at(page, 0)).decode() {
        Entry::Device { frame, writable } => (frame, writable),
        other => panic!("page {page} is not on the device but {other:?}"),
    }
}

/// The device frame of a page that CPUs reach in the memory of a coherent device, found by its address, and its flags.
pub fn in_coherent_memory(world: &World, space: Space<'_, Sim>, page: u64) -> (DeviceFrame, LeafFlags) {
    let (frame, flags) = present(space, page);
    match world.sim().frame_at(frame) {
        AnyFrame::Device(frame) => (frame, flags),
        AnyFrame::System(frame) => panic!("page {page} is in RAM, in frame {frame:?}"),
    }
}

/// Whether a page is present in RAM.
pub fn in_ram(world: &World, space: Space<'_, Sim>, page: u64) -> bool {
    matches!(world.sim().frame_at(present(space, page).0), AnyFrame::System(_))
}

/// The bytes of a frame as the host sees them.
pub fn host(world: &World, frame: impl Into<AnyFrame>) -> Contents {
    Contents(world.sim().bytes(frame.into()))
}

/// The bytes of a slot of the swap disk.
pub fn on_disk(world: &World, slot: SwapSlot) -> Contents {
    Contents(world.disk().bytes(slot))
}
