//! The table of listeners: who watches what.
//!
//! A place is used again only when no announcement counts on it any more, so an announcement may remember places by number.
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{Invalidation, Listener};
use crate::address::PageRange;
use crate::frame::DeviceId;
use crate::lock::{Level, Lock};
use crate::machine::Machine;
use crate::manager::MemoryManager;
use crate::space::{Space, SpaceId};

/// How many listeners there may be at a time: an announcement notes each in one bit of a word.
pub const MAX_LISTENERS: usize = 64;

/// A listener, by its place and by which of the place's users it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListenerId {
    pub(super) place: u8,
    serial: u32,
}

/// What a listener watches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watch {
    /// The pages.
    pub range: PageRange,
    /// The device whose translations the listener keeps, if it is one's: its own pages are no foreign ones to it.
    pub device: Option<DeviceId>,
}

/// Why there is no new listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ListenError {
    /// There are [`MAX_LISTENERS`] already.
    TooMany,
    /// This CPU holds a migration open, for whose end it might have to wait before somebody can listen in this space.
    WouldWaitForItself(SpaceId),
}

impl core::fmt::Display for ListenError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooMany => write!(f, "there are {MAX_LISTENERS} listeners already; remove one first"),
            Self::WouldWaitForItself(space) => write!(
                f,
                "this CPU holds a migration open; finish or drop it before listening in address space {}",
                space.number()
            ),
        }
    }
}

impl core::error::Error for ListenError {}

/// One listener and what it watches.
struct Registration {
    space: SpaceId,
    watch: Watch,
    listener: Arc<dyn Listener>,
}

/// What of a place is read without a lock.
#[derive(Default)]
pub(super) struct Place {
    /// Announcements that are under way for this listener.
    pub(super) active: AtomicU32,
    /// Those of which it is still to be told, or is being told right now.
    calling: AtomicU32,
    /// How many there have been.
    pub(super) sequence: AtomicU64,
    /// Which user of the place this is.
    serial: AtomicU32,
}

/// Every listener.
pub(crate) struct Registry {
    registrations: Lock<[Option<Registration>; MAX_LISTENERS]>,
    pub(super) places: [Place; MAX_LISTENERS],
}

/// The places of listeners, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Places(u64);

impl Places {
    fn iter(self) -> impl Iterator<Item = usize> {
        (0..MAX_LISTENERS).filter(move |place| self.0 & (1 << place) != 0)
    }
}

impl Registry {
    pub(crate) fn new() -> Self {
        Self {
            registrations: Lock::new(Level::Listeners, [const { None }; MAX_LISTENERS]),
            places: core::array::from_fn(|_| Place::default()),
        }
    }

    /// The place of a listener that is still registered, or is just being removed.
    pub(super) fn place(&self, id: ListenerId) -> Option<&Place> {
        let place = self.places.get(usize::from(id.place))?;
        (place.serial.load(Ordering::Acquire) == id.serial).then_some(place)
    }

    /// Notes that an invalidation begins for every listener of `event` but `except`.
    pub(super) fn begin<M: Machine>(&self, machine: &M, event: &Invalidation, except: Option<ListenerId>) -> Places {
        let registrations = self.registrations.lock(machine);
        let mut begun = Places::default();
        for (number, place) in self.places.iter().enumerate() {
            let Some(registration) = &registrations[number] else { continue };
            let is_excluded = except.is_some_and(|id| usize::from(id.place) == number && self.place(id).is_some());
            if registration.space == event.space
                && registration.watch.range.intersection(event.range).is_some()
                && !is_excluded
            {
                place.calling.fetch_add(1, Ordering::SeqCst);
                // In this order: whoever reads the old sequence and then no activity was there before.
                place.active.fetch_add(1, Ordering::SeqCst);
                place.sequence.fetch_add(1, Ordering::SeqCst);
                begun.0 |= 1 << number;
            }
        }
        begun
    }

