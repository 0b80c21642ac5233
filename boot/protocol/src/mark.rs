//! Marks: instructions that do nothing, by which the kernel tells an observer of its instructions where something begins or ends.
//!
//! A mark is `nop dword ptr [rax + disp32]` (Intel SDM 2B, NOP; seven bytes), whose displacement no compiler chooses:
//!
//! ```text
//!   0f 1f 80 │ nn 59 52 46       nn: which mark; then "FRY", backwards
//! ```
//!
//! The CPU computes no address for it and touches no memory. The kernel's release build has marks wherever pages are copied in
//! bulk and around what `./run.sh bench` measures; the observer is `boot/referee`, which recognises them by their bytes.

/// The first bytes of every mark: opcode and the operand's form.
pub const OPCODE: [u8; 3] = [0x0f, 0x1f, 0x80];

/// The upper bytes of every mark's displacement.
pub const TAG: u32 = 0x4652_5900;

/// Bytes of a mark.
pub const MARK_BYTES: usize = OPCODE.len() + size_of::<u32>();

/// What begins or ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mark {
    /// What is measured begins after this instruction.
    Begin = 1,
    /// It has ended before this one.
    End = 2,
    /// Bulk copying or clearing begins.
    CopyBegin = 3,
    /// It has ended.
    CopyEnd = 4,
    /// The next instructions do not count: a wait for the device model.
    Pause = 5,
    /// They count again.
    Resume = 6,
    /// The next instruction reads eight bytes at the start of the BAR.
    FirstWord = 7,
    /// The next instruction reads the last eight bytes of the BAR.
    LastWord = 8,
}

impl Mark {
    const ALL: [Self; 8] = [
        Self::Begin,
        Self::End,
        Self::CopyBegin,
        Self::CopyEnd,
        Self::Pause,
        Self::Resume,
        Self::FirstWord,
        Self::LastWord,
    ];

    /// The mark of this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|mark| *mark as u8 == number)
    }

    /// The displacement that stands in the instruction.
    pub const fn displacement(self) -> u32 {
        TAG | self as u32
    }

    /// The mark that an instruction of these bytes is, if it is one.
    pub fn decode(instruction: &[u8]) -> Option<Self> {
        let displacement = instruction.strip_prefix(&OPCODE)?.try_into().ok().map(u32::from_le_bytes)?;
        Self::ALL.into_iter().find(|mark| mark.displacement() == displacement)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_told_from_other_nops() {
        // As an assembler makes it of `nop dword ptr [rax + 0x46525903]`.
        assert_eq!(Mark::decode(&[0x0f, 0x1f, 0x80, 0x03, 0x59, 0x52, 0x46]), Some(Mark::CopyBegin));
        for other in [&[0x0f, 0x1f, 0x80, 0, 0, 0, 0][..], &[0x0f, 0x1f, 0x80, 0x03, 0x59, 0x52], &[0x90], &[]] {
            assert_eq!(Mark::decode(other), None);
        }
    }
}
