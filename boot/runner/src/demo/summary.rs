//! The numbers of a run: the kernel's, the host's and the device's, held against each other.
//!
//! Nothing is believed that only one side says, where another side can count it too.
use std::collections::BTreeMap;
use std::time::Duration;

use ferry_protocol::link::{Checkpoint, Outcome, Stage};

use super::failure::Failure;
use super::verify::Seen;
use crate::input::{Hash, Input};
use crate::json::Json;

/// What is known of a run.
#[derive(Clone, Debug)]
pub struct Summary {
    bytes: u64,
    pages: u64,
    hash: Hash,
    expected: Hash,
    cpus: u32,
    inject: bool,
    rounds: u32,
    verified_on_device: u64,
    inverted_on_device: u64,
    seen_waiting: u64,
    stayed: BTreeMap<String, u64>,
    hash_after: Option<Hash>,
    stale_bytes: Option<u64>,
    /// The kernel's own counts.
    pub outcome: Option<Outcome>,
    /// The devices' own count of pages that they changed.
    pub device_transformed: u64,
    /// Why the run is not verified.
    pub error: Option<String>,
    /// From the start of QEMU to the end of the run.
    pub wall: Duration,
}

impl Summary {
    /// A run with this input of which nothing else is known yet; `inject` where a step shall fail in it.
    pub fn new(input: &Input, cpus: u32, inject: bool) -> Self {
        Self {
            bytes: input.bytes().len() as u64,
            pages: input.pages(),
            hash: input.hash(),
            expected: input.inverted_hash(),
            cpus,
            inject,
            rounds: 0,
            verified_on_device: 0,
            inverted_on_device: 0,
            seen_waiting: 0,
            stayed: BTreeMap::new(),
            // Of nothing there is nothing to bring home.
            hash_after: (input.pages() == 0).then(|| Hash::of([])),
            stale_bytes: None,
            outcome: None,
            device_transformed: 0,
            error: None,
            wall: Duration::ZERO,
        }
    }

    /// Takes in what a checkpoint showed.
    pub fn saw(&mut self, checkpoint: &Checkpoint, seen: &Seen) {
        match checkpoint.stage {
            Stage::Populated => {}
            Stage::Migrated => {
                self.rounds = checkpoint.round;
                self.verified_on_device += seen.pages;
                self.seen_waiting += seen.waiting;
            }
            Stage::Transformed => self.inverted_on_device += seen.pages,
            Stage::Returned => self.hash_after = seen.hash,
            Stage::TornDown => self.stale_bytes = seen.stale_bytes,
        }
    }

    /// Takes in that the kernel says pages stayed for a reason.
    pub fn stayed(&mut self, reason: &str, pages: u64) {
        *self.stayed.entry(reason.to_owned()).or_default() += pages;
    }

    /// Pages of the input.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Rounds of migration that were seen.
    pub fn rounds(&self) -> u32 {
        self.rounds
    }

    /// Holds all numbers against each other.
    ///
    /// # Errors
    /// The first two that differ, or what is missing.
    pub fn check(&self) -> Result<(), Failure> {
        let outcome = self.outcome.ok_or(Failure::Incomplete("its counts"))?;
        let after = self.hash_after.ok_or(Failure::Incomplete("bringing every page home"))?;
        let stale = self.stale_bytes.ok_or(Failure::Incomplete("tearing the address space down"))?;
        let stayed: u64 = self.stayed.values().sum();
        let same = |first_name, first: i128, second_name, second: i128| {
            if first == second { Ok(()) } else { Err(Failure::Counts { first_name, first, second_name, second }) }
        };
        let pages = i128::from(self.pages);
        const INPUT: &str = "the number of pages of the input";
        same("the kernel's count of pages", outcome.pages.into(), INPUT, pages)?;
        same("the kernel's count of CPUs", outcome.cpus.into(), "the number that was asked for", self.cpus.into())?;
        same("the kernel's count of rounds", outcome.rounds.into(), "the host's", self.rounds.into())?;
        same("the kernel's count of pages migrated", outcome.migrated.into(), INPUT, pages)?;
        same("the host's count of pages found on the device", self.verified_on_device.into(), INPUT, pages)?;
        same("the device's count of pages changed", self.device_transformed.into(), INPUT, pages)?;
        same("the host's count of pages found changed", self.inverted_on_device.into(), INPUT, pages)?;
        same("the kernel's count of faults on special entries", outcome.faults.into(), INPUT, pages)?;
        same("the kernel's count of pages returned", outcome.returned.into(), INPUT, pages)?;
        let waiting = self.seen_waiting.into();
        same("the kernel's count of pages that stayed", stayed.into(), "the host's, over all rounds", waiting)?;
        const NONE: &str = "the number that may be missing";
        same("the count of RAM frames missing at the end", outcome.leaked_frames.into(), NONE, 0)?;
        same("the count of device frames missing at the end", outcome.leaked_device_frames.into(), NONE, 0)?;
        same("the count of table frames left at the end", outcome.leaked_table_frames.into(), NONE, 0)?;
        same("the count of bytes left on the device", stale.into(), "the number that may be left", 0)?;
        match after == self.expected {
            true => Ok(()),
            false => Err(Failure::Hashes { found: after, expected: self.expected }),
        }
    }

