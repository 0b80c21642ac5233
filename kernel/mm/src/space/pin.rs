//! Pins: the frame of a page for whoever uses it by its physical address, such as a device that does DMA.
//!
//! A pinned page stays in its frame: a migration finds its reference and leaves it alone. Unmapping it takes the
//! mapping away, not the frame; that goes when the pin is dropped. (`get_user_pages`' role in Linux.)
use x86_64::VirtAddr;
use x86_64::structures::paging::Page;

use super::{Access, AreaKind, FaultError, Space};
use crate::address::PageRange;
use crate::frame::AnyFrame;
use crate::machine::Machine;
use crate::manager::MemoryManager;
use crate::notify::{Announcement, InvalidationReason};
use crate::page_table::entry::{Entry, LeafFlags};
use crate::page_table::leaf_table::{LeafTable, peek};
use crate::page_table::walk;
use crate::stats::Cause;
use crate::trace::{Event, record};

/// For how long a page is pinned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Term {
    /// For one operation: the page may be pinned where it is, also in the memory of a coherent device.
    Short,
    /// Without a known end: the page comes home first, so that nobody keeps a device's memory from being evicted
    /// (`FOLL_LONGTERM` in Linux).
    Long,
}

/// A pinned frame; dropping it ends the pin.
#[must_use = "dropping it ends the pin"]
pub struct Pin<'m, M: Machine> {
    manager: &'m MemoryManager<M>,
    frame: AnyFrame,
}

impl<M: Machine> Pin<'_, M> {
    /// The frame, which stays the page's for as long as the page is mapped.
    pub fn frame(&self) -> AnyFrame {
        self.frame
    }
}

impl<M: Machine> Drop for Pin<'_, M> {
    fn drop(&mut self) {
        self.manager.any_descriptor(self.frame).unpin();
        record(&self.manager.machine, || Event::Unpinned { frame: self.frame });
        self.manager.release_frame(self.frame, 1);
    }
}

impl<'m, M: Machine> Space<'m, M> {
    /// Pins the page at `address`, for loads or for stores. Of a page that is shared this space gets a copy of its own first, so
    /// that what is pinned stays what the space sees, whoever writes. A page that CPUs cannot reach comes home first, and for
    /// [`Term::Long`] one in the memory of a coherent device, too.
    ///
    /// Waits like a fault. A page that was never written is pinned for loads as the zero page: its first store then moves the
    /// page to a frame of its own, and the pin stays with the zeros.
    ///
    /// # Errors
    /// Those of the fault that the access would take, [`FaultError::PinnedOnDevice`], and [`FaultError::NotMemory`] for the addresses of a
    /// device.
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
    /// use ferry_mm::space::{Access, Term};
    /// use ferry_mm::stats::Reason;
    ///
    /// cpu.store(first, b"pinned")?;
    /// let pin = space.pin(first, Access::Write, Term::Long)?;
    /// let report = space.migrate_to_device(range, device)?;
    /// assert_eq!((report.moved, report.stayed.count(Reason::Pinned)), (3, 1));
    ///
    /// drop(pin);
    /// assert_eq!(space.migrate_to_device(range, device)?.moved, 1);
    /// # world.assert_all_free();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pin(self, address: VirtAddr, access: Access, term: Term) -> Result<Pin<'m, M>, FaultError> {
        let is_out_of_frames = |error: &FaultError| matches!(error, FaultError::OutOfMemory(_));
        self.manager.with_reclaim(is_out_of_frames, || self.pin_with_frames(address, access, term))
    }

    /// The same without making room.
    fn pin_with_frames(self, address: VirtAddr, access: Access, term: Term) -> Result<Pin<'m, M>, FaultError> {
        let range = PageRange::of_page(Page::containing_address(address));
        let mut announced = None;
        loop {
            match self.try_pin(address, access, term, announced.as_ref())? {
                Attempt::Pinned(pin) => return Ok(pin),
                Attempt::Announce(reason) => announced = Some(self.announce(range, reason, None)),
                Attempt::LookAgain => self.manager.machine.relax(),
                Attempt::Fault => {
                    self.fault_for(address, access, Cause::Pin)?;
                }
            }
        }
    }

    /// Pins the page where its entry allows it; gives this space a copy of its own where it shares the page.
    fn try_pin(
        self,
        address: VirtAddr,
        access: Access,
        term: Term,
        announced: Option<&Announcement<'m, M>>,
    ) -> Result<Attempt<'m, M>, FaultError> {
        let manager = self.manager;
        let page = Page::containing_address(address);
        let areas = self.state.areas.read(&manager.machine);
        let area = areas.find(page).ok_or(FaultError::NoArea(address))?;
        if let AreaKind::Device { .. } = area.kind {
            return Err(FaultError::NotMemory(address));
        }
        let Some(table) = walk::leaf_table(&manager.machine, self.root(), page) else { return Ok(Attempt::Fault) };
        // Before anything is copied or moved for it; the fault says what is forbidden.
        if !area.protection.allows(access) {
            return Ok(Attempt::Fault);
        }
        let seen = peek(&manager.machine, table, page);
        let Some(stands_in) = manager.mapped_frame(seen).filter(|_| seen.is_present()) else {
            return Ok(Attempt::Fault);
        };
        // Of a shared area everybody writes the same frame, so that is what a pin holds.
        let is_private = area.kind == AreaKind::Anonymous;
        if is_private && self.must_copy(stands_in) {
            if !self.is_told(announced) {
                return Ok(Attempt::Announce(InvalidationReason::CopyOnWrite));
            }
            self.copy_on_write(table, page, area, seen, LeafFlags::empty()).map_err(|error| error.at(address))?;
            return Ok(Attempt::LookAgain);
        }
        if let (AnyFrame::Device(_), Term::Long) = (stands_in, term) {
            if !self.is_told(announced) {
                return Ok(Attempt::Announce(InvalidationReason::Migrate));
            }
            self.bring_home(table, page, area, Cause::Pin).map_err(|error| error.at(address))?;
            return Ok(Attempt::LookAgain);
        }
        let leaf = LeafTable::lock(&manager.machine, &manager.memory, table);
        // Under the table's lock: a migration that takes the entry later finds the reference.
        let Entry::Present { frame, flags } = leaf.load(page).decode() else { return Ok(Attempt::Fault) };
        let frame = manager.frame_behind(frame);
        if access == Access::Write && !flags.contains(LeafFlags::WRITABLE) {
            return Ok(Attempt::Fault);
        }
        let is_fit = !(term == Term::Long && matches!(frame, AnyFrame::Device(_)));
        if !is_fit || is_private && !self.make_sole(frame) {
            return Ok(Attempt::LookAgain);
        }
        manager.any_descriptor(frame).pin();
        manager.any_descriptor(frame).clear_unwanted();
        manager.any_descriptor(frame).end_stay();
        record(&manager.machine, || Event::Pinned { space: self.id(), page, frame });
        Ok(Attempt::Pinned(Pin { manager, frame }))
    }
}

/// One look at the entry of a page to pin.
enum Attempt<'m, M: Machine> {
    Pinned(Pin<'m, M>),
    /// The page must move, and the listeners must be told first.
    Announce(InvalidationReason),
    /// The page has changed, or somebody is at work on it.
    LookAgain,
    /// The entry does not allow the access yet.
    Fault,
}
