//! The operations on whole spaces and areas: who is in which, what is mapped, forks.
use ferry_mm::space::{ForkError, MapError, Protection};

use super::model::{PageModel, drain_all};
use super::run::Run;
use super::{CPUS, PAGES, SPACES};
use crate::support::pages;

impl Run<'_> {
    pub(super) fn leave(&self, cpu: usize) {
        // The CPU itself is in the kernel; nobody else uses its translations.
        self.world.cpu(cpu).leave();
        self.model().entered[cpu] = None;
    }

    pub(super) fn enter(&self, cpu: usize, space: usize) {
        self.leave(cpu);
        if let Some(handle) = self.spaces[space] {
            self.world.cpu(cpu).enter(handle);
            self.model().entered[cpu] = Some(space);
        }
    }

    pub(super) fn recreate(&mut self, space: usize) {
        self.destroy(space);
        let (created, struck) = self.on(0, || self.world.manager().create_space());
        assert!(created.is_ok() || struck || self.is_out_of_memory());
        self.spaces[space] = created.ok();
    }

    /// Takes every CPU out of a space and removes it.
    pub(super) fn destroy(&mut self, space: usize) {
        for cpu in 0..CPUS {
            let inside = self.model().entered[cpu] == Some(space);
            if inside {
                self.leave(cpu);
            }
        }
        if let Some(old) = self.spaces[space].take() {
            old.destroy().unwrap();
        }
        self.end_mirror(space);
        self.model().spaces[space] = Default::default();
    }

    /// Limits the pages of a space to `more` than it has.
    pub(super) fn limit(&self, space: usize, more: u64) {
        if let Some(handle) = self.spaces[space] {
            handle.set_limit(handle.resident().charged().saturating_add(more));
        }
    }

    /// Whether a page that is new to a space would be one too many.
    pub(super) fn is_at_limit(&self, space: usize) -> bool {
        self.spaces[space].is_some_and(|handle| handle.resident().charged() >= handle.limit())
    }

    /// The next space becomes a child of `space`.
    pub(super) fn fork(&mut self, cpu: usize, space: usize) {
        let Some(parent) = self.spaces[space] else { return };
        let child = (space + 1) % SPACES;
        self.destroy(child);
        drain_all(self.sim());
        // Held, so that nobody stores in the middle: whether the child sees such a store is open.
        let mut model = self.model();
        let free = self.world.manager().memory().free(self.sim()) as usize;
        let (forked, struck) = self.on(cpu, || parent.fork());
        match forked {
            Err(ForkError::OverLimit) => assert!(parent.resident().charged() > parent.limit()),
            Err(error) => {
                drop(model);
                // Four tables at most, two of level 1, and a copy of each page that is pinned.
                assert!(struck || free < 5 + PAGES, "{error} with {free} free frames");
                // What was taken for the child came back; with a disk, room may have been made for another try.
                assert!(self.has_disk() || self.world.manager().memory().free(self.sim()) as usize == free);
            }
            Ok(handle) => {
                let mut pages = model.spaces[space].clone();
                for page in pages.iter_mut().flatten() {
                    model.births += 1;
                    page.birth = model.births;
                }
                model.spaces[child] = pages;
                drop(model);
                self.spaces[child] = Some(handle);
                if struck {
                    // The copy of a page that is pinned on the coherent device may have failed.
                    self.find_lost(child, handle);
                }
            }
        }
    }

    pub(super) fn discard(&self, cpu: usize, space: usize, first: usize, count: usize) {
        let Some(handle) = self.spaces[space] else { return };
        let range = pages(first as u64, count as u64);
        // Held, so that no store gets lost in the middle, or not.
        let mut model = self.model();
        drain_all(self.sim());
        let (discarded, _) = self.on(cpu, || handle.discard(range));
        let mut births = model.births;
        let part = &mut model.spaces[space][first..first + count];
        if part.iter().any(Option::is_none) {
            assert_eq!(discarded, Err(MapError::NotMapped(range)));
            return;
        }
        if part.iter().flatten().any(|page| page.sharers.is_some()) {
            assert!(matches!(discarded, Err(MapError::WrongKind(..))), "{discarded:?}");
            return;
        }
        discarded.unwrap();
        for page in part.iter_mut().flatten() {
            births += 1;
            *page = PageModel::fresh(page.protection, page.origin, births);
        }
        model.births = births;
    }

    pub(super) fn map(&self, space: usize, first: usize, count: usize, protection: Protection) {
        let Some(handle) = self.spaces[space] else { return };
        let mapped = handle.map_anonymous(pages(first as u64, count as u64), protection);
        let mut model = self.model();
        let mut births = model.births;
        let part = &mut model.spaces[space][first..first + count];
        if part.iter().any(Option::is_some) {
            assert!(matches!(mapped, Err(MapError::Overlaps(_))), "{mapped:?}");
            return;
        }
        mapped.unwrap();
        for (origin, page) in (first..).zip(part) {
            births += 1;
            *page = Some(PageModel::fresh(protection, origin, births));
        }
        model.births = births;
    }

    pub(super) fn unmap(&self, cpu: usize, space: usize, first: usize, count: usize) {
        let Some(handle) = self.spaces[space] else { return };
        self.on(cpu, || handle.unmap(pages(first as u64, count as u64))).0.unwrap();
        self.model().spaces[space][first..first + count].fill(None);
    }
}
