//! The blocks of the book that show a command and what it prints, and the comparison with what it prints now.
//!
//! ````text
//! ```console
//! $ ./run.sh shell --script docs/scripts/walk.ferry
//! ferry> map heap 8K
//! ...
//! ```
//! ````
//!
//! 1. A line that begins with `$ ` is a command; the lines after it, to the next command or the end, are what it must print.
//! 2. A line `...` stands for any number of lines; `...` inside a line stands for any text.
//! 3. Which frame of RAM a page gets changes with the kernel's size, so a frame stands for any other, but always for the same
//!    one, and two never for one: in physical addresses as in the bits of entries. All other bits count.
//!    In a line with `...`, frames are not compared.
use std::collections::HashMap;
use std::path::Path;

/// What opens a block.
const FENCE: &str = "```console";

/// A command and what it must print.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    pub command: String,
    pub prints: Vec<String>,
}

/// The commands of a page, in order.
///
/// # Errors
/// What is wrong with a block, and its line.
pub fn commands(page: &str) -> Result<Vec<Shown>, String> {
    let mut shown: Vec<Shown> = Vec::new();
    let mut inside = false;
    let mut commands_before = 0;
    for (number, line) in (1..).zip(page.lines()) {
        let wrong = |what: &str| Err(format!("line {number}: {what}"));
        match line {
            FENCE => (inside, commands_before) = (true, shown.len()),
            "```" if inside => {
                inside = false;
                match shown.get(commands_before..) {
                    None | Some([]) => return wrong("this block has no command; begin it with `$ ./run.sh ...`"),
                    Some(block) if block.iter().any(|shown| shown.prints.is_empty()) => {
                        return wrong("a command of this block shows no output; add what it prints");
                    }
                    Some(_) => {}
                }
            }
            _ if !inside => {}
            line => match (line.strip_prefix("$ "), shown.len() > commands_before) {
                (Some(command), _) => shown.push(Shown { command: command.to_owned(), prints: Vec::new() }),
                (None, false) => return wrong("output before the first command of the block"),
                (None, true) => shown.iter_mut().last().expect("one was found").prints.push(line.to_owned()),
            },
        }
    }
    if inside { Err("the last block is not closed".to_owned()) } else { Ok(shown) }
}

/// Holds what a command printed against what the page shows.
///
/// # Errors
/// The first line of the page that is not so, and what stands in its place.
pub fn compare(page: &[String], printed: &str) -> Result<(), String> {
    let mut frames = Frames::default();
    let mut printed = printed.lines();
    let mut any = false;
    for line in page {
        if line == "..." {
            any = true;
            continue;
        }
        loop {
            let Some(now) = printed.next() else {
                return Err(format!("the page shows\n  {line}\nbut the output ends before it"));
            };
            if frames.are_same(line, now) {
                break;
            }
            if !any {
                return Err(format!("the page shows\n  {line}\nbut now it is\n  {now}"));
            }
        }
        any = false;
    }
    match printed.next() {
        Some(more) if !any => Err(format!("the page ends, but now there is also\n  {more}")),
        _ => Ok(()),
    }
}

/// Which frame of the page stands for which of the output.
#[derive(Clone, Default)]
struct Frames {
    now: HashMap<u64, u64>,
    page: HashMap<u64, u64>,
}

impl Frames {
    fn are_same(&mut self, page: &str, now: &str) -> bool {
        let (shape, of_page) = without_frames(page);
        let (shape_now, of_now) = without_frames(now);
        if page.contains("...") {
            return elided(&shape, &shape_now);
        }
        let mut frames = self.clone();
        let same = shape == shape_now && of_page.into_iter().zip(of_now).all(|(page, now)| frames.pair(page, now));
        if same {
            *self = frames;
        }
        same
    }

    /// Whether these two may stand for each other, from now on if they did not before.
    fn pair(&mut self, page: u64, now: u64) -> bool {
        *self.now.entry(page).or_insert(now) == now && *self.page.entry(now).or_insert(page) == page
    }
}

/// Whether `line` is `pattern`, whose `...` stand for any text.
fn elided(pattern: &str, line: &str) -> bool {
    let pieces: Vec<_> = pattern.split("...").collect();
    let [first, between @ .., last] = &*pieces else { return pattern == line };
    let Some(middle) = line.strip_prefix(first).and_then(|rest| rest.strip_suffix(last)) else { return false };
    let found = between.iter().try_fold(middle, |rest, piece| rest.find(piece).map(|at| &rest[at + piece.len()..]));
    found.is_some()
}

