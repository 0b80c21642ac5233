//! The input's way to the devices and home, round by round.
//!
//! ```text
//!   pages of the input  │ share of device 0 │ share of device 1 │ ... │
//!   a round             migrate ─▶ invert (the devices) ─▶ home ─▶ what had no room: next round
//! ```
//! All CPUs migrate and bring home at the same time, each its part of a share. From a private device a page comes home because the CPU touches it. A coherent device's page the CPU reads where it
//! is; a call brings it home.
use super::page_set::PageSet;
use super::{DemoError, check_in, progress};
use crate::arch::{areas, cpus};
use crate::link;
use crate::memory::device::{self, Attached};
use crate::memory::{self, AddressSpace, strict};
use alloc::vec::Vec;
use core::ops::{AddAssign, Range};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use ferry_device::DeviceType;
use ferry_mm::address::{PAGE_BYTES, PageRange};
use ferry_mm::frame::{AnyFrame, DeviceFrame, DeviceId};
use ferry_mm::machine::CpuId;
use ferry_mm::page_table::entry::Entry;
use ferry_mm::stats::{Reason, Stayed};
use ferry_protocol::link::{Checkpoint, FromKernel, Outcome, Stage};

/// Pages per migration call. A call keeps its pages from everybody else for as long as it runs.
const PAGES_PER_CALL: u64 = 4096;

/// A device, and the pages of the input that go there.
pub(super) struct Share {
    device: Attached,
    pages: Range<u64>,
    /// Pages that reached the device, over all rounds.
    pub migrated: u64,
    /// Pages that came home from it, over all rounds.
    returned: u64,
    /// Faults on special entries while the CPU touched the pages that were there.
    pub faults: u64,
}

impl Share {
    /// An equal share of `pages` pages for each device.
    pub(super) fn of_each(devices: &[Attached], pages: u64) -> Vec<Self> {
        let border = |index| pages * index as u64 / devices.len() as u64;
        let share = |(index, device): (usize, &Attached)| {
            let pages = border(index)..border(index + 1);
            Self { device: *device, pages, migrated: 0, returned: 0, faults: 0 }
        };
        devices.iter().enumerate().map(share).collect()
    }

    /// What the host is told in the end.
    pub(super) fn outcome(&self) -> FromKernel<'static> {
        let Self { device, migrated, returned, .. } = *self;
        FromKernel::DeviceOutcome { number: device.id.number(), migrated, returned }
    }
}

/// The part of a share that one CPU carries.
fn part_of(pages: &Range<u64>, cpu: CpuId) -> Range<u64> {
    let border = |number| pages.start + (pages.end - pages.start) * number as u64 / cpus::count() as u64;
    border(cpu.number())..border(cpu.number() + 1)
}

/// What stayed in a round: as the memory manager says, and pages that were not offered to a full device.
#[derive(Default)]
struct Left {
    stayed: Stayed,
    not_offered: u64,
}

/// The input's way to the devices and home.
pub(super) struct Journey<'a> {
    /// The space that the CPU is in, and that others enter for their part.
    pub space: AddressSpace,
    /// The input's pages.
    pub range: PageRange,
    /// Which of them go where.
    pub shares: &'a mut [Share],
}

