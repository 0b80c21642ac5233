//! Replaces code addresses in console lines by `function at file:line`.
//!
//! See [`ferry_protocol::symbol`] for the marks. The debug information is read when the first mark comes by; a run
//! without a report never pays for it.
use std::cell::OnceCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use addr2line::Context;
use addr2line::gimli::{Dwarf, EndianSlice, LittleEndian, SectionId};
use ferry_protocol::symbol::{CLOSE, OPEN};
use object::{Object, ObjectSection, SymbolMap, SymbolMapName};

use crate::artifacts;

/// Where the loader places the kernel: link addresses start at zero.
const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;

/// The debug information, as it is read.
type Debug<'bytes> = Context<EndianSlice<'bytes, LittleEndian>>;

/// The symbols of one kernel.
pub struct Symbols {
    kernel: PathBuf,
    bytes: OnceCell<Vec<u8>>,
}

impl Symbols {
    /// The symbols of the kernel at this path.
    pub fn of(kernel: &Path) -> Self {
        Self { kernel: kernel.to_owned(), bytes: OnceCell::new() }
    }

    /// `line` with every mark replaced; what has no symbol becomes a bare address.
    pub fn replace(&self, line: &str) -> String {
        if !line.contains(OPEN) {
            return line.to_owned();
        }
        // A file that cannot be read has no symbols.
        let bytes = self.bytes.get_or_init(|| std::fs::read(&self.kernel).unwrap_or_default());
        let debug = load(bytes);
        replace_marks(line, |address| symbol(debug.as_ref()?, address))
    }

    /// A finder of functions, which reads the debug information once.
    pub fn resolver(&self) -> Resolver<'_> {
        let bytes = self.bytes.get_or_init(|| std::fs::read(&self.kernel).unwrap_or_default());
        let names = object::File::parse(bytes.as_slice()).map(|file| file.symbol_map());
        let names = names.unwrap_or_else(|_| SymbolMap::new(Vec::new()));
        Resolver { debug: load(bytes), names, known: HashMap::new() }
    }
}

/// A function, and the file that it is in; either may be empty where it is not known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Function {
    /// Its name, with the path that the compiler wrote.
    pub name: String,
    /// Its source file, in the workspace where it is one of ours.
    pub file: String,
}

impl Function {
    /// The last part of its path, without types; a closure has the name of the function it stands in.
    pub fn short_name(&self) -> &str {
        let mut depth = 0;
        let (mut start, mut end) = (0, 0);
        // The last stretch of a name's letters outside of angle brackets.
        let mut inside = false;
        for (index, letter) in self.name.char_indices() {
            match letter {
                '<' => depth += 1,
                '>' => depth -= 1,
                '{' => break,
                _ => {}
            }
            let is_part = depth == 0 && (letter.is_alphanumeric() || letter == '_');
            if is_part && !inside {
                start = index;
            }
            if is_part {
                end = index + letter.len_utf8();
            }
            inside = is_part;
        }
        &self.name[start..end]
    }
}

/// Finds the functions of addresses, many times.
pub struct Resolver<'b> {
    debug: Option<Debug<'b>>,
    /// Functions without debug information, such as those in assembly, by their first address.
    names: SymbolMap<SymbolMapName<'b>>,
    known: HashMap<u64, Vec<Function>>,
}

impl Resolver<'_> {
    /// The functions of a code address, the outermost first: those behind it were inlined.
    pub fn functions(&mut self, address: u64) -> &[Function] {
        let (debug, names) = (&self.debug, &self.names);
        self.known.entry(address).or_insert_with(|| {
            let Some(address) = address.checked_sub(KERNEL_BASE) else { return Vec::new() };
            let mut functions = debug.as_ref().map(|debug| functions(debug, address)).unwrap_or_default();
            if functions.is_empty()
                && let Some(symbol) = names.before(address)
            {
                let name = rustc_demangle(symbol.name());
                functions.push(Function { name, file: String::new() });
            }
            functions
        })
    }
}

