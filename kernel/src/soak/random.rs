//! Numbers that look random and follow from a seed, so that a round can be run again.

/// A generator (SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
pub(super) struct Random(u64);

impl Random {
    /// The generator of `seed`; those of neighbouring seeds have nothing in common.
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The seed of the `index`-th generator that descends from `seed`.
    pub(super) fn descendant(seed: u64, index: u64) -> u64 {
        Self(seed ^ Self(index).next()).next()
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which is not 0. The bias of the remainder does not matter here.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(super) fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }
}