impl Journey<'_> {
    /// Goes it to its end.
    pub(super) fn run(&mut self, outcome: &mut Outcome) -> Result<(), DemoError> {
        let mut travelled = PageSet::new(self.range.pages())?;
        let mut on_device = PageSet::new(self.range.pages())?;
        while travelled.len() < self.range.pages() {
            outcome.rounds += 1;
            let round = outcome.rounds;
            let left = self.migrate(&travelled)?;
            self.report(round, &left);
            on_device.clear();
            self.frames().for_each(|(index, _)| on_device.insert(index));
            log::info!("round {round}: {} pages on the device, {} stayed", on_device.len(), left.total());
            if on_device.len() == 0 {
                return Err(DemoError::NoProgress(self.range.pages() - travelled.len()));
            }
            self.checkpoint(Stage::Migrated, round)?;
            let mut inverted = 0;
            for share in self.shares.iter() {
                let frames = self.frames().map(|(_, frame)| frame).filter(|frame| frame.device() == share.device.id);
                inverted += device::invert(share.device.id, frames).map_err(DemoError::Work)?;
            }
            log::info!("round {round}: the device inverted {inverted} pages in its memory");
            self.checkpoint(Stage::Transformed, round)?;
            self.bring_home(&on_device)?;
            on_device.iter(0..self.range.pages()).for_each(|index| travelled.insert(index));
            self.checkpoint(Stage::Returned, round)?;
        }
        Ok(())
    }

    /// Migrates every page that has not travelled yet, on all CPUs.
    fn migrate(&mut self, travelled: &PageSet) -> Result<Left, DemoError> {
        let mut left = Left::default();
        for index in 0..self.shares.len() {
            let Share { device, ref pages, .. } = self.shares[index];
            let work = |cpu| self.migrate_part(device.id, part_of(pages, cpu), travelled);
            for part in memory::run_in(self.space, cpus::online(), work).into_iter().flatten() {
                let (moved, more) = part?;
                self.shares[index].migrated += moved;
                left += more;
            }
        }
        Ok(left)
    }

    /// Migrates the pages of `rest` that have not travelled yet, call by call; returns how many moved.
    fn migrate_part(
        &self,
        device: DeviceId,
        mut rest: Range<u64>,
        travelled: &PageSet,
    ) -> Result<(u64, Left), DemoError> {
        let (mut moved, mut left) = (0, Left::default());
        while let Some(run) = travelled.run(rest.clone(), false, PAGES_PER_CALL) {
            // What has no room there would be read from the swap disk for nothing.
            let free = memory::manager().device(device).map_or(0, |device| device.free());
            let offered = run.start..run.end.min(run.start + free);
            rest.start = run.end;
            left.not_offered += run.end - offered.end;
            if offered.is_empty() {
                continue;
            }
            let part = self.part(&offered)?;
            let report = self.space.migrate_to_device(part, device).map_err(DemoError::Migrate)?;
            moved += report.moved;
            left.stayed += report.stayed;
            progress(Stage::Migrated, run.end, self.range.pages());
        }
        Ok((moved, left))
    }

    fn report(&self, round: u32, left: &Left) {
        let full = left.stayed.count(Reason::DeviceFull) + left.not_offered;
        let others = left.stayed.iter().filter(|(reason, _)| *reason != Reason::DeviceFull);
        for (reason, pages) in [(Reason::DeviceFull, full)].into_iter().filter(|(_, pages)| *pages > 0).chain(others) {
            link::send(&FromKernel::Stayed { round, reason: reason.name(), pages });
            if reason != Reason::DeviceFull {
                log::warn!("round {round}: {pages} pages stayed ({})", reason.name());
            }
        }
    }

    /// Brings the pages in the set home from their devices.
    fn bring_home(&mut self, away: &PageSet) -> Result<(), DemoError> {
        let home = AtomicU64::new(0);
        for index in 0..self.shares.len() {
            let Share { device, ref pages, .. } = self.shares[index];
            let faults = || memory::manager().statistics().read().special_faults;
            let faults_before = faults();
            let work = |cpu| {
                let pages = part_of(pages, cpu);
                for page in away.iter(pages.clone()) {
                    // On a private device the first access to each page faults, and when it has been made, the page is home.
                    areas::load_byte(self.range.page(page).start_address());
                    strict::drain();
                    progress(Stage::Returned, home.fetch_add(1, Relaxed) + 1, away.len());
                }
                match device.device_type {
                    DeviceType::Private => Ok(away.iter(pages).count() as u64),
                    DeviceType::Coherent => self.call_home(away, pages),
                }
            };
            for returned in memory::run_in(self.space, cpus::online(), work).into_iter().flatten() {
                self.shares[index].returned += returned?;
            }
            self.shares[index].faults += faults() - faults_before;
        }
        Ok(())
    }

    /// Brings the pages of `rest` that are in the set home by calls; returns how many those were.
    fn call_home(&self, away: &PageSet, mut rest: Range<u64>) -> Result<u64, DemoError> {
        let mut moved = 0;
        while let Some(run) = away.run(rest.clone(), true, PAGES_PER_CALL) {
            rest.start = run.end;
            let report = self.space.migrate_to_system(self.part(&run)?).map_err(DemoError::Migrate)?;
            if let Some((reason, pages)) = report.stayed.iter().next() {
                return Err(DemoError::StayedAway(pages, reason));
            }
            moved += report.moved;
        }
        Ok(moved)
    }

    /// The pages that are on a device, by index, with their device frames, as the page table says.
    fn frames(&self) -> impl Iterator<Item = (u64, DeviceFrame)> {
        (0..self.range.pages()).filter_map(|index| {
            let entry = self.space.entry(self.range.page(index).start_address());
            match memory::manager().mapped_frame(entry)? {
                AnyFrame::Device(frame) => Some((index, frame)),
                AnyFrame::System(_) => None,
            }
        })
    }

    fn part(&self, pages: &Range<u64>) -> Result<PageRange, DemoError> {
        let start = self.range.page(pages.start).start_address();
        PageRange::covering(start, (pages.end - pages.start) * PAGE_BYTES).map_err(DemoError::Range)
    }

    /// Tells the host which swapped pages are not on the disk, because a write failed.
    fn tell_unwritten(&self) {
        let manager = memory::manager();
        if manager.statistics().read().disk_errors == 0 {
            return;
        }
        for page in 0..self.range.pages() {
            if let Entry::Swap { slot } = self.space.entry(self.range.page(page).start_address()).decode()
                && let Some(state) = manager.swap().and_then(|swap| swap.slot_use(manager.machine(), slot))
                && let (Some(frame), false) = (state.frame, state.written)
            {
                let (slot, frame) = (slot.number(), frame.start_address().as_u64());
                link::send(&FromKernel::Unwritten { slot, frame });
            }
        }
    }

    /// Lets the host look at the input.
    pub(super) fn checkpoint(&self, stage: Stage, round: u32) -> Result<(), DemoError> {
        self.tell_unwritten();
        let root = self.space.root().start_address().as_u64();
        let start = self.range.start_address().as_u64();
        check_in(Checkpoint { stage, round, root, start, pages: self.range.pages() })
    }
}

impl AddAssign for Left {
    fn add_assign(&mut self, other: Self) {
        self.stayed += other.stayed;
        self.not_offered += other.not_offered;
    }
}

impl Left {
    fn total(&self) -> u64 {
        self.stayed.total() + self.not_offered
    }
}
