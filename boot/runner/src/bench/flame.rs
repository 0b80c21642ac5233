//! The profile as a flame graph: one SVG, each box a function, as wide as its instructions and those of what it calls.
//!
//! ```text
//!   ┌ all ──────────────────────────────────────┐
//!   ├ migrate_to_device 512 ─┬ fault_back_read ─┤   operations, each as wide as its instructions per page
//!   ├ take_all ───┬ commit ──┤ page_fault ──────┤   functions, callers above what they call
//!   └─────────────┴──────────┴──────────────────┘
//! ```
//!
//! A box shows its numbers when the pointer rests on it, by SVG's own `title`; the file needs no script.
use std::collections::BTreeMap;
use std::fmt::Write;

use super::phases::Profile;

/// Width of the drawing, height of a box, in units of SVG.
const WIDTH: f64 = 1600.0;
const HEIGHT: f64 = 17.0;

/// A box narrower than this is left out, and text in one narrower than that.
const LEAST_WIDTH: f64 = 0.4;
const LEAST_TEXT_WIDTH: f64 = 24.0;

/// Width of a letter.
const LETTER: f64 = 6.6;

/// Functions deeper than this are drawn as part of their callers.
const MOST_LEVELS: usize = 40;

#[derive(Default)]
struct Node {
    /// Instructions per page of all operations, its own and those of its children.
    weight: f64,
    children: BTreeMap<String, Node>,
}

/// The SVG of these operations.
pub fn svg(profiles: &[Profile]) -> String {
    let mut root = Node::default();
    for profile in profiles {
        let pages = profile.window.pages as f64;
        for stack in &profile.stacks {
            let operation = format!("{} {}", profile.window.name, profile.window.pages);
            let functions = stack.functions.iter().map(|function| function.short_name());
            let names: Vec<_> = std::iter::once(operation.as_str()).chain(functions).take(MOST_LEVELS).collect();
            root.add(&names, stack.instructions as f64 / pages);
        }
    }
    let levels = root.levels();
    let height = levels as f64 * HEIGHT;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"monospace\" font-size=\"11\">\n\
         <title>Instructions per page, bulk copies left out</title>\n"
    );
    root.draw(&mut text, "all", 0.0, 0, WIDTH / root.weight.max(1.0));
    text + "</svg>\n"
}

impl Node {
    fn add(&mut self, names: &[&str], weight: f64) {
        self.weight += weight;
        if let Some((name, rest)) = names.split_first() {
            self.children.entry((*name).to_owned()).or_default().add(rest, weight);
        }
    }

    fn levels(&self) -> usize {
        1 + self.children.values().map(Self::levels).max().unwrap_or(0)
    }

    fn draw(&self, text: &mut String, name: &str, left: f64, level: usize, scale: f64) {
        let width = self.weight * scale;
        if width < LEAST_WIDTH {
            return;
        }
        let (top, name) = (level as f64 * HEIGHT, escaped(name));
        // A colour of fire, the same for the same name.
        let hue = name.bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % 45 + 10;
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "<g><title>{name}: {:.1} instructions per page</title><rect x=\"{left:.2}\" y=\"{top}\" width=\"{width:.2}\" \
             height=\"{}\" fill=\"hsl({hue},85%,65%)\"/>",
            self.weight,
            HEIGHT - 1.0
        );
        if width >= LEAST_TEXT_WIDTH {
            let shown: String = name.chars().take((width / LETTER) as usize).collect();
            let _ = writeln!(text, "<text x=\"{:.2}\" y=\"{:.2}\">{shown}</text>", left + 2.0, top + HEIGHT - 5.0);
        }
        text.push_str("</g>\n");
        let mut left = left;
        for (name, child) in &self.children {
            child.draw(text, name, left, level + 1, scale);
            left += child.weight * scale;
        }
    }
}

fn escaped(name: &str) -> String {
    name.replace('&', "+").replace('<', "[").replace('>', "]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::phases::Stack;
    use crate::bench::session::{Counts, Window};
    use crate::symbols::Function;

    #[test]
    fn a_caller_is_as_wide_as_what_it_calls_and_itself() {
        let window = Window { name: "fork".to_owned(), pages: 2, cpus: 1, metered: true, counts: Counts::default() };
        let stack = |names: &[&str], instructions| Stack {
            functions: names.iter().map(|name| Function { name: (*name).to_owned(), file: String::new() }).collect(),
            instructions,
        };
        let svg =
            svg(&[Profile { window, stacks: vec![stack(&["a", "b"], 30), stack(&["a"], 10), stack(&["c"], 40)] }]);
        for (name, weight) in [("all", "40.0"), ("fork 2", "40.0"), ("a", "20.0"), ("b", "15.0"), ("c", "20.0")] {
            assert!(svg.contains(&format!("<title>{name}: {weight} instructions per page</title>")), "{name}: {svg}");
        }
        assert_eq!(svg.matches("width=\"800.00\"").count(), 2, "a and c have half of all each");
    }
}
