//! Two spaces share pages, in RAM and on the device, until one of them stores.
use super::error::ScenarioError;
use super::{enter_fresh, expect, migrate, step, store, tear_down};
use crate::memory::enter;
use ferry_mm::frame::DeviceId;

const PAGES: u64 = 6;

pub(super) fn run(device: DeviceId) -> Result<(), ScenarioError> {
    step(0);
    let (parent, range) = enter_fresh(PAGES)?;
    for page in 0..PAGES {
        store(range, page, 0xa0 + page as u8);
    }
    step(1);
    let child = parent.fork().map_err(ScenarioError::Fork)?;
    step(2);
    store(range, 1, 0xbb);
    step(3);
    enter(child);
    expect(range, 1, 0xa1)?;
    store(range, 2, 0xcc);
    step(4);
    enter(parent);
    migrate(parent, range, device, PAGES)?;
    step(5);
    enter(child);
    expect(range, 4, 0xa4)?;
    step(6);
    enter(parent);
    child.destroy().map_err(ScenarioError::TearDown)?;
    store(range, 3, 0xdd);
    expect(range, 4, 0xa4)?;
    step(7);
    tear_down(&[parent])
}
