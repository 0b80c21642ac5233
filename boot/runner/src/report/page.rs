//! The page: style, scripts and data in one file that loads nothing.
//!
//! Invariants:
//! 1. Its content security policy forbids every request, so a page that would make one shows an error instead.
//! 2. What is put into it as text cannot end the element that it stands in.
use std::collections::HashMap;

use ferry_protocol::symbol::{CLOSE, OPEN};
use ferry_protocol::trace::{Event, FrameState};
use tinyjson::JsonValue;

use super::columns::{Columns, columns};
use super::stories::Story;
use crate::symbols::Symbols;
use crate::trace::stream::Stream;

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/style.css");

/// In the order in which they need each other.
const SCRIPTS: [&str; 8] = [
    include_str!("page/data.js"),
    include_str!("page/entry.js"),
    include_str!("page/model.js"),
    include_str!("page/words.js"),
    include_str!("page/grid.js"),
    include_str!("page/timeline.js"),
    include_str!("page/inspector.js"),
    include_str!("page/app.js"),
];

/// The page of a run.
pub fn page(stream: &Stream, story: &Story, symbols: &Symbols) -> String {
    let columns = columns(stream);
    let data = base64(&columns.bytes);
    let script = SCRIPTS.join("\n");
    let head = head(stream, story, &columns, symbols).replace('<', "\\u003c");
    let mut html = String::with_capacity(PAGE.len() + STYLE.len() + script.len() + head.len() + data.len());
    let parts: HashMap<&str, &str> =
        [("title", story.title), ("style", STYLE), ("head", &head), ("data", &data), ("script", &script)].into();
    // A part may hold what looks like a mark, so marks are looked for in the template only.
    for piece in PAGE.split("/*{") {
        match piece.split_once("}*/") {
            Some((name, rest)) => {
                html += parts[name];
                html += rest;
            }
            None => html += piece,
        }
    }
    html
}

/// Everything but the columns, as JSON.
fn head(stream: &Stream, story: &Story, columns: &Columns, symbols: &Symbols) -> String {
    let text = |text: &str| JsonValue::from(text.to_owned());
    let number = |number: u64| JsonValue::from(number as f64);
    let list = JsonValue::from;
    let state = &stream.records[..stream.first_event()];
    let frames = state.iter().filter_map(|record| match record.event {
        Event::Frames { first, count, state } => {
            let state = match state {
                FrameState::Reserved | FrameState::Kernel | FrameState::Table => 0,
                FrameState::Free => 1,
                FrameState::Zero => 3,
            };
            Some(list(vec![number(first), number(count), number(state)]))
        }
        _ => None,
    });
    let devices = state.iter().filter_map(|record| match record.event {
        Event::Device { device, frames, window } => {
            Some(list(vec![number(device.into()), number(frames), window.map_or(JsonValue::Null, number)]))
        }
        _ => None,
    });
    let steps = story.steps.iter().map(|(title, words)| list(vec![text(title), text(words)]));
    let instructions = columns.instructions.iter().map(|address| {
        let mark = format!("{OPEN}{address:x}{CLOSE}");
        text(&symbols.replace(&mark))
    });
    let object: HashMap<String, JsonValue> = [
        ("title", text(story.title)),
        ("about", text(story.about)),
        ("look", text(story.look)),
        ("steps", list(steps.collect::<Vec<_>>())),
        ("length", number(columns.length as u64)),
        ("frames", list(frames.collect::<Vec<_>>())),
        ("devices", list(devices.collect::<Vec<_>>())),
        ("names", list(columns.names.iter().map(|name| text(name)).collect::<Vec<_>>())),
        ("instructions", list(instructions.collect::<Vec<_>>())),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    JsonValue::from(object).stringify().unwrap_or_default()
}

/// RFC 4648, section 4.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let place = DIGITS[(word >> (18 - 6 * digit)) as usize & 63];
            text.push(if digit <= chunk.len() { char::from(place) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    /// The vectors of RFC 4648, section 10.
    #[test]
    fn base64_is_that_of_the_standard() {
        let vectors =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")];
        for (plain, encoded) in vectors {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}