    /// Calls the listeners in `places`, for which [`Self::begin`] came before, without a lock. Each stays until it has been called:
    /// its removal waits for that. Its place stays until [`Self::end`].
    pub(super) fn call<M: Machine>(&self, machine: &M, places: Places, event: &Invalidation) {
        for place in places.iter() {
            let found = self.registrations.lock(machine)[place].as_ref().and_then(|registration| {
                let range = registration.watch.range.intersection(event.range)?;
                Some((registration.listener.clone(), range))
            });
            if let Some((listener, range)) = found {
                listener.invalidate(&Invalidation { range, ..*event });
                // Before whoever removes it may go on, so that it is not dropped here, in a fault perhaps.
                drop(listener);
            }
            self.places[place].calling.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Notes that an invalidation has ended.
    pub(super) fn end(&self, places: Places) {
        for place in places.iter() {
            self.places[place].active.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl<M: Machine> MemoryManager<M> {
    /// The device of a listener; `None` where it has none or is gone.
    pub(crate) fn device_of_listener(&self, id: ListenerId) -> Option<DeviceId> {
        let registrations = self.listeners.registrations.lock(&self.machine);
        self.listeners.place(id)?;
        registrations[usize::from(id.place)].as_ref()?.watch.device
    }

    /// Whether a listener watches all of `range` in `space`.
    pub(crate) fn watches(&self, id: ListenerId, space: SpaceId, range: PageRange) -> bool {
        let registrations = self.listeners.registrations.lock(&self.machine);
        let registered = registrations[usize::from(id.place)].as_ref().filter(|_| self.listeners.place(id).is_some());
        registered.is_some_and(|found| found.space == space && found.watch.range.contains(range))
    }

    /// Removes a listener and returns it; `None` where it is gone already. It is not called any more from now on.
    ///
    /// Waits until calls of it that are under way have returned, which is bounded. Not to be called by the listener.
    pub fn unlisten(&self, id: ListenerId) -> Option<Arc<dyn Listener>> {
        let (place, registration) = {
            let mut registrations = self.listeners.registrations.lock(&self.machine);
            let place = self.listeners.place(id)?;
            let registration = registrations[usize::from(id.place)].take()?;
            // With the lock held, so that whoever gets the place next has a number of its own.
            place.serial.fetch_add(1, Ordering::Release);
            (place, registration)
        };
        while place.calling.load(Ordering::SeqCst) > 0 {
            self.machine.relax();
        }
        if let Some(space) = self.space(registration.space) {
            space.state.listening.remove();
        }
        Some(registration.listener)
    }

    /// Removes the listeners of a space that is gone.
    pub(crate) fn forget_listeners(&self, space: SpaceId) {
        for number in 0..MAX_LISTENERS {
            let id = {
                let registrations = self.listeners.registrations.lock(&self.machine);
                let serial = self.listeners.places[number].serial.load(Ordering::Acquire);
                registrations[number]
                    .as_ref()
                    .filter(|registration| registration.space == space)
                    .map(|_| ListenerId { place: number as u8, serial })
            };
            // Dropped here, where no lock is held.
            drop(id.and_then(|id| self.unlisten(id)));
        }
    }
}

impl<M: Machine> Space<'_, M> {
    /// Has `listener` told before entries of `watch` get weaker, from now until it is removed or the space is destroyed.
    ///
    /// Waits for operations that are at work in this space and cannot tell it any more; bounded by their work.
    ///
    /// # Errors
    /// See [`ListenError`].
    ///
    /// # Examples
    /// ```
    /// # use ferry_mm::address::PageRange;
    /// # use ferry_mm::frame::DeviceId;
    /// # use ferry_mm::space::Protection;
    /// # use ferry_sim::World;
    /// # use x86_64::VirtAddr;
    /// # let world = World::builder().device(8).swap(8).build();
    /// # let space = world.manager().create_space()?;
    /// # let range = PageRange::covering(VirtAddr::new(0x4000_0000), 4 * 4096)?;
    /// # space.map_anonymous(range, Protection::READ_WRITE)?;
    /// # let cpu = world.cpu(0);
    /// # cpu.enter(space);
    /// # let device = DeviceId::new(0).expect("a number of a device");
    /// # let first = range.start_address();
    /// use ferry_mm::notify::{Invalidation, InvalidationReason, Listener, Watch};
    /// use std::sync::{Arc, Mutex};
    ///
    /// #[derive(Default)]
    /// struct Told(Mutex<Vec<InvalidationReason>>);
    ///
    /// impl Listener for Told {
    ///     fn invalidate(&self, event: &Invalidation) {
    ///         self.0.lock().unwrap().push(event.reason);
    ///     }
    /// }
    ///
    /// let told = Arc::new(Told::default());
    /// let listener = space.listen(Watch { range, device: None }, told.clone())?;
    /// cpu.store(first, b"a first touch makes an entry stronger: nobody is told")?;
    /// space.protect(range, Protection::READ)?;
    /// assert_eq!(space.migrate_to_device(range, device)?.moved, 4);
    /// assert_eq!(*told.0.lock().unwrap(), [InvalidationReason::Protect, InvalidationReason::Migrate]);
    /// world.manager().unlisten(listener);
    /// # world.assert_all_free();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn listen(self, watch: Watch, listener: Arc<dyn Listener>) -> Result<ListenerId, ListenError> {
        let manager = self.manager;
        if self.manager.holds_migration_open() {
            return Err(ListenError::WouldWaitForItself(self.id()));
        }
        let registry = &manager.listeners;
        let id = {
            let mut registrations = registry.registrations.lock(&manager.machine);
            let is_free = |place: usize| {
                registrations[place].is_none() && registry.places[place].active.load(Ordering::SeqCst) == 0
            };
            let place = (0..MAX_LISTENERS).find(|place| is_free(*place)).ok_or(ListenError::TooMany)?;
            registrations[place] = Some(Registration { space: self.id(), watch, listener });
            ListenerId { place: place as u8, serial: registry.places[place].serial.load(Ordering::Acquire) }
        };
        self.state.listening.add();
        // Whoever holds the areas now may not have seen the listener; whoever takes them later does.
        drop(self.state.areas.write(&manager.machine));
        Ok(id)
    }
}

/// How many listeners a space has, and how many it has had: one word, so that one load tells both.
#[derive(Default)]
pub(crate) struct Listening(AtomicU64);

/// What a [`Listening`] was at some moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ListenersSeen(u64);

/// One listener more, in the upper half of the word: how many there have been.
const EVER: u64 = 1 << 32;

impl Listening {
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    #[inline]
    pub(crate) fn seen(&self) -> ListenersSeen {
        ListenersSeen(self.0.load(Ordering::SeqCst))
    }

    fn add(&self) {
        self.0.fetch_add(EVER + 1, Ordering::SeqCst);
    }

    fn remove(&self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl ListenersSeen {
    /// Whether there were none.
    #[inline]
    pub(crate) fn is_none(self) -> bool {
        self.0 as u32 == 0
    }
}