/// A line with a mark for each frame of RAM, and the frames.
fn without_frames(line: &str) -> (String, Vec<u64>) {
    let (mut shape, mut frames, mut rest) = (String::new(), Vec::new(), line);
    while let Some(at) = rest.find("0x") {
        let (before, number) = rest.split_at(at);
        let digits = &number[2..];
        let digits = &digits[..digits.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digits.len())];
        shape += before;
        rest = &number[2 + digits.len()..];
        let value = u64::from_str_radix(digits, 16).unwrap_or_default();
        let frame = match before.chars().last() {
            Some('p') => Some(value >> 12),
            Some(' ') | None if digits.len() == 16 => frame_of_entry(value),
            _ => None,
        };
        match frame {
            Some(frame) => {
                frames.push(frame);
                shape += &format!("0x{:x}[frame]{:03x}", value >> 52, value & 0xfff);
            }
            None => shape += &number[..2 + digits.len()],
        }
    }
    (shape + rest, frames)
}

/// The frame of RAM that an entry names, as docs/memory-map.md draws it.
fn frame_of_entry(entry: u64) -> Option<u64> {
    const FRAME: u64 = (1 << 40) - 1;
    const KINDS_WITH_A_RAM_FRAME: [u64; 3] = [2, 4, 5];
    let (middle, kind, on_device) = (entry >> 12 & FRAME, entry >> 9 & 7, entry & 1 << 8 != 0);
    match entry & 1 {
        1 => Some(middle),
        _ if KINDS_WITH_A_RAM_FRAME.contains(&kind) && !on_device => Some(!middle & FRAME),
        _ => None,
    }
}

/// Checks of the comparison itself, by name.
pub const CHECKS: [(&str, fn()); 4] = [
    ("a_frame_stands_for_one_other", || {
        let page = ["a p0x3000 p0x4000", "0x8000000000003063", "0x800ffffffffff462 x", "0x800fffffffffc462"];
        let page: Vec<_> = page.map(str::to_owned).into();
        let same = "a p0x7000 p0x8000\n0x8000000000007063\n0x800ffffffffff462 x\n0x800fffffffff8462";
        assert_eq!(compare(&page, same), Ok(()));
        for (from, to) in [("p0x8000", "p0x7000"), ("7063", "8063"), ("7063", "7061"), ("8462", "7462")] {
            compare(&page, &same.replace(from, to)).expect_err(to);
        }
        let entry_and_words = ["0x8000000000003063  page frame p0x3000".to_owned()];
        assert_eq!(compare(&entry_and_words, "0x8000000000007063  page frame p0x7000"), Ok(()));
        compare(&entry_and_words, "0x8000000000007063  page frame p0x8000").expect_err("two frames in one line");
    }),
    ("what_is_left_out_may_be_anything", || {
        let page: Vec<_> = ["first", "...", "took ... s, ... pages", "last"].map(str::to_owned).into();
        assert_eq!(compare(&page, "first\ntook 1 s, 2 pages\nlast"), Ok(()));
        assert_eq!(compare(&page, "first\nx\ny\ntook 10.5 s, p0x1000 pages\nlast"), Ok(()));
        for wrong in ["first\nlast", "first\ntook 1 s, 2 pages", "first\ntook 1 s\nlast", "took 1 s, 2 pages\nlast"] {
            compare(&page, wrong).expect_err(wrong);
        }
    }),
    ("every_line_counts", || {
        let page = ["one".to_owned(), "two".to_owned()];
        assert_eq!(compare(&page, "one\ntwo\n"), Ok(()));
        for wrong in ["", "one", "two", "one\ntwo\nthree", "one\nTwo", "zero\none\ntwo"] {
            compare(&page, wrong).expect_err(wrong);
        }
    }),
    ("a_block_has_commands_and_their_output", || {
        let good = "```console\n$ a b\none\n\n$ c\ntwo\n```\n```text\n$ d\n```\n";
        let found = commands(good).expect("it is well-formed");
        assert_eq!(
            found.iter().map(|shown| (&*shown.command, shown.prints.len())).collect::<Vec<_>>(),
            [("a b", 2), ("c", 1)]
        );
        for wrong in
            ["```console\n```\n", "```console\n$ a\n```\n", "```console\nx\n$ a\ny\n```\n", "```console\n$ a\nx\n"]
        {
            commands(wrong).expect_err(wrong);
        }
    }),
];

/// The name of a page for a list of tests.
pub fn chapter(path: &Path) -> String {
    path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
