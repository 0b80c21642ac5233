//! Each frame's descriptor, against what the tables and the pins say about it.
use ferry_mm::address::PAGE_BYTES;
use ferry_mm::frame::{AnyFrame, Descriptor, DeviceFrame, FrameKind};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use super::tables::Uses;
use super::{Expected, Violation};
use crate::world::World;

/// A frame's name, as the project writes it.
pub(super) fn name(frame: AnyFrame) -> String {
    match frame {
        AnyFrame::System(frame) => format!("p{:#x}", frame.start_address()),
        AnyFrame::Device(frame) => frame.to_string(),
    }
}

/// The RAM frame of this number.
pub(super) fn frame_numbered(number: usize) -> PhysFrame {
    PhysFrame::containing_address(PhysAddr::new(number as u64 * PAGE_BYTES))
}

/// Every frame of RAM.
pub(super) fn check_ram(world: &World, expected: &Expected, uses: &Uses, found: &mut Vec<Violation>) {
    let memory = world.manager().memory();
    let mut free = 0;
    for (number, descriptor) in memory.descriptors().iter().enumerate() {
        let frame = frame_numbered(number);
        let any = AnyFrame::System(frame);
        let kind = descriptor.kind();
        let expected_pins = check_pins(any, descriptor, expected, found);
        let is_known = match kind {
            FrameKind::Free | FrameKind::FreeTail => {
                free += 1;
                check_free(any, descriptor, uses, found);
                continue;
            }
            FrameKind::Anonymous | FrameKind::Shared => true,
            FrameKind::Table => uses.tables.contains_key(&frame),
            FrameKind::Zero => frame == world.manager().zero_frame(),
            FrameKind::Owned => frame == world.kernel_root() || expected_pins > 0 || expected.open_batch,
            FrameKind::Reserved => descriptor.references() == 0,
        };
        if !is_known {
            found.push(Violation::Lost { frame: name(any), kind });
        }
        // One owner that is no mapping: the memory manager itself, or the kernel.
        let owners = match kind {
            FrameKind::Table | FrameKind::Zero => 1,
            FrameKind::Owned if expected_pins == 0 => 1,
            _ => 0,
        };
        check_used(any, descriptor, owners, expected, uses, found);
    }
    let counted = memory.free(world.sim());
    if counted != free {
        found.push(Violation::FreeCount { counted, found: free });
    }
}

/// Every frame of every device.
pub(super) fn check_devices(world: &World, expected: &Expected, uses: &Uses, found: &mut Vec<Violation>) {
    for device in world.manager().devices() {
        let mut free = 0;
        for (index, descriptor) in (0..).zip(device.descriptors()) {
            let frame = DeviceFrame::new(device.id(), index);
            let pins = check_pins(frame.into(), descriptor, expected, found);
            match descriptor.kind() {
                FrameKind::Free => {
                    free += 1;
                    check_free(frame.into(), descriptor, uses, found);
                    let bytes = world.sim().bytes(frame.into());
                    // The memory of a device that died is nobody's business any more.
                    if let Some(byte) = bytes.iter().position(|byte| *byte != 0).filter(|_| !device.is_lost()) {
                        found.push(Violation::DirtyDeviceFrame { frame, byte });
                    }
                }
                FrameKind::Anonymous => check_used(frame.into(), descriptor, 0, expected, uses, found),
                FrameKind::Owned if pins > 0 => check_used(frame.into(), descriptor, 0, expected, uses, found),
                FrameKind::Owned if expected.open_batch => {
                    check_used(frame.into(), descriptor, 1, expected, uses, found);
                }
                kind => found.push(Violation::Lost { frame: frame.to_string(), kind }),
            }
        }
        if device.free() != free {
            let device_number = device.id().number();
            found.push(Violation::FreeDeviceCount { device: device_number, counted: device.free(), found: free });
        }
    }
}

/// The pins that the frame should have.
fn check_pins(frame: AnyFrame, descriptor: &Descriptor, expected: &Expected, found: &mut Vec<Violation>) -> usize {
    let pins = expected.pins.iter().filter(|pinned| **pinned == frame).count();
    if descriptor.pins() as usize != pins {
        found.push(Violation::Pins { frame: name(frame), counted: descriptor.pins(), expected: pins });
    }
    pins
}

fn check_free(frame: AnyFrame, descriptor: &Descriptor, uses: &Uses, found: &mut Vec<Violation>) {
    let (references, mappings, pins) = (descriptor.references(), descriptor.mappings(), descriptor.pins());
    let uses_found = uses.mappings.get(&frame).map_or(0, Vec::len)
        + match frame {
            AnyFrame::System(frame) => uses.tables.get(&frame).copied().unwrap_or(0),
            AnyFrame::Device(_) => 0,
        };
    let origin = descriptor.origin();
    if (references, mappings, pins, origin, uses_found) != (0, 0, 0, None, 0) {
        found.push(Violation::FreeButUsed {
            frame: name(frame),
            references,
            mappings,
            pins,
            origin,
            found: uses_found,
        });
    }
    if descriptor.is_locked() {
        found.push(Violation::Locked { frame: name(frame), kind: descriptor.kind() });
    }
}

fn check_used(
    frame: AnyFrame,
    descriptor: &Descriptor,
    owners: u32,
    expected: &Expected,
    uses: &Uses,
    found: &mut Vec<Violation>,
) {
    let kind = descriptor.kind();
    let mapped = uses.mappings.get(&frame).map_or(&[][..], Vec::as_slice);
    // In the swap cache a frame holds its page also where nobody maps it.
    let cached = descriptor.swap_slot().is_some();
    if matches!(kind, FrameKind::Anonymous | FrameKind::Shared) != (cached || !mapped.is_empty()) {
        found.push(Violation::KindOfPage { frame: name(frame), kind, mappings: mapped.len() });
    }
    let counted = descriptor.mappings();
    if counted as usize != mapped.len() {
        found.push(Violation::Mappings { frame: name(frame), counted, found: mapped.len() });
    }
    let origins_agree = match descriptor.origin() {
        None => mapped.is_empty() && !cached,
        Some(origin) => (cached || !mapped.is_empty()) && mapped.iter().all(|found| *found == origin),
    };
    if !origins_agree {
        found.push(Violation::ReverseMap { frame: name(frame), kept: descriptor.origin(), found: mapped.to_vec() });
    }
    let (references, pins) = (descriptor.references(), descriptor.pins());
    if kind != FrameKind::Reserved && references != counted + pins + owners + u32::from(cached) {
        found.push(Violation::References { frame: name(frame), counted: references, mappings: counted, pins, cached });
    }
    // A batch that copies pages in use has locked frames that are still mapped.
    let is_in_flight = uses.migrating.contains(&frame) || !mapped.is_empty();
    if descriptor.is_locked() && !(expected.open_batch && is_in_flight) {
        found.push(Violation::Locked { frame: name(frame), kind });
    }
}
