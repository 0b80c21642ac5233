//! The figures of an earlier run, in a file that is tracked: what has become worse?
//!
//! Figures depend on the compiler and on how QEMU counts, so they are compared only where both are those of the earlier run.
use std::path::{Path, PathBuf};

use tinyjson::JsonValue;

use super::failure::BenchFailure;
use super::figures::Figure;
use super::table;
use crate::artifacts::workspace;
use crate::json::Json;

/// A figure may be so many hundredths of the earlier one worse, and an instruction per page: what a compiler's mood makes of code that
/// nobody has touched.
const TOLERATED_HUNDREDTHS: u64 = 2;
const TOLERATED_INSTRUCTIONS: u64 = 1;

/// What figures depend on beside the source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tools {
    /// As `rustc --version` says.
    pub rustc: String,
    /// QEMU's version.
    pub qemu: String,
}

/// The file.
pub fn path() -> PathBuf {
    workspace().join("docs/bench.json")
}

/// What comparing came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Comparison {
    /// There is no earlier run.
    NoHistory,
    /// That was with these other tools.
    OtherTools(Tools),
    /// Nothing is worse than it may be; so many figures are better, and so many worse.
    Compared {
        /// Fewer instructions than before.
        better: u64,
        /// More.
        worse: u64,
    },
}

/// The text of the file.
pub fn text(tools: &Tools, figures: &[Figure]) -> String {
    let lines: Vec<_> = figures.iter().map(|figure| format!("  {}", table::json(figure))).collect();
    let [rustc, qemu] = [&tools.rustc, &tools.qemu].map(|text| Json::from(text.clone()));
    format!("{{\"rustc\":{rustc},\"qemu\":{qemu},\"results\":[\n{}\n]}}\n", lines.join(",\n"))
}

/// Compares with the file at `path`.
///
/// # Errors
/// [`BenchFailure::Worse`] with the first figure that is, [`BenchFailure::History`] where the file is not what [`text`] writes.
pub fn compare(path: &Path, tools: &Tools, figures: &[Figure]) -> Result<Comparison, BenchFailure> {
    let Ok(text) = std::fs::read_to_string(path) else { return Ok(Comparison::NoHistory) };
    let history = || BenchFailure::History(path.to_owned());
    let json: JsonValue = text.parse().map_err(|_| history())?;
    let member = |json: &JsonValue, name: &str| match json {
        JsonValue::Object(members) => members.get(name).cloned().ok_or_else(history),
        _ => Err(history()),
    };
    let string = |json: &JsonValue, name: &str| match member(json, name)? {
        JsonValue::String(text) => Ok(text),
        _ => Err(history()),
    };
    let number = |json: &JsonValue, name: &str| match member(json, name)? {
        JsonValue::Number(number) => Ok(number),
        _ => Err(history()),
    };
    let before = Tools { rustc: string(&json, "rustc")?, qemu: string(&json, "qemu")? };
    if before != *tools {
        return Ok(Comparison::OtherTools(before));
    }
    let JsonValue::Array(results) = member(&json, "results")? else { return Err(history()) };
    let (mut better, mut worse) = (0, 0);
    for old in &results {
        let (name, pages, cpus) = (string(old, "name")?, number(old, "pages")?, number(old, "cpus")?);
        let is_same =
            |figure: &&Figure| figure.name == name && (figure.pages as f64, f64::from(figure.cpus)) == (pages, cpus);
        let Some(figure) = figures.iter().find(is_same) else { continue };
        let hundredths = |value: f64| (value * 100.0).round() as u64;
        let (was, is) = (
            hundredths(number(old, "non_copy_instructions_per_page")?),
            figure.per_page(figure.non_copy_instructions()),
        );
        let [was_ipis, was_bytes] = [number(old, "ipis")?, number(old, "bar_bytes_written")?].map(|value| value as u64);
        let most = was + was * TOLERATED_HUNDREDTHS / 100 + TOLERATED_INSTRUCTIONS * 100;
        let (ipis, bytes) = (figure.counts.ipis, figure.counts.bar_bytes_written);
        for (what, was, is, most) in [
            ("hundredths of a non-copy instruction per page", was, is, most),
            ("IPIs", was_ipis, ipis, was_ipis),
            ("bytes written in the BAR", was_bytes, bytes, was_bytes),
        ] {
            if is > most {
                return Err(BenchFailure::Worse { name, pages: figure.pages, what, was, is });
            }
        }
        better += u64::from(is < was);
        worse += u64::from(is > was);
    }
    Ok(Comparison::Compared { better, worse })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::session::Counts;

    fn figure(instructions: u64, ipis: u64) -> Figure {
        let counts = Counts { instructions, ipis, ..Counts::default() };
        Figure { name: "fork".to_owned(), pages: 4, cpus: 1, counts }
    }

    #[test]
    fn worse_than_tolerated_fails_and_a_little_is_told() {
        let directory = std::env::temp_dir().join(format!("ferry-history-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("bench.json");
        let tools = Tools { rustc: "rustc 1".to_owned(), qemu: "7.2".to_owned() };
        assert_eq!(compare(&path, &tools, &[figure(800, 1)]).unwrap(), Comparison::NoHistory);
        // 200 instructions per page; 4 more, and one, are tolerated.
        std::fs::write(&path, text(&tools, &[figure(800, 1)])).unwrap();
        for (instructions, better, worse) in [(800, 0, 0), (799, 1, 0), (820, 0, 1)] {
            let same = compare(&path, &tools, &[figure(instructions, 1)]).unwrap();
            assert_eq!(same, Comparison::Compared { better, worse });
        }
        for too_much in [figure(821, 1), figure(800, 2)] {
            assert!(matches!(compare(&path, &tools, &[too_much]), Err(BenchFailure::Worse { pages: 4, .. })));
        }
        let others = Tools { rustc: "rustc 2".to_owned(), ..tools.clone() };
        assert_eq!(compare(&path, &others, &[figure(9000, 9)]).unwrap(), Comparison::OtherTools(tools.clone()));
        std::fs::write(&path, "{}").unwrap();
        assert!(matches!(compare(&path, &tools, &[figure(800, 1)]), Err(BenchFailure::History(_))));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
