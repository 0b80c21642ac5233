//! Bytes as they come in, until they are a frame.
use super::{LinkError, MAX_FRAME_BYTES};

/// Room for one frame.
///
/// Invariants:
/// 1. It holds at most [`MAX_FRAME_BYTES`] bytes, of which only the last one may be zero.
/// 2. What is complete, or too long, is forgotten with the next byte.
#[derive(Clone, Debug)]
pub struct FrameBuffer {
    bytes: [u8; MAX_FRAME_BYTES],
    length: usize,
    is_over: bool,
}

impl Default for FrameBuffer {
    fn default() -> Self {
        Self { bytes: [0; MAX_FRAME_BYTES], length: 0, is_over: false }
    }
}

impl FrameBuffer {
    /// Takes a byte in; says whether it was the last one of a frame, which is [`FrameBuffer::frame`] then.
    ///
    /// # Errors
    /// [`LinkError::TooLong`] where there is room for no more bytes and the frame goes on.
    pub fn push(&mut self, byte: u8) -> Result<bool, LinkError> {
        if core::mem::take(&mut self.is_over) {
            self.length = 0;
        }
        let is_last = byte == 0;
        self.bytes[self.length] = byte;
        self.length += 1;
        self.is_over = is_last || self.length == MAX_FRAME_BYTES;
        if self.is_over && !is_last { Err(LinkError::TooLong) } else { Ok(is_last) }
    }

    /// The bytes so far.
    pub fn frame(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_follow_each_other_and_none_is_too_long() {
        let mut buffer = FrameBuffer::default();
        for byte in [7, 8] {
            assert_eq!(buffer.push(byte), Ok(false));
        }
        assert_eq!((buffer.push(0), &*buffer.frame()), (Ok(true), &[7, 8, 0][..]));
        for _ in 1..MAX_FRAME_BYTES {
            assert_eq!(buffer.push(9), Ok(false));
        }
        let mut longest = buffer.clone();
        assert_eq!((longest.push(0), longest.frame().len()), (Ok(true), MAX_FRAME_BYTES));
        assert_eq!(buffer.push(9), Err(LinkError::TooLong));
        assert_eq!((buffer.push(0), &*buffer.frame()), (Ok(true), &[0][..]));
    }
}
