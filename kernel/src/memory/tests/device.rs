//! What the device does with the pages that are on it, and what it sees of others.
use super::{Room, device_numbered, pattern, the_device};
use crate::arch::areas::load_bytes;
use crate::harness::{TestResult, check, check_eq, kernel_test};
use crate::memory::{device, manager};
use ferry_device::DeviceType;
use ferry_mm::address::{PAGE_BYTES, PageRange};
use ferry_mm::frame::DeviceFrame;
use ferry_mm::page_table::entry::Entry;
use ferry_mm::stats::Reason;

kernel_test! {
    fn the_device_changes_what_the_cpu_then_reads() -> TestResult {
        let id = the_device()?;
        let room = Room::enter()?;
        let range = room.map_filled(64)?;
        check_eq!(room.space.migrate_to_device(range, id)?.moved, 64);
        let frame = |index| match room.space.entry(range.page(index).start_address()).decode() {
            Entry::Device { frame, .. } => Some(frame),
            _ => None,
        };
        // Every other page, in descending order.
        let chosen = (0..64).rev().filter(|index| index % 2 == 0).filter_map(frame);
        check_eq!(device::invert(id, chosen)?, 32);
        let mut bytes = [0; PAGE_BYTES as usize];
        for index in 0..64 {
            load_bytes(range.page(index).start_address(), &mut bytes);
            let expected = pattern(index).map(|byte| if index % 2 == 0 { !byte } else { byte });
            check!(bytes == expected, "page {index} is not what the device made of it")?;
        }
        Ok(())
    }

    fn a_full_device_keeps_what_it_has_and_says_why_the_rest_stayed() -> TestResult {
        let id = the_device()?;
        let free_frames = || manager().device(id).map_or(0, |device| device.free());
        let free = free_frames();
        let room = Room::enter()?;
        // Empty pages need no RAM frame, so the device fills up before RAM does.
        let range = room.map(free + 5)?;
        let report = room.space.migrate_to_device(range, id)?;
        check_eq!((report.moved, report.stayed.count(Reason::DeviceFull)), (free, 5));
        check_eq!(free_frames(), 0);
        let again = room.space.migrate_to_device(range, id)?;
        check_eq!((again.moved, again.stayed.count(Reason::AlreadyThere), again.stayed.count(Reason::DeviceFull)), (0, free, 5));
        Ok(())
    }

    fn devices_are_those_that_the_host_gave() -> TestResult {
        let found: alloc::vec::Vec<_> =
            device::all()?.iter().map(|device| (device.id.number(), device.device_type)).collect();
        let (private, coherent) = (DeviceType::Private, DeviceType::Coherent);
        check_eq!(found, [(0, private), (1, private), (2, coherent), (3, coherent)]);
        Ok(())
    }

    fn each_device_works_on_its_own_memory() -> TestResult {
        let devices = [device_numbered(0)?, device_numbered(1)?];
        let room = Room::enter()?;
        let range = room.map_filled(16)?;
        for (half, id) in devices.into_iter().enumerate() {
            let part = PageRange::covering(range.page(half as u64 * 8).start_address(), 8 * PAGE_BYTES)?;
            check_eq!(room.space.migrate_to_device(part, id)?.moved, 8);
        }
        // Both halves are in the same frames of their devices, so a command to the wrong one would show.
        let frame = |index| match room.space.entry(range.page(index).start_address()).decode() {
            Entry::Device { frame, .. } => Some(frame),
            _ => None,
        };
        check_eq!(device::invert(devices[1], (8..16).filter_map(frame))?, 8);
        let mut bytes = [0; PAGE_BYTES as usize];
        for index in 0..16 {
            load_bytes(range.page(index).start_address(), &mut bytes);
            let expected = pattern(index).map(|byte| if index >= 8 { !byte } else { byte });
            check!(bytes == expected, "page {index} is not what its device made of it")?;
        }
        Ok(())
    }

    fn every_page_has_a_device_frame_of_its_own() -> TestResult {
        let id = the_device()?;
        let room = Room::enter()?;
        let range = room.map_filled(128)?;
        check_eq!(room.space.migrate_to_device(range, id)?.moved, 128);
        let mut frames: alloc::vec::Vec<DeviceFrame> = (0..128)
            .filter_map(|index| match room.space.entry(range.page(index).start_address()).decode() {
                Entry::Device { frame, .. } => Some(frame),
                _ => None,
            })
            .collect();
        frames.sort_unstable();
        frames.dedup();
        check_eq!(frames.len(), 128);
        check!(frames.iter().all(|frame| frame.device() == id), "an entry names another device")
    }
}
