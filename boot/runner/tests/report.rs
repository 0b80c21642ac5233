//! The report in a browser: it complains of nothing, asks for nothing, and shows at every event what the records say.
//!
//! A picture of each scenario is left in `target/report-pictures`, for whoever wants to look.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too, end a test by a panic")]

mod support;

use std::path::PathBuf;

use ferry::artifacts::workspace;
use ferry::trace::replay::Replay;
use ferry::trace::stream::Stream;
use ferry_protocol::trace::Frame;
use support::browser::Browser;
use support::{Scratch, ferry, noise, run};

/// Largest page of a demo of 16 MiB.
const MOST_BYTES: u64 = 20 << 20;

/// Where the pages of scenarios and demo begin.
const START: u64 = 0x1234_5678_9000;

/// A report and the records that it was made of.
struct Report {
    html: PathBuf,
    records: Vec<u8>,
    _scratch: Scratch,
}

fn report(arguments: &[&str]) -> Report {
    let scratch = Scratch::new();
    let (html, records) = (scratch.path().join("report.html"), scratch.path().join("records"));
    run(ferry(&["report", "--out"]).arg(&html).arg("--records").arg(&records).args(arguments)).is_verified();
    Report { html, records: std::fs::read(records).unwrap(), _scratch: scratch }
}

/// The frames that a dump of the page tells of.
fn frames_of(dump: &str) -> Vec<Frame> {
    let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let frames = dump.lines().filter_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
        ["ram", frame, _] => Some(Frame::Ram(number(frame))),
        ["device", device, frame, _] => Some(Frame::Device(device.parse().unwrap(), number(frame) as u32)),
        _ => None,
    });
    frames.collect()
}

/// Holds what the page has at an event against the records, which are replayed here up to there.
fn compare(browser: &mut Browser, replay: &Replay, position: usize) {
    let shown = browser.text("ferry.dump()");
    let frames = frames_of(&shown);
    assert_eq!(shown, replay.dump(&frames), "after {position} events");
    let listed = |frame: &Frame| frames.contains(frame);
    assert!(replay.named.keys().all(listed), "after {position} events a frame with a page is not shown");
    assert!(
        replay.tables.keys().all(|table| listed(&Frame::Ram(*table))),
        "after {position} events a table is not shown"
    );
}

fn nothing_wrong(browser: &Browser, report: &Report) {
    assert_eq!(browser.complaints, [""; 0]);
    assert_eq!(browser.requested, [format!("file://{}", report.html.display())], "a request leaves the file");
}

/// Goes through a scenario event by event; leaves a picture of the moment `telling` events after the beginning of a step.
fn scenario(name: &str, step: usize, telling: usize, page: (u16, u64)) {
    let mut report = report(&["--scenario", name]);
    let mut browser = Browser::start();
    browser.open(&report.html);
    let mut records = report.records.clone();
    let stream = Stream::decode(&mut records).unwrap();
    let first = stream.first_event();
    let length = stream.records.len() - first;
    assert_eq!(browser.number("ferry.length"), length as f64);
    assert!(browser.number("ferry.steps().length") >= 5.0);

    // By keyboard from the beginning, event by event, of all kinds.
    browser.evaluate("document.querySelectorAll('#filters input:not(:checked)').forEach((box) => box.click())");
    let mut replay = Replay::of(&stream, first).unwrap();
    compare(&mut browser, &replay, 0);
    browser.evaluate(&format!("ferry.select({}, {})", page.0, START / 4096 + page.1));
    for position in 1..=length {
        browser.press("ArrowRight");
        assert_eq!(browser.number("ferry.position()"), position as f64);
        replay.step(&stream, first + position - 1).unwrap();
        compare(&mut browser, &replay, position);
        assert_eq!(leaf_shown(&mut browser), leaf(&replay, page), "the chosen page's entry after {position} events");
        assert!(
            browser.text("document.getElementById('clock').textContent").starts_with(&format!("event {position} of "))
        );
        assert!(
            !browser.text("document.getElementById('words').textContent").is_empty(),
            "event {position} has no words"
        );
    }
    // Backwards, and far.
    for position in [length / 2, length / 2 - 1, 1, length] {
        browser.evaluate(&format!("ferry.go({position})"));
        compare(&mut browser, &Replay::of(&stream, first + position).unwrap(), position);
    }
    for tab in ["events", "costs", "story"] {
        browser.evaluate(&format!("ferry.show('{tab}')"));
    }
    // As a reader finds it: counts follow from the rest, and are not stepped through.
    browser.evaluate("document.querySelector('#filters label:last-of-type input').click()");
    picture(&mut browser, name, step, telling, page);
    nothing_wrong(&browser, &report);
    report.records.clear();
}

