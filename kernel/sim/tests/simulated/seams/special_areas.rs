//! Calls for anonymous memory over the addresses of a device, whose frames have no descriptor.
use ferry_mm::frame::{DeviceFrame, DeviceId};
use ferry_mm::migrate::{Busy, Foreign, Invalid, MigrateError, MigrateOptions};
use ferry_mm::page_table::entry::LeafFlags;
use ferry_mm::space::{Protection, Space};
use ferry_sim::{Sim, World, audit};

use crate::support::*;

const REGISTERS: DeviceId = DeviceId::new(1).unwrap();

fn with_registers(world: &World) -> Space<'_, Sim> {
    let space = space_of(world, 2);
    fill(world.cpu(0), 2);
    let first = world.sim().coherent_frame(DeviceFrame::new(REGISTERS, 0));
    space.map_device(pages(2, 2), first, LeafFlags::CACHE_DISABLE, Protection::READ_WRITE).unwrap();
    space
}

#[test]
fn a_swap_out_passes_the_addresses_of_a_device_by() {
    let world = small().registers(4).swap(64).build();
    let space = with_registers(&world);
    let out = space.swap_out(pages(0, 4)).unwrap();
    assert_eq!((out.freed, out.stayed.total()), (2, 0));
    assert_eq!(page(world.cpu(0), 1), contents(1));
    audit(&world).unwrap();
    world.assert_all_free();
}

#[test]
fn a_migration_with_any_options_refuses_the_addresses_of_a_device() {
    let world = small().registers(4).build();
    let space = with_registers(&world);
    for busy in [Busy::Skip, Busy::Wait] {
        for foreign in [Foreign::Stay, Foreign::ViaRam] {
            let options = MigrateOptions { busy, foreign, ..MigrateOptions::default() };
            let refused = space.migrate_to_device_with(pages(2, 2), DEVICE, options);
            assert_eq!(refused, Err(MigrateError::Invalid(Invalid::NotAnonymous(pages(2, 2)))));
        }
    }
    audit(&world).unwrap();
    world.assert_all_free();
}
