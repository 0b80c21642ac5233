//! The operations: how each is prepared, done and undone.
use super::error::BenchError;
use super::measure::{Bench, What};
use crate::arch::areas;
use crate::memory::{self, AddressSpace, manager};
use ferry_mm::address::PageRange;
use ferry_mm::frame::DeviceId;
use ferry_mm::machine::Machine;
use ferry_mm::space::Protection;
use x86_64::VirtAddr;
use x86_64::structures::paging::PhysFrame;

/// Where the pages are: at the beginning of a level-1 table.
const START: VirtAddr = VirtAddr::new_truncate(0x0000_0042_0000_0000);

/// The order of the block that pages are copied and cleared in: two frames.
const PAIR: u8 = 1;

/// A space that this CPU is in, with one area.
#[derive(Clone, Copy)]
pub struct Room {
    /// The space.
    pub space: AddressSpace,
    /// Its area.
    pub range: PageRange,
}

impl Room {
    /// An area that nobody has touched.
    pub fn fresh(pages: u64) -> Result<Self, BenchError> {
        let space = manager().create_space()?;
        memory::enter(space);
        let range = space.pages(START, pages)?;
        space.map_anonymous(range, Protection::READ_WRITE)?;
        Ok(Self { space, range })
    }

    /// One whose every page is in RAM, written.
    pub fn touched(pages: u64) -> Result<Self, BenchError> {
        let room = Self::fresh(pages)?;
        areas::store_each(room.range, 1);
        Ok(room)
    }

    fn on_device(pages: u64, device: DeviceId) -> Result<Self, BenchError> {
        let room = Self::touched(pages)?;
        room.migrate(device)?;
        Ok(room)
    }

    /// Moves every page to the device.
    pub fn migrate(&self, device: DeviceId) -> Result<(), BenchError> {
        all_moved(self.space.migrate_to_device(self.range, device)?.moved, self.range)
    }

    fn swap_out(&self) -> Result<(), BenchError> {
        all_moved(self.space.swap_out(self.range)?.freed, self.range)
    }

    /// Leaves the space and removes it.
    pub fn tear_down(self) -> Result<(), BenchError> {
        memory::leave();
        Ok(self.space.destroy()?)
    }
}

fn all_moved(moved: u64, range: PageRange) -> Result<(), BenchError> {
    let expected = range.pages();
    if moved == expected { Ok(()) } else { Err(BenchError::Moved { moved, expected }) }
}

/// What is measured on one CPU.
pub struct Operations<'b> {
    /// The meter.
    pub bench: &'b Bench,
    /// The device that pages go to.
    pub device: DeviceId,
}

impl Operations<'_> {
    fn room(
        &self,
        name: &'static str,
        pages: u64,
        prepare: impl Fn() -> Result<Room, BenchError>,
        work: impl Fn(&Room) -> Result<(), BenchError>,
    ) -> Result<(), BenchError> {
        self.bench.measure(What { name, pages, cpus: 1 }, prepare, work, Room::tear_down)
    }

    pub fn migrate_to_device(&self, pages: u64) -> Result<(), BenchError> {
        self.room("migrate_to_device", pages, || Room::touched(pages), |room| room.migrate(self.device))
    }

    pub fn fault_back_read(&self, pages: u64) -> Result<(), BenchError> {
        let load = |room: &Room| {
            areas::load_each(room.range);
            Ok(())
        };
        self.room("fault_back_read", pages, || Room::on_device(pages, self.device), load)
    }

    pub fn fault_back_write(&self, pages: u64) -> Result<(), BenchError> {
        self.room("fault_back_write", pages, || Room::on_device(pages, self.device), store)
    }

    pub fn migrate_to_system(&self, pages: u64) -> Result<(), BenchError> {
        self.room(
            "migrate_to_system",
            pages,
            || Room::on_device(pages, self.device),
            |room| all_moved(room.space.migrate_to_system(room.range)?.moved, room.range),
        )
    }

    pub fn touch_write(&self, pages: u64) -> Result<(), BenchError> {
        self.room("touch_write", pages, || Room::fresh(pages), store)
    }

    pub fn touch_read(&self, pages: u64) -> Result<(), BenchError> {
        let load = |room: &Room| {
            areas::load_each(room.range);
            Ok(())
        };
        self.room("touch_read", pages, || Room::fresh(pages), load)
    }

    /// Stores of a parent to pages that it shares with a child.
    pub fn cow_fault(&self, pages: u64) -> Result<(), BenchError> {
        let prepare = || {
            let room = Room::touched(pages)?;
            Ok((room, room.space.fork()?))
        };
        let what = What { name: "cow_fault", pages, cpus: 1 };
        self.bench.measure(what, prepare, |(room, _)| store(room), tear_down_both)
    }

    pub fn fork(&self, pages: u64) -> Result<(), BenchError> {
        let child = core::cell::Cell::new(None);
        let work = |room: &Room| {
            child.set(Some(room.space.fork()?));
            Ok(())
        };
        let finish = |room: Room| {
            if let Some(child) = child.take() {
                child.destroy()?;
            }
            room.tear_down()
        };
        self.bench.measure(What { name: "fork", pages, cpus: 1 }, || Room::touched(pages), work, finish)
    }

    pub fn unmap(&self, pages: u64) -> Result<(), BenchError> {
        self.room("unmap", pages, || Room::touched(pages), |room| Ok(room.space.unmap(room.range)?))
    }

    pub fn protect(&self, pages: u64) -> Result<(), BenchError> {
        let work = |room: &Room| Ok(room.space.protect(room.range, Protection::READ)?);
        self.room("protect", pages, || Room::touched(pages), work)
    }

    pub fn swap_out(&self, pages: u64) -> Result<(), BenchError> {
        self.room("swap_out", pages, || Room::touched(pages), Room::swap_out)
    }

    pub fn swap_in(&self, pages: u64) -> Result<(), BenchError> {
        let prepare = || {
            let room = Room::touched(pages)?;
            room.swap_out()?;
            Ok(room)
        };
        self.room("swap_in", pages, prepare, store)
    }

    /// The bulk copy of one frame of RAM to another, by itself.
    pub fn copy_page(&self, pages: u64) -> Result<(), BenchError> {
        self.in_pair("copy_page", pages, |[first, second]| manager().machine().copy(first.into(), second.into()))
    }

    /// The bulk clear of one frame of RAM, by itself.
    pub fn clear_page(&self, pages: u64) -> Result<(), BenchError> {
        self.in_pair("clear_page", pages, |[first, _]| manager().machine().clear(first.into()))
    }

    fn in_pair(&self, name: &'static str, pages: u64, work: impl Fn([PhysFrame; 2])) -> Result<(), BenchError> {
        let (memory, machine) = (manager().memory(), manager().machine());
        let prepare = || {
            let first = memory.allocate_block(machine, PAIR)?;
            Ok([first, first + 1])
        };
        let work = |pair: &[PhysFrame; 2]| {
            (0..pages).for_each(|_| work(*pair));
            Ok(())
        };
        let finish = |[first, _]: [PhysFrame; 2]| {
            memory.free_block(machine, first, PAIR);
            Ok(())
        };
        self.bench.measure(What { name, pages, cpus: 1 }, prepare, work, finish)
    }
}

fn store(room: &Room) -> Result<(), BenchError> {
    areas::store_each(room.range, 2);
    Ok(())
}

fn tear_down_both((room, child): (Room, AddressSpace)) -> Result<(), BenchError> {
    room.tear_down()?;
    Ok(child.destroy()?)
}
