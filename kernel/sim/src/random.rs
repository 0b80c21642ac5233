//! Pseudo-random numbers from a seed: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).

/// A sequence of numbers that its seed determines.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of this seed; `stream` tells several sequences of one seed apart.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut random = Self(seed ^ stream.wrapping_mul(0xd1b5_4a32_d192_ed03));
        random.draw();
        random
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.draw() % bound as u64) as usize
    }

    /// True in `of_256` of 256 cases.
    pub fn chance(&mut self, of_256: u8) -> bool {
        of_256 != 0 && (self.draw() & 0xff) < u64::from(of_256)
    }
}
