//! One address space on one device: the device's page table, and the listener that keeps it true.
use super::{MOST_LOOKS, MirrorProblem, service, span_of};
use crate::arch::machine::Hardware;
use crate::memory::{AddressSpace, device, manager};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};
use ferry_device::command::Command;
use ferry_device::context::MAX_CONTEXTS;
use ferry_device::page_table::{self, PageTable, Rights, TableEntry, Target};
use ferry_device::request::{Access, Verdict};
use ferry_device::{ContextId, FrameIndex, PageSpan, RamFrame, VirtualPage};
use ferry_mm::address::{PAGE_BYTES, PageRange};
use ferry_mm::frame::{DeviceId, DeviceRun};
use ferry_mm::lock::{Level, Lock, LockGuard, Once};
use ferry_mm::machine::Machine;
use ferry_mm::manager::MAX_DEVICES;
use ferry_mm::mirror::{MirrorEntry, MirrorError, MirrorRequest, Place, Want};
use ferry_mm::notify::{Invalidation, Listener, ListenerId, Watch};
use ferry_mm::space::ExclusivePage;
use x86_64::VirtAddr;
use x86_64::structures::paging::{Page, PhysFrame};

/// Pages that are faulted in for one answer; a device that wants more asks again.
const PAGES_PER_ANSWER: u64 = 4096;

/// The contexts of each device that are in use, one bit each.
static IN_USE: [AtomicU32; MAX_DEVICES] = [const { AtomicU32::new(0) }; MAX_DEVICES];

const _: () = assert!(MAX_CONTEXTS <= u32::BITS as usize, "a bit for each context");

/// A window of a space, as a device follows it.
pub(super) struct Context {
    device: DeviceId,
    id: ContextId,
    space: AddressSpace,
    table: Lock<PageTable>,
    /// The frames of the table; freed when the context is gone.
    _frames: DeviceRun<'static, Hardware>,
    listener: Once<ListenerId>,
}

impl Context {
    pub(super) fn open(space: AddressSpace, window: PageRange, device: DeviceId) -> Result<Arc<Self>, MirrorProblem> {
        let span = span_of(window)?;
        let count = page_table::frames_of(span);
        let full = MirrorProblem::DeviceFull { device, frames: count };
        let frames = manager().take_device_run(device, count as u32).map_err(|_| full)?;
        let indices: Vec<_> = frames.frames().map(|frame| FrameIndex(u64::from(frame.index()))).collect();
        let bar = device::with_driver(device, |driver, _| driver.bar().clone());
        let table = PageTable::new(bar, span, &indices)?;
        let (id, root) = (take_id(device)?, table.root());
        let table = Lock::new(Level::MirrorTable, table);
        let context = Arc::new(Self { device, id, space, table, _frames: frames, listener: Once::new(Level::Stored) });
        let attach = Command::Attach { context: id, window: span, root };
        if let Err(error) = device::with_driver(device, |driver, patience| driver.run(attach, patience)) {
            give_id_back(device, id);
            return Err(error.into());
        }
        let watch = Watch { range: window, device: Some(device) };
        match space.listen(watch, context.clone()) {
            Ok(listener) => {
                context.listener.get_or_init(&Hardware, || listener);
                Ok(context)
            }
            Err(error) => {
                context.detach()?;
                Err(error.into())
            }
        }
    }

    /// Ends what the device does for the space, then listens no more.
    pub(super) fn close(&self) -> Result<(), MirrorProblem> {
        self.detach()?;
        manager().unlisten(self.listener());
        Ok(())
    }

    fn detach(&self) -> Result<(), MirrorProblem> {
        let detach = Command::Detach(self.id);
        device::with_driver(self.device, |driver, patience| driver.run(detach, patience))?;
        service::forget(self);
        give_id_back(self.device, self.id);
        Ok(())
    }

    pub(super) fn device(&self) -> DeviceId {
        self.device
    }

    pub(super) fn id(&self) -> ContextId {
        self.id
    }

    pub(super) fn space(&self) -> AddressSpace {
        self.space
    }

    pub(super) fn listener(&self) -> ListenerId {
        *self.listener.get().expect("a context listens before it is handed out")
    }

    /// Makes what the device misses usable, as far as that can be, and says how to go on.
    pub(super) fn resolve(&self, span: PageSpan, access: Access) -> Verdict {
        let Ok(range) = range_of(span, PAGES_PER_ANSWER) else { return Verdict::Fault };
        let want = match access {
            Access::Read => Want::Read,
            Access::Write => Want::Write,
            Access::Atomic => {
                return match self.take_page(range.start()) {
                    Ok(()) | Err(MirrorProblem::Restless(_)) => Verdict::Retry,
                    Err(MirrorProblem::Exclusive(_)) => Verdict::Fault,
                    Err(_) => Verdict::Failed,
                };
            }
        };
        let found = match self.fault_in(range, want) {
            // Where RAM has no room for all of them, they drive each other out. The device goes on with the first one.
            Err(MirrorProblem::Restless(_)) if range.pages() > 1 => self.fault_in(range.part(0, 1), want),
            found => found,
        };
        match found {
            // What is restless is looked at again when the device asks again.
            Ok(()) | Err(MirrorProblem::Restless(_)) => Verdict::Retry,
            Err(MirrorProblem::Pages(MirrorError::Fault(_))) => Verdict::Fault,
            Err(MirrorProblem::Pages(MirrorError::NotPermitted(_))) => Verdict::NotPermitted,
            Err(_) => Verdict::Failed,
        }
    }

