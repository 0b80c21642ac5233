//! Puts every mutant of a file beside its original, each to be chosen when the program runs.
//!
//! ```text
//!   original           foo(a);     // an original inside another is served in the branch of the original
//!   becomes            if crate::mutant::chosen(7) { bar(a); } else { foo(a); }
//!   an expression      (if crate::mutant::chosen(8) { a + 1 } else { a })
//!   with CHOSEN        only the words that differ from the original change, with the call in place of that one:
//!   if a {             if !CHOSEN && a {   becomes   if !crate::mutant::chosen(9) && a {
//! ```
//!
//! Invariants:
//! 1. Each original is found exactly once. White space is one kind of gap: a formatter may break lines elsewhere. What
//!    begins in the middle of a word or behind a dot is not found: a branch around `run();` of `driver.run();` would be
//!    another expression.
//! 2. Two texts that are changed are apart, the same, or one inside the other; and nothing is inside what a text with
//!    `CHOSEN` changes, since that has no branch for the original.
use std::ops::Range;

use super::catalogue::Mutant;

/// The word for the choice in a mutated text.
const CHOSEN: &str = "CHOSEN";

/// Why a mutant has no place.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SpliceError {
    /// Its original is not there, or there more than once.
    #[error(
        "the original of the mutant {mutant} stands {times} times in {file}, not once: let its lines in {source_file} follow \
         the source (more of them where they stand there twice), or take it out where its place is gone"
    )]
    Times {
        /// The mutant.
        mutant: String,
        /// The file that was searched.
        file: String,
        /// How often.
        times: usize,
        /// Where the mutant is written down.
        source_file: String,
    },
    /// Two originals are partly the same text.
    #[error("the originals of the mutants {0} and {1} overlap; let one contain the other, or shorten both")]
    Overlap(String, String),
}

/// A mutant, the number by which it is chosen, and the part of the source that changes.
struct Placed<'m> {
    mutant: &'m Mutant,
    number: usize,
    at: Range<usize>,
    change: Change,
}

/// How a part of the source changes.
enum Change {
    /// It becomes a branch; this is the other one.
    Branch(String),
    /// This takes its place.
    Text(String),
}

/// `source` with these mutants of it, each with its number.
///
/// # Errors
/// [`SpliceError`] where one has no place.
pub fn splice<'m>(source: &str, mutants: impl IntoIterator<Item = (usize, &'m Mutant)>) -> Result<String, SpliceError> {
    let mut placed = Vec::new();
    for (number, mutant) in mutants {
        placed.extend(place(source, number, mutant)?);
    }
    // What is put in before something comes before that, the outer one before those inside it.
    placed.sort_by_key(|placed| {
        let Range { start, end } = placed.at;
        (start, start != end, usize::MAX - end, placed.number)
    });
    render(source, 0..source.len(), &placed)
}

fn place<'m>(source: &str, number: usize, mutant: &'m Mutant) -> Result<Vec<Placed<'m>>, SpliceError> {
    let found = find(source, &mutant.original);
    match found.as_slice() {
        [at] if mutant.mutated.contains(CHOSEN) => {
            let places = differences(source, at.clone(), &mutant.mutated).into_iter();
            let text = |text: String| Change::Text(text.replace(CHOSEN, &call(number)));
            Ok(places.map(|(at, there)| Placed { mutant, number, at, change: text(there) }).collect())
        }
        [at] => Ok(vec![Placed { mutant, number, at: at.clone(), change: Change::Branch(mutant.mutated.clone()) }]),
        _ => Err(SpliceError::Times {
            mutant: mutant.name.clone(),
            file: mutant.file.clone(),
            times: found.len(),
            source_file: mutant.source.display().to_string(),
        }),
    }
}

/// The text of `range` with the mutants in it, the outer ones first.
fn render(source: &str, range: Range<usize>, mut placed: &[Placed]) -> Result<String, SpliceError> {
    let (mut text, mut done) = (String::new(), range.start);
    while let Some((outer, rest)) = placed.split_first() {
        let inside = rest.iter().take_while(|inner| inner.at.start < outer.at.end).count();
        let (inner, after) = rest.split_at(inside);
        let overlap = |inner: &Placed| SpliceError::Overlap(outer.mutant.name.clone(), inner.mutant.name.clone());
        let no_branch = matches!(outer.change, Change::Text(_));
        if let Some(bad) = inner.iter().find(|inner| inner.at.end > outer.at.end || no_branch) {
            return Err(overlap(bad));
        }
        text += &source[done..outer.at.start];
        text += &match &outer.change {
            Change::Branch(mutated) => choice(outer.number, mutated, &render(source, outer.at.clone(), inner)?),
            Change::Text(text) => text.clone(),
        };
        done = outer.at.end;
        placed = after;
    }
    Ok(text + &source[done..range.end])
}