/// The level-1 entry that the walk of the chosen page shows; nothing where the walk ends above it.
fn leaf_shown(browser: &mut Browser) -> String {
    browser.text("document.querySelector('.walk details:last-of-type code').textContent")
}

/// The level-1 entry of a page of a space, as the records tell.
fn leaf(replay: &Replay, (space, page): (u16, u64)) -> String {
    let address = START + page * 4096;
    let Some(space) = replay.spaces.get(&space) else { return String::new() };
    let table = space.entries.contains_key(&(2, address & !0x1f_ffff));
    let entry = space.entries.get(&(1, address)).copied().unwrap_or(0);
    if table { format!("{entry:#018x}") } else { String::new() }
}

/// Leaves a picture in light, and one in dark, of a page of a space at a moment of the story.
fn picture(browser: &mut Browser, name: &str, step: usize, telling: usize, (space, page): (u16, u64)) {
    browser.evaluate(&format!("ferry.go(ferry.steps()[{step}] + 1 + {telling})"));
    browser.evaluate(&format!("ferry.select({space}, {})", START / 4096 + page));
    let directory = workspace().join("target/report-pictures");
    std::fs::create_dir_all(&directory).unwrap();
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        let png = decoded(&browser.picture());
        assert!(png.starts_with(b"\x89PNG") && png.len() > 20_000, "an empty picture");
        std::fs::write(directory.join(format!("{name}-{scheme}.png")), png).unwrap();
    }
}

/// RFC 4648, section 4.
fn decoded(base64: &str) -> Vec<u8> {
    let value = |digit: u8| match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = base64.bytes().filter(|digit| *digit != b'=').map(value).collect();
    let bytes = digits.chunks(4).flat_map(|chunk| {
        let word = chunk.iter().fold(0_u32, |word, digit| word << 6 | u32::from(*digit)) << (6 * (4 - chunk.len()));
        word.to_be_bytes()[1..chunk.len()].to_vec()
    });
    bytes.collect()
}

#[test]
fn there_and_back_is_shown_as_it_was() {
    scenario("there-and-back", 1, 40, (0, 0));
}

#[test]
fn copy_on_write_is_shown_as_it_was() {
    scenario("copy-on-write", 2, 3, (0, 1));
}

#[test]
fn a_pinned_page_is_shown_as_it_was() {
    scenario("pinned-page", 2, 45, (0, 2));
}

#[test]
fn swapped_pages_that_migrate_are_shown_as_they_were() {
    scenario("swap-then-migrate", 2, 10, (0, 1));
}

#[test]
fn ping_pong_is_shown_as_it_was() {
    scenario("ping-pong", 3, 22, (0, 1));
}

#[test]
fn an_eviction_is_shown_as_it_was() {
    scenario("eviction", 2, 41, (1, 2));
}

#[test]
fn a_missing_flush_is_shown_as_it_was() {
    scenario("missing-flush", 5, 1, (0, 2));
}

#[test]
fn a_large_demo_opens_at_once_and_scrubs_without_stalls() {
    let scratch = Scratch::new();
    let input = scratch.file("input", noise(18 << 20));
    let report = report(&["--input", input.to_str().unwrap()]);
    let bytes = std::fs::metadata(&report.html).unwrap().len();
    assert!(bytes < MOST_BYTES, "{bytes} bytes");
    let mut records = report.records.clone();
    let stream = Stream::decode(&mut records).unwrap();
    let length = stream.records.len() - stream.first_event();
    assert!(length > 100_000, "{length} events");
    let mut browser = Browser::start();
    let opening = std::time::Instant::now();
    browser.open(&report.html);
    assert_eq!(browser.number("ferry.length"), length as f64);
    let opened = opening.elapsed();
    // The slowest of jumps to places all over the run, drawn each time.
    let slowest = browser.number(
        "(() => { let slowest = 0; for (let i = 0; i < 60; i++) { const start = performance.now(); \
         ferry.go((i * 7919 * 13) % ferry.length); slowest = Math.max(slowest, performance.now() - start); } return slowest; })()",
    );
    println!("{length} events, {bytes} bytes, opened in {opened:?}, slowest jump {slowest:.1} ms");
    // Far above what it takes, so that a busy machine does not matter, and far below what a stall would be.
    assert!(opened.as_secs() < 20 && slowest < 1000.0, "opened in {opened:?}, slowest jump {slowest} ms");
    for position in [0, length / 3, 2 * length / 3, length] {
        browser.evaluate(&format!("ferry.go({position})"));
        compare(&mut browser, &Replay::of(&stream, stream.first_event() + position).unwrap(), position);
    }
    picture(&mut browser, "demo", 1, 9000, (0, 100));
    nothing_wrong(&browser, &report);
}