    /// The JSON object of `--json`; what is not known is `null`.
    pub fn to_json(&self) -> Json {
        let outcome = self.outcome;
        let stayed = self.stayed.iter().map(|(reason, pages)| (reason.clone(), Json::from(*pages))).collect();
        let text = |hash: Hash| hash.to_string();
        Json::object([
            ("input", Json::object([("bytes", self.bytes.into()), ("sha256", text(self.hash).into())])),
            ("cpus", self.cpus.into()),
            ("pages", self.pages.into()),
            ("rounds", self.rounds.into()),
            ("migrated", outcome.map(|outcome| outcome.migrated).into()),
            ("stayed", Json::Object(stayed)),
            ("host_verified", self.verified_on_device.into()),
            ("device_transformed", self.device_transformed.into()),
            ("faults", outcome.map(|outcome| outcome.faults).into()),
            ("returned", outcome.map(|outcome| outcome.returned).into()),
            ("sha256_after", self.hash_after.map(text).into()),
            ("sha256_expected", text(self.expected).into()),
            (
                "leaked",
                Json::object([
                    ("frames", outcome.map(|outcome| outcome.leaked_frames).into()),
                    ("device_frames", outcome.map(|outcome| outcome.leaked_device_frames).into()),
                    ("table_frames", outcome.map(|outcome| outcome.leaked_table_frames).into()),
                ]),
            ),
            ("stale_device_bytes", self.stale_bytes.into()),
            ("injected", outcome.filter(|_| self.inject).map(|outcome| !outcome.inject_pending).into()),
            ("verified", self.error.is_none().into()),
            ("error", self.error.clone().into()),
            ("wall_ms", (self.wall.as_millis() as u64).into()),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run over three pages in two rounds in which everything holds.
    fn good() -> Summary {
        let directory = crate::run_dir::RunDir::create(0).unwrap();
        let path = directory.file("input");
        std::fs::write(&path, [5; 2 * 4096 + 1]).unwrap();
        let input = Input::read(&path).unwrap();
        let mut summary = Summary::new(&input, 1, false);
        summary.rounds = 2;
        summary.verified_on_device = 3;
        summary.inverted_on_device = 3;
        summary.device_transformed = 3;
        summary.seen_waiting = 1;
        summary.stayed("device-full", 1);
        summary.hash_after = Some(input.inverted_hash());
        summary.stale_bytes = Some(0);
        summary.outcome =
            Some(Outcome { cpus: 1, pages: 3, rounds: 2, migrated: 3, faults: 3, returned: 3, ..Outcome::default() });
        summary
    }

    #[test]
    fn every_number_that_differs_is_noticed() {
        assert!(good().check().is_ok());
        type Change = (&'static str, fn(&mut Summary));
        let changes: [Change; 15] = [
            ("count of pages", |s| s.outcome.as_mut().unwrap().pages = 4),
            ("CPUs", |s| s.outcome.as_mut().unwrap().cpus = 2),
            ("rounds", |s| s.rounds = 3),
            ("migrated", |s| s.outcome.as_mut().unwrap().migrated = 2),
            ("found on the device", |s| s.verified_on_device = 2),
            ("device's count", |s| s.device_transformed = 2),
            ("found changed", |s| s.inverted_on_device = 2),
            ("faults", |s| s.outcome.as_mut().unwrap().faults = 4),
            ("returned", |s| s.outcome.as_mut().unwrap().returned = 2),
            ("stayed", |s| s.stayed("pinned", 1)),
            ("RAM frames missing at the end is -1", |s| s.outcome.as_mut().unwrap().leaked_frames = -1),
            ("device frames", |s| s.outcome.as_mut().unwrap().leaked_device_frames = 1),
            ("table frames", |s| s.outcome.as_mut().unwrap().leaked_table_frames = 1),
            ("bytes left", |s| s.stale_bytes = Some(1)),
            ("SHA-256", |s| s.hash_after = Some(s.hash)),
        ];
        for (part, change) in changes {
            let mut summary = good();
            change(&mut summary);
            let text = summary.check().unwrap_err().to_string();
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn what_is_missing_is_noticed() {
        let changes: [fn(&mut Summary); 3] = [|s| s.outcome = None, |s| s.hash_after = None, |s| s.stale_bytes = None];
        for change in changes {
            let mut summary = good();
            change(&mut summary);
            assert!(matches!(summary.check(), Err(Failure::Incomplete(_))));
        }
    }

    #[test]
    fn the_object_has_the_keys_that_readers_expect() {
        let json = good().to_json().to_string();
        let read: tinyjson::JsonValue = json.parse().unwrap();
        assert_eq!(*read["input"]["bytes"].get::<f64>().unwrap(), 8193.0);
        assert_eq!(*read["stayed"]["device-full"].get::<f64>().unwrap(), 1.0);
        assert_eq!(*read["leaked"]["table_frames"].get::<f64>().unwrap(), 0.0);
        assert_eq!(read["sha256_after"], read["sha256_expected"]);
        assert!(*read["verified"].get::<bool>().unwrap());
        assert!(json.starts_with(r#"{"input":{"bytes":8193,"sha256":""#), "{json}");
        let mut failed = good();
        failed.error = Some("it \"broke\"".into());
        failed.outcome = None;
        let read: tinyjson::JsonValue = failed.to_json().to_string().parse().unwrap();
        assert!(!*read["verified"].get::<bool>().unwrap() && read["faults"].is_null());
    }
}
