//! From a frame to the entries that map it, in every space.
//!
//! A frame knows the origin of its page. In each space, the areas that contain this origin say where the page would be;
//! the entry there tells whether it is this frame. Other spaces' areas are only ever tried, never waited for: whoever
//! walks may hold locks already.
use x86_64::structures::paging::Page;

use super::area::AreaList;
use super::{Space, SpaceId};
use crate::frame::Origin;
use crate::lock::ReadGuard;
use crate::machine::Machine;
use crate::manager::MemoryManager;
use crate::page_table::leaf_table::LeafTable;
use crate::page_table::walk;

/// A space whose areas are held shared, so that its tables and its areas stay.
pub(crate) struct HeldSpace<'m, M: Machine> {
    pub(crate) space: Space<'m, M>,
    pub(crate) areas: ReadGuard<'m, AreaList, M>,
}

impl<M: Machine> MemoryManager<M> {
    /// Every living space but `except` whose areas can be held right now; `None` for one whose areas cannot, and for one that has
    /// none: a fork waits for its child's with the parent's held, which nobody else may keep for long.
    pub(crate) fn try_hold_spaces(&self, except: Option<SpaceId>) -> impl Iterator<Item = Option<HeldSpace<'_, M>>> {
        self.spaces().filter(move |space| Some(space.id()) != except).map(Space::try_hold)
    }
}

impl<'m, M: Machine> Space<'m, M> {
    /// Holds the areas shared, where that needs no wait and there are any: see [`MemoryManager::try_hold_spaces`].
    pub(crate) fn try_hold(self) -> Option<HeldSpace<'m, M>> {
        let areas = self.state.areas.try_read(&self.manager.machine).filter(|areas| !areas.is_empty())?;
        Some(HeldSpace { space: self, areas })
    }
}

impl<'m, M: Machine> HeldSpace<'m, M> {
    /// Calls `visit` with the locked table of each page that may hold `origin`.
    pub(crate) fn for_each_candidate(
        &self,
        origin: Origin,
        mut visit: impl FnMut(&LeafTable<'m, M>, Page, &super::Area),
    ) {
        let manager = self.space.manager;
        for area in self.areas.iter().filter(|area| area.kind.has_counted_frames()) {
            let Some(page) = area.page_of(origin) else { continue };
            let Some(table) = walk::leaf_table(&manager.machine, self.space.root(), page) else { continue };
            visit(&LeafTable::lock(&manager.machine, &manager.memory, table), page, area);
        }
    }
}
