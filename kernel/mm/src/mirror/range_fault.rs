//! The walk behind a device's page table: look, fault in what is missing, look again.
use x86_64::VirtAddr;
use x86_64::structures::paging::Page;

use super::{Faulted, MirrorEntry, MirrorError, MirrorRequest, Place, Want};
use crate::address::PageRange;
use crate::frame::{AnyFrame, DeviceFrame, DeviceId};
use crate::machine::Machine;
use crate::page_table::entry::{Entry, LeafFlags, RawEntry};
use crate::page_table::leaf_table::LeafTable;
use crate::page_table::walk;
use crate::space::{Access, Area, FaultError, Protection, Space};

/// Faults for one page in a row before the request is given up as [`MirrorError::Again`]: a page needs at most two (home from a
/// device, then writable), and more means that others change it all the time.
const MOST_TRIES: u32 = 8;

/// What one look at a page found.
enum Seen {
    Entry(MirrorEntry),
    /// The page must be faulted in first.
    Missing,
}

impl<M: Machine> Space<'_, M> {
    /// Tells a device how it may use each page of `range`, and faults in what it wants and is not there.
    ///
    /// | page | [`Want::Look`] | [`Want::Read`] | [`Want::Write`] |
    /// |---|---|---|---|
    /// | empty | `None` | the zero page | a fresh frame |
    /// | zero page, or read-only in RAM | as it is | as it is | a frame of its own, or writable |
    /// | writable in RAM | as it is | as it is | as it is |
    /// | private, own device | as it is | as it is | as it is; where read-only, home as a private copy |
    /// | private, other device | `None` | comes home | comes home |
    /// | coherent | as it is | as it is | as it is; where read-only, a private copy in RAM |
    /// | on its way, swapped out, exclusive | `None` | waited for, brought back | the same |
    /// | poison | `Error` | [`MirrorError::Fault`] | the same |
    /// | no area, a device's or a guard, or not readable | `Error` | [`MirrorError::Fault`] | the same |
    /// | area without leave to write | as above | as above | [`MirrorError::NotPermitted`] |
    ///
    /// Holds no lock when it returns, and waits like the faults that it takes. A fault that moves a page tells this listener, too:
    /// the request then ends with [`MirrorError::Again`], and the next one finds the pages in place.
    /// Where RAM has no room for all of them, they drive each other out, and every request ends so: whoever is told
    /// [`MirrorError::Again`] again and again asks for fewer.
    ///
    /// # Errors
    /// See [`MirrorError`]. Pages that were faulted in stay; the entries then mean nothing.
    pub fn range_fault(
        self,
        range: PageRange,
        request: &MirrorRequest,
        entries: &mut [MirrorEntry],
    ) -> Result<Faulted, MirrorError> {
        let manager = self.manager;
        if range.pages() != entries.len() as u64 {
            return Err(MirrorError::WrongLength { pages: range.pages(), entries: entries.len() });
        }
        if !manager.watches(request.listener, self.id(), range) {
            return Err(MirrorError::NotWatched(range));
        }
        let device = manager.device_of_listener(request.listener);
        let access = if request.want == Want::Write { Access::Write } else { Access::Read };
        let (mut faulted, mut next, mut tries) = (Faulted::default(), 0, 0);
        while let Some(missing) = self.look(range, next, request.want, device, entries)? {
            tries = if missing == next { tries + 1 } else { 1 };
            if tries > MOST_TRIES {
                return Err(MirrorError::Again);
            }
            next = missing;
            let address = range.page(missing).start_address();
            self.fault(address, access).map_err(|error| refusal(address, access, error))?;
            faulted.faults += 1;
        }
        if manager.has_moved(request.listener, request.since) { Err(MirrorError::Again) } else { Ok(faulted) }
    }

    /// Fills the entries from page `next` of `range` on; returns the first page that must be faulted in.
    fn look(
        self,
        range: PageRange,
        next: u64,
        want: Want,
        device: Option<DeviceId>,
        entries: &mut [MirrorEntry],
    ) -> Result<Option<u64>, MirrorError> {
        let manager = self.manager;
        let machine = &manager.machine;
        let areas = self.state.areas.read(machine);
        let mut index = next;
        for part in range.part(next, range.pages() - next).by_leaf_table() {
            let table = walk::leaf_table(machine, self.root(), part.start());
            let leaf = table.map(|table| LeafTable::lock(machine, &manager.memory, table));
            for page in (0..part.pages()).map(|index| part.page(index)) {
                let raw = leaf.as_ref().map_or(RawEntry::EMPTY, |leaf| leaf.load(page));
                match self.see(areas.find(page), page, raw, want, device)? {
                    Seen::Missing => return Ok(Some(index)),
                    Seen::Entry(entry) => {
                        if let (MirrorEntry::Ram { writable: true, .. }, Some(leaf)) = (entry, &leaf)
                            && want != Want::Look
                        {
                            make_dirty(leaf, page);
                        }
                        entries[index as usize] = entry;
                    }
                }
                index += 1;
            }
        }
        Ok(None)
    }

    /// What a device may do with one page.
    fn see(
        self,
        area: Option<&Area>,
        page: Page,
        raw: RawEntry,
        want: Want,
        device: Option<DeviceId>,
    ) -> Result<Seen, MirrorError> {
        let manager = self.manager;
        let look = want == Want::Look;
        let unusable = || {
            if look { Ok(Seen::Entry(MirrorEntry::Error)) } else { Err(MirrorError::Fault(page.start_address())) }
        };
        let Some(area) = area.filter(|area| area.protection.is_accessible() && area.kind.has_counted_frames()) else {
            return unusable();
        };
        if want == Want::Write && !area.protection.contains(Protection::WRITE) {
            return Err(MirrorError::NotPermitted(page.start_address()));
        }
        let enough = |writable| writable || want != Want::Write;
        let on_device = |frame: DeviceFrame, writable| {
            let place = if Some(frame.device()) == device { Place::Local } else { Place::Remote };
            MirrorEntry::Device { frame, writable, place }
        };
        let found = match raw.decode() {
            Entry::Present { frame, flags } => {
                let writable = flags.contains(LeafFlags::WRITABLE);
                enough(writable).then(|| match manager.frame_behind(frame) {
                    AnyFrame::System(frame) => MirrorEntry::Ram { frame, writable, zero: frame == manager.zero_frame },
                    AnyFrame::Device(frame) => on_device(frame, writable),
                })
            }
            Entry::Device { frame, writable } if Some(frame.device()) == device => {
                enough(writable).then(|| on_device(frame, writable))
            }
            Entry::Poison | Entry::Unknown(_) => return unusable(),
            Entry::Empty
            | Entry::Device { .. }
            | Entry::Migrating { .. }
            | Entry::Swap { .. }
            | Entry::Exclusive { .. }
            | Entry::NoAccess { .. } => None,
        };
        Ok(match found {
            Some(entry) => Seen::Entry(entry),
            None if look => Seen::Entry(MirrorEntry::None),
            None => Seen::Missing,
        })
    }
}

/// Notes that the device may store to a page at any time from now on.
fn make_dirty<M: Machine>(leaf: &LeafTable<'_, M>, page: Page) {
    let used = LeafFlags::ACCESSED | LeafFlags::DIRTY;
    if !leaf.load(page).flags().contains(used) {
        leaf.update(page, |raw| RawEntry(raw.0 | used.bits()));
    }
}

/// What a refused fault means for the device.
fn refusal(address: VirtAddr, access: Access, error: FaultError) -> MirrorError {
    match error {
        FaultError::Forbidden(_, _, protection) if access == Access::Write && protection.is_accessible() => {
            MirrorError::NotPermitted(address)
        }
        FaultError::OutOfMemory(_) | FaultError::OverLimit(_) => MirrorError::NoMemory(address),
        FaultError::PinnedOnDevice(_) => MirrorError::Again,
        FaultError::WaitsForItself(_) => MirrorError::WaitsForItself(address),
        _ => MirrorError::Fault(address),
    }
}
