//! What the end-to-end tests share: the tool, files for it, and what it said.
#![allow(dead_code, reason = "each test binary uses its own part")]
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tinyjson::JsonValue;

pub mod browser;
pub mod console_block;

/// How often a directory is tried to be removed while somebody still writes into it, and how long is waited in between.
const REMOVAL_TRIES: u32 = 50;
const REMOVAL_PAUSE: Duration = Duration::from_millis(100);

/// A directory of one test, removed with its contents when the test is over.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ferry-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, contents).unwrap();
        path
    }

    /// An executable shell script.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.file(name, format!("#!/bin/bash\n{text}\n"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The helpers of a browser end by themselves when it is gone, and write into its directory until then.
        for _ in 0..REMOVAL_TRIES {
            if std::fs::remove_dir_all(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(REMOVAL_PAUSE);
        }
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Bytes that look random and are the same in every run (xorshift64, Marsaglia 2003).
pub fn noise(count: usize) -> Vec<u8> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..count.div_ceil(8)).flat_map(|_| next().to_le_bytes()).take(count).collect()
}

/// What a run of the tool left.
pub struct Ran {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn of(output: Output) -> Self {
        Self {
            status: output.status.code().expect("the tool ends by itself"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Refused: status 2 and one sentence that contains `part`.
    pub fn is_refused(&self, part: &str) {
        assert_eq!(self.status, 2, "{}{}", self.out, self.err);
        assert!(self.err.contains(part), "{part:?} is not in {:?}", self.err);
        assert_eq!(self.err.lines().count(), 1, "more than one sentence: {:?}", self.err);
    }

    /// Failed: status 1, and standard error contains `part`.
    pub fn has_failed(&self, part: &str) {
        assert_eq!(self.status, 1, "{}{}", self.out, self.err);
        assert!(self.err.contains(part), "{part:?} is not in {:?}\n{}", self.err, self.out);
    }

    /// Done and verified.
    pub fn is_verified(&self) {
        assert_eq!(self.status, 0, "{}{}", self.out, self.err);
    }
}

/// The tool with these arguments, not yet started.
pub fn ferry(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferry"));
    command.args(arguments);
    command
}

/// Runs the command to its end.
pub fn run(command: &mut Command) -> Ran {
    Ran::of(command.output().unwrap())
}

/// Runs the demo with these arguments; its JSON where it wrote one.
pub fn demo(arguments: &[&str]) -> (Ran, Option<JsonValue>) {
    let scratch = Scratch::new();
    let json = scratch.path().join("result.json");
    let ran = run(ferry(&["demo", "--json"]).arg(&json).args(arguments));
    let text = std::fs::read_to_string(&json).ok();
    (ran, text.map(|text| text.parse().expect("one JSON object")))
}

/// A number in the demo's JSON, by its path of keys.
pub fn number(json: &JsonValue, path: &str) -> u64 {
    let value = path.split('.').fold(json, |value, key| &value[key]);
    *value.get::<f64>().unwrap_or_else(|| panic!("{path} is {value:?}")) as u64
}

/// A text in the demo's JSON.
pub fn text<'j>(json: &'j JsonValue, key: &str) -> &'j str {
    json[key].get::<String>().unwrap_or_else(|| panic!("{key} is {:?}", json[key]))
}
