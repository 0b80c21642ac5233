//! The host's end of the link: bytes of the second serial port as frames.
//!
//! See [`ferry_protocol::link`] for what stands in a frame.
use std::io::{BufRead, BufReader, Read};

use ferry_protocol::link::MAX_FRAME_BYTES;

/// The frames of a stream, without their closing zeros.
///
/// A frame longer than the protocol allows is handed out cut, so that decoding reports it. An unfinished last frame,
/// of a machine that ended while it sent, is handed out too.
pub struct Frames<R> {
    stream: BufReader<R>,
}

impl<R: Read> Frames<R> {
    /// The frames of `stream`.
    pub fn new(stream: R) -> Self {
        Self { stream: BufReader::new(stream) }
    }
}

impl<R: Read> Iterator for Frames<R> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut frame = Vec::new();
        let longest = MAX_FRAME_BYTES as u64;
        match self.stream.by_ref().take(longest).read_until(0, &mut frame) {
            // A connection that breaks off is one that ends: QEMU is gone.
            Ok(0) | Err(_) => None,
            Ok(_) => {
                if frame.last() == Some(&0) {
                    frame.pop();
                }
                Some(frame)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_protocol::link::{self, FromKernel, LinkError, VERSION};

    #[test]
    fn frames_are_split_at_zeros() {
        let mut stream = Vec::new();
        for record in [FromKernel::Hello { version: VERSION }, FromKernel::Test { name: "a::b" }, FromKernel::Done] {
            let mut buffer = [0; MAX_FRAME_BYTES];
            stream.extend_from_slice(link::encode(&record, &mut buffer).unwrap());
        }
        let mut frames: Vec<_> = Frames::new(stream.as_slice()).collect();
        assert_eq!(frames.len(), 3);
        assert_eq!(link::decode(&mut frames[0]), Ok(FromKernel::Hello { version: VERSION }));
        assert_eq!(link::decode(&mut frames[1]), Ok(FromKernel::Test { name: "a::b" }));
        assert_eq!(link::decode(&mut frames[2]), Ok(FromKernel::Done));
    }

    #[test]
    fn noise_becomes_frames_that_do_not_decode() {
        let noise = vec![0xff; 3 * MAX_FRAME_BYTES];
        let mut frames: Vec<_> = Frames::new(noise.as_slice()).collect();
        assert_eq!(frames.len(), 3);
        for frame in &mut frames {
            assert_eq!(link::decode::<FromKernel>(frame), Err(LinkError::Malformed));
        }
        assert_eq!(link::decode::<FromKernel>(&mut []), Err(LinkError::Malformed));
    }
}
