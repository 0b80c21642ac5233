//! A page that somebody uses by its physical address stays where it is.
use super::error::ScenarioError;
use super::{enter_fresh, expect, migrate, step, store, tear_down};
use ferry_mm::frame::DeviceId;
use ferry_mm::space::{Access, Term};

const PAGES: u64 = 6;
const PINNED: u64 = 2;

pub(super) fn run(device: DeviceId) -> Result<(), ScenarioError> {
    step(0);
    let (space, range) = enter_fresh(PAGES)?;
    for page in 0..PAGES {
        store(range, page, 0x20 + page as u8);
    }
    step(1);
    let pin = space.pin(range.page(PINNED).start_address(), Access::Write, Term::Long).map_err(ScenarioError::Pin)?;
    step(2);
    migrate(space, range, device, PAGES - 1)?;
    step(3);
    // It never left RAM, so this store faults on nothing.
    store(range, PINNED, 0x77);
    step(4);
    drop(pin);
    migrate(space, range, device, 1)?;
    step(5);
    expect(range, PINNED, 0x77)?;
    step(6);
    tear_down(&[space])
}
