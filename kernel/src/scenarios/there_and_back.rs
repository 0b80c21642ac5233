//! Pages go to the device, are changed there, and come home when somebody touches them.
use super::error::ScenarioError;
use super::{enter_fresh, expect, invert, migrate, step, store, tear_down};
use ferry_mm::frame::DeviceId;

const PAGES: u64 = 8;
const STORED: u64 = 6;

pub(super) fn run(device: DeviceId) -> Result<(), ScenarioError> {
    step(0);
    let (space, range) = enter_fresh(PAGES)?;
    for page in 0..STORED {
        store(range, page, 0x10 + page as u8);
    }
    // Only read, so it is the zero page; the last page is never touched.
    expect(range, STORED, 0)?;
    step(1);
    migrate(space, range, device, PAGES)?;
    step(2);
    invert(space, range, device)?;
    step(3);
    for page in 0..3 {
        expect(range, page, !(0x10 + page as u8))?;
    }
    step(4);
    let report = space.migrate_to_system(range).map_err(ScenarioError::Migrate)?;
    if report.moved != PAGES - 3 {
        return Err(ScenarioError::Moved { moved: report.moved, expected: PAGES - 3 });
    }
    expect(range, STORED, !0)?;
    step(5);
    tear_down(&[space])
}
