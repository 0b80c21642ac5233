//! The entries of other spaces that map the same frames as a batch's own.
//!
//! A batch that meets a shared page takes all of its mappings, or gives the page up. The areas of every space it touches
//! stay held, shared, until it is done: so its `Migrating` entries there are seen by faults, which wait, and by
//! other migrations, which pass by, and by nobody else.
use alloc::vec::Vec;

use crate::frame::{AnyFrame, Origin};
use crate::machine::Machine;
use crate::manager::MemoryManager;
use crate::notify::{Announcement, Places, SharersToldOf};
use crate::page_table::entry::{Entry, LeafFlags, RawEntry};
use crate::page_table::flush::OwedFlush;
use crate::space::{Area, HeldSpace, MAX_SPACES, Space, SpaceId};

/// A space that is held, and the flush that is owed there.
pub(crate) type Hold<'m, M> = Option<(HeldSpace<'m, M>, OwedFlush)>;

/// The other spaces, held: in the heap for calls, in an array on the stack where the heap may not be used.
pub(crate) struct Others<'m, M: Machine, H = Vec<Hold<'m, M>>, A = Vec<Option<Announcement<'m, M>>>> {
    held: H,
    told: SharersToldOf<'m, M, A>,
}

/// Every space, on the stack.
pub(crate) type Everybody<'m, M> = Others<'m, M, [Hold<'m, M>; MAX_SPACES], Places<'m, M>>;

/// Why not every other space can be held.
pub(crate) enum NotHeld {
    /// No room in the heap for the list.
    NoMemory,
}

impl<'m, M: Machine> Others<'m, M> {
    /// Holds every space but `except` that can be held without waiting. A mapping in one that cannot is not found, and
    /// the count of mappings tells. `told` is who has been told in those that have listeners.
    pub(crate) fn hold(
        manager: &'m MemoryManager<M>,
        except: Option<SpaceId>,
        told: SharersToldOf<'m, M>,
    ) -> Result<Self, NotHeld> {
        let mut held = Vec::new();
        held.try_reserve_exact(MAX_SPACES).map_err(|_| NotHeld::NoMemory)?;
        held.extend(manager.try_hold_spaces(except).flatten().map(|space| Some((space, OwedFlush::new()))));
        Ok(Self { held, told })
    }
}

impl<'m, M: Machine> Everybody<'m, M> {
    /// Holds every space that can be held without waiting, and takes no heap memory for it.
    pub(crate) fn hold_all(manager: &'m MemoryManager<M>, told: SharersToldOf<'m, M, Places<'m, M>>) -> Self {
        let mut held = [const { None }; MAX_SPACES];
        for (place, space) in held.iter_mut().zip(manager.try_hold_spaces(None).flatten()) {
            *place = Some((space, OwedFlush::new()));
        }
        Self { held, told }
    }
}

impl<'m, M, H, A> Others<'m, M, H, A>
where
    M: Machine,
    H: AsRef<[Hold<'m, M>]> + AsMut<[Hold<'m, M>]>,
    A: AsRef<[Option<Announcement<'m, M>>]>,
    SharersToldOf<'m, M, A>: Default,
{
    /// Makes the entries that map `frame` in the other spaces `Migrating`; returns how many there were. An entry whose listeners
    /// were not told is left alone, and the count of mappings tells.
    pub(crate) fn take(&mut self, frame: AnyFrame, origin: Origin) -> u32 {
        let mut taken = 0;
        let told = &self.told;
        for (held, owed) in self.held.as_mut().iter_mut().flatten() {
            let owner = held.space.manager.machine.cpu();
            held.for_each_candidate(origin, |leaf, page, _| {
                if held.space.manager.is_mapped_by(frame, leaf.load(page)) && told.covers(held.space, page) {
                    let old = leaf.update(page, |raw| migrating(raw, frame, owner));
                    if old.is_present() {
                        owed.owe(crate::address::PageRange::of_page(page));
                    }
                    taken += 1;
                }
            });
        }
        taken
    }

    /// Whether a CPU has used the frame through an entry, as far as the entries' accessed bits say.
    pub(crate) fn is_used(&self, frame: AnyFrame, origin: Origin) -> bool {
        // A page that came home for an access counts as used: its accessed bit is still to be set.
        let mut used = false;
        for (held, _) in self.held.as_ref().iter().flatten() {
            held.for_each_candidate(origin, |leaf, page, _| {
                let manager = held.space.manager;
                used |= manager.any_descriptor(frame).stays() || is_used_through(manager, leaf.load(page), frame);
            });
        }
        used
    }

    /// Takes the accessed bit from every entry that maps `frame`. The flush is owed: a CPU that still has the translation
    /// would use the page without setting the bit again.
    pub(crate) fn forget_use(&mut self, frame: AnyFrame, origin: Origin) {
        for (held, owed) in self.held.as_mut().iter_mut().flatten() {
            held.for_each_candidate(origin, |leaf, page, _| {
                held.space.manager.any_descriptor(frame).end_stay();
                if is_used_through(held.space.manager, leaf.load(page), frame) {
                    leaf.update(page, |raw| RawEntry(raw.0 & !LeafFlags::ACCESSED.bits()));
                    owed.owe(crate::address::PageRange::of_page(page));
                }
            });
        }
    }

    /// Pays what taking entries owes, one flush per space; listeners may look again.
    pub(crate) fn flush(&mut self) {
        for (held, owed) in self.held.as_mut().iter_mut().flatten() {
            let manager = held.space.manager;
            core::mem::take(owed).pay(&manager.machine, held.space.state, &manager.statistics);
        }
        drop(core::mem::take(&mut self.told));
    }

    /// The flags that the taken entries of `frame` had, all together.
    pub(crate) fn saved_flags(&self, frame: AnyFrame, origin: Origin) -> LeafFlags {
        let mut all = LeafFlags::empty();
        for (held, _) in self.held.as_ref().iter().flatten() {
            let this_cpu = held.space.manager.machine.cpu();
            held.for_each_candidate(origin, |leaf, page, _| {
                if let Entry::Migrating { frame: named, flags, owner } = leaf.load(page).decode()
                    && named == frame
                    && owner == this_cpu
                {
                    all |= flags;
                }
            });
        }
        all
    }

    /// Replaces our `Migrating` entries of `frame` by what `entry` makes of each space, area and saved flags.
    pub(crate) fn replace(
        &self,
        frame: AnyFrame,
        origin: Origin,
        mut entry: impl FnMut(Space<'m, M>, &Area, LeafFlags) -> RawEntry,
    ) {
        for (held, _) in self.held.as_ref().iter().flatten() {
            let this_cpu = held.space.manager.machine.cpu();
            held.for_each_candidate(origin, |leaf, page, area| {
                if let Entry::Migrating { frame: named, flags, owner } = leaf.load(page).decode()
                    && named == frame
                    && owner == this_cpu
                {
                    leaf.swap(page, entry(held.space, area, flags));
                }
            });
        }
    }

    /// Gives every entry of `frame` that was taken in other spaces back, bit for bit. Nothing to flush: none was present.
    pub(crate) fn give_back(&self, frame: AnyFrame, origin: Origin) {
        self.replace(frame, origin, |space, area, flags| space.manager.entry_at_rest(frame, flags, area.protection));
    }
}

/// The `Migrating` entry in place of one that maps `frame`.
fn migrating(raw: RawEntry, frame: AnyFrame, owner: crate::machine::CpuId) -> RawEntry {
    // W, U, A, D and NX stand at the same places in every kind that has them.
    Entry::Migrating { frame, flags: raw.flags() & LeafFlags::CARRIED, owner }.encode()
}

fn is_used_through<M: Machine>(manager: &MemoryManager<M>, entry: RawEntry, frame: AnyFrame) -> bool {
    entry.is_present() && entry.flags().contains(LeafFlags::ACCESSED) && manager.is_mapped_by(frame, entry)
}
