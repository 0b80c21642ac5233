//! Which mutant this process is: the one that FERRY_MUTANT names, or none.
#![allow(dead_code, missing_docs)]
extern crate std;

static CHOSEN: std::sync::OnceLock<Option<usize>> = std::sync::OnceLock::new();

/// By number.
const NAMES: &[&str] = &[/* NAMES */];

pub(crate) fn chosen(number: usize) -> bool {
    *CHOSEN.get_or_init(read) == Some(number)
}

fn read() -> Option<usize> {
    let name = std::env::var("FERRY_MUTANT").ok()?;
    match NAMES.iter().position(|known| *known == name) {
        Some(number) => Some(number),
        None => panic!("FERRY_MUTANT names no mutant: {name}"),
    }
}
