//! Pins: the frame of a page for whoever uses it by its physical address, such as a device that does DMA.
//!
//! A pinned page stays in its frame: a migration finds its reference and leaves it alone. Unmapping it takes the
//! mapping away, not the frame; that goes when the pin is dropped. (`get_user_pages`' role in Linux.)
use x86_64::VirtAddr;
use x86_64::structures::paging::Page;

use super::{Access, AreaKind, FaultError, Protection, Space};
use crate::address::PageRange;
use crate::frame::AnyFrame;
use crate::machine::Machine;
use crate::manager::MemoryManager;
use crate::notify::InvalidationReason;
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
    pub fn pin(self, address: VirtAddr, access: Access, term: Term) -> Result<Pin<'m, M>, FaultError> {
        let manager = self.manager;
        let page = Page::containing_address(address);
        let mut announced = None;
        'again: loop {
            let must_announce = 'held: {
                let areas = self.state.areas.read(&manager.machine);
                let area = areas.find(page).ok_or(FaultError::NoArea(address))?;
                let enough = |flags: LeafFlags| access == Access::Read || flags.contains(LeafFlags::WRITABLE);
                if let AreaKind::Device { .. } = area.kind {
                    return Err(FaultError::NotMemory(address));
                }
                if let Some(table) = walk::leaf_table(&manager.machine, self.root(), page)
                    && area.protection.intersects(Protection::READ_WRITE)
                {
                    let seen = peek(&manager.machine, table, page);
                    let stands_in = manager.mapped_frame(seen).filter(|_| seen.is_present());
                    // Of a shared area everybody writes the same frame, so that is what a pin holds.
                    let private = area.kind == AreaKind::Anonymous;
                    if private && stands_in.is_some_and(|frame| manager.any_descriptor(frame).mappings() > 1) {
                        if !self.is_told(announced.as_ref()) {
                            break 'held Some(InvalidationReason::CopyOnWrite);
                        }
                        self.copy_on_write(table, page, area, seen, LeafFlags::empty())
                            .map_err(|error| error.at(address))?;
                        continue 'again;
                    }
                    if let (Some(AnyFrame::Device(_)), Term::Long) = (stands_in, term) {
                        if !self.is_told(announced.as_ref()) {
                            break 'held Some(InvalidationReason::Migrate);
                        }
                        if !self.bring_home(table, page, area, Cause::Pin).map_err(|error| error.at(address))? {
                            manager.machine.relax();
                        }
                        continue 'again;
                    }
                    let leaf = LeafTable::lock(&manager.machine, &manager.memory, table);
                    // Under the table's lock: a migration that takes the entry later finds the reference.
                    if let Entry::Present { frame, flags } = leaf.load(page).decode()
                        && enough(flags)
                        && let frame = manager.frame_behind(frame)
                        && (!private || manager.any_descriptor(frame).mappings() <= 1)
                        && !(term == Term::Long && matches!(frame, AnyFrame::Device(_)))
                    {
                        manager.any_descriptor(frame).pin();
                        manager.any_descriptor(frame).clear_unwanted();
                        record(&manager.machine, || Event::Pinned { space: self.id, page, frame });
                        return Ok(Pin { manager, frame });
                    }
                }
                None
            };
            match must_announce {
                Some(reason) => announced = Some(self.announce(PageRange::of_page(page), reason, None)),
                None => {
                    self.fault_for(address, access, Cause::Pin)?;
                }
            }
        }
    }
}
