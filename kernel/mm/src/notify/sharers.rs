//! Announcements in the other spaces that share pages: a migration, an eviction and a swap-out take their entries, too.
//!
//! Whoever works by frame knows the pages of other spaces only through the reverse map, which needs their areas. So it looks first,
//! one space at a time ([`Sharer`]), gives its areas up, announces, and holds them all afterwards. An entry of a space with
//! listeners that was not announced, because it came in between, is not taken: that page stays, as busy.
use alloc::vec::Vec;
use x86_64::structures::paging::Page;

use super::{Announcement, InvalidationReason, ListenerId};
use crate::address::PageRange;
use crate::frame::AnyFrame;
use crate::machine::Machine;
use crate::manager::MemoryManager;
use crate::space::{HeldSpace, MAX_SPACES, Space, SpaceId};

/// A space with listeners, held while it is found out which of its pages are concerned.
pub(crate) struct Sharer<'m, M: Machine> {
    held: HeldSpace<'m, M>,
    /// The pages found so far, rounded to one range: telling too much is harmless.
    found: Option<PageRange>,
}

/// There is no room in the heap for the list.
pub(crate) struct NoRoomForSharers;

impl<M: Machine> Sharer<'_, M> {
    /// Notes the pages that map `frame`.
    pub(crate) fn look_for(&mut self, frame: AnyFrame) {
        let manager = self.held.space.manager;
        let Some(origin) = manager.any_descriptor(frame).origin() else { return };
        let found = &mut self.found;
        self.held.for_each_candidate(origin, |leaf, page, _| {
            if manager.is_mapped_by(frame, leaf.load(page)) {
                let page = PageRange::of_page(page);
                *found = Some(found.map_or(page, |range: PageRange| range.hull(page)));
            }
        });
    }
}

/// The announcements in other spaces: in the heap for calls, in an array on the stack where the heap may not be used.
pub(crate) struct SharersToldOf<'m, M: Machine, A = Vec<Option<Announcement<'m, M>>>> {
    announcements: A,
    _of: core::marker::PhantomData<&'m M>,
}

/// Announcements on the stack.
pub(crate) type Places<'m, M> = [Option<Announcement<'m, M>>; MAX_SPACES];

impl<M: Machine> Default for SharersToldOf<'_, M> {
    fn default() -> Self {
        Self { announcements: Vec::new(), _of: core::marker::PhantomData }
    }
}

impl<M: Machine> Default for SharersToldOf<'_, M, Places<'_, M>> {
    fn default() -> Self {
        Self { announcements: [const { None }; MAX_SPACES], _of: core::marker::PhantomData }
    }
}

impl<'m, M: Machine, A: AsRef<[Option<Announcement<'m, M>>]>> SharersToldOf<'m, M, A> {
    /// Whether the entry of `page`, in a space that is held, may be weakened.
    pub(crate) fn covers(&self, space: Space<'_, M>, page: Page) -> bool {
        let mut announcements = self.announcements.as_ref().iter().flatten();
        space.state.listening.seen().is_none()
            || announcements.any(|told| told.is_about(space, page) && told.is_current())
    }
}

impl<M: Machine> MemoryManager<M> {
    /// Tells the listeners of spaces but `except_space` that map frames which `look` looks for. `look` is called with one space held
    /// after the other; the caller holds no lock.
    pub(crate) fn tell_sharers<'m>(
        &'m self,
        except_space: Option<SpaceId>,
        reason: InvalidationReason,
        initiator: Option<ListenerId>,
        look: impl Fn(&mut Sharer<'m, M>),
    ) -> Result<SharersToldOf<'m, M>, NoRoomForSharers> {
        let mut told = SharersToldOf::<'m, M>::default();
        if self.spaces().any(|space| Some(space.id()) != except_space && !space.state.listening.seen().is_none()) {
            told.announcements.try_reserve_exact(MAX_SPACES).map_err(|_| NoRoomForSharers)?;
            told.announcements.resize_with(MAX_SPACES, || None);
            self.tell_each_sharer(except_space, reason, initiator, &look, &mut told.announcements);
        }
        Ok(told)
    }

    /// The same without heap memory.
    pub(crate) fn tell_sharers_from_stack<'m>(
        &'m self,
        reason: InvalidationReason,
        look: impl Fn(&mut Sharer<'m, M>),
    ) -> SharersToldOf<'m, M, Places<'m, M>> {
        let mut told = SharersToldOf::<'m, M, Places<'m, M>>::default();
        self.tell_each_sharer(None, reason, None, &look, &mut told.announcements);
        told
    }

    fn tell_each_sharer<'m>(
        &'m self,
        except_space: Option<SpaceId>,
        reason: InvalidationReason,
        initiator: Option<ListenerId>,
        look: &impl Fn(&mut Sharer<'m, M>),
        announcements: &mut [Option<Announcement<'m, M>>],
    ) {
        let is_concerned =
            |space: &Space<'m, M>| Some(space.id()) != except_space && !space.state.listening.seen().is_none();
        for (space, place) in self.spaces().filter(is_concerned).zip(announcements) {
            let Some(held) = space.try_hold() else { continue };
            let mut sharer = Sharer { held, found: None };
            look(&mut sharer);
            let found = sharer.found;
            // Its areas are given up before anybody is told.
            drop(sharer);
            *place = found.map(|range| space.announce(range, reason, initiator));
        }
    }
}
