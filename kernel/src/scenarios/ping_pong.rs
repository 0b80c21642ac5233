//! The same pages go to the device and come home again and again: what a bad placement costs.
use super::error::ScenarioError;
use super::{enter_fresh, load, migrate, step, store, tear_down};
use ferry_mm::frame::DeviceId;

const PAGES: u64 = 4;
const ROUNDS: u8 = 5;

pub(super) fn run(device: DeviceId) -> Result<(), ScenarioError> {
    step(0);
    let (space, range) = enter_fresh(PAGES)?;
    for page in 0..PAGES {
        store(range, page, 1);
    }
    for round in 1..=ROUNDS {
        step(round);
        migrate(space, range, device, PAGES)?;
        for page in 0..PAGES {
            let value = load(range, page);
            store(range, page, value + 1);
        }
    }
    step(ROUNDS + 1);
    tear_down(&[space])
}