fn rustc_demangle(name: &str) -> String {
    let demangled = addr2line::demangle_auto(name.into(), None);
    plain(&demangled).to_owned()
}

fn functions(debug: &Debug, address: u64) -> Vec<Function> {
    let Ok(mut frames) = debug.find_frames(address).skip_all_loads() else { return Vec::new() };
    let mut functions = Vec::new();
    while let Ok(Some(frame)) = frames.next() {
        let Some(name) = frame.function.as_ref().and_then(|function| function.demangle().ok()) else { continue };
        let file = frame.location.and_then(|location| location.file).map_or("", short);
        functions.push(Function { name: plain(&name).to_owned(), file: file.to_owned() });
    }
    functions.reverse();
    functions
}

/// Reads the debug information, or nothing where there is none: then addresses stay addresses.
fn load(bytes: &[u8]) -> Option<Debug<'_>> {
    let file = object::File::parse(bytes).ok()?;
    let section = |id: SectionId| -> Result<_, object::Error> {
        let data = file.section_by_name(id.name()).map_or(Ok([].as_slice()), |section| section.data())?;
        Ok(EndianSlice::new(data, LittleEndian))
    };
    Context::from_dwarf(Dwarf::load(section).ok()?).ok()
}

fn symbol(debug: &Debug, address: u64) -> Option<String> {
    let mut frames = debug.find_frames(address.checked_sub(KERNEL_BASE)?).skip_all_loads().ok()?;
    let mut texts = Vec::new();
    while let Ok(Some(frame)) = frames.next() {
        let Some(function) = frame.function else { continue };
        let Ok(name) = function.demangle() else { continue };
        let place = frame.location.and_then(|location| Some((location.file?, location.line?)));
        texts.push(match place {
            Some((file, line)) => format!("{} at {}:{line}", plain(&name), short(file)),
            None => plain(&name).to_owned(),
        });
    }
    // The innermost function comes first: an inlined one names the function it was inlined into.
    (!texts.is_empty()).then(|| texts.join(", inlined into "))
}

/// `name` without the hash that Rust appends.
fn plain(name: &str) -> &str {
    let hash =
        name.rsplit_once("::h").filter(|(_, hash)| hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()));
    hash.map_or(name, |(path, _)| path)
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
    fn addresses_in_this_very_program_find_their_functions() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let debug = load(&bytes).unwrap();
        let file = object::File::parse(bytes.as_slice()).unwrap();
        let text = file.section_by_name(".text").unwrap();
        let addresses = (text.address()..text.address() + text.size()).step_by(512);
        let found: Vec<_> = addresses.filter_map(|address| symbol(&debug, KERNEL_BASE + address)).collect();
        assert!(found.iter().any(|symbol| symbol.contains("ferry::") && symbol.contains(" at boot/runner/src/")));
        assert_eq!(symbol(&debug, 0x10), None);
        assert!(load(b"no ELF").is_none());
    }

    #[test]
    fn the_short_name_is_the_functions() {
        for (name, short) in [
            ("take_all<ferry_kernel::arch::machine::Hardware>", "take_all"),
            ("ferry_mm::space::fault::<impl ferry_mm::space::Space<M>>::resolve::{{closure}}", "resolve"),
            ("<ferry_kernel::arch::machine::Hardware as ferry_mm::machine::Machine>::copy", "copy"),
            ("{closure#0}<M>", ""),
            ("memcpy", "memcpy"),
        ] {
            assert_eq!(Function { name: name.to_owned(), file: String::new() }.short_name(), short);
        }
    }

    #[test]
    fn hashes_of_names_are_dropped() {
        assert_eq!(plain("kernel::main::h0123456789abcdef"), "kernel::main");
        assert_eq!(plain("kernel::hello"), "kernel::hello");
    }
}
