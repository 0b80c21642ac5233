//! The documentation against the source: what README and `docs/` say must be so.
//!
//! Pages are read as text, tables by the heading above them; the other side is the source text, the constants
//! themselves, or what the tool prints.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too, end a test by a panic")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use ferry::artifacts::{cargo, workspace};
use ferry_device::geometry::{FRAME_BYTES, FrameIndex, Geometry, MIN_BAR_BYTES};
use ferry_device::layout::{self, Place};
use ferry_mm::frame::{DeviceFrame, DeviceId};
use ferry_mm::lock::{Level, Levels, Rules};
use ferry_mm::machine::CpuId;
use ferry_mm::page_table::entry::{Entry, LeafFlags, SwapSlot};
use support::{ferry, run};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

/// Longest line of a page, in characters.
const LONGEST_LINE: usize = 120;

fn read(path: impl AsRef<Path>) -> String {
    let path = workspace().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every page, by its path in the workspace.
fn pages() -> Vec<(PathBuf, String)> {
    let names = std::fs::read_dir(workspace().join("docs")).unwrap().map(|entry| entry.unwrap().file_name());
    let pages = names.filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "md"));
    let paths = ["README.md".into(), "CHANGELOG.md".into()].into_iter().chain(pages.map(|n| Path::new("docs").join(n)));
    paths.map(|path: PathBuf| (path.clone(), read(path))).collect()
}

/// The text below a heading of any level, up to the next of this or a higher level.
fn section<'t>(page: &'t str, heading: &str) -> &'t str {
    let start = page.find(&format!("{heading}\n")).unwrap_or_else(|| panic!("there is no heading {heading:?}"));
    let text = &page[start + heading.len()..];
    let level = heading.find(' ').unwrap();
    let ends = (1..=level).filter_map(|level| text.find(&format!("\n{} ", "#".repeat(level))));
    &text[..ends.min().unwrap_or(text.len())]
}

/// The rows of the tables in a text whose first column is code, as cells without the marks of code.
fn rows(text: &str) -> Vec<Vec<String>> {
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect()).collect()
}

/// One column of a table, by the first.
fn column(text: &str, column: usize) -> BTreeMap<String, String> {
    rows(text).into_iter().map(|row| (row[0].clone(), row[column].clone())).collect()
}

/// What stands in code marks in running text, without code blocks.
fn code_words(page: &str) -> Vec<String> {
    let prose: String = page.split("```").step_by(2).collect();
    prose.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// All text of the source files of the workspace, with continued string lines joined.
fn sources() -> String {
    fn collect(directory: &Path, text: &mut String) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                *text += &std::fs::read_to_string(path).unwrap();
            }
        }
    }
    let mut text = read("run.sh");
    for directory in ["boot/loader/src", "boot/protocol/src", "boot/runner/src", "device", "kernel"] {
        collect(&workspace().join(directory), &mut text);
    }
    let mut parts = text.split("\\\n");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |joined, part| joined + part.trim_start())
}

/// Hexadecimal or decimal, with separators.
fn number(text: &str) -> u64 {
    let digits = text.replace(['_', ','], "");
    let parsed = digits.strip_prefix("0x").map_or_else(|| digits.parse(), |hex| u64::from_str_radix(hex, 16));
    parsed.unwrap_or_else(|_| panic!("{text:?} is no number"))
}

fn numbers<'n>(pairs: impl IntoIterator<Item = (&'n str, u64)>) -> BTreeMap<String, u64> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn as_numbers(column: BTreeMap<String, String>) -> BTreeMap<String, u64> {
    column.into_iter().map(|(name, value)| (name, number(&value))).collect()
}

#[test]
fn lines_are_not_too_long() {
    for (path, page) in pages() {
        for (i, line) in page.lines().enumerate() {
            assert!(line.chars().count() <= LONGEST_LINE, "{}:{} is too long", path.display(), i + 1);
        }
    }
}

/// What a code host makes of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || "- _".contains(*c)).collect::<String>().replace(' ', "-")
}

