//! Pages of a migration's range that stand on the swap disk (R8): swapped in, then migrated.
//!
//! ```text
//!   swap in, at most a window ─▶ one pass over the whole range: collect, unmap, copy, finalize
//!                                   │ pages that were swapped out by then, or did not fit the window
//!                                   ▼
//!                            window by window: swap in, migrate; until the device is full
//! ```
//!
//! Nothing is held while the disk is waited for, and a window is a small part of RAM: so a range may be larger than RAM, and
//! what is swapped in is not swapped out again before it is migrated. What still cannot come stays on the disk,
//! [`Reason::SwappedOut`]. A call over a range without swapped pages takes the one pass and nothing else.
use alloc::vec::Vec;
use x86_64::structures::paging::Page;

use super::batch::migratable;
use super::{Held, MigrateError, MigrateOptions, Report};
use crate::address::PageRange;
use crate::frame::DeviceId;
use crate::machine::Machine;
use crate::manager::MemoryManager;
use crate::page_table::entry::Entry;
use crate::page_table::leaf_table::peek;
use crate::page_table::walk;
use crate::space::{FaultError, Space};
use crate::stats::Reason;

/// The largest number of pages that are swapped in before they are migrated.
const LARGEST_WINDOW: u64 = 256;

/// A window takes at most one part in so many of RAM.
const PARTS_OF_RAM: u64 = 8;

impl<M: Machine> Space<'_, M> {
    /// Moves the pages of `range` to `device`: all four phases, over swapped pages, too.
    ///
    /// Pages that cannot move stay as they are, each with its reason in the report; that is no error.
    ///
    /// # Errors
    /// See [`MigrateError`]; [`MigrateError::Fault`] also where the disk fails before anything has moved.
    ///
    /// # Examples
    /// ```
    /// # use ferry_mm::address::PageRange;
    /// # use ferry_mm::frame::DeviceId;
    /// # use ferry_mm::space::Protection;
    /// # use ferry_sim::World;
    /// # use x86_64::VirtAddr;
    /// # let world = World::builder().device(8).swap(8).build();
    /// # let space = world.manager().create_space()?;
    /// # let range = PageRange::covering(VirtAddr::new(0x4000_0000), 4 * 4096)?;
    /// # space.map_anonymous(range, Protection::READ_WRITE)?;
    /// # let cpu = world.cpu(0);
    /// # cpu.enter(space);
    /// # let device = DeviceId::new(0).expect("a number of a device");
    /// # let first = range.start_address();
    /// cpu.store(first, b"to the device")?;
    /// let report = space.migrate_to_device(range, device)?;
    /// assert_eq!((report.moved, report.stayed.total()), (4, 0));
    /// assert_eq!(space.resident().device, 4);
    ///
    /// // The access faults, and the page comes home.
    /// assert_eq!(&cpu.read(first)?, b"to the device");
    /// assert_eq!((space.resident().device, space.resident().ram), (3, 1));
    /// # world.assert_all_free();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn migrate_to_device(self, range: PageRange, device: DeviceId) -> Result<Report, MigrateError> {
        self.migrate_to_device_with(range, device, MigrateOptions::default())
    }

    /// The same, as `options` say.
    ///
    /// # Errors
    /// See [`MigrateError`].
    pub fn migrate_to_device_with(
        self,
        range: PageRange,
        device: DeviceId,
        options: MigrateOptions,
    ) -> Result<Report, MigrateError> {
        if self.resident().swap > 0 && self.manager.device(device).is_some() {
            // First, so that no disk is asked for a request that makes no sense.
            migratable(&self.state.areas.read(&self.manager.machine), range)?;
            self.swap_in_first(range)?;
        }
        let (mut report, left) = self.migrate_pass(range, device, options)?;
        for window in left {
            let is_full = self.manager.device(device).is_none_or(|device| device.free() == 0);
            if is_full || self.swap_in(window).is_err() {
                break;
            }
            // An error here is an area that somebody has changed meanwhile: its pages stay as they are counted.
            if let Ok((again, _)) = self.migrate_pass(window, device, options) {
                report.stayed.remove(Reason::SwappedOut, window.pages());
                report += again;
            }
        }
        Ok(report)
    }

    /// The four phases once; also the swapped pages of the range, in windows.
    fn migrate_pass(
        self,
        range: PageRange,
        device: DeviceId,
        options: MigrateOptions,
    ) -> Result<(Report, Vec<PageRange>), MigrateError> {
        let mut copied = self.collect_with(range, device, options)?.unmap()?.copy();
        let met_swapped = copied.batch.met_swapped;
        let left = if met_swapped { self.swapped_windows(range, copied.standings()) } else { Vec::new() };
        Ok((copied.finalize(), left))
    }

    /// The runs of pages that stay because they are swapped out. Where the heap has no room for one more, the rest is left
    /// out: those pages stay.
    fn swapped_windows(self, range: PageRange, standings: impl Iterator<Item = Held>) -> Vec<PageRange> {
        let largest = self.window();
        let mut windows: Vec<PageRange> = Vec::new();
        for (index, standing) in (0..).zip(standings) {
            if standing != Held::No(Reason::SwappedOut) {
                continue;
            }
            let page = PageRange::of_page(range.page(index));
            let follows = |last: &&mut PageRange| last.end() == page.start_address().as_u64() && last.pages() < largest;
            if let Some(last) = windows.last_mut().filter(follows) {
                *last = last.hull(page);
            } else if windows.try_reserve(1).is_ok() {
                windows.push(page);
            } else {
                break;
            }
        }
        windows
    }

    /// How many pages may be swapped in at once, to be still there when they are migrated.
    fn window(self) -> u64 {
        let frames = self.manager.memory().descriptors().len() as u64;
        (frames / PARTS_OF_RAM).clamp(1, LARGEST_WINDOW)
    }

    /// Swaps in the first pages of `range` that need it, a window of them at most.
    fn swap_in_first(self, range: PageRange) -> Result<(), MigrateError> {
        let mut left = self.window();
        for page in (0..range.pages()).map(|index| range.page(index)) {
            if left == 0 {
                break;
            }
            match self.swap_in_page(page) {
                Ok(read) => left -= u64::from(read),
                Err(FaultError::Disk(address)) => return Err(MigrateError::Fault(address)),
                // No frame, or no such page: the migration itself says so.
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Swaps in every page of a window.
    fn swap_in(self, window: PageRange) -> Result<(), FaultError> {
        (0..window.pages()).try_for_each(|index| self.swap_in_page(window.page(index)).map(drop))
    }

    /// Swaps a page in, where it is swapped out; whether it was.
    fn swap_in_page(self, page: Page) -> Result<bool, FaultError> {
        let MemoryManager { machine, .. } = self.manager;
        let is_swapped = {
            // Held, so that the tables stay.
            let _areas = self.state.areas.read(machine);
            walk::leaf_table(machine, self.root(), page)
                .is_some_and(|table| matches!(peek(machine, table, page).decode(), Entry::Swap { .. }))
        };
        if is_swapped {
            self.make_readable(page.start_address())?;
        }
        Ok(is_swapped)
    }
}
