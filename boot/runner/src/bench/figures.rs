//! From measurements to figures: two of a kind must be equal, and each figure comes from the pair that shows it.
use super::failure::BenchFailure;
use super::session::{Counts, Window};

/// Measurements that only tell whether the clock and an observer count right.
pub const KNOWN_LOOP: &str = "known_loop";
/// Interrupts of a known number.
pub const KNOWN_INTERRUPTS: &str = "known_interrupts";
/// The kernel's start.
pub const BOOT: &str = "boot";

/// What one operation costs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Figure {
    /// The operation.
    pub name: String,
    /// How many pages it was done to.
    pub pages: u64,
    /// How many CPUs were in the address space.
    pub cpus: u32,
    /// What it took in all: instructions, copies included, without those of the meter; bytes, interrupts and flushes.
    pub counts: Counts,
}

impl Figure {
    /// Instructions that do not copy or clear in bulk.
    pub fn non_copy_instructions(&self) -> u64 {
        self.counts.instructions.saturating_sub(self.counts.copy_instructions)
    }

    /// `total` for each page, in hundredths, rounded.
    pub fn per_page(&self, total: u64) -> u64 {
        (total * 100 + self.pages / 2) / self.pages
    }
}

/// The figures of a boot.
///
/// # Errors
/// [`BenchFailure::Unequal`] where two measurements of a kind differ, [`BenchFailure::Missing`] where one has no other.
pub fn figures(windows: &[Window]) -> Result<Vec<Figure>, BenchFailure> {
    let mut figures = Vec::new();
    let mut rest = windows;
    while let Some((first, others)) = rest.split_first() {
        rest = others;
        match first.name.as_str() {
            KNOWN_LOOP | KNOWN_INTERRUPTS => continue,
            // The start of other CPUs is a wait by the clock.
            BOOT if first.cpus > 1 => continue,
            BOOT => figures.push(figure(first, Counts::default())),
            _ => {
                let Some(([second, metered, again], others)) = others
                    .split_at_checked(3)
                    .and_then(|(group, others)| Some((<&[Window; 3]>::try_from(group).ok()?, others)))
                else {
                    return Err(BenchFailure::Missing(first.name.clone()));
                };
                equal(first, second)?;
                equal(metered, again)?;
                if first.metered || !metered.metered || (&metered.name, metered.pages) != (&first.name, first.pages) {
                    return Err(BenchFailure::Missing(first.name.clone()));
                }
                figures.push(figure(first, metered.counts));
                rest = others;
            }
        }
    }
    Ok(figures)
}

fn figure(plain: &Window, metered: Counts) -> Figure {
    let Counts { copy_instructions, bar_bytes_written, bar_bytes_read, .. } = metered;
    let counts = Counts { copy_instructions, bar_bytes_written, bar_bytes_read, ..plain.counts };
    Figure { name: plain.name.clone(), pages: plain.pages, cpus: plain.cpus, counts }
}

/// Demands that two measurements of the same are the same.
///
/// # Errors
/// [`BenchFailure::Unequal`].
pub fn equal(first: &Window, second: &Window) -> Result<(), BenchFailure> {
    if first == second {
        return Ok(());
    }
    Err(BenchFailure::Unequal { first: Box::new(first.clone()), second: Box::new(second.clone()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(metered: bool, instructions: u64, copy_instructions: u64) -> Window {
        let counts = Counts { instructions, copy_instructions, ..Counts::default() };
        Window { name: "fork".to_owned(), pages: 4, cpus: 1, metered, counts }
    }

    #[test]
    fn the_cost_is_of_one_kind_and_the_copy_of_the_other() {
        let windows =
            [window(false, 1000, 0), window(false, 1000, 0), window(true, 1100, 390), window(true, 1100, 390)];
        let [figure] = &figures(&windows).unwrap()[..] else { panic!("one operation is one figure") };
        assert_eq!((figure.counts.instructions, figure.non_copy_instructions()), (1000, 610));
        assert_eq!(figure.per_page(figure.non_copy_instructions()), 15_250);
    }

    #[test]
    fn what_differs_by_one_is_refused() {
        for i in 0..4 {
            let mut windows =
                [window(false, 1000, 0), window(false, 1000, 0), window(true, 1100, 390), window(true, 1100, 390)];
            windows[i].counts.instructions += 1;
            assert!(matches!(figures(&windows), Err(BenchFailure::Unequal { .. })), "window {i}");
            assert!(matches!(figures(&windows[1..]), Err(BenchFailure::Missing(_))));
        }
    }
}
