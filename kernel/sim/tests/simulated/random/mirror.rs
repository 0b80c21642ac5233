//! A device with a page table of its own for each space, filled by `range_fault` and emptied by invalidations only: what it
//! reads and writes through what it has copied must be the page's, at every moment.
use std::ops::Range;
use std::sync::{Arc, Mutex};

use ferry_mm::frame::{AnyFrame, DeviceId};
use ferry_mm::mirror::{MirrorEntry, MirrorError, MirrorRequest, Want};
use ferry_mm::notify::{Invalidation, Listener, ListenerId, Watch};
use ferry_mm::page_table::entry::{Entry, LeafFlags};
use ferry_mm::space::{ExclusiveError, ExclusivePage, Protection};
use ferry_sim::Sim;

use super::model::{Model, drain_all, own};
use super::run::Run;
use super::{CPUS, DEVICES, PAGES, WORDS};
use crate::support::{at, pages};

/// The device's words are those of one more writer than there are CPUs.
const WRITER: usize = CPUS;

/// How often the device asks until nothing changes under the question: each page may be faulted in, and each fault tells it.
const MOST_QUESTIONS: usize = 2 * PAGES + 2;

/// What the device uses for a page.
#[derive(Clone, Copy)]
struct Translation {
    frame: AnyFrame,
    writable: bool,
    /// The device has the page for itself: no CPU reaches it meanwhile.
    exclusive: bool,
}

/// The device's page table for one space.
#[derive(Default)]
pub struct Table(Mutex<[Option<Translation>; PAGES]>);

impl Table {
    fn get(&self, page: usize) -> Option<Translation> {
        self.0.lock().unwrap()[page]
    }

    fn forget(&self, range: Range<usize>) {
        self.0.lock().unwrap()[range].fill(None);
    }

    /// Whether the device has a page for itself.
    pub fn is_exclusive(&self, page: usize) -> bool {
        self.get(page).is_some_and(|there| there.exclusive)
    }

    pub fn is_empty(&self) -> bool {
        self.0.lock().unwrap().iter().all(Option::is_none)
    }
}

impl Listener for Table {
    fn invalidate(&self, event: &Invalidation) {
        let first = (event.range.start() - pages(0, 1).start()) as usize;
        self.forget(first..first + event.range.pages() as usize);
    }
}

/// A table that is registered.
pub struct Mirror {
    id: ListenerId,
    watched: Range<usize>,
    pub table: Arc<Table>,
}

/// One access of a device, which is asked for no leave by anybody. `None` where it has no translation for it.
pub fn device_access(
    sim: &Sim,
    model: &mut Model,
    space: usize,
    page: usize,
    word: usize,
    store: Option<u64>,
) -> Option<()> {
    let there = model.tables[space].as_ref()?.get(page)?;
    let mapped = model.spaces[space][page].as_mut();
    let mapped =
        mapped.unwrap_or_else(|| panic!("a device translates page {page} of space {space}, which is not mapped"));
    assert!(mapped.protection.is_accessible() && !mapped.lost, "a device reaches page {page} of space {space}");
    if let Some(value) = store.filter(|_| there.writable) {
        assert!(mapped.protection.contains(Protection::WRITE), "a device writes page {page} of space {space}");
        let word = own(WRITER, word);
        sim.poke(there.frame, word, value);
        model.store(space, page, word, |_| value);
    } else {
        drain_all(sim);
        let bytes = sim.bytes(there.frame)[word * 8..word * 8 + 8].try_into().unwrap();
        let found = u64::from_le_bytes(bytes);
        assert!(
            mapped.may_be(word, found),
            "a device reads {found:#x} from word {word} of page {page} of space {space}"
        );
    }
    Some(())
}

