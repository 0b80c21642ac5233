//! One target under libFuzzer; `ferry fuzz` builds and calls it.
//!
//! The environment says which target ([`TARGET`]) and where its seeds shall be written first ([`SEEDS`]); the arguments are
//! libFuzzer's own.
#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use ferry_fuzz::Target;

/// The environment variable with the target's name.
const TARGET: &str = "FERRY_FUZZ_TARGET";

/// The environment variable with a folder for the target's seeds.
const SEEDS: &str = "FERRY_FUZZ_SEEDS";

static CHOSEN: OnceLock<Target> = OnceLock::new();

fn chosen() -> Target {
    let name = std::env::var(TARGET).expect("ferry names the target");
    let target = Target::named(&name).expect("ferry names a target that exists");
    if let Some(folder) = std::env::var_os(SEEDS).map(PathBuf::from) {
        for (index, seed) in (target.seeds)().into_iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{index}")), seed).expect("ferry has made the folder");
        }
    }
    target
}

libfuzzer_sys::fuzz_target!(init: { CHOSEN.get_or_init(chosen); }, |input: &[u8]| {
    (CHOSEN.get_or_init(chosen).check)(input);
});
