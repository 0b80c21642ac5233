//! Pages that are on the swap disk are read in before they go to the device.
use super::error::ScenarioError;
use super::{START, enter_fresh, expect, migrate, step, store, tear_down};
use crate::disk;
use ferry_mm::address::{PAGE_BYTES, PageRange};
use ferry_mm::frame::DeviceId;

const PAGES: u64 = 6;
const SWAPPED: u64 = 3;

pub(super) fn run(device: DeviceId) -> Result<(), ScenarioError> {
    disk::attach().map_err(ScenarioError::Disk)?;
    step(0);
    let (space, range) = enter_fresh(PAGES)?;
    for page in 0..PAGES {
        store(range, page, 0x60 + page as u8);
    }
    step(1);
    let part = PageRange::covering(START, SWAPPED * PAGE_BYTES).map_err(ScenarioError::Range)?;
    let moved = space.swap_out(part).map_err(ScenarioError::SwapOut)?.freed;
    if moved != SWAPPED {
        return Err(ScenarioError::Moved { moved, expected: SWAPPED });
    }
    step(2);
    migrate(space, range, device, PAGES)?;
    step(3);
    for page in 0..PAGES {
        expect(range, page, 0x60 + page as u8)?;
    }
    step(4);
    tear_down(&[space])
}
