//! The shell's commands, as both sides know them: the kernel executes them, the host completes their names and prints this help.
//!
//! The words of an argument: `WHERE` is an address (`0x4200000000`), the name of mapped memory (`heap`: all of it), or a name and an
//! offset (`heap+0x1000`: that page). `PAGES` is a count. Numbers are decimal, or hexadecimal after `0x`; `K`, `M` and `G` multiply.

/// One command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommandHelp {
    /// Its first word.
    pub name: &'static str,
    /// What follows, in the notation of manual pages.
    pub arguments: &'static str,
    /// What it does, in a line.
    pub summary: &'static str,
    /// What it teaches.
    pub help: &'static str,
}

/// The longest line that the kernel takes, in bytes.
pub const MAX_LINE_BYTES: usize = 256;

/// What the host prints before it reads a line.
pub const PROMPT: &str = "ferry> ";

/// Every command, in the order in which a newcomer meets them.
pub const COMMANDS: &[CommandHelp] = &[
    CommandHelp {
        name: "map",
        arguments: "NAME SIZE [rw|r|none]",
        summary: "make an area of anonymous memory",
        help: "The area is a promise: no frame is taken and no entry written until a page is touched. `maps` shows the area, `pt NAME` \
               that nothing stands behind it yet.",
    },
    CommandHelp {
        name: "touch",
        arguments: "WHERE [PAGES]",
        summary: "load a byte of each page, as a program would",
        help: "The first load of a page maps the zero page, which all untouched pages share. A page on a private device comes home. The \
               counts say what the faults did.",
    },
    CommandHelp {
        name: "read",
        arguments: "WHERE",
        summary: "load eight bytes",
        help: "A fault that can be resolved is, and the load goes on; one that cannot is told, with its reason.",
    },
    CommandHelp {
        name: "write",
        arguments: "WHERE VALUE [PAGES]",
        summary: "store eight bytes, at the start of each of the pages",
        help: "The first store to a page gives it a frame of its own. A store to a page that a fork shares copies it first.",
    },
    CommandHelp {
        name: "migrate",
        arguments: "WHERE [PAGES] [to DEVICE]",
        summary: "move pages to the memory of a device",
        help: "In four phases, which `step migrate` does one by one: collect (entries become `migrating`, one flush), check (pages with \
               other users are given back), copy, finalize (entries name device frames). Pages that stay say why.",
    },
    CommandHelp {
        name: "back",
        arguments: "WHERE [PAGES]",
        summary: "bring pages home by a call",
        help: "A load or store of a page does the same for that one page, by a fault.",
    },
    CommandHelp {
        name: "fork",
        arguments: "",
        summary: "make a copy of this address space",
        help: "Both spaces name the same frames, read-only, until one of them stores. `space N` goes to the other one.",
    },
    CommandHelp {
        name: "space",
        arguments: "[N]",
        summary: "list address spaces, or go to one",
        help: "Going to a space loads its root into CR3, which also makes the CPU forget what it has cached of the one before.",
    },
    CommandHelp {
        name: "destroy",
        arguments: "N",
        summary: "remove an address space",
        help: "Every frame, table, device frame and slot that nobody else uses goes back.",
    },
    CommandHelp {
        name: "swap",
        arguments: "WHERE [PAGES]",
        summary: "send pages to the swap disk",
        help: "The entries name slots then. The next touch reads them back.",
    },
    CommandHelp {
        name: "pin",
        arguments: "WHERE [long]",
        summary: "hold the frame of a page, as a driver does for DMA",
        help: "A pinned page does not migrate: somebody uses its frame by number. A long pin brings the page home first.",
    },
    CommandHelp {
        name: "unpin",
        arguments: "[NUMBER]",
        summary: "let a pin go; without a number, list them",
        help: "The frame is freed here where its page was unmapped meanwhile.",
    },
    CommandHelp {
        name: "protect",
        arguments: "WHERE [PAGES] rw|r|none",
        summary: "change what may be done with pages",
        help: "Taking rights away needs a flush; giving them does not: the CPU looks again before it faults.",
    },
    CommandHelp {
        name: "discard",
        arguments: "WHERE [PAGES]",
        summary: "throw contents away and keep the area",
        help: "The next touch finds zeros. (madvise's MADV_DONTNEED.)",
    },
    CommandHelp {
        name: "unmap",
        arguments: "WHERE [PAGES]",
        summary: "take pages out of the address space",
        help: "Entries are cleared, one flush is paid, and only then frames are freed.",
    },
    CommandHelp {
        name: "maps",
        arguments: "",
        summary: "the areas of this space, and where their pages are",
        help: "A page is in RAM, the zero page, on a device, or on the swap disk.",
    },
    CommandHelp {
        name: "pt",
        arguments: "WHERE [PAGES]",
        summary: "walk the page table: four levels, indices, flags in words",
        help: "Nine bits of the address pick the entry on each level, twelve are the offset in the page. With PAGES, the last entries only.",
    },
    CommandHelp {
        name: "frames",
        arguments: "[WHERE]",
        summary: "count frames, or show the one behind a page",
        help: "A frame's descriptor counts references, mappings among them, and pins among the rest; `origin` finds every mapping.",
    },
    CommandHelp {
        name: "device",
        arguments: "[invert WHERE [PAGES]]",
        summary: "the devices; or have one invert pages that are there",
        help: "The device works on its own memory, behind its BAR; no CPU touches the pages.",
    },
    CommandHelp {
        name: "evict",
        arguments: "[DEVICE]",
        summary: "empty a device, as when its driver is unloaded",
        help: "Pages of every space come home; pinned ones say that they stay.",
    },
    CommandHelp {
        name: "stats",
        arguments: "",
        summary: "what the memory manager has counted since the last time",
        help: "Only what has changed is shown.",
    },
    CommandHelp {
        name: "trace",
        arguments: "COMMAND",
        summary: "do a command and show every event of it",
        help: "Faults, entries as they change, flushes, frames taken and freed, phases of migrations. The machine needs `--trace ring`.",
    },
    CommandHelp {
        name: "inject",
        arguments: "KIND [N]",
        summary: "let the N-th step of a kind fail: alloc, device-alloc, copy, disk-read, disk-write",
        help: "What was begun is given back, and nothing is lost: look with `pt`, `frames` and `read`.",
    },
    CommandHelp {
        name: "step",
        arguments: "migrate WHERE [PAGES] | fault WHERE [write]",
        summary: "do a migration or a fault phase by phase",
        help: "After each phase: the entries, and what would go wrong if it stopped here.",
    },
    CommandHelp {
        name: "break",
        arguments: "flush",
        summary: "from now on no flush is done",
        help: "What the CPU caches from now on stays in use, though the entry says otherwise: `read` a page, then `migrate`, `protect` \
               or `unmap` it, then `read` and `write` it. `repair flush` ends it.",
    },
    CommandHelp {
        name: "repair",
        arguments: "flush",
        summary: "do flushes again, and flush everything now",
        help: "What was stored through stale translations stays where it went: that is the damage.",
    },
    CommandHelp {
        name: "expect",
        arguments: "TEXT",
        summary: "fail unless the last command printed TEXT",
        help: "Makes a script a test: the shell's exit status is 1 if an expectation or a command failed. `expect error TEXT` expects that \
               the last command failed.",
    },
    CommandHelp {
        name: "help",
        arguments: "[COMMAND]",
        summary: "this list, or more about a command",
        help: "Try: map heap 16K, write heap 1 4, pt heap, step migrate heap, pt heap, read heap, pt heap.",
    },
    CommandHelp {
        name: "quit",
        arguments: "",
        summary: "remove everything, count what is left, and end",
        help: "So does the end of a script. A frame that is missing then fails the run.",
    },
];

