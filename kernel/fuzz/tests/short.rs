//! A short run of every target, the same one each time, and every input that once broke something.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too, end a test by a panic")]

use std::collections::BTreeSet;
use std::panic::catch_unwind;
use std::time::{Duration, Instant};

use ferry_fuzz::mutate::Inputs;
use ferry_fuzz::{Target, targets};

/// How long one target is tried, unless it has had its inputs before.
const PATIENCE: Duration = Duration::from_secs(2);

/// Inputs made of a target's seeds.
const INPUTS: usize = 20_000;

/// The seed of them.
const SEED: u64 = 1;

fn stem(path: &std::path::Path) -> String {
    path.file_stem().unwrap().to_str().unwrap().to_owned()
}

/// Checks an input and, where that fails, keeps it and says how it is tried again.
fn check(target: Target, name: &str, input: &[u8]) {
    if catch_unwind(|| (target.check)(input)).is_err() {
        let file = std::env::temp_dir().join(format!("ferry-fuzz-{}-{name}", target.name));
        std::fs::write(&file, input).unwrap();
        let file = file.display();
        panic!("{} breaks on {name}; replay it with: ./run.sh fuzz --target {0} --input {file}", target.name);
    }
}

fn short(target: Target) {
    for (index, seed) in (target.seeds)().into_iter().enumerate() {
        assert!(seed.len() <= target.most_bytes, "seed {index} is longer than any input");
        check(target, &format!("seed-{index}"), &seed);
    }
    // Git keeps no empty folders.
    for file in std::fs::read_dir(target.corpus()).into_iter().flatten() {
        let file = file.unwrap().path();
        check(target, &stem(&file), &std::fs::read(&file).unwrap());
    }
    let begin = Instant::now();
    for (index, input) in Inputs::new(target, SEED).take(INPUTS).enumerate() {
        check(target, &format!("input-{index}"), &input);
        if begin.elapsed() > PATIENCE {
            break;
        }
    }
}

macro_rules! targets {
    ($($name:ident)+) => {
        $(#[test]
        fn $name() {
            short(Target::named(stringify!($name)).unwrap());
        })+

        /// Every target, by the name of its test.
        const TESTED: &[&str] = &[$(stringify!($name)),+];
    };
}

targets! { acpi driver elf fw_cfg link memory_map model options pci request trace }

#[test]
fn every_target_has_a_file_a_test_and_nothing_else_has() {
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/targets")).unwrap();
    let files: BTreeSet<_> = files.map(|file| stem(&file.unwrap().path())).filter(|stem| stem != "mod").collect();
    let known: BTreeSet<_> = targets::ALL.iter().map(|target| target.name.to_owned()).collect();
    let tested: BTreeSet<_> = TESTED.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!((&files, &files), (&known, &tested));
    for folder in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus")).into_iter().flatten() {
        let name = stem(&folder.unwrap().path());
        assert!(known.contains(&name), "corpus/{name} belongs to no target");
    }
}
