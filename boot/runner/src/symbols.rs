//! Replaces code addresses in console lines by `function at file:line`.
//!
//! See [`ferry_protocol::symbol`] for the marks. The debug information is read when the first mark comes by; a run
//! without a report never pays for it.
use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use addr2line::Loader;
use ferry_protocol::symbol::{CLOSE, OPEN};

use crate::artifacts;

/// Where the loader places the kernel: link addresses start at zero.
const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;

/// The symbols of one kernel.
pub struct Symbols {
    kernel: PathBuf,
    loader: OnceCell<Option<Loader>>,
}

impl Symbols {
    /// The symbols of the kernel at this path.
    pub fn of(kernel: &Path) -> Self {
        Self { kernel: kernel.to_owned(), loader: OnceCell::new() }
    }

    /// `line` with every mark replaced; what has no symbol becomes a bare address.
    pub fn replace(&self, line: &str) -> String {
        replace_marks(line, |address| self.symbol(address))
    }

    fn symbol(&self, address: u64) -> Option<String> {
        let address = address.checked_sub(KERNEL_BASE)?;
        let loader = self.loader.get_or_init(|| Loader::new(&self.kernel).ok()).as_ref()?;
        let mut frames = loader.find_frames(address).ok()?;
        let mut texts = Vec::new();
        while let Ok(Some(frame)) = frames.next() {
            let name = frame.function.as_ref().and_then(|function| function.demangle().ok()?.into_owned().into());
            let place = frame.location.as_ref().and_then(|location| Some((location.file?, location.line?)));
            match (name, place) {
                (Some(name), Some((file, line))) => texts.push(format!("{} at {}:{line}", plain(&name), short(file))),
                (Some(name), None) => texts.push(plain(&name)),
                (None, _) => {}
            }
        }
        if texts.is_empty() {
            texts.push(plain(&addr2line::demangle_auto(loader.find_symbol(address)?.into(), None)));
        }
        // The innermost function comes first: an inlined one names the function it was inlined into.
        Some(texts.join(", inlined into "))
    }
}

/// `name` without the hash that Rust appends.
fn plain(name: &str) -> String {
    let hash =
        name.rsplit_once("::h").filter(|(_, hash)| hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()));
    hash.map_or(name, |(path, _)| path).to_owned()
}

/// `file` without the directory of the workspace.
fn short(file: &str) -> &str {
    let root = artifacts::workspace().to_str().unwrap_or_default();
    file.strip_prefix(root).map_or(file, |rest| rest.trim_start_matches('/'))
}

fn replace_marks(line: &str, symbol: impl Fn(u64) -> Option<String>) -> String {
    let mut text = String::new();
    let mut rest = line;
    while let Some((before, mark)) = rest.split_once(OPEN) {
        text += before;
        rest = mark;
        let Some((digits, after)) = mark.split_once(CLOSE) else {
            text += OPEN;
            break;
        };
        match u64::from_str_radix(digits, 16) {
            Ok(address) => {
                text += &symbol(address).unwrap_or_else(|| format!("v{address:#018x}"));
                rest = after;
            }
            Err(_) => text += OPEN,
        }
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(line: &str) -> String {
        replace_marks(line, |address| (address == 0x10).then(|| "main at main.rs:3".to_owned()))
    }

    #[test]
    fn marks_are_replaced_and_all_else_stays() {
        assert_eq!(replaced("at {code:0x10}, then {code:0x0010}."), "at main at main.rs:3, then main at main.rs:3.");
        assert_eq!(replaced("{code:0x20}"), "v0x0000000000000020");
        for line in ["no mark", "{code:0x10", "{code:0xtea} and }", "{code:0x}", ""] {
            assert_eq!(replaced(line), line);
        }
    }

    #[test]
    fn an_address_in_this_very_program_finds_its_function() {
        let symbols = Symbols::of(&std::env::current_exe().unwrap());
        let loader = Loader::new(&symbols.kernel).unwrap();
        let range = loader.get_section_range(b".text").unwrap();
        let named = (range.begin..range.end).step_by(4096).filter_map(|address| symbols.symbol(KERNEL_BASE + address));
        assert!(named.take(3).count() == 3);
        assert_eq!(symbols.symbol(0x10), None);
    }

    #[test]
    fn hashes_of_names_are_dropped() {
        assert_eq!(plain("kernel::main::h0123456789abcdef"), "kernel::main");
        assert_eq!(plain("kernel::hello"), "kernel::hello");
    }
}
