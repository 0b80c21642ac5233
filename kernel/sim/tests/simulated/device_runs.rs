//! Neighbouring frames of a device, for tables that its own hardware walks.
use ferry_mm::frame::{DeviceFrame, DeviceId};

use crate::support::*;

/// Of 32 frames pages hold 0 to 9 but for 2, 5, 6 and 7.
#[test]
fn a_run_is_the_first_that_is_long_enough_and_goes_back() {
    let world = small().build();
    let space = space_of(&world, 10);
    fill(world.cpu(0), 10);
    for number in 0..10 {
        assert_eq!(space.migrate_to_device(pages(number, 1), DEVICE).unwrap().moved, 1);
        assert_eq!(on_device(space, number).0.index(), number as u32, "frames are handed out in order");
    }
    for number in [2, 5, 6, 7] {
        assert_eq!(page(world.cpu(0), number), contents(number));
    }
    let device = world.manager().device(DEVICE).unwrap();
    let free = device.free();
    let take = |count| world.manager().take_device_run(DEVICE, count);
    let frames = |first: u32, count: u32| (first..first + count).map(|index| DeviceFrame::new(DEVICE, index));
    for (count, first) in [(1, 2), (2, 5), (3, 5), (4, 10), (22, 10)] {
        let run = take(count).unwrap();
        assert!(run.frames().eq(frames(first, count)), "{count} frames: {:?}", run.frames().next());
        assert_eq!(device.free(), free - u64::from(count));
        let other = take(3).map(|other| other.frames().next().unwrap().index());
        let expected = if matches!(count, 2 | 3) { 10 } else { 5 };
        assert_eq!(other.ok(), Some(expected), "beside a run of {count}");
        drop(run);
        assert_eq!(device.free(), free);
    }
    for count in [0, 23, u32::MAX] {
        assert!(take(count).is_err(), "{count} frames");
    }
    assert!(world.manager().take_device_run(DeviceId::new(5).unwrap(), 1).is_err(), "no such device");
    // The list is whole: every frame that is free can still be had, and by one page only.
    let run = take(3).unwrap();
    space.map_anonymous(pages(100, 23), ferry_mm::space::Protection::READ_WRITE).unwrap();
    let moved = space.migrate_to_device(pages(100, 23), DEVICE).unwrap().moved;
    assert_eq!((moved, device.free()), (23, 0));
    let mut held: Vec<u32> = (100..123).map(|number| on_device(space, number).0.index()).collect();
    held.extend(run.frames().map(|frame| frame.index()));
    held.extend([0, 1, 3, 4, 8, 9]);
    held.sort_unstable();
    assert!(held.iter().copied().eq(0..32));
    drop(run);
    assert_eq!(take(3).unwrap().frames().next(), Some(DeviceFrame::new(DEVICE, 5)));
    let _ = world.manager().evict_device(DEVICE).unwrap();
    assert!(take(1).is_err(), "a closed device hands nothing out");
    device.reopen();
    world.assert_all_free();
}
