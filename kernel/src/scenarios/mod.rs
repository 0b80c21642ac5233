//! Scenarios: small programs that each show one thing, to be watched in the report.
//!
//! A scenario says where each step of its story begins (`step`), touches memory byte by byte (`store`, `load`), and checks
//! what it reads. The story itself is told on the host, beside the timeline (`boot/runner/src/report/stories`).
//!
//! All of them work on a few pages from `START` on, so that every page has room on a screen.
#![forbid(unsafe_code)]
mod copy_on_write;
mod error;
mod eviction;
mod missing_flush;
mod ping_pong;
mod pinned_page;
mod swap_then_migrate;
mod there_and_back;

use crate::arch::areas;
use crate::memory::{self, AddressSpace, device};
use crate::trace::{self, Told};
use error::ScenarioError;
use ferry_mm::address::{PAGE_BYTES, PageRange};
use ferry_mm::frame::DeviceId;
use ferry_mm::space::Protection;
use ferry_protocol::exit::ExitCode;
use ferry_protocol::options::Scenario;
use x86_64::VirtAddr;

/// Where the pages of a scenario are: an address whose four indices are all different.
const START: VirtAddr = VirtAddr::new_truncate(0x0000_1234_5678_9000);

/// Runs a scenario to its end.
pub fn run(scenario: Scenario) -> ExitCode {
    let result = device::all().map_err(ScenarioError::Device).and_then(|devices| {
        let device = devices[0].id;
        match scenario {
            Scenario::ThereAndBack => there_and_back::run(device),
            Scenario::CopyOnWrite => copy_on_write::run(device),
            Scenario::PinnedPage => pinned_page::run(device),
            Scenario::SwapThenMigrate => swap_then_migrate::run(device),
            Scenario::PingPong => ping_pong::run(device),
            Scenario::Eviction => eviction::run(device),
            Scenario::MissingFlush => missing_flush::run(),
        }
    });
    match result {
        Ok(()) => ExitCode::Success,
        Err(error) => {
            log::error!("{error}");
            ExitCode::Failed
        }
    }
}

/// A step of the story begins.
fn step(number: u8) {
    trace::tell(|| Told::Step { number });
}

/// Stores the first byte of a page, as a program would.
fn store(range: PageRange, page: u64, value: u8) {
    let address = range.page(page).start_address();
    areas::store_bytes(address, &[value]);
    trace::tell(|| Told::Stored { address: address.as_u64(), value });
}

/// Loads the first byte of a page, as a program would.
fn load(range: PageRange, page: u64) -> u8 {
    let address = range.page(page).start_address();
    let value = areas::load_byte(address);
    trace::tell(|| Told::Loaded { address: address.as_u64(), value });
    value
}

/// Loads the first byte of a page, which must be `expected`.
fn expect(range: PageRange, page: u64, expected: u8) -> Result<(), ScenarioError> {
    let found = load(range, page);
    if found == expected { Ok(()) } else { Err(ScenarioError::Byte { page, found, expected }) }
}

/// Makes a space with one area of `pages` pages, and enters it.
fn enter_fresh(pages: u64) -> Result<(AddressSpace, PageRange), ScenarioError> {
    let space = memory::manager().create_space().map_err(ScenarioError::Create)?;
    memory::enter(space);
    let range = PageRange::covering(START, pages * PAGE_BYTES).map_err(ScenarioError::Range)?;
    space.map_anonymous(range, Protection::READ_WRITE).map_err(ScenarioError::Map)?;
    Ok((space, range))
}

/// Migrates `range`, of which `expected` pages must go.
fn migrate(space: AddressSpace, range: PageRange, device: DeviceId, expected: u64) -> Result<(), ScenarioError> {
    let moved = space.migrate_to_device(range, device).map_err(ScenarioError::Migrate)?.moved;
    if moved == expected { Ok(()) } else { Err(ScenarioError::Moved { moved, expected }) }
}

/// Has the device invert the pages of `range` that it holds.
fn invert(space: AddressSpace, range: PageRange, device: DeviceId) -> Result<(), ScenarioError> {
    let addresses = (0..range.pages()).map(|index| range.page(index).start_address());
    let frames = addresses.filter_map(|address| match space.entry(address).decode().frame() {
        Some(ferry_mm::frame::AnyFrame::Device(frame)) => Some(frame),
        _ => None,
    });
    device::invert(device, frames).map(drop).map_err(ScenarioError::Work)
}

/// Leaves whatever space this CPU is in and removes `spaces`.
fn tear_down(spaces: &[AddressSpace]) -> Result<(), ScenarioError> {
    memory::leave();
    spaces.iter().try_for_each(|space| space.destroy().map_err(ScenarioError::TearDown))
}
