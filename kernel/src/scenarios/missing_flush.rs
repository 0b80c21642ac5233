//! What a stale translation does: the same fork twice, once with its flush and once without.
use super::error::ScenarioError;
use super::{enter_fresh, expect, step, store, tear_down};
use crate::arch::machine::losing_flushes;
use crate::memory::enter;

const PAGES: u64 = 4;

pub(super) fn run() -> Result<(), ScenarioError> {
    step(0);
    let (parent, range) = enter_fresh(PAGES)?;
    for page in 0..PAGES {
        store(range, page, 0xaa);
    }
    step(1);
    let child = parent.fork().map_err(ScenarioError::Fork)?;
    step(2);
    store(range, 1, 0xbb);
    enter(child);
    expect(range, 1, 0xaa)?;
    step(3);
    enter(parent);
    child.destroy().map_err(ScenarioError::TearDown)?;
    // The stores make the pages writable again, and the CPU remembers that.
    store(range, 2, 0xaa);
    store(range, 3, 0xaa);
    step(4);
    let child = losing_flushes(|| parent.fork()).map_err(ScenarioError::Fork)?;
    step(5);
    store(range, 2, 0xbb);
    step(6);
    enter(child);
    // What must never happen: the child sees a store that its parent made after the fork.
    expect(range, 2, 0xbb)?;
    step(7);
    tear_down(&[child, parent])
}
