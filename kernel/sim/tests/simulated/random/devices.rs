//! The operations that are about where pages are: pins of both terms, eviction, moves to other addresses.
use ferry_mm::frame::{AnyFrame, DeviceId};
use ferry_mm::space::{Access, Leave, MapError, RelocateError, Term};

use super::SPACES;
use super::model::{PageModel, drain_all, is_one_area};
use super::run::{PinModel, Run};
use crate::support::{at, pages};

impl Run<'_> {
    pub(super) fn pin(&mut self, cpu: usize, space: usize, page: usize, write: bool, long: bool) {
        let Some(handle) = self.spaces[space] else { return };
        let access = if write { Access::Write } else { Access::Read };
        let term = if long { Term::Long } else { Term::Short };
        let (pinned, struck) = self.on(cpu, || handle.pin(at(page as u64, 0), access, term));
        match pinned {
            Err(error) => {
                self.check_fault(space, page, write, error, struck);
            }
            Ok(pin) => {
                assert!(!(long && matches!(pin.frame(), AnyFrame::Device(_))), "a long pin on a device");
                let birth = self.model().spaces[space][page].as_ref().expect("pinned an unmapped page").birth;
                self.pins.push(PinModel { pin, space, page, birth });
            }
        }
    }

    /// Every page that is on the device comes home, but for those that are pinned or find no RAM.
    pub(super) fn evict(&self, cpu: usize, device: u8) {
        let id = DeviceId::new(device).unwrap();
        let manager = self.world.manager();
        let used = |id| manager.device(id).map(|device| device.frames() - device.free()).unwrap();
        let before = used(id);
        let (evicted, struck) = self.on(cpu, || manager.evict_device(id).unwrap());
        manager.device(id).unwrap().reopen();
        let pinned: std::collections::HashSet<_> = self.pins.iter().map(|pinned| pinned.pin.frame()).collect();
        let pinned_here =
            pinned.iter().filter(|frame| matches!(frame, AnyFrame::Device(frame) if frame.device() == id));
        assert_eq!((evicted.pinned, evicted.busy), (pinned_here.count() as u64, 0), "nobody else is at work");
        assert_eq!(evicted.returned + evicted.lost + evicted.no_memory + evicted.pinned, before, "{evicted:?}");
        assert_eq!(used(id), evicted.no_memory + evicted.pinned);
        assert!(evicted.no_memory == 0 || struck || self.is_out_of_memory(), "{evicted:?}");
        assert!(evicted.lost <= u64::from(struck), "{evicted:?}");
        if struck {
            // Of a page that is shared, each sharer's.
            (0..SPACES).filter_map(|space| Some((space, self.spaces[space]?))).for_each(|(space, handle)| {
                self.find_lost(space, handle);
            });
        }
    }

    pub(super) fn relocate(
        &mut self,
        cpu: usize,
        space: usize,
        (first, count): (usize, usize),
        target: usize,
        empty: bool,
    ) {
        let Some(handle) = self.spaces[space] else { return };
        let range = pages(first as u64, count as u64);
        let leave = if empty { Leave::Empty } else { Leave::Nothing };
        drain_all(self.sim());
        // Held, because on the way a page is at neither address, or at both for those who cached it.
        let mut model = self.model();
        let (moved, struck) = self.on(cpu, || handle.relocate(range, at(target as u64, 0), leave));
        let is_mapped = |page: &Option<PageModel>| page.is_some();
        let (from, to) = (first..first + count, target..target + count);
        if let Err(error) = moved {
            let there = &model.spaces[space];
            match error {
                RelocateError::Overlap(_) => assert!(from.start < to.end && to.start < from.end),
                RelocateError::Map(MapError::NotMapped(_)) => assert!(!there[from].iter().all(is_mapped)),
                RelocateError::Map(MapError::Overlaps(_)) => assert!(there[to].iter().any(is_mapped)),
                RelocateError::SeveralAreas(_) => assert!(!is_one_area(&there[from])),
                RelocateError::Map(MapError::WrongKind(..)) => {
                    assert!(empty && there[from].iter().flatten().any(|page| page.sharers.is_some()));
                }
                RelocateError::OutOfFrames => assert!(struck || self.world.manager().memory().free(self.sim()) < 3),
                error => panic!("{error}"),
            }
            return;
        }
        for (source, target) in from.zip(to) {
            let page = model.spaces[space][source].take().expect("an unmapped page was moved");
            if empty {
                model.births += 1;
                let birth = model.births;
                let fresh = PageModel::fresh(page.protection, source, birth);
                model.spaces[space][source] = Some(fresh);
            }
            assert!(model.spaces[space][target].replace(page).is_none(), "page {target} was mapped already");
        }
        drop(model);
        let model = self.model.clone();
        let model = model.lock().unwrap();
        for pinned in self.pins.iter_mut().filter(|pinned| pinned.space == space) {
            let is_it = |page: &Option<PageModel>| page.as_ref().is_some_and(|page| page.birth == pinned.birth);
            pinned.page = model.spaces[space].iter().position(is_it).unwrap_or(pinned.page);
        }
    }
}
