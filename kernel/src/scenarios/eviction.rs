//! A device must give up its memory: every page on it comes home, whoever maps it.
use super::error::ScenarioError;
use super::{enter_fresh, expect, migrate, step, store, tear_down};
use crate::memory::{enter, manager};
use ferry_mm::frame::DeviceId;

const PAGES: u64 = 8;

pub(super) fn run(device: DeviceId) -> Result<(), ScenarioError> {
    step(0);
    let (first, range) = enter_fresh(PAGES)?;
    for page in 0..PAGES {
        store(range, page, 0x40 + page as u8);
    }
    step(1);
    let second = first.fork().map_err(ScenarioError::Fork)?;
    store(range, 0, 0x99);
    migrate(first, range, device, PAGES)?;
    step(2);
    let evicted = manager().evict_device(device).map_or(0, |evicted| evicted.returned);
    if evicted != PAGES {
        return Err(ScenarioError::Moved { moved: evicted, expected: PAGES });
    }
    step(3);
    expect(range, 0, 0x99)?;
    enter(second);
    expect(range, 0, 0x40)?;
    for page in 1..PAGES {
        expect(range, page, 0x40 + page as u8)?;
    }
    step(4);
    if let Some(device) = manager().device(device) {
        device.reopen();
    }
    tear_down(&[first, second])
}