#[test]
fn every_relative_link_leads_somewhere() {
    let mut links = 0;
    for (path, page) in pages() {
        for target in page.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if target.contains("://") {
                continue;
            }
            links += 1;
            let (file, fragment) = target.split_once('#').unwrap_or((target, ""));
            let linked = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(workspace().join(&linked).exists(), "{}: {target} does not exist", path.display());
            let page = if fragment.is_empty() { String::new() } else { read(&linked) };
            let found = page.lines().any(|line| line.starts_with('#') && anchor(line) == fragment);
            assert!(fragment.is_empty() || found, "{}: {target} has no such heading", path.display());
        }
    }
    assert!(links > 10, "{links} links are too few: is this how links are written?");
}

#[test]
fn every_page_is_in_the_summary() {
    let summary = read("docs/SUMMARY.md");
    for (path, _) in pages().iter().filter(|(path, _)| path.starts_with("docs")) {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(name == "SUMMARY.md" || summary.contains(&format!("]({name})")), "{name} is not in the summary");
    }
}

#[test]
fn every_file_and_test_that_is_named_exists() {
    let mut files = 0;
    let (sources, tests) = (sources(), read("boot/runner/tests/docs.rs"));
    for (path, page) in pages() {
        for word in code_words(&page) {
            let extension = Path::new(&word).extension().and_then(|extension| extension.to_str());
            if word.contains('/')
                && !word.contains(' ')
                && matches!(extension, Some("rs" | "md" | "sh" | "ld" | "toml"))
            {
                files += 1;
                assert!(workspace().join(&word).exists(), "{}: there is no {word}", path.display());
            }
            // Two dots stand for the rest of a name.
            let (name, end) = word.strip_suffix("..").map_or((word.as_str(), "("), |start| (start, ""));
            let name = name.rsplit("::").next().unwrap();
            let with_module = ["rules.md", "lessons.md"].iter().any(|page| path.ends_with(page)) && word.contains("::");
            let names_tests = with_module || path.ends_with("testing.md");
            let is_name =
                name.len() > 20 && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if names_tests && is_name {
                let function = format!("fn {name}{end}");
                assert!(sources.contains(&function) || tests.contains(&function), "there is no test {name}");
            }
        }
    }
    assert!(files > 20, "{files} files are too few: is this how they are written?");
}

#[test]
fn options_are_those_of_the_tool() {
    let help = |arguments: &[&str]| run(ferry(arguments).arg("--help")).out;
    let words = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
        let options =
            words.filter(|word| word.strip_prefix("--").is_some_and(|name| !name.trim_matches('-').is_empty()));
        options.map(str::to_owned).collect()
    };
    let all = help(&[]);
    let listed = all.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let commands: Vec<_> = listed.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert!(commands.contains(&"demo"), "{commands:?}");
    let of_tool = commands.iter().fold(words(&all), |all, command| &all | &words(&help(&[command])));
    let readme = read("README.md");
    let usage = section(&readme, "## Commands and options");
    for command in &commands {
        let first = rows(usage).into_iter().map(|row| row[0].split(' ').next().unwrap().to_owned());
        assert!(first.into_iter().any(|name| name == *command), "README does not name the command {command}");
    }
    let named = words(usage);
    assert_eq!(of_tool.difference(&named).collect::<Vec<_>>(), [""; 0], "README does not name these");
    let of_cargo = BTreeSet::from(["--workspace".to_owned(), "--release".to_owned()]);
    let unknown: Vec<_> = named.difference(&of_tool).filter(|word| !of_cargo.contains(*word)).collect();
    assert_eq!(unknown, [""; 0], "the tool does not know these");
}

#[test]
fn the_keys_of_the_json_are_those_that_are_written() {
    let source = read("boot/runner/src/demo/summary.rs");
    let bodies = source.split("fn to_json").skip(1).map(|body| body.split("\n    }\n").next().unwrap());
    let body: String = bodies.collect();
    let written = body.split("(\"").skip(1).chain(body.split("(\n                \"").skip(1));
    let written: BTreeSet<_> = written.map(|rest| rest.split('"').next().unwrap().to_owned()).collect();
    let readme = read("README.md");
    let table = rows(section(&readme, "### The JSON of `--json`"));
    // Members of inner objects stand in the row of their object.
    let inner =
        table.iter().filter(|row| ["input", "leaked", "devices", "per_cpu", "strict"].contains(&row[0].as_str()));
    let inner: String = inner.map(|row| row[1].replace([',', '.'], " ")).collect::<Vec<_>>().join(" ");
    for key in &written {
        let named = table.iter().any(|row| row[0] == *key) || inner.split(' ').any(|word| word == key);
        assert!(named, "README does not explain the key {key}");
    }
    for row in &table {
        assert!(written.contains(&row[0]), "{} is not written", row[0]);
    }
}