    fn fault_in(&self, range: PageRange, want: Want) -> Result<(), MirrorProblem> {
        let listener = self.listener();
        let mut entries = vec![MirrorEntry::None; range.pages() as usize];
        for _ in 0..MOST_LOOKS {
            let Ok(since) = manager().sequence(listener) else {
                Hardware.relax();
                continue;
            };
            match self.space.range_fault(range, &MirrorRequest { listener, since, want }, &mut entries) {
                Ok(_) => {}
                Err(MirrorError::Again) => continue,
                Err(error) => return Err(error.into()),
            }
            if self.bring_near(range, &entries)? {
                continue;
            }
            let table = self.lock_table();
            if manager().has_moved(listener, since) {
                continue;
            }
            for (index, entry) in (0..).zip(&entries) {
                if let Some(entry) = entry_of(*entry) {
                    table.set(number_of(range.page(index)), entry)?;
                }
            }
            table.publish();
            return Ok(());
        }
        Err(MirrorProblem::Restless(range))
    }

    /// Brings home what lies behind the BAR of another device, which this one does not reach; whether there was anything.
    fn bring_near(&self, range: PageRange, entries: &[MirrorEntry]) -> Result<bool, MirrorProblem> {
        let mut any = false;
        for (index, entry) in (0..).zip(entries) {
            if let MirrorEntry::Device { place: Place::Remote, .. } = entry {
                any = true;
                let page = range.part(index, 1);
                let stays = self.space.migrate_to_system(page).map(|report| report.stayed.total() > 0);
                if stays != Ok(false) {
                    return Err(MirrorProblem::Restless(page));
                }
            }
        }
        Ok(any)
    }

    /// Gives a page to the device alone.
    pub(super) fn take_page(&self, page: Page) -> Result<(), MirrorProblem> {
        let listener = self.listener();
        for _ in 0..MOST_LOOKS {
            let ExclusivePage { frame, since } = self.space.make_exclusive(page.start_address(), listener)?;
            let table = self.lock_table();
            if manager().has_moved(listener, since) {
                continue;
            }
            table.set(number_of(page), TableEntry { target: ram(frame), rights: Rights::Atomic })?;
            table.publish();
            return Ok(());
        }
        Err(MirrorProblem::Restless(range_of(PageSpan::new(number_of(page), 1)?, 1)?))
    }

    pub(super) fn exclusive_pages(&self, span: PageSpan) -> Result<u64, MirrorProblem> {
        let table = self.lock_table();
        let mut count = 0;
        for number in span.numbers() {
            let entry = table.entry(VirtualPage(number))?;
            count += u64::from(entry.is_some_and(|entry| entry.rights == Rights::Atomic));
        }
        Ok(count)
    }

    /// Waits for the table's lock. Bounded: whoever has it writes entries, and waits for nobody.
    fn lock_table(&self) -> LockGuard<'_, PageTable, Hardware> {
        self.table.lock(&Hardware)
    }
}

impl Listener for Context {
    /// Takes no heap memory: a fault may call it.
    fn invalidate(&self, event: &Invalidation) {
        let span = span_of(event.range).expect("within the window that the device has accepted");
        // The frames of the table exist, so clearing cannot fail.
        let cleared = self.lock_table().clear(span);
        let invalidate = Command::Invalidate { context: self.id, span };
        let done = device::with_driver(self.device, |driver, patience| driver.run(invalidate, patience));
        if cleared.is_err() || done.is_err() {
            // The driver asks it nothing any more; it must not reach memory on its own, either.
            device::silence(self.device);
        }
    }
}

/// How a page's entry stands in the device's table.
fn entry_of(entry: MirrorEntry) -> Option<TableEntry> {
    let (target, writable) = match entry {
        MirrorEntry::Ram { frame, writable, .. } => (ram(frame), writable),
        MirrorEntry::Device { frame, writable, place: Place::Local } => {
            (Target::Local(FrameIndex(u64::from(frame.index()))), writable)
        }
        MirrorEntry::None | MirrorEntry::Error | MirrorEntry::Device { place: Place::Remote, .. } => return None,
    };
    Some(TableEntry { target, rights: if writable { Rights::Write } else { Rights::Read } })
}

fn ram(frame: PhysFrame) -> Target {
    Target::Ram(RamFrame(frame.start_address().as_u64() / PAGE_BYTES))
}

fn number_of(page: Page) -> VirtualPage {
    VirtualPage(page.start_address().as_u64() / PAGE_BYTES)
}

/// The first `most` pages of a span that the device names.
fn range_of(span: PageSpan, most: u64) -> Result<PageRange, MirrorProblem> {
    let start = VirtAddr::new_truncate(span.first().0 * PAGE_BYTES);
    let outside = MirrorProblem::Pages(MirrorError::Fault(start));
    PageRange::covering(start, span.count().min(most) * PAGE_BYTES).map_err(|_| outside)
}

fn take_id(device: DeviceId) -> Result<ContextId, MirrorProblem> {
    let in_use = &IN_USE[usize::from(device.number())];
    let mut bits = in_use.load(Ordering::Relaxed);
    loop {
        let id = ContextId::new(u64::from(bits.trailing_ones())).ok_or(MirrorProblem::TooMany(device))?;
        match in_use.compare_exchange(bits, bits | 1 << id.number(), Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => return Ok(id),
            Err(now) => bits = now,
        }
    }
}

fn give_id_back(device: DeviceId, id: ContextId) {
    IN_USE[usize::from(device.number())].fetch_and(!(1 << id.number()), Ordering::AcqRel);
}
