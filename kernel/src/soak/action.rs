//! What a CPU may do next, and how often it does.

/// Everything that a CPU does, by weight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    /// Store to a word of the common pages that only this CPU writes.
    Store,
    /// Look at words of the common pages that others write.
    Look,
    /// Store to a page of its own.
    StoreOwn,
    /// Look at a page of its own.
    LookOwn,
    /// Move pages to a device.
    Migrate,
    /// Bring pages home by a call.
    BringHome,
    /// Empty a device.
    Evict,
    /// Send pages to the swap disk.
    SwapOut,
    /// Fork, look at the child, store in it, and destroy it.
    Fork,
    /// Pin a page, have somebody migrate it, and see that it stayed.
    Pin,
    /// Make pages read-only, try a store, and make them writable again.
    Protect,
    /// Unmap pages and map new ones.
    Remap,
    /// Throw contents away.
    Discard,
    /// Allow that contents are thrown away.
    FreeLazily,
    /// Move pages to other addresses and back.
    Relocate,
    /// Have a device that follows the space add to a word, atomically.
    DeviceAdd,
}

impl Action {
    /// Every action, with its name in reports and its weight.
    pub(super) const ALL: [(Self, &'static str, u64); 16] = [
        (Self::Store, "store", 30),
        (Self::Look, "look", 20),
        (Self::StoreOwn, "store-own", 12),
        (Self::LookOwn, "look-own", 8),
        (Self::Migrate, "migrate", 14),
        (Self::BringHome, "bring-home", 5),
        (Self::Evict, "evict", 1),
        (Self::SwapOut, "swap-out", 4),
        (Self::Fork, "fork", 3),
        (Self::Pin, "pin", 4),
        (Self::Protect, "protect", 4),
        (Self::Remap, "remap", 3),
        (Self::Discard, "discard", 3),
        (Self::FreeLazily, "free-lazily", 3),
        (Self::Relocate, "relocate", 2),
        (Self::DeviceAdd, "device-add", 3),
    ];

    const WEIGHTS: u64 = {
        let (mut sum, mut index) = (0, 0);
        while index < Self::ALL.len() {
            sum += Self::ALL[index].2;
            index += 1;
        }
        sum
    };

    /// The action that `number` picks, by weight.
    pub(super) fn picked(number: u64) -> Self {
        let mut rest = number % Self::WEIGHTS;
        for (action, _, weight) in Self::ALL {
            if rest < weight {
                return action;
            }
            rest -= weight;
        }
        Self::Store
    }
}

/// How often each action was done, and how often it was refused because somebody else had the pages or there was no memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Tally {
    pub done: [u64; Action::ALL.len()],
    pub refused: [u64; Action::ALL.len()],
}

impl Tally {
    pub(super) fn note(&mut self, action: Action, end: End) {
        let counts = match end {
            End::Done => &mut self.done,
            End::Refused => &mut self.refused,
        };
        counts[action as usize] += 1;
    }

    pub(super) fn actions(&self) -> u64 {
        self.done.iter().chain(&self.refused).sum()
    }
}

impl core::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        for (mine, others) in [(&mut self.done, other.done), (&mut self.refused, other.refused)] {
            mine.iter_mut().zip(others).for_each(|(mine, other)| *mine += other);
        }
    }
}

/// How an action ended that broke nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Done,
    /// Somebody else had the pages, or there was no memory; nothing has changed.
    Refused,
}