impl Run<'_> {
    /// Another device, or none, follows a part of a space from now on.
    pub(super) fn mirror(&mut self, space: usize, watched: Range<usize>, device: u8) {
        let Some(handle) = self.spaces[space] else { return };
        if let Some(old) = self.mirrors[space].take() {
            self.world.manager().unlisten(old.id).expect("a listener that is registered");
        }
        let table = Arc::new(Table::default());
        let range = pages(watched.start as u64, watched.len() as u64);
        let device = Some(device).filter(|device| *device < DEVICES).and_then(DeviceId::new);
        let id = handle.listen(Watch { range, device }, table.clone()).unwrap();
        self.model().tables[space] = Some(table.clone());
        self.mirrors[space] = Some(Mirror { id, watched, table });
    }

    /// The space is gone, and everybody was told.
    pub(super) fn end_mirror(&mut self, space: usize) {
        if let Some(mirror) = self.mirrors[space].take() {
            assert!(mirror.table.is_empty(), "a device still translates pages of a space that is gone");
        }
        self.model().tables[space] = None;
    }

    /// On whose behalf pages of `space` move: a device that has stopped its own use of them.
    pub(super) fn initiator(&self, space: usize, first: usize, count: usize) -> Option<ListenerId> {
        let mirror = self.mirrors[space].as_ref()?;
        mirror.table.forget(first..first + count);
        Some(mirror.id)
    }

    pub(super) fn range_fault(&self, cpu: usize, space: usize, asked: Range<usize>, want: Want) {
        let (Some(handle), Some(mirror)) = (self.spaces[space], &self.mirrors[space]) else { return };
        let (first, end) = (asked.start.max(mirror.watched.start), asked.end.min(mirror.watched.end));
        if first >= end {
            return;
        }
        let manager = self.world.manager();
        let mut entries = vec![MirrorEntry::None; end - first];
        for _ in 0..MOST_QUESTIONS {
            let since = manager.sequence(mirror.id).expect("nobody else is at work");
            let request = MirrorRequest { listener: mirror.id, since, want };
            let range = pages(first as u64, (end - first) as u64);
            let (result, struck) = self.on(cpu, || handle.range_fault(range, &request, &mut entries));
            if struck {
                self.find_lost(space, handle);
            }
            match result {
                Ok(_) => {
                    let mut table = mirror.table.0.lock().unwrap();
                    assert!(!manager.has_moved(mirror.id, since), "nobody else is at work");
                    (first..end).zip(&entries).for_each(|(page, entry)| table[page] = translation(*entry, want));
                    return;
                }
                Err(MirrorError::Again) => {}
                Err(error) => return self.check_mirror_error(space, want, error, struck),
            }
        }
        // More pages than RAM has room for drive each other out. One at a time they are found.
        if end - first > 1 {
            return self.range_fault(cpu, space, first..first + 1, want);
        }
        let is_kept = self.pins.iter().any(|pinned| matches!(pinned.pin.frame(), AnyFrame::Device(_)));
        assert!(is_kept, "the page is never found in place");
    }

    fn check_mirror_error(&self, space: usize, want: Want, error: MirrorError, struck: bool) {
        let model = self.model();
        let mapped = |address| model.spaces[space][((address - at(0, 0)) / 4096) as usize].as_ref();
        match error {
            MirrorError::NoMemory(_) => assert!(struck || self.is_out_of_memory() || self.is_at_limit(space)),
            MirrorError::Fault(address) => {
                let is_usable = mapped(address).is_some_and(|page| page.protection.is_accessible() && !page.lost);
                assert!(want != Want::Look && (!is_usable || struck), "{error}");
            }
            MirrorError::NotPermitted(address) => {
                let page = mapped(address).expect("stores to an unmapped page are no matter of leave");
                assert!(want == Want::Write && !page.protection.contains(Protection::WRITE));
            }
            error => panic!("{error}"),
        }
    }

    pub(super) fn make_exclusive(&self, cpu: usize, space: usize, page: usize) {
        let (Some(handle), Some(mirror)) = (self.spaces[space], &self.mirrors[space]) else { return };
        let manager = self.world.manager();
        let (result, struck) = self.on(cpu, || handle.make_exclusive(at(page as u64, 0), mirror.id));
        match result {
            Ok(ExclusivePage { frame, since }) => {
                let mut table = mirror.table.0.lock().unwrap();
                if !manager.has_moved(mirror.id, since) {
                    table[page] = Some(Translation { frame: frame.into(), writable: true, exclusive: true });
                }
            }
            Err(ExclusiveError::Fault(error)) => self.check_fault(space, page, true, error, struck),
            Err(ExclusiveError::Pinned(_)) => {
                let birth = self.model().spaces[space][page].as_ref().map(|page| page.birth);
                assert!(self.pins.iter().any(|pinned| Some(pinned.birth) == birth), "nobody has pinned it");
            }
            Err(ExclusiveError::NotAnonymous(_)) => {
                assert!(self.model().spaces[space][page].as_ref().is_some_and(|page| page.sharers.is_some()));
            }
            Err(ExclusiveError::NotWatched(_)) => assert!(!mirror.watched.contains(&page)),
            Err(error @ ExclusiveError::WouldWaitForItself(_)) => panic!("no migration is open: {error}"),
        }
    }

    /// What devices have copied is what the tables say, or less.
    pub(super) fn check_mirrors(&self) {
        for (space, mirror) in self.mirrors.iter().enumerate() {
            let (Some(handle), Some(mirror)) = (self.spaces[space], mirror) else { continue };
            for page in 0..PAGES {
                let Some(there) = mirror.table.get(page) else { continue };
                let entry = handle.entry(at(page as u64, 0));
                assert_eq!(self.world.manager().mapped_frame(entry), Some(there.frame), "page {page}: {entry:?}");
                assert!(!matches!(entry.decode(), Entry::Migrating { .. }), "page {page} is on its way");
                let is_writable = match entry.decode() {
                    Entry::Device { writable, .. } => writable,
                    _ => entry.flags().contains(LeafFlags::WRITABLE),
                };
                assert!(!there.writable || is_writable, "page {page}: {entry:?}");
                let is_exclusive = matches!(entry.decode(), Entry::Exclusive { .. });
                assert!(!there.exclusive || is_exclusive, "page {page}, for the device alone: {entry:?}");
            }
        }
    }
}

/// What the device keeps of an answer. What it only looked at it does not write: nobody has marked the page as dirty for that.
fn translation(entry: MirrorEntry, want: Want) -> Option<Translation> {
    let (frame, writable) = match entry {
        MirrorEntry::Ram { frame, writable, .. } => (frame.into(), writable),
        MirrorEntry::Device { frame, writable, .. } => (frame.into(), writable),
        MirrorEntry::None | MirrorEntry::Error => return None,
    };
    Some(Translation { frame, writable: writable && want != Want::Look, exclusive: false })
}

/// Whether every word has one writer among the CPUs and the device.
const _: () = assert!(WORDS > WRITER);