#[test]
fn each_message_in_the_troubleshooting_is_said_by_the_source() {
    let (sources, readme) = (sources(), read("README.md"));
    let headings = section(&readme, "## Troubleshooting").lines().filter(|line| line.starts_with("#### "));
    let mut count = 0;
    for heading in headings {
        count += 1;
        let message = heading.trim_start_matches("#### ").trim_matches('`');
        assert!(sources.contains(message), "no source says {message:?}");
    }
    assert!(count > 20, "{count} messages are too few: is this how they are written?");
}

#[test]
fn windows_are_those_of_the_layout() {
    let source = read("kernel/src/arch/layout.rs");
    let mut chosen = BTreeMap::new();
    for line in source.lines() {
        let Some((name, window)) =
            line.strip_prefix("pub const ").and_then(|l| l.split_once(": Window = Window::new("))
        else {
            continue;
        };
        let (first, last) = window.trim_end_matches(");").split_once(", ").unwrap();
        chosen.insert(name.to_owned(), (number(first), number(last)));
    }
    assert!(chosen.len() >= 8, "{chosen:#x?}");
    let page = read("docs/memory-map.md");
    let table = rows(section(&page, "## Virtual addresses"));
    let drawn = table.into_iter().map(|row| (row[0].clone(), (number(&row[1]), number(&row[2])))).collect();
    assert_eq!(chosen, drawn, "left: the source, right: the page");
}

#[test]
fn places_in_the_bar_are_those_of_the_layout() {
    fn place<T>(name: &str, place: Place<T>) -> (&str, (u64, u64)) {
        (name, (place.offset() as u64, size_of::<T>() as u64))
    }
    let first_frame = Geometry::of_bar(MIN_BAR_BYTES).unwrap().frame_offset(FrameIndex(0)).unwrap();
    let places = [
        place("IDENTIFICATION", layout::IDENTIFICATION),
        place("STATE", layout::STATE),
        place("HEARTBEAT", layout::HEARTBEAT),
        place("CONSUMER", layout::CONSUMER),
        place("REQUEST_PRODUCER", layout::REQUEST_PRODUCER),
        place("ANSWER_CONSUMER", layout::ANSWER_CONSUMER),
        place("PRODUCER", layout::PRODUCER),
        place("REQUEST_CONSUMER", layout::REQUEST_CONSUMER),
        place("ANSWER_PRODUCER", layout::ANSWER_PRODUCER),
        place("command_place(0)", layout::command_place(0)),
        place("completion_place(0)", layout::completion_place(0)),
        place("request_place(0)", layout::request_place(0)),
        place("answer_place(0)", layout::answer_place(0)),
        ("frame_offset(0)", (first_frame as u64, FRAME_BYTES as u64)),
    ];
    let source = read("device/src/layout.rs");
    for name in source.lines().filter_map(|line| line.strip_prefix("pub const ")?.split_once(": Place<")) {
        assert!(places.iter().any(|(known, _)| *known == name.0), "this test does not know {}", name.0);
    }
    let page = read("docs/memory-map.md");
    let bar = section(&page, "## The BAR");
    assert_eq!(as_numbers(column(bar, 1)), numbers(places.map(|(name, (offset, _))| (name, offset))));
    assert_eq!(as_numbers(column(bar, 2)), numbers(places.map(|(name, (_, bytes))| (name, bytes))));
}

#[test]
fn bits_and_kinds_are_those_of_the_codec() {
    /// Where the kind stands in a special entry.
    const KIND: std::ops::Range<u32> = 9..12;
    let frame = PhysFrame::containing_address(PhysAddr::new(0));
    let device = DeviceFrame::new(DeviceId::new(0).unwrap(), 0);
    let flags = LeafFlags::empty();
    let kinds = [
        ("Swap", Entry::Swap { slot: SwapSlot::new(0).unwrap() }),
        ("Migrating", Entry::Migrating { frame: frame.into(), flags, owner: CpuId::BOOT }),
        ("Device", Entry::Device { frame: device, writable: false }),
        ("Exclusive", Entry::Exclusive { frame, flags }),
        ("NoAccess", Entry::NoAccess { frame, flags }),
        ("Poison", Entry::Poison),
    ];
    let code = |entry: Entry| entry.encode().0 >> KIND.start & ((1 << KIND.len()) - 1);
    let page = read("docs/memory-map.md");
    let (bits, special) = section(&page, "## Entries").split_once("| kind |").unwrap();
    assert_eq!(as_numbers(column(special, 1)), numbers(kinds.map(|(name, entry)| (name, code(entry)))));
    let flags = LeafFlags::all().iter_names();
    let named: Vec<_> = flags.map(|(name, flag)| (name, u64::from(flag.bits().trailing_zeros()))).collect();
    assert_eq!(as_numbers(column(bits, 1)), numbers(named));
}

