//! Announcements in the other spaces that share pages: a migration or an eviction takes their entries, too.
//!
//! Whoever works by frame knows the pages of other spaces only through the reverse map, which needs their areas. So it looks first
//! ([`Sharers`]), gives the areas up, announces, and holds them again. An entry of a space with listeners that was not
//! announced, because it came in between, is not taken: that page stays, as busy.
use alloc::vec::Vec;
use x86_64::structures::paging::Page;

use super::{Announcement, InvalidationReason, ListenerId};
use crate::address::PageRange;
use crate::frame::AnyFrame;
use crate::machine::Machine;
use crate::manager::MemoryManager;
use crate::space::{HeldSpace, MAX_SPACES, Space, SpaceId};

/// The spaces with listeners, held while it is found out which of their pages are concerned.
pub(crate) struct Sharers<'m, M: Machine> {
    manager: &'m MemoryManager<M>,
    /// With the pages found so far, rounded to one range: telling too much is harmless.
    held: Vec<(HeldSpace<'m, M>, Option<PageRange>)>,
}

/// There is no room in the heap for the list.
pub(crate) struct NoRoomForSharers;

impl<'m, M: Machine> Sharers<'m, M> {
    /// Holds every space with listeners but `except` that can be held without waiting.
    pub(crate) fn hold(manager: &'m MemoryManager<M>, except: Option<SpaceId>) -> Result<Self, NoRoomForSharers> {
        let mut held = Vec::new();
        let is_listened_to = |space: &Space<'m, M>| !space.state.listening.seen().is_none();
        if manager.spaces().any(|space| is_listened_to(&space) && Some(space.id()) != except) {
            held.try_reserve_exact(MAX_SPACES).map_err(|_| NoRoomForSharers)?;
            let spaces = manager.try_hold_spaces(except).flatten();
            held.extend(spaces.filter(|held| is_listened_to(&held.space)).map(|held| (held, None)));
        }
        Ok(Self { manager, held })
    }

    /// Whether there is nobody to look for.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Notes the pages that map `frame`.
    pub(crate) fn look_for(&mut self, frame: AnyFrame) {
        let manager = self.manager;
        let Some(origin) = manager.any_descriptor(frame).origin() else { return };
        for (held, found) in &mut self.held {
            held.for_each_candidate(origin, |leaf, page, _| {
                if manager.is_mapped_by(frame, leaf.load(page)) {
                    let page = PageRange::of_page(page);
                    *found = Some(found.map_or(page, |range: PageRange| range.hull(page)));
                }
            });
        }
    }

    /// Gives the areas up, then announces what was found. The caller holds no lock.
    pub(crate) fn announce(
        self,
        reason: InvalidationReason,
        except: Option<ListenerId>,
    ) -> Result<SharersToldOf<'m, M>, NoRoomForSharers> {
        let mut announcements = Vec::new();
        announcements.try_reserve_exact(self.held.len()).map_err(|_| NoRoomForSharers)?;
        let mut found = Vec::new();
        found.try_reserve_exact(self.held.len()).map_err(|_| NoRoomForSharers)?;
        found.extend(self.held.into_iter().filter_map(|(held, range)| range.map(|range| (held.space, range))));
        announcements.extend(found.into_iter().map(|(space, range)| space.announce(range, reason, except)));
        Ok(SharersToldOf { announcements })
    }
}

/// The announcements in other spaces.
pub(crate) struct SharersToldOf<'m, M: Machine> {
    announcements: Vec<Announcement<'m, M>>,
}

impl<M: Machine> Default for SharersToldOf<'_, M> {
    fn default() -> Self {
        Self { announcements: Vec::new() }
    }
}

impl<M: Machine> SharersToldOf<'_, M> {
    /// Whether the entry of `page`, in a space that is held, may be weakened.
    pub(crate) fn covers(&self, space: Space<'_, M>, page: Page) -> bool {
        space.state.listening.seen().is_none()
            || self.announcements.iter().any(|told| told.is_about(space, page) && told.is_current())
    }
}
