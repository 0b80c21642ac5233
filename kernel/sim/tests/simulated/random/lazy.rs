//! Contents that need not be kept, and memory that forks share.
use ferry_mm::page_table::entry::Entry;
use ferry_mm::space::{MapError, Protection, Space};
use ferry_sim::Sim;

use super::model::{PageModel, drain_all};
use super::run::Run;
use super::{SPACES, WORDS};
use crate::support::{Contents, at, host, on_disk, pages};

impl Run<'_> {
    pub(super) fn free_lazily(&self, cpu: usize, space: usize, first: usize, count: usize) {
        let Some(handle) = self.spaces[space] else { return };
        let range = pages(first as u64, count as u64);
        // Held: what is stored until the call returns need not be kept, either.
        let mut model = self.model();
        drain_all(self.sim());
        let (freed, _) = self.on(cpu, || handle.free_lazily(range));
        let part = &mut model.spaces[space][first..first + count];
        if part.iter().any(Option::is_none) {
            assert_eq!(freed, Err(MapError::NotMapped(range)));
        } else if part.iter().flatten().any(|page| page.sharers.is_some()) {
            assert!(matches!(freed, Err(MapError::WrongKind(..))), "{freed:?}");
        } else {
            freed.unwrap();
            for page in part.iter_mut().flatten() {
                *page = PageModel { if_dropped: Some(Box::new([0; WORDS])), stored: false, ..page.clone() };
            }
        }
    }

    /// Finds out which of the pages that need not be kept were dropped, by their bytes. One that was stored to since stays.
    pub fn settle(&self) {
        let mut model = self.model();
        if !model.spaces.iter().flatten().flatten().any(|page| page.if_dropped.is_some()) {
            return;
        }
        drain_all(self.sim());
        for space in 0..SPACES {
            let Some(handle) = self.spaces[space] else { continue };
            for (number, page) in model.spaces[space].iter_mut().enumerate() {
                let Some(page) = page.as_mut().filter(|page| !page.lost) else { continue };
                let Some(if_dropped) = page.if_dropped.take() else { continue };
                let Some(found) = self.bytes(handle, number) else { continue };
                if is(&found, &page.words) {
                    page.if_dropped = Some(if_dropped).filter(|_| !page.stored);
                } else {
                    assert!(is(&found, &if_dropped), "page {number} of space {space} is neither kept nor zero");
                    page.words = if_dropped;
                }
                page.stored = false;
            }
        }
    }

    /// The bytes of a page, wherever they are; `None` of a page that is lost.
    fn bytes(&self, handle: Space<'_, Sim>, page: usize) -> Option<Contents> {
        let manager = self.world.manager();
        let entry = handle.entry(at(page as u64, 0));
        match entry.decode() {
            Entry::Empty => Some(crate::support::zeros()),
            Entry::Poison => None,
            Entry::Swap { slot } => {
                let cached = manager.swap().unwrap().slot_use(self.sim(), slot).unwrap().frame;
                Some(cached.map_or_else(|| on_disk(self.world, slot), |frame| host(self.world, frame)))
            }
            _ => manager.mapped_frame(entry).map(|frame| host(self.world, frame)),
        }
    }

    pub(super) fn map_shared(&self, cpu: usize, space: usize, first: usize, count: usize, protection: Protection) {
        let Some(handle) = self.spaces[space] else { return };
        // Held: the pages are there before the call returns.
        let mut model = self.model();
        let (mapped, struck) = self.on(cpu, || handle.map_shared(pages(first as u64, count as u64), protection));
        let mut births = model.births;
        let part = &mut model.spaces[space][first..first + count];
        if part.iter().any(Option::is_some) {
            assert!(matches!(mapped, Err(MapError::Overlaps(_))), "{mapped:?}");
            return;
        }
        match mapped {
            // Four tables at most, two of level 1, and a frame for each page.
            Err(MapError::OutOfFrames) => {
                let free = self.world.manager().memory().free(self.sim()) as usize;
                assert!(struck || free < count + 4, "{count} pages with {free} free frames");
            }
            Err(MapError::OverLimit) => {
                assert!(handle.resident().charged() + count as u64 > handle.limit());
            }
            Err(error) => panic!("{error}"),
            Ok(()) => {
                for (origin, page) in (first..).zip(part) {
                    births += 1;
                    *page = Some(PageModel { sharers: Some(births), ..PageModel::fresh(protection, origin, births) });
                }
                model.births = births;
            }
        }
    }
}

fn is(found: &Contents, words: &[u64; WORDS]) -> bool {
    found.chunks_exact(8).zip(words).all(|(bytes, word)| bytes == word.to_le_bytes())
}
