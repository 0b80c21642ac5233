//! An announcement: the time between the first word to the listeners and the end of the flush.
use super::registry::{ListenersSeen, Places};
use super::{Invalidation, InvalidationReason, ListenerId};
use crate::address::PageRange;
use crate::lock::{ReadGuard, WriteGuard};
use crate::machine::Machine;
use crate::space::area::AreaList;
use crate::space::{MapError, Space};
use crate::trace::{Event, record};
use x86_64::structures::paging::Page;

/// The listeners of a range have stopped using it, and look nothing up until this is dropped.
#[must_use = "dropping it lets listeners use the range again"]
pub(crate) struct Announcement<'m, M: Machine> {
    space: Space<'m, M>,
    range: PageRange,
    seen: ListenersSeen,
    told: Places,
}

impl<M: Machine> Announcement<'_, M> {
    /// Whether every listener has been told that is there now. Asked with the areas held, it holds as long as these are.
    #[inline]
    pub(crate) fn is_current(&self) -> bool {
        self.space.state.listening.seen() == self.seen
    }

    /// Whether the announcement is about this page.
    pub(crate) fn is_about(&self, space: Space<'_, M>, page: Page) -> bool {
        self.space.id() == space.id() && self.range.contains_page(page)
    }
}

impl<M: Machine> Drop for Announcement<'_, M> {
    #[inline]
    fn drop(&mut self) {
        if self.told != Places::default() {
            // Told before it is so: whoever looks something up afterwards does it outside the announcement.
            let (space, range) = (self.space.id(), self.range);
            record(&self.space.manager.machine, || Event::AnnouncementEnds { space, range });
            self.space.manager.listeners.end(self.told);
        }
    }
}

impl<'m, M: Machine> Space<'m, M> {
    /// Tells every listener of `range` but `except`, and migrations that should give way. The caller holds no lock.
    ///
    /// Waits as long as the listeners take, which is bounded.
    #[inline]
    pub(crate) fn announce(
        self,
        range: PageRange,
        reason: InvalidationReason,
        except: Option<ListenerId>,
    ) -> Announcement<'m, M> {
        if reason.asks_migrations_to_back_off() {
            self.make_migrations_back_off(range);
        }
        let seen = self.state.listening.seen();
        let mut announcement = Announcement { space: self, range, seen, told: Places::default() };
        if !seen.is_none() {
            let event = Invalidation { space: self.id(), range, reason };
            let (registry, machine) = (&self.manager.listeners, &self.manager.machine);
            announcement.told = registry.begin(machine, &event, except);
            registry.call(machine, announcement.told, &event);
            if announcement.told != Places::default() {
                record(machine, || Event::Announced { space: self.id(), range, reason });
            }
            self.manager.statistics.count_announcement();
        }
        announcement
    }

    /// Announces a change of `range`, and holds the areas exclusively for it.
    ///
    /// Waits for listeners, and for faults and migrations that are at work in this space; bounded by their work.
    ///
    /// # Errors
    /// [`MapError::WouldWaitForItself`] where this CPU holds a migration open in this space.
    pub(crate) fn announce_and_hold(
        self,
        range: PageRange,
        reason: InvalidationReason,
    ) -> Result<(Announcement<'m, M>, WriteGuard<'m, AreaList, M>), MapError> {
        if self.manager.holds_migration_open() {
            return Err(MapError::WouldWaitForItself(range));
        }
        loop {
            let announcement = self.announce(range, reason, None);
            let areas = self.state.areas.write(&self.manager.machine);
            if announcement.is_current() {
                return Ok((announcement, areas));
            }
        }
    }

    /// Announces a change of `range` that needs the areas only shared, and holds them so.
    pub(crate) fn announce_and_share(
        self,
        range: PageRange,
        reason: InvalidationReason,
    ) -> (Announcement<'m, M>, ReadGuard<'m, AreaList, M>) {
        loop {
            let announcement = self.announce(range, reason, None);
            let areas = self.state.areas.read(&self.manager.machine);
            if announcement.is_current() {
                return (announcement, areas);
            }
        }
    }

    /// Whether entries of this space may be weakened with the areas held: everybody has been told, or there is nobody.
    #[inline]
    pub(crate) fn is_told(self, announcement: Option<&Announcement<'m, M>>) -> bool {
        self.state.listening.seen().is_none() || announcement.is_some_and(Announcement::is_current)
    }
}
