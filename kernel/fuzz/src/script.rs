//! An input as a script: numbers, read one after the other. Where it ends, everything is zero.

/// What is left of an input.
pub struct Script<'i>(&'i [u8]);

impl<'i> Script<'i> {
    /// All of it.
    pub fn new(input: &'i [u8]) -> Self {
        Self(input)
    }

    /// Whether nothing is left.
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// The next bytes; fewer where the input ends.
    pub fn bytes(&mut self, count: usize) -> &'i [u8] {
        let (taken, left) = self.0.split_at(self.0.len().min(count));
        self.0 = left;
        taken
    }

    /// What is left.
    pub fn rest(self) -> &'i [u8] {
        self.0
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    /// The next byte, as a number below `limit`.
    pub fn below(&mut self, limit: u8) -> u8 {
        self.byte() % limit
    }

    /// The next two bytes, little-endian.
    pub fn short(&mut self) -> u16 {
        self.wide(size_of::<u16>()) as u16
    }

    /// The offset of a word of eight bytes, below `limit`.
    pub fn word_below(&mut self, limit: usize) -> usize {
        usize::from(self.short()) % (limit / size_of::<u64>()) * size_of::<u64>()
    }

    /// The next eight bytes, little-endian.
    pub fn long(&mut self) -> u64 {
        self.wide(size_of::<u64>())
    }

    /// A number that is often small: one byte, unless that is all ones; then the eight that follow.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            u8::MAX => self.long(),
            small => small.into(),
        }
    }

    fn wide(&mut self, bytes: usize) -> u64 {
        self.bytes(bytes).iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}
