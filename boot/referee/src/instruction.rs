//! Instructions that count, told by their bytes.
use ferry_protocol::mark::Mark;

/// What an instruction is to the referee.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A mark of the kernel.
    Mark(Mark),
    /// INVLPG (Intel SDM 2A: `0F 01 /7` with a memory operand).
    InvalidatePage,
    /// A move to CR3 (Intel SDM 2B: `0F 22 /r`, register field 3).
    LoadRoot,
    /// A near call (Intel SDM 2A: `E8`, `FF /2`).
    Call,
    /// A near return (Intel SDM 2B: `C3`, `C2`).
    Return,
    /// Any other.
    Other,
}

impl Kind {
    /// What the instruction of these bytes is.
    pub fn of(bytes: &[u8]) -> Self {
        if let Some(mark) = Mark::decode(bytes) {
            return Self::Mark(mark);
        }
        // Prefixes that change nothing about what these are: REX, of which only R would name other registers; repeat and branch hints.
        let prefixes = bytes.iter().take_while(|byte| matches!(byte, 0x40..=0x4f | 0xf2 | 0xf3)).count();
        let extends_register = bytes[..prefixes].iter().any(|byte| matches!(byte, 0x40..=0x4f) && byte & 0b100 != 0);
        match bytes[prefixes..] {
            [0x0f, 0x01, form, ..] if register(form) == 7 && form < 0xc0 => Self::InvalidatePage,
            [0x0f, 0x22, form, ..] if register(form) == 3 && !extends_register => Self::LoadRoot,
            [0xe8, ..] => Self::Call,
            [0xff, form, ..] if register(form) == 2 => Self::Call,
            [0xc3 | 0xc2, ..] => Self::Return,
            _ => Self::Other,
        }
    }
}

/// The register field of a ModRM byte.
const fn register(form: u8) -> u8 {
    form >> 3 & 0b111
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_told_by_their_bytes() {
        // As `objdump` shows them.
        for (bytes, kind) in [
            (&[0x0f, 0x01, 0x3f][..], Kind::InvalidatePage),   // invlpg [rdi]
            (&[0x41, 0x0f, 0x01, 0x38], Kind::InvalidatePage), // invlpg [r8]
            (&[0x0f, 0x01, 0xf8], Kind::Other),                // swapgs
            (&[0x0f, 0x01, 0x1f], Kind::Other),                // lidt [rdi]
            (&[0x0f, 0x22, 0xd8], Kind::LoadRoot),             // mov cr3, rax
            (&[0x41, 0x0f, 0x22, 0xd8], Kind::LoadRoot),       // mov cr3, r8
            (&[0x0f, 0x22, 0xe0], Kind::Other),                // mov cr4, rax
            (&[0x0f, 0x20, 0xd8], Kind::Other),                // mov rax, cr3
            (&[0xe8, 0, 0, 0, 0], Kind::Call),                 // call
            (&[0xff, 0x15, 0, 0, 0, 0], Kind::Call),           // call [rip]
            (&[0x41, 0xff, 0xd6], Kind::Call),                 // call r14
            (&[0xff, 0xe0], Kind::Other),                      // jmp rax
            (&[0xc3], Kind::Return),                           // ret
            (&[0x48, 0xcf], Kind::Other),                      // iretq
            (&[0x90], Kind::Other),                            // nop
            (&[], Kind::Other),
        ] {
            assert_eq!(Kind::of(bytes), kind, "{bytes:02x?}");
        }
        assert_eq!(Kind::of(&[0x0f, 0x1f, 0x80, 0x01, 0x59, 0x52, 0x46]), Kind::Mark(Mark::Begin));
    }
}
