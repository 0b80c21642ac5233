//! Where the instructions of an operation go: what each place in the code is part of.
//!
//! A place is known by its chain of functions, inlined ones included, outermost first. What phase it belongs to, the innermost
//! function decides that a rule below names by its file, or by its name where a file holds several phases.
use super::referee::Place;
use super::session::Window;
use crate::symbols::{Function, Resolver};

/// A phase, and the code that is part of it: files, or functions by their names.
struct Rule {
    phase: &'static str,
    files: &'static [&'static str],
    functions: &'static [&'static str],
}

/// Everything that is part of no phase.
const OTHER: &str = "other";

/// Functions of the meter itself: no cost of what is measured.
const METER: &str = "arch/meter.rs";

/// A migration. Its listeners are told, and memory for it is got, in "prepare".
const MIGRATION: &[Rule] = &[
    Rule { phase: "prepare", files: &["migrate/prepare.rs", "migrate/in_progress.rs", "notify/"], functions: &[] },
    Rule { phase: "flush", files: &["page_table/flush.rs", "cpus/shootdown.rs"], functions: &[] },
    Rule { phase: "collect", files: &["migrate/collect.rs"], functions: &["take_home"] },
    Rule { phase: "check", files: &["migrate/unmap.rs", "migrate/others.rs"], functions: &["check_home"] },
    Rule { phase: "copy", files: &["migrate/copy.rs"], functions: &["copy_home"] },
    Rule { phase: "finalize", files: &["migrate/finalize.rs", "migrate/came_home.rs"], functions: &["commit_home"] },
];

/// A page fault.
const FAULT: &[Rule] = &[
    Rule { phase: "entry", files: &[], functions: &["page_fault_entry"] },
    Rule { phase: "exit", files: &[], functions: &["leave"] },
    Rule { phase: "copy", files: &["frame/any.rs", "bar.rs", "bar/copy.rs"], functions: &["copy", "clear"] },
    Rule { phase: "allocate", files: &["frame/"], functions: &[] },
    Rule {
        phase: "lookup",
        files: &["page_table/walk.rs", "space/area.rs", "memory/fault.rs", "memory/mod.rs", "arch/exceptions.rs"],
        functions: &["fault_once", "resolve", "resolve_with_frames", "fault_for"],
    },
    Rule { phase: "map", files: &["space/", "migrate/", "swap/", "page_table/", "cpus/shootdown.rs"], functions: &[] },
];

/// The phases of an operation; none where it has none to tell apart.
fn rules(operation: &str) -> &'static [Rule] {
    match operation {
        "migrate_to_device" | "migrate_to_system" => MIGRATION,
        "fault_back_read" | "fault_back_write" | "touch_write" | "touch_read" | "cow_fault" | "swap_in" => FAULT,
        _ => &[],
    }
}

/// Instructions of one operation, apart from bulk copies, under their functions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stack {
    /// The functions, outermost first; of files inside the workspace.
    pub functions: Vec<Function>,
    /// How many.
    pub instructions: u64,
}

/// An operation's instructions, by place.
pub struct Profile {
    /// What was done.
    pub window: Window,
    /// Its instructions.
    pub stacks: Vec<Stack>,
}

impl Profile {
    /// The places of a window, with their functions.
    pub fn new(window: &Window, places: &[Place], resolver: &mut Resolver) -> Self {
        let stacks = places.iter().map(|place| {
            let chain = place.addresses.iter().rev().flat_map(|address| resolver.functions(*address).to_vec());
            Stack { functions: chain.collect(), instructions: place.instructions }
        });
        let is_measured = |stack: &Stack| !stack.functions.last().is_some_and(|inner| inner.file.contains(METER));
        Self { window: window.clone(), stacks: stacks.filter(is_measured).collect() }
    }

    /// The phases of the operation in their order, with their instructions; empty where it has none.
    pub fn phases(&self) -> Vec<(&'static str, u64)> {
        let rules = rules(&self.window.name);
        let mut phases: Vec<_> = rules.iter().map(|rule| (rule.phase, 0)).collect();
        let mut other = 0;
        for stack in &self.stacks {
            let found =
                stack.functions.iter().rev().find_map(|function| rules.iter().position(|rule| rule.is_of(function)));
            match found {
                Some(index) => phases[index].1 += stack.instructions,
                None => other += stack.instructions,
            }
        }
        if !phases.is_empty() {
            phases.push((OTHER, other));
        }
        phases
    }
}

impl Rule {
    fn is_of(&self, function: &Function) -> bool {
        self.files.iter().any(|file| function.file.contains(file)) || self.functions.contains(&function.short_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::session::Counts;

    fn profile(name: &str, stacks: &[(&[(&str, &str)], u64)]) -> Profile {
        let window = Window { name: name.to_owned(), pages: 1, cpus: 1, metered: true, counts: Counts::default() };
        let function = |(name, file): &(&str, &str)| Function { name: (*name).to_owned(), file: (*file).to_owned() };
        let stack = |(chain, instructions): &(&[(&str, &str)], u64)| Stack {
            functions: chain.iter().map(function).collect(),
            instructions: *instructions,
        };
        Profile { window, stacks: stacks.iter().map(stack).collect() }
    }

    #[test]
    fn the_innermost_function_with_a_phase_decides() {
        let collect = ("ferry_mm::take_all<M>", "kernel/mm/src/migrate/collect.rs");
        let flush = ("pay<M>", "kernel/mm/src/page_table/flush.rs");
        let entry = ("load_entry", "kernel/src/arch/machine.rs");
        let home = ("ferry_mm::migrate::came_home::finalize::{closure#0}", "kernel/mm/src/migrate/came_home.rs");
        let profile = profile(
            "migrate_to_system",
            &[(&[collect, entry], 3), (&[collect, flush], 4), (&[home, entry], 5), (&[entry], 6), (&[], 7)],
        );
        let phases = profile.phases();
        let of = |name| phases.iter().find(|(phase, _)| *phase == name).unwrap().1;
        assert_eq!([of("collect"), of("flush"), of("finalize"), of("copy"), of("other")], [3, 4, 5, 0, 13]);
    }

    #[test]
    fn an_operation_without_phases_has_none() {
        assert!(profile("fork", &[(&[], 7)]).phases().is_empty());
    }
}