/// Reads a number: decimal, or hexadecimal after `0x`, with `_` between digits, and `K`, `M` or `G` after it.
///
/// # Errors
/// `None` where it is none, or exceeds 64 bits.
pub fn number(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let (digits, radix) = digits.strip_prefix("0x").map_or((digits, 10), |digits| (digits, 16));
    let mut value = None;
    for byte in digits.bytes().filter(|byte| *byte != b'_') {
        let digit = char::from(byte).to_digit(radix)?;
        value = Some(value.unwrap_or(0u64).checked_mul(u64::from(radix))?.checked_add(u64::from(digit))?);
    }
    value?.checked_mul(1 << shift)
}

/// The command of this name.
pub fn find(name: &str) -> Option<&'static CommandHelp> {
    COMMANDS.iter().find(|command| command.name == name)
}

/// The command whose name is most like `word`, if one is.
pub fn nearest(word: &str) -> Option<&'static str> {
    const MOST_EDITS: usize = 2;
    let distance = |command: &&CommandHelp| edits(word, command.name);
    COMMANDS.iter().min_by_key(distance).filter(|command| distance(command) <= MOST_EDITS).map(|command| command.name)
}

/// How many letters must be changed, added or left out to make one word of the other (Levenshtein's distance).
fn edits(one: &str, other: &str) -> usize {
    const LONGEST: usize = 16;
    if one.len() > LONGEST || other.len() > LONGEST {
        return usize::MAX;
    }
    let mut row = core::array::from_fn::<usize, { LONGEST + 1 }, _>(|column| column);
    for (line, a) in one.bytes().enumerate() {
        let mut diagonal = core::mem::replace(&mut row[0], line + 1);
        for (column, b) in other.bytes().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_of_words_is_the_number_of_edits() {
        for (one, other, expected) in
            [("", "", 0), ("map", "map", 0), ("maap", "map", 1), ("pt", "map", 3), ("migarte", "migrate", 2)]
        {
            assert_eq!((edits(one, other), edits(other, one)), (expected, expected), "{one} {other}");
        }
    }

    #[test]
    fn numbers_are_read_in_two_bases_with_three_multipliers() {
        for (text, expected) in
            [("0", 0), ("16K", 16384), ("0x1f", 31), ("2M", 2 << 20), ("0x10_000", 0x10000), ("1G", 1 << 30)]
        {
            assert_eq!(number(text), Some(expected), "{text}");
        }
        for text in ["", "K", "0x", "_", "12a", "-1", "0xffffffffffffffffK", "99999999999999999999", "é"] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn a_mistyped_name_finds_its_command() {
        assert_eq!(nearest("migarte"), Some("migrate"));
        assert_eq!(nearest("strats"), Some("stats"));
        assert_eq!(nearest("elephant"), None);
    }

    #[test]
    fn names_are_single_words_and_no_name_is_there_twice() {
        for (index, command) in COMMANDS.iter().enumerate() {
            assert!(!command.name.contains(' ') && !command.summary.is_empty() && !command.help.is_empty());
            assert!(COMMANDS[..index].iter().all(|other| other.name != command.name), "{}", command.name);
        }
    }
}