fn call(number: usize) -> String {
    format!("crate::mutant::chosen({number})")
}

fn choice(number: usize, mutated: &str, original: &str) -> String {
    let chosen = call(number);
    match original.trim_end().ends_with([';', '}']) {
        true => format!("if {chosen} {{ {mutated} }} else {{ {original} }}"),
        false => format!("(if {chosen} {{ {mutated} }} else {{ {original} }})"),
    }
}

/// A word, and where it stands.
type Word<'t> = (usize, &'t str);

fn words(text: &str) -> Vec<Word<'_>> {
    text.split_whitespace().map(|word| (word.as_ptr() as usize - text.as_ptr() as usize, word)).collect()
}

/// Where the source at `at` differs from `mutated`, word by word, and what is to stand there: as few words as possible
/// (the longest common subsequence decides).
fn differences(source: &str, at: Range<usize>, mutated: &str) -> Vec<(Range<usize>, String)> {
    let (old, new) = (words(&source[at.clone()]), words(mutated));
    // common[i][j]: how many words the rest of the old from i and of the new from j have in common.
    let mut common = vec![vec![0_usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] = match old[i].1 == new[j].1 {
                true => common[i + 1][j + 1] + 1,
                false => common[i + 1][j].max(common[i][j + 1]),
            };
        }
    }
    let start_of = |i: usize| at.start + old.get(i).map_or(at.len(), |(start, _)| *start);
    let end_of = |i: usize| at.start + old[i].0 + old[i].1.len();
    let (mut found, mut i, mut j) = (Vec::new(), 0, 0);
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i].1 == new[j].1 {
            (i, j) = (i + 1, j + 1);
            continue;
        }
        let (first, mut text) = (i, String::new());
        while (i < old.len() || j < new.len()) && !(i < old.len() && j < new.len() && old[i].1 == new[j].1) {
            if j < new.len() && (i == old.len() || common[i][j + 1] >= common[i + 1][j]) {
                text = text + new[j].1 + " ";
                j += 1;
            } else {
                i += 1;
            }
        }
        found.push(match first == i {
            // A bracket that closes belongs to the word before it: others may put something in before the next one.
            true if text.starts_with('}') && first > 0 => (end_of(first - 1)..end_of(first - 1), format!(" {text}")),
            true => (start_of(first)..start_of(first), text),
            false => (start_of(first)..end_of(i - 1), text),
        });
    }
    found
}

/// Where `wanted` stands in `source`, each run of white space as good as another.
fn find(source: &str, wanted: &str) -> Vec<Range<usize>> {
    let wanted: Vec<char> = squeeze(wanted.trim()).into_iter().map(|(_, c)| c).collect();
    let text = squeeze(source);
    let windows = text.windows(wanted.len()).filter(|window| window.iter().map(|(_, c)| c).eq(&wanted));
    let end = |window: &[(usize, char)]| window.last().map_or(0, |(at, c)| at + c.len_utf8());
    windows.map(|window| window[0].0..end(window)).filter(|at| begins_at(source, at.start)).collect()
}

/// Whether what stands at `at` is the beginning of something: of a word, and not what a dot selects.
fn begins_at(source: &str, at: usize) -> bool {
    let in_a_word = |c: char| c.is_alphanumeric() || c == '_';
    let (before, from) = source.split_at(at);
    let selected = before.ends_with('.') && !before.ends_with("..");
    !(from.starts_with(in_a_word) && (selected || before.ends_with(in_a_word)))
}

