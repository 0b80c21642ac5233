//! The console: bytes of the first serial port as lines of text.
use std::io::Read;

/// Longest line that is kept together; a longer one is cut, so that a guest gone wild cannot fill the host's memory.
const LONGEST_LINE: usize = 4096;

/// Reads `stream` to its end and hands every line to `take` until that returns `false`.
///
/// An unfinished last line counts as one. Control characters are dropped, so that a guest gone wild cannot
/// rearrange the terminal; bytes that are no UTF-8 are replaced.
pub fn lines(mut stream: impl Read, mut take: impl FnMut(String) -> bool) {
    let mut buffer = [0; 4096];
    let mut line = Vec::new();
    loop {
        let count = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        for &byte in &buffer[..count] {
            if byte != b'\n' {
                line.push(byte);
            }
            if (byte == b'\n' || line.len() == LONGEST_LINE) && !take(text(&mut line)) {
                return;
            }
        }
    }
    if !line.is_empty() {
        take(text(&mut line));
    }
}

fn text(line: &mut Vec<u8>) -> String {
    let text = String::from_utf8_lossy(line).chars().filter(|character| !character.is_control()).collect();
    line.clear();
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Vec<String> {
        let mut all = Vec::new();
        lines(bytes, |line| {
            all.push(line);
            true
        });
        all
    }

    #[test]
    fn lines_are_split_and_the_last_may_be_unfinished() {
        assert_eq!(of(b"one\r\n\ntwo\nthr"), ["one", "", "two", "thr"]);
        assert_eq!(of(b""), [""; 0]);
    }

    #[test]
    fn wild_bytes_do_no_harm() {
        assert_eq!(of(b"\x1b[2Jhello\xff\n"), ["[2Jhello\u{fffd}"]);
        let long = of(&[b'x'; LONGEST_LINE + 1]);
        assert_eq!(long.iter().map(String::len).collect::<Vec<_>>(), [LONGEST_LINE, 1]);
    }
}