/// The locks that may be taken inside `level`, in words.
fn inside(level: Level) -> String {
    let levels = level.rules().inside;
    let named = |level: &Level| format!("`{level:?}`");
    match levels {
        Levels::NONE => "nothing".to_owned(),
        levels if levels == Levels::after(level) => "all below".to_owned(),
        levels => Level::ALL.iter().filter(|inner| levels.contains(**inner)).map(named).collect::<Vec<_>>().join(", "),
    }
}

#[test]
fn locks_are_those_of_the_code() {
    let page = read("docs/lock-order.md");
    let tables_of = |heading: &str| -> Vec<String> {
        section(&page, heading).lines().filter(|line| line.starts_with("| `")).map(str::to_owned).collect()
    };
    let protects = Level::ALL.map(|level| format!("| `{level:?}` | {} |", level.rules().protects));
    assert_eq!(tables_of("### What each protects"), protects, "left: the page, right:\n{}", protects.join("\n"));
    let may = Level::ALL.map(|level| {
        let Rules { taken, frames, waits, innermost, .. } = level.rules();
        let taken = if taken.is_empty() { "tried".to_owned() } else { format!("{taken:?}").to_lowercase() };
        let frames = if frames { "yes" } else { "no" };
        let row =
            [taken.trim_matches(['[', ']']), &inside(level), frames, &format!("{waits:?}"), &format!("{innermost:?}")];
        format!("| `{level:?}` | {} |", row.join(" | "))
    });
    assert_eq!(tables_of("### What may happen while it is held"), may, "left: the page, right:\n{}", may.join("\n"));
}

/// Nothing waits for a lock that the order does not know.
#[test]
fn no_lock_is_taken_outside_of_the_order() {
    for crate_file in [
        "kernel/Cargo.toml",
        "kernel/acpi/Cargo.toml",
        "kernel/fw_cfg/Cargo.toml",
        "kernel/pci/Cargo.toml",
        "device/Cargo.toml",
        "boot/protocol/Cargo.toml",
    ] {
        assert!(!read(crate_file).contains("spin"), "{crate_file}: use the locks of ferry_mm::lock");
    }
    fn check(directory: &Path) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                check(&path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.iter().any(|p| p == "lock") {
                let text = std::fs::read_to_string(&path).unwrap();
                assert!(!text.contains("spin::"), "{}: use the locks of crate::lock", path.display());
            }
        }
    }
    check(&workspace().join("kernel/mm/src"));
}

/// The packages of a dependency tree, each once, as `cargo tree` formats them.
fn tree(arguments: &[&str]) -> BTreeSet<String> {
    let mut command = Command::new(cargo());
    command.current_dir(workspace()).args(["tree", "--locked", "--prefix", "none", "--no-dedupe"]).args(arguments);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn no_crate_of_the_guest_has_std() {
    const TESTS: [&str; 2] = ["--features", "ferry-kernel/tests"];
    let guest = ["--package", "ferry-kernel", "--package", "ferry-loader", "--format", "{p}"];
    let guest = tree(&[&TESTS[..], &guest, &["--edges", "normal,no-proc-macro"]].concat());
    let everybody = ["--workspace", "--format", "{p}|{f}", "--edges", "normal,dev,no-proc-macro"];
    let everybody = tree(&[&TESTS[..], &everybody].concat());
    let features: BTreeMap<_, _> = everybody.iter().filter_map(|line| line.split_once('|')).collect();
    for package in guest {
        let features = features.get(&*package).unwrap_or_else(|| panic!("{package} is not in the workspace's tree"));
        let has_std = features.split(',').any(|feature| feature == "std");
        assert!(!has_std, "{package}, which the kernel or the loader uses, has std");
    }
}