/// The characters of a text and where they stand, with one space for each run of white space.
fn squeeze(text: &str) -> Vec<(usize, char)> {
    let mut squeezed: Vec<(usize, char)> = Vec::new();
    for (at, c) in text.char_indices() {
        match (c.is_whitespace(), squeezed.last()) {
            (true, Some((_, ' '))) => {}
            (true, _) => squeezed.push((at, ' ')),
            (false, _) => squeezed.push((at, c)),
        }
    }
    squeezed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutants::catalogue::Suite;

    fn mutant(name: &str, original: &str, mutated: &str) -> Mutant {
        Mutant {
            name: name.into(),
            file: "a.rs".into(),
            breaks: "R1".into(),
            why: "Because.".into(),
            suite: Suite::Simulator,
            equivalent: None,
            original: original.into(),
            mutated: mutated.into(),
            source: "a.mutant".into(),
        }
    }

    fn spliced(source: &str, mutants: &[Mutant]) -> Result<String, SpliceError> {
        splice(source, mutants.iter().enumerate())
    }

    #[test]
    fn statements_and_expressions_become_a_choice() {
        let source = "fn f() {\n    flush(\n        a,\n    );\n    a + b\n}\n";
        let mutants = [mutant("m", "flush( a, );", ""), mutant("n", "a + b", "a - b")];
        let expected = "fn f() {\n    if crate::mutant::chosen(0) {  } else { flush(\n        a,\n    ); }\n    \
                        (if crate::mutant::chosen(1) { a - b } else { a + b })\n}\n";
        assert_eq!(spliced(source, &mutants).unwrap(), expected);
    }

    #[test]
    fn the_choice_goes_where_the_text_wants_it() {
        let mutants = [mutant("m", "if a && b {", "if a && (CHOSEN || b) {")];
        let expected = "if a && (crate::mutant::chosen(0) || b)  {}";
        assert_eq!(spliced("if a && b {}", &mutants).unwrap(), expected);
        let around = [mutant("m", "a; b; c;", "if CHOSEN { c; } a; b; if !CHOSEN { c; }"), mutant("n", "b;", "d;")];
        let expected = "if crate::mutant::chosen(0) { c; } a; if crate::mutant::chosen(1) { d; } else { b; } if \
                        !crate::mutant::chosen(0) { c; }";
        assert_eq!(spliced("a; b; c;", &around).unwrap().split_whitespace().collect::<Vec<_>>().join(" "), expected);
        let both = [
            mutant("m", "if a && b {", "if !CHOSEN && a && b {"),
            mutant("n", "if a && b {", "if !CHOSEN && a && b {"),
            mutant("o", "b", "(b || CHOSEN)"),
        ];
        let call = |number| format!("crate::mutant::chosen({number})");
        let expected = format!("if !{} && !{} && a\n  && (b || {})  {{}}", call(0), call(1), call(2));
        assert_eq!(spliced("if a\n  && b {}", &both).unwrap(), expected);
    }

    #[test]
    fn mutants_of_one_place_and_inside_each_other_are_all_there() {
        let mutants = [mutant("m", "b;", "c;"), mutant("n", "a; b;", "b; a;"), mutant("o", "a; b;", "")];
        let expected = "if crate::mutant::chosen(1) { b; a; } else { if crate::mutant::chosen(2) {  } else { \
                        a; if crate::mutant::chosen(0) { c; } else { b; } } } d;";
        assert_eq!(spliced("a; b; d;", &mutants).unwrap(), expected);
    }

    #[test]
    fn what_has_no_place_or_no_single_one_is_refused() {
        let error = spliced("a; a;", &[mutant("m", "a;", "")]).unwrap_err().to_string();
        assert!(error.contains("the mutant m stands 2 times in a.rs") && error.contains("a.mutant"), "{error}");
        assert!(matches!(spliced("a;", &[mutant("m", "b;", "")]), Err(SpliceError::Times { times: 0, .. })));
        for source in ["b.a;", "b\n    .a;", "ba;", "_a;", "0a;"] {
            assert!(
                matches!(spliced(source, &[mutant("m", "a;", "")]), Err(SpliceError::Times { times: 0, .. })),
                "{source}"
            );
        }
        assert_eq!(find("b.a; 0..a; *a; .a;", "a;"), [8..10, 12..14]);
        let partly = [mutant("m", "a; b;", ""), mutant("n", "b; c;", "")];
        assert_eq!(spliced("a; b; c;", &partly), Err(SpliceError::Overlap("m".into(), "n".into())));
        let hidden = [mutant("m", "if a(b) {", "if (CHOSEN || a(b)) {"), mutant("n", "b", "c")];
        assert_eq!(spliced("if a(b) {}", &hidden), Err(SpliceError::Overlap("m".into(), "n".into())));
    }
}
