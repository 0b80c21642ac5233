//! What descriptors count and keep.
use super::*;

#[test]
fn the_last_mapping_takes_the_origin_with_it() {
    let descriptor = Descriptor::new();
    for origin in [Origin(0), Origin((1 << 35) - 1)] {
        descriptor.set_kind(FrameKind::Owned, 0);
        descriptor.set_first_reference();
        assert_eq!(descriptor.origin(), None);
        descriptor.map(origin, 1);
        descriptor.add_mapping();
        descriptor.remove_mappings(1);
        assert!(!descriptor.release(1));
        assert_eq!((descriptor.origin(), descriptor.mappings()), (Some(origin), 1));
        descriptor.remove_mappings(1);
        assert!(descriptor.release(1));
        assert_eq!((descriptor.origin(), descriptor.kind()), (None, FrameKind::Owned));
    }
}

#[test]
fn the_last_mapping_of_a_locked_frame_stays() {
    for kind in [FrameKind::Anonymous, FrameKind::Shared] {
        let descriptor = Descriptor::new();
        descriptor.map_as(kind, Origin(7), 3);
        assert!(descriptor.try_remove_mapping());
        let locked = descriptor.try_lock_page();
        assert_eq!(locked, kind == FrameKind::Anonymous, "a page of a shared area is never locked");
        assert!(descriptor.try_remove_mapping(), "one of several");
        if locked {
            assert!(!descriptor.try_remove_mapping());
            assert_eq!((descriptor.holding(), descriptor.kind()), ((Origin(7), 1), kind));
            descriptor.unlock();
        }
        descriptor.set_unwanted();
        assert!(descriptor.try_remove_mapping());
        assert_eq!((descriptor.origin(), descriptor.mappings()), (None, 0));
        assert!(descriptor.kind() == FrameKind::Owned && !descriptor.is_unwanted() && !descriptor.try_lock_page());
    }
}

#[test]
fn an_unwanted_page_can_be_locked_and_is_wanted_again_once_unmapped() {
    let descriptor = Descriptor::new();
    descriptor.map(Origin(1), 1);
    descriptor.set_unwanted();
    assert!(descriptor.try_lock_page() && !descriptor.try_lock_page());
    descriptor.unlock();
    assert!(descriptor.is_unwanted());
    descriptor.remove_mappings(1);
    assert!(!descriptor.is_unwanted() && !descriptor.try_lock_page());
}

#[test]
fn a_page_refuses_to_leave_a_limited_number_of_times_and_can_be_locked_meanwhile() {
    let descriptor = Descriptor::new();
    descriptor.map(Origin(1), 1);
    assert!(!descriptor.refuses_to_leave());
    descriptor.begin_stay();
    assert!(descriptor.try_lock_page());
    descriptor.unlock();
    assert_eq!((0..2 * MOST_REFUSALS).filter(|_| descriptor.refuses_to_leave()).count(), MOST_REFUSALS as usize);
    descriptor.begin_stay();
    assert!(descriptor.stays());
    descriptor.end_stay();
    assert!(!descriptor.refuses_to_leave());
    descriptor.begin_stay();
    descriptor.remove_mappings(1);
    descriptor.map(Origin(2), 1);
    assert!(!descriptor.stays(), "the next page in the frame came home for nobody");
}

#[test]
fn the_swap_cache_keeps_the_page_of_a_frame_without_mappings() {
    for (origin, slot) in [(Origin(0), 0), (Origin((1 << 35) - 1), MAX_SLOTS - 1), (Origin(5), 7)] {
        let descriptor = Descriptor::new();
        let slot = SwapSlot::new(slot).unwrap();
        descriptor.set_kind(FrameKind::Owned, 0);
        descriptor.set_first_reference();
        descriptor.map(origin, 1);
        assert_eq!(descriptor.swap_slot(), None);
        assert!(descriptor.try_lock_page());
        descriptor.enter_swap_cache(slot);
        assert_eq!((descriptor.origin(), descriptor.swap_slot()), (Some(origin), Some(slot)));
        descriptor.remove_mappings(1);
        assert!(!descriptor.release(1));
        assert_eq!((descriptor.kind(), descriptor.origin()), (FrameKind::Anonymous, Some(origin)));
        descriptor.map_cached(Origin(1));
        assert_eq!((descriptor.origin(), descriptor.swap_slot()), (Some(Origin(1)), Some(slot)));
        descriptor.remove_mappings(1);
        assert!(!descriptor.release(1));
        descriptor.leave_swap_cache();
        assert!(descriptor.is_locked());
        assert_eq!((descriptor.kind(), descriptor.origin()), (FrameKind::Owned, None));
        assert!(descriptor.release(1));
    }
}

#[test]
fn the_lock_keeps_kind_and_order() {
    let descriptor = Descriptor::new();
    descriptor.set_kind(FrameKind::Anonymous, 3);
    assert!(descriptor.try_lock());
    assert!(!descriptor.try_lock());
    assert_eq!((descriptor.kind(), descriptor.order()), (FrameKind::Anonymous, 3));
    descriptor.unlock();
    assert!(descriptor.try_lock());
}
